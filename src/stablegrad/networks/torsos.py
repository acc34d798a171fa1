"""Torsos: features to features, the part of a network that is made deeper and wider.

Depth counts *blocks* of two linear layers each. All torsos of one depth d and width w have 2 d + 2 linear layers:
a projection, 2 d hidden layers and an output layer, so that they can be compared at the same size (arXiv 2506.15544,
appendix on architectures). Every linear layer has orthogonal weights of gain sqrt(2) and a bias of zero.

The output layer is as wide as the hidden ones unless ``out_features`` says otherwise: this is what the paper's table of
parameter counts describes, while its published code ends every torso at 512.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks.layers import (
    channels_before,
    channels_per_input,
    linear,
    make_activation,
    make_norm,
    require_positive,
)
from stablegrad.networks.sizes import resolve_depth, resolve_width


def _sizes(in_features: int, width: int | str, depth: int | str, out_features: int | None) -> tuple[int, int, int, int]:
    width, depth = resolve_width(width), resolve_depth(depth)
    out_features = width if out_features is None else out_features
    require_positive(in_features=in_features, out_features=out_features)
    return in_features, width, depth, out_features


class _Layer(nn.Module):
    """Linear, norm, activation."""

    def __init__(self, in_features: int, out_features: int, norm: str, activation: str):
        super().__init__()
        units = channels_before(activation, out_features)
        self.linear = linear(in_features, units)
        self.norm = make_norm(norm, units)
        self.activation = make_activation(activation, overwrites=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.linear(x)))


class MLPTorso(nn.Module):
    """A plain stack of 2 depth + 2 linear layers, each followed by norm and activation.

    Args:
        in_features: size of the input.
        width: units of a hidden layer, a number or a name (small 512, medium 1536, large 2560, xlarge 5120).
        depth: blocks of two layers, a number or a name (small 1, medium 3, large 5, xlarge 10).
        out_features: size of the output; None: ``width``.
        norm: "layer", "batch" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
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
        in_features, width, depth, self.out_features = _sizes(in_features, width, depth, out_features)
        sizes = [in_features] + [width] * (2 * depth + 1)
        self.layers = nn.Sequential(*(_Layer(n, m, norm, activation) for n, m in pairwise(sizes)))
        self.output = _Layer(width, self.out_features, norm, activation)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, out_features]``."""
        return self.output(self.layers(features))


class _Block(nn.Module):
    """The residual branch LN(W2 act(LN(W1 act(x)))); the sum is the torso's."""

    def __init__(self, width: int, norm: str, activation: str):
        super().__init__()
        activated = width * channels_per_input(activation)
        self.activation1 = make_activation(activation)
        self.linear1 = linear(activated, width)
        self.norm1 = make_norm(norm, width)
        self.activation2 = make_activation(activation, overwrites=True)
        self.linear2 = linear(activated, width)
        self.norm2 = make_norm(norm, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.linear1(self.activation1(x)))
        return self.norm2(self.linear2(self.activation2(x)))


class MultiSkipTorso(nn.Module):
    r"""Residual blocks with the projected features added again after every block (arXiv 2506.15544, section 5).

    With g = LN(W0 features) and f_k the k-th residual branch,

    .. math:: x_0 = g, \qquad x_{k+1} = c_k\,(x_k + f_k(x_k) + g), \qquad
              f(x) = LN(W_2\, act(LN(W_1\, act(x)))),

    so that each block has a direct path back to the encoder. ``c_k`` is 1 as in the paper, whose stream grows with
    depth; ``variance_preserving=True`` picks the constants that keep the stream at unit variance at initialisation,
    taking the branch to be independent of the stream and of unit variance (see ``skip_scales``).

    The stream passes an activation before the output layer; the paper's published code leaves it out, which makes its
    last block linear in the output layer's eyes.

    Args:
        in_features: size of the input.
        width: units of a hidden layer, a number or a name (small 512, medium 1536, large 2560, xlarge 5120).
        depth: residual blocks, a number or a name (small 1, medium 3, large 5, xlarge 10).
        out_features: size of the output; None: ``width``.
        norm: "layer", "batch" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
        skip_blocks: how many blocks, counted from the first, receive the skip; None: all; 0: a plain residual torso.
        variance_preserving: keep every sum at unit variance.
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
        skip_blocks: int | None = None,
        variance_preserving: bool = False,
    ):
        super().__init__()
        in_features, width, depth, self.out_features = _sizes(in_features, width, depth, out_features)
        self.skip_blocks = depth if skip_blocks is None else skip_blocks
        if not 0 <= self.skip_blocks <= depth:
            raise UsageError(f"skip_blocks must be from 0 to the number of blocks, {depth}; got {skip_blocks}")
        self.scales = skip_scales(depth, self.skip_blocks) if variance_preserving else [1.0] * depth
        self.project = linear(in_features, width)
        self.project_norm = make_norm(norm, width)
        self.blocks = nn.ModuleList(_Block(width, norm, activation) for _ in range(depth))
        self.activation = make_activation(activation)
        self.output = _Layer(width * channels_per_input(activation), self.out_features, norm, activation)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, out_features]``."""
        return self.output(self.activation(self.stream(features)))

    def stream(self, features: Tensor) -> Tensor:
        """The residual stream after the last block, ``[batch, in_features]`` to ``[batch, width]``."""
        skip = self.project_norm(self.project(features))
        x = skip
        for number, (block, scale) in enumerate(zip(self.blocks, self.scales, strict=True)):
            x = x + block(x)
            if number < self.skip_blocks:
                x = x + skip
            if scale != 1.0:
                x = x * scale
        return x


class ResidualTorso(MultiSkipTorso):
    """Residual blocks without the repeated skip: x + LN(W2 act(LN(W1 act(x)))).

    Args:
        in_features: size of the input.
        width: units of a hidden layer, a number or a name.
        depth: residual blocks, a number or a name.
        out_features: size of the output; None: ``width``.
        norm: "layer", "batch" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
        variance_preserving: keep every sum at unit variance.
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
        variance_preserving: bool = False,
    ):
        super().__init__(
            in_features,
            width,
            depth,
            out_features=out_features,
            norm=norm,
            activation=activation,
            skip_blocks=0,
            variance_preserving=variance_preserving,
        )


class DenseNetTorso(nn.Module):
    """Every layer reads the projection and the outputs of all layers before it (Huang et al. 2017).

    Each of the 2 depth hidden layers adds width / 2 features (rounded up), which keeps the parameter count between
    those of the plain and of a twice as wide MLP; the output layer reads them all.

    Args:
        in_features: size of the input.
        width: units of the projection, a number or a name.
        depth: blocks of two layers, a number or a name.
        out_features: size of the output; None: ``width``.
        norm: "layer", "batch" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
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
        in_features, width, depth, self.out_features = _sizes(in_features, width, depth, out_features)
        growth = (width + 1) // 2
        self.project = _Layer(in_features, width, norm, activation)
        self.layers = nn.ModuleList(
            _Layer(width + layer * growth, growth, norm, activation) for layer in range(2 * depth)
        )
        self.output = _Layer(width + 2 * depth * growth, self.out_features, norm, activation)

    def forward(self, features: Tensor) -> Tensor:
        """``[batch, in_features]`` to ``[batch, out_features]``."""
        x = self.project(features)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=-1)
        return self.output(x)


def skip_scales(depth: int, skip_blocks: int) -> list[float]:
    """Constants c_k that keep the multi-skip stream at unit variance at initialisation.

    Let a_k be the correlation of the stream x_k with the skip g (a_0 = 1). With a branch of unit variance that is
    uncorrelated with both, the sum x + f + g has variance 3 + 2 a, so c = 1 / sqrt(3 + 2 a) and the new correlation is
    c (a + 1); without the skip the sum x + f has variance 2 and the correlation becomes c a.
    """
    correlation, scales = 1.0, []
    for number in range(depth):
        skip = number < skip_blocks
        scale = 1.0 / math.sqrt(3.0 + 2.0 * correlation if skip else 2.0)
        correlation = scale * (correlation + 1.0 if skip else correlation)
        scales.append(scale)
    return scales
