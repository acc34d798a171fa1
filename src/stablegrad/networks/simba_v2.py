"""The network of SimbaV2 (Lee et al., arXiv 2502.15280): features and weights on the unit sphere.

Rows of weights have norm 1 at the start; ``project_rows(..., "unit")`` brings them back to it after every step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks.layers import channels_per_input, make_activation, orthogonal_, require_positive
from stablegrad.networks.simba import EXPANSION
from stablegrad.networks.sizes import resolve_depth, resolve_width

#: The input that every observation has besides its own, so that its length is not lost with the norm.
SHIFT = 3.0
EPSILON = 1e-8


class Scaler(nn.Module):
    """A learned factor for each feature, which starts at ``init``; its parameter starts at ``scale``.

    Adam moves every parameter by about its rate, so ``scale`` sets how fast the factor moves.
    """

    def __init__(self, features: int, init: float = 1.0, scale: float = 1.0):
        super().__init__()
        self.ratio = init / scale
        self.scaler = nn.Parameter(torch.full((features,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, features]`` to the same shape."""
        return x * (self.scaler * self.ratio)


class SimbaV2Block(nn.Module):
    """A step on the sphere from x towards that of a two-layer network, l2(x + a (l2(W2 act(s W1 x)) - x))."""

    def __init__(self, width: int, blocks: int, activation: str):
        super().__init__()
        hidden, start = EXPANSION * width, math.sqrt(2.0 / width) / math.sqrt(EXPANSION)
        self.linear1 = _unit_rows(width, hidden)
        self.scaler = Scaler(hidden, start, start)
        self.activation = make_activation(activation)
        self.linear2 = _unit_rows(hidden * channels_per_input(activation), width)
        self.step = Scaler(width, 1.0 / (blocks + 1), 1.0 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width]`` to the same shape."""
        # An offset, so that rows whose units are all silent have a direction.
        hidden = self.activation(self.scaler(self.linear1(x))) + EPSILON
        target = _on_sphere(self.linear2(hidden))
        return _on_sphere(x + self.step(target - x))


class SimbaV2Torso(nn.Module):
    r"""A projection to the unit sphere and ``depth`` steps on it.

    .. math:: x_0 = l_2(s\, W l_2([x, 3])), \qquad x_{k+1} = l_2(x_k + a_k (l_2(W_2\, act(s_k W_1 x_k)) - x_k))

    Linear layers have no biases. It has 2 depth + 1 of them.

    Args:
        in_features: size of the input.
        width: units of the stream, a number or a name (small 512, medium 1536, large 2560, xlarge 5120).
        depth: blocks, a number or a name (small 1, medium 3, large 5, xlarge 10).
        out_features: None, or ``width``: it ends at its width.
        norm: "none": it normalises its features itself.
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.

    Raises:
        UsageError: a size that cannot be, another ``out_features`` or a norm.
    """

    def __init__(
        self,
        in_features: int,
        width: int | str,
        depth: int | str,
        *,
        out_features: int | None = None,
        norm: str = "none",
        activation: str = "relu",
    ):
        super().__init__()
        width, depth = resolve_width(width), resolve_depth(depth)
        require_positive(in_features=in_features)
        if out_features not in (None, width):
            raise UsageError(f"the simba_v2 torso ends at its width, {width}; leave torso out_features out")
        if norm != "none":
            raise UsageError(f"the simba_v2 torso normalises its features itself; give torso norm 'none', not {norm!r}")
        self.out_features = width
        start = math.sqrt(2.0 / width)
        self.project = _unit_rows(in_features + 1, width)
        self.scaler = Scaler(width, start, start)
        self.blocks = nn.Sequential(*(SimbaV2Block(width, depth, activation) for _ in range(depth)))

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, width]``, rows of norm 1."""
        shifted = torch.cat([features, torch.full_like(features[:, :1], SHIFT)], dim=1)
        return self.blocks(_on_sphere(self.scaler(self.project(_on_sphere(shifted)))))


class SimbaV2Head(nn.Module):
    """Outputs of one or more groups, W2 (s W1 x) + b for each with weights of its own.

    Args:
        in_features: size of the input.
        outputs: of all groups.
        groups: as many hidden layers; the policy of SimbaV2 has one for means and one for deviations.
    """

    def __init__(self, in_features: int, outputs: int, groups: int = 1):
        super().__init__()
        self.hidden = nn.ModuleList(_unit_rows(in_features, in_features) for _ in range(groups))
        self.scalers = nn.ModuleList(Scaler(in_features) for _ in range(groups))
        self.outputs = nn.ModuleList(_unit_rows(in_features, outputs // groups) for _ in range(groups))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, outputs]``."""
        groups = zip(self.hidden, self.scalers, self.outputs, strict=True)
        return torch.cat([output(scaler(hidden(features))) for hidden, scaler, output in groups], dim=1) + self.bias


def _unit_rows(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without a bias, of orthogonal weights whose rows are brought to norm 1."""
    layer = nn.Linear(in_features, out_features, bias=False)
    orthogonal_(layer, gain=1.0)
    if not layer.weight.is_meta:
        with torch.no_grad():
            layer.weight.copy_(F.normalize(layer.weight, dim=1, eps=EPSILON))
    return layer


def _on_sphere(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=EPSILON)
