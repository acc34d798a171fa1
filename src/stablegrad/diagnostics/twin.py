"""A small network that keeps learning, to hold another one against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks import MLPTorso
from stablegrad.networks.layers import linear

WIDTH = 128
#: The first layer has at most about this many weights; only a twin for images becomes narrower for it.
FIRST_LAYER = 2**20
NARROWEST = 32


def healthy_twin(
    input_shape: Sequence[int], outputs: int, *, mean: Tensor | float = 0.0, deviation: Tensor | float = 1.0
) -> nn.Module:
    """A network for inputs of a shape that learns again whatever it is given next.

    Two hidden layers of at most 128 units, LayerNorm, ReLU and orthogonal weights: what keeps small networks plastic
    (Lyle et al., arXiv 2303.01486; Nauman et al., arXiv 2403.00514).

    Args:
        input_shape: of one row, without the batch.
        outputs: values a row.
        mean: taken off the inputs; a number or of ``input_shape``.
        deviation: by which the inputs are divided then.

    Raises:
        UsageError: an input without values, or no output.
    """
    features = math.prod(input_shape)
    if features < 1 or outputs < 1:
        raise UsageError(f"a network needs inputs and outputs, got input shape {tuple(input_shape)}, {outputs} outputs")
    width = max(min(WIDTH, FIRST_LAYER // features), NARROWEST)
    return nn.Sequential(_Standardise(mean, deviation), MLPTorso(features, width, 0), linear(width, outputs, gain=1.0))


class _Standardise(nn.Module):
    """Inputs of any shape and type as rows of numbers around 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor | float, deviation: Tensor | float):
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.as_tensor(deviation, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, ...]`` to float32 ``[rows, features]``."""
        return ((x.float() - self.mean) / self.deviation).flatten(1)
