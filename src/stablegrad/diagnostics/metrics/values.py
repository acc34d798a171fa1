"""Values and their targets: spread, drift, and how much of them is explained.

Nothing here makes the host wait for the device. NaN says that there is no value.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def value_statistics(values: Tensor) -> Tensor:
    """Mean, standard deviation (of these values, divided by their number), minimum and maximum.

    Args:
        values: floating-point, any shape, at least one entry.

    Returns:
        [4], of the dtype of ``values``.
    """
    std, mean = torch.std_mean(values, correction=0)
    return torch.stack([mean, std, *values.aminmax()])


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
    return torch.where(_varies(old_targets), moved / old_targets.std(correction=0), torch.nan)


@torch.no_grad()
def explained_variance(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Share of the targets' variance that is explained, :math:`1 - \operatorname{Var}(y - v) / \operatorname{Var}(y)`.

    1 is perfect up to a constant, 0 as good as a constant, below 0 worse than that.

    Args:
        prediction: floating-point, any shape.
        target: what was predicted, of the same shape.

    Returns:
        0-d in (-inf, 1]; NaN where all targets are equal.
    """
    unexplained = (target - prediction).var(correction=0) / target.var(correction=0)
    return torch.where(_varies(target), 1 - unexplained, torch.nan)


def _varies(values: Tensor) -> Tensor:
    """Whether values differ; the variance of equal ones is often not zero, but rounding. False if one is NaN."""
    least, most = values.aminmax()
    return most > least
