"""How alive the units of an activation are: dormant, dead, saturated.

Nothing here makes the host wait for the device. NaN says that the activation held a number that is not finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stablegrad.errors import UsageError

#: The axis of the units by number of dimensions: [batch, units], [batch, tokens, units], [batch, channels, space...].
_UNIT_AXIS = {2: 1, 3: 2, 4: 1, 5: 1}


@torch.no_grad()
def unit_mean_abs(h: Tensor) -> Tensor:
    r"""Mean magnitude of each unit, :math:`m_i = \mathbb{E} |h_i|`, over samples, and over space or tokens.

    A channel of a convolution is one unit. Three dimensions are taken for [batch, tokens, units], so the output of a
    1-d convolution, [batch, channels, length], is to be transposed first.

    Args:
        h: [batch, units], [batch, tokens, units], [batch, channels, height, width] or
            [batch, channels, depth, height, width]; an activation or its gradient.

    Returns:
        [units] in [0, inf], float32, or float64 if ``h`` is.

    Raises:
        UsageError: another number of dimensions.
    """
    if h.ndim not in _UNIT_AXIS:
        raise UsageError(
            f"an activation should have 2 to 5 dimensions, such as [batch, units]; got the shape {tuple(h.shape)}"
        )
    axes = [axis for axis in range(h.ndim) if axis != _UNIT_AXIS[h.ndim]]
    return h.abs().mean(axes, dtype=torch.promote_types(h.dtype, torch.float32))


@torch.no_grad()
def dormant_fraction(mean_abs: Tensor, tau: float = 0.025) -> Tensor:
    r"""Share of units that are tau-dormant, :math:`s_i = m_i / \frac{1}{H} \sum_k m_k \le \tau`.

    Sokar et al. (2023, arXiv 2302.12902, definition 3.1). With ``tau`` 0 it is the share of dead units. A layer that is
    zero throughout is dormant throughout. It misjudges activations that are no ReLU, where silence is not zero; see
    :func:`gradient_dormant_fraction`.

    Args:
        mean_abs: [units] as :func:`unit_mean_abs` gives them.
        tau: the threshold, at least 0 and below 1.

    Returns:
        0-d in [0, 1].
    """
    mean = mean_abs.mean()
    share = (mean_abs <= tau * mean).to(mean_abs.dtype).mean()
    return torch.where(mean.isfinite(), share, torch.nan)


@torch.no_grad()
def gradient_dormant_fraction(mean_abs_gradient: Tensor, tau: float = 0.01) -> Tensor:
    r"""Share of units that hardly learn: :func:`dormant_fraction` of :math:`\mathbb{E} |\partial L / \partial h_i|`.

    GraMa (Liu et al. 2025, arXiv 2505.24061). It holds up in residual and normalised networks and for activations other
    than ReLU, where a small output does not say that a unit is of no use. A layer without any gradient is dormant
    throughout.

    Args:
        mean_abs_gradient: [units], :func:`unit_mean_abs` of the loss's gradient by the activation; its scale does not
            matter.
        tau: the threshold, at least 0 and below 1.

    Returns:
        0-d in [0, 1].
    """
    return dormant_fraction(mean_abs_gradient, tau)


@torch.no_grad()
def dead_fraction(mean_abs: Tensor) -> Tensor:
    r"""Share of units that were exactly zero for every sample, :math:`m_i = 0`.

    Args:
        mean_abs: [units] as :func:`unit_mean_abs` gives them.

    Returns:
        0-d in [0, 1], never more than :func:`dormant_fraction`.
    """
    return dormant_fraction(mean_abs, tau=0.0)


@torch.no_grad()
def saturated_fraction(h: Tensor, low: float, high: float, margin: float = 0.03) -> Tensor:
    r"""Share of values at the ends of a bounded activation's range, :math:`h \le a + m` or :math:`h \ge b - m`.

    There the function is flat and passes hardly any gradient: with a margin of 0.03, tanh at most 6% and a sigmoid
    at most 12% of its steepest.

    Args:
        h: what the activation gave, any shape.
        low: the lower end of its range, a; -1 for tanh, 0 for a sigmoid.
        high: the upper end, b.
        margin: how near to an end counts, m, in units of ``h``.

    Returns:
        0-d in [0, 1].
    """
    dtype = torch.promote_types(h.dtype, torch.float32)
    share = ((h <= low + margin) | (h >= high - margin)).to(dtype).mean()
    return torch.where(h.sum(dtype=dtype).isfinite(), share, torch.nan)
