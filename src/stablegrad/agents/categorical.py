"""Distributions over fixed values, as pure functions: targets of a value that is learned by classification.

Atoms z_1 < ... < z_n are evenly spaced from v_min to v_max. Targets and logits have one number an atom. The targets of
one value keep its mean where the value lies within the atoms: two-hot exactly, HL-Gauss nearly, a few sigma away from
the ends.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project(values: Tensor, probabilities: Tensor, atoms: Tensor) -> Tensor:
    r"""The distribution over ``atoms`` nearest to one over any values, which keeps its mean.

    Bellemare et al. 2017 (arXiv 1707.06887, eq. 7): a value's probability goes to its two neighbours among the atoms,
    in proportion to nearness; values beyond the ends go to the ends,

    .. math:: m_i = \sum_j \Big[1 - \frac{|[x_j]_{z_1}^{z_n} - z_i|}{\Delta z}\Big]_0^1 \, p_j.

    Args:
        values: [batch, values] x.
        probabilities: [batch, values] p.
        atoms: [atoms] z, evenly spaced and rising, at least two.

    Returns:
        [batch, atoms].
    """
    places = (values.clamp(atoms[0], atoms[-1]) - atoms[0]) * ((len(atoms) - 1) / (atoms[-1] - atoms[0]))
    # On a GPU sums at neighbours come in any order, and a resumed run would not be the same to the bit.
    return (
        _by_neighbours(places, probabilities, len(atoms))
        if values.is_cpu
        else _by_formula(places, probabilities, len(atoms))
    )


def _by_neighbours(places: Tensor, probabilities: Tensor, count: int) -> Tensor:
    """[batch, count] sums at the two atoms next to each place, [batch, values] in [0, count - 1]."""
    lower = places.floor().clamp_(max=count - 2)
    upper_part = (places - lower) * probabilities
    index = lower.long()
    sums = probabilities.new_zeros(len(places), count)
    sums.scatter_add_(1, index, probabilities - upper_part)
    return sums.scatter_add_(1, index + 1, upper_part)


def _by_formula(places: Tensor, probabilities: Tensor, count: int) -> Tensor:
    """The same by the nearness of every place to every atom, [batch, count, values]: a tenth of the speed on a CPU."""
    distance = (places[:, None, :] - torch.arange(count, device=places.device)[:, None]).abs_()
    nearness = distance.neg_().add_(1.0).clamp_(min=0.0)
    return (nearness @ probabilities[:, :, None]).squeeze(2)


def two_hot(values: Tensor, atoms: Tensor) -> Tensor:
    """All of a value's probability on its two neighbours among the atoms: ``project`` of that value alone.

    Args:
        values: [batch].
        atoms: [atoms], as of ``project``.

    Returns:
        [batch, atoms].
    """
    return project(values[:, None], torch.ones_like(values)[:, None], atoms)


def hl_gauss(values: Tensor, atoms: Tensor, sigma: float) -> Tensor:
    r"""A Gaussian around a value, by the probability of the interval around each atom (HL-Gauss).

    Imani & White 2018; Farebrother et al. 2024 (arXiv 2403.03950, section 3.1), who take sigma as 0.75 times the
    spacing of the atoms. With the ends of the intervals half a spacing around the atoms,

    .. math:: m_i \propto \Phi\Big(\frac{z_i + \Delta z / 2 - x}{\sigma}\Big)
              - \Phi\Big(\frac{z_i - \Delta z / 2 - x}{\sigma}\Big).

    Args:
        values: [batch] x; those beyond the atoms count as the nearest end.
        atoms: [atoms], as of ``project``.
        sigma: standard deviation in units of the values, above 0.

    Returns:
        [batch, atoms], sums of 1: what falls beyond the outer intervals is shared out.
    """
    spacing = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    edges = torch.cat([atoms - spacing / 2, atoms[-1:] + spacing / 2])
    clipped = values.clamp(atoms[0], atoms[-1])
    masses = torch.special.ndtr((edges - clipped[:, None]) / sigma).diff(dim=1)
    return masses / masses.sum(dim=1, keepdim=True)


def expectation(logits: Tensor, atoms: Tensor) -> Tensor:
    """Means of distributions: logits [..., atoms] and atoms [atoms] to [...]."""
    return logits.softmax(dim=-1) @ atoms


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropies in nats of distributions and their targets: [..., atoms] each, to [...]."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1)


def entropy(target: Tensor) -> Tensor:
    """Entropies in nats, [..., atoms] to [...]: what of a cross-entropy is no divergence from the target."""
    return torch.special.entr(target).sum(dim=-1)
