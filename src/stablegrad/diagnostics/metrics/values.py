"""Values and their targets: spread, drift, and how much of them is explained.

Nothing here makes the host wait for the device. NaN says that there is no value.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def value_statistics(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """Mean, standard deviation (of these values, divided by their number), minimum and maximum.

    Args:
        values: floating-point, any shape, at least one entry.
        counts: bool, of the same shape: which entries count (rows that only carry a reset do not); None: all.

    Returns:
        [4], of the dtype of ``values``; NaN where none counts.
    """
    counts = _counting(values, counts)
    mean, variance = _mean_and_variance(values, counts)
    least, most = _least_and_most(values, counts)
    return torch.where(counts.any(), torch.stack([mean, variance.sqrt(), least, most]), torch.nan)


@torch.no_grad()
def target_drift(old_targets: Tensor, new_targets: Tensor) -> Tensor:
    r"""How far targets moved, relative to their spread, :math:`\sqrt{\mathbb{E} (y' - y)^2} / \operatorname{std}(y)`.

    At 1 the targets have changed as much as they differ between states.

    Args:
        old_targets: floating-point, any shape.
        new_targets: those of the same states later.

    Returns:
        0-d in [0, inf); NaN where all old targets are equal.
    """
    moved = (new_targets - old_targets).square().mean().sqrt()
    return torch.where(_varies(old_targets, _counting(old_targets)), moved / old_targets.std(correction=0), torch.nan)


@torch.no_grad()
def explained_variance(prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
    r"""Share of the targets' variance that is explained, :math:`1 - \operatorname{Var}(y - v) / \operatorname{Var}(y)`.

    1 is perfect up to a constant, 0 as good as a constant, below 0 worse than that.

    Args:
        prediction: floating-point, any shape.
        target: what was predicted, of the same shape.
        counts: bool, of the same shape: which entries count; None: all.

    Returns:
        0-d in (-inf, 1]; NaN where all targets are equal.
    """
    counts = _counting(target, counts)
    unexplained = _mean_and_variance(target - prediction, counts)[1] / _mean_and_variance(target, counts)[1]
    return torch.where(_varies(target, counts), 1 - unexplained, torch.nan)


def _counting(values: Tensor, counts: Tensor | None = None) -> Tensor:
    """Which entries count; all where nothing else is said."""
    return torch.ones_like(values, dtype=torch.bool) if counts is None else counts


def _mean_and_variance(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    number = counts.sum()
    mean = torch.where(counts, values, 0.0).sum() / number
    return mean, torch.where(counts, values - mean, 0.0).square().sum() / number


def _least_and_most(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(counts, values, torch.inf).amin(), torch.where(counts, values, -torch.inf).amax()


def _varies(values: Tensor, counts: Tensor) -> Tensor:
    """Whether values differ; the variance of equal ones is often not zero, but rounding. False if one is NaN."""
    least, most = _least_and_most(values, counts)
    return most > least
