"""Inputs brought to mean 0 and deviation 1 while data move."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: Standard deviations to which normalised inputs are cut, as in the field's agents.
INPUT_LIMIT = 10.0
#: Batches over which statistics are averaged at most, so that they follow slow moves.
MEMORY = 100
#: Standard deviations by which a feature's mean, and factor by which its deviation, must move to count as moved.
JUMP = 4.0
#: Fewest values of a feature in a batch whose statistics are believed at once.
BELIEVED = 8


class InputNormaliser(nn.Module):
    """Running mean and variance of every feature (of images: of every channel), and inputs brought to 0 and 1.

    The statistics move in training mode and with gradients on only; they follow data that drift, and data that jump at
    once. Inputs are cut at 10 standard deviations; those that are no number become the mean. Token ids pass as they
    are.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "square", "count"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, features] or [rows, channels, ...], float or uint8, to float32 of the same shape."""
        if x.ndim < 2 or not (x.is_floating_point() or x.dtype == torch.uint8):
            return x
        numbers = x.float()
        finite = numbers.isfinite()
        # Missing values stand for nothing: the mean of what is there.
        numbers = torch.where(finite, numbers, _mean_of(numbers, finite))
        if self.training and torch.is_grad_enabled():
            self._see(numbers.detach())
        deviation = (self.square / self.count.clamp_min(1)).sqrt()
        scale = torch.where(deviation > 0, 1 / deviation, 1.0).float()
        shape = (-1, *[1] * (x.ndim - 2))
        mean = self.mean.float().expand_as(scale)
        return ((numbers - mean.reshape(shape)) * scale.reshape(shape)).clamp(-INPUT_LIMIT, INPUT_LIMIT)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Before the first batch the number of features is not known.
        for name in ("mean", "square"):
            if prefix + name in state_dict:
                setattr(self, name, torch.zeros_like(state_dict[prefix + name], device=self.count.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _see(self, x: Tensor) -> None:
        """Chan, Golub and LeVeque's update of a mean and a sum of squared deviations by a batch.

        What is older than ``MEMORY`` batches fades. Where most features have moved far, what was seen before them is
        forgotten at once: a network cannot wait while it is fed ten deviations.
        """
        variance, mean = (one.double() for one in torch.var_mean(x, dim=[0, *range(2, x.ndim)], correction=0))
        count = x.numel() / x.shape[1]
        old = self.count * (~self._moved(mean, variance, count)).double()
        total = old + count
        step = mean - self.mean
        spread = self.square / self.count.clamp_min(1) * old
        fading = (MEMORY * count / total).clamp_max(1.0)
        self.square = (spread + variance * count + step.square() * old * count / total) * fading
        self.mean = self.mean + step * count / total
        self.count = total * fading

    def _moved(self, mean: Tensor, variance: Tensor, count: float) -> Tensor:
        """[] whether most of the features that vary are far from where they were."""
        before = self.square / self.count.clamp_min(1)
        varies = (before > 0) & (variance > 0)
        ratio = torch.where(varies, variance / before.clamp_min(1e-300), 1.0)
        far = (mean - self.mean).square() > JUMP**2 * torch.maximum(before, variance).clamp_min(1e-300)
        far = far | (ratio > JUMP**2) | (ratio < JUMP**-2)
        return (far & varies).sum() * 2 > varies.sum().clamp_min(1) if count >= BELIEVED else varies.new_zeros(())


def _mean_of(x: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values of every feature (of images: of every channel), shaped to stand for any; 0 of none."""
    dims = [0, *range(2, x.ndim)]
    count = chosen.sum(dim=dims, keepdim=True)
    return torch.where(chosen, x, 0.0).sum(dim=dims, keepdim=True) / count.clamp_min(1)
