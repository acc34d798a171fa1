"""Inputs normalised by the mean and variance of all that was seen so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

#: Deviations to which normalised values are clipped, as in Stable-Baselines3's VecNormalize.
CLIP = 10.0
EPSILON = 1e-8


class RunningNorm(nn.Module):
    r"""Running mean and variance of vectors, and their normalisation :math:`(x - \mu) / \sqrt{\sigma^2 + 10^{-8}}`.

    The statistics are buffers in float64, saved with the network; only :meth:`update` moves them. (Statistics kept in
    float32 do not reach published scores: SimbaV2's issue 8.) They start at mean 0 and variance 1 with the weight of
    one ten-thousandth of a sample.

    Args:
        shape: shape of one vector.
        clip: standard deviations to which normalised values are clipped; None: they are not.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], clip: float | None = CLIP):
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(tuple(shape), dtype=torch.float64))
        self.register_buffer("variance", torch.ones(tuple(shape), dtype=torch.float64))
        self.register_buffer("count", torch.tensor(1e-4, dtype=torch.float64))
        # What the forward pass reads, in its dtype.
        self.register_buffer("shift", torch.zeros(tuple(shape)))
        self.register_buffer("scale", torch.ones(tuple(shape)))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, *shape]`` to float32 of the same shape."""
        normalized = (x - self.shift) * self.scale
        return normalized if self.clip is None else normalized.clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor, average: Callable[[Tensor], Tensor] | None = None) -> None:
        """Merge the moments of a batch into the running ones (Chan, Golub and LeVeque 1979).

        Args:
            x: [batch, *shape].
            weight: [batch] float, 1 for rows that count and 0 for others; NaN must not stand in those either.
            average: averages a tensor over the processes that train together; None: this one is alone.
        """
        away = x.double() - self.mean
        weight = weight.double()
        sums = torch.stack([torch.tensordot(weight, away, 1), torch.tensordot(weight, away.square(), 1)])
        moments = torch.cat([sums.flatten(), weight.sum()[None]])
        if average is not None:
            moments = average(moments)
        first, second = moments[:-1].view_as(sums)
        added = moments[-1]
        total = self.count + added
        step = first / total
        self.variance.copy_((self.variance * self.count + second) / total - step.square())
        self.mean += step
        self.count.copy_(total)
        self.shift.copy_(self.mean)
        self.scale.copy_((self.variance + EPSILON).rsqrt())
