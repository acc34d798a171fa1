"""The network of SimBa (Lee et al., arXiv 2410.09754): pre-norm residual blocks, and a norm at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks.layers import channels_per_input, linear, make_activation, make_norm, require_positive
from stablegrad.networks.sizes import resolve_depth, resolve_width

#: Hidden units of a block for each of its inputs.
EXPANSION = 4


class SimbaBlock(nn.Module):
    """x + W2 act(W1 norm(x)), with He normal weights."""

    def __init__(self, width: int, norm: str, activation: str):
        super().__init__()
        self.norm = _norm(norm, width)
        self.linear1 = _he_normal(nn.Linear(width, EXPANSION * width))
        self.activation = make_activation(activation, overwrites=True)
        self.linear2 = _he_normal(nn.Linear(EXPANSION * width * channels_per_input(activation), width))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, width]`` to the same shape."""
        return x + self.linear2(self.activation(self.linear1(self.norm(x))))


class SimbaTorso(nn.Module):
    r"""A linear projection, ``depth`` blocks :math:`x + W_2\, act(W_1\, LN(x))` and a LayerNorm.

    Blocks are four times as wide inside. The projection has orthogonal weights of gain 1, the blocks He normal ones
    (of variance 2 / inputs), as in the authors' code; heads behind it have a gain of 1, see ``make_head``. It has
    2 depth + 1 linear layers.

    Args:
        in_features: size of the input.
        width: units of the stream, a number or a name (small 512, medium 1536, large 2560, xlarge 5120).
        depth: blocks, a number or a name (small 1, medium 3, large 5, xlarge 10).
        out_features: None, or ``width``: it ends at its width.
        norm: "layer", "batch" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.

    Raises:
        UsageError: a size that cannot be, or another ``out_features``.
    """

    def __init__(
        self,
        in_features: int,
        width: int | str,
        depth: int | str,
        *,
        out_features: int | None = None,
        norm: str = "layer",
        activation: str = "relu",
    ):
        super().__init__()
        width, depth = resolve_width(width), resolve_depth(depth)
        require_positive(in_features=in_features)
        if out_features not in (None, width):
            raise UsageError(f"the simba torso ends at its width, {width}; leave torso out_features {out_features} out")
        self.out_features = width
        self.project = linear(in_features, width, gain=1.0)
        self.blocks = nn.Sequential(*(SimbaBlock(width, norm, activation) for _ in range(depth)))
        self.norm = _norm(norm, width)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, width]``."""
        return self.norm(self.blocks(self.project(features)))


def _norm(name: str, width: int) -> nn.Module:
    norm = make_norm(name, width)
    if isinstance(norm, nn.LayerNorm):
        norm.eps = 1e-6  # flax's
    return norm


def _he_normal(layer: nn.Linear) -> nn.Linear:
    if not layer.weight.is_meta:
        # Truncated at two deviations and scaled back to the same variance, as flax's he_normal is.
        std = (2.0 / layer.in_features) ** 0.5 / 0.87962566103423978
        with torch.no_grad():
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
    return layer
