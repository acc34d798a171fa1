"""Encoders and torsos by name, from settings that can be written to JSON and given on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks.encoders import NATURE_CHANNELS, ImpalaCNN, NatureCNN, VectorEncoder
from stablegrad.networks.layers import ACTIVATIONS, check_norm
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.networks.torsos import DenseNetTorso, MLPTorso, MultiSkipTorso, ResidualTorso

ENCODERS = ("auto", "nature", "impala", "vector")
TORSOS = ("mlp", "residual", "multi_skip", "densenet")


@dataclass(frozen=True)
class EncoderConfig:
    """What turns an observation into features."""

    kind: str = "auto"
    """auto (Nature CNN for images, else vector), nature, impala or vector."""
    size: str = "medium"
    """Channels of the Nature CNN: small (16, 32, 32), medium (32, 64, 64) or large (64, 128, 128)."""
    norm: str = "auto"
    """LayerNorm after every convolution: layer or none; auto: layer in a CNN, none on a state vector."""
    activation: str = "relu"
    """relu, gelu, silu, tanh, elu, leaky_relu or crelu."""

    def __post_init__(self) -> None:
        if self.kind not in ENCODERS:
            raise unknown_name("encoder", self.kind, ENCODERS)
        if self.size not in NATURE_CHANNELS:
            raise unknown_name("encoder size", self.size, NATURE_CHANNELS)
        if self.norm != "auto":
            check_norm(self.norm)
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation", self.activation, ACTIVATIONS)
        if self.kind == "impala" and self.size != "medium":
            raise UsageError(f"encoder size {self.size!r} is for the Nature CNN; the Impala CNN has one size")


@dataclass(frozen=True)
class TorsoConfig:
    """The part of the network that is made deeper and wider."""

    kind: str = "mlp"
    """mlp, residual, multi_skip or densenet."""
    depth: int | str = "small"
    """Blocks of two layers: small 1, medium 3, large 5, xlarge 10, or a number (2 * depth + 2 linear layers)."""
    width: int | str = "small"
    """Units of a hidden layer: small 512, medium 1536, large 2560, xlarge 5120, or a number."""
    out_features: int | None = None
    """Size of the output; None: the width (the paper's table of sizes; its code ends at 512)."""
    norm: str = "layer"
    """LayerNorm after every linear layer: layer or none."""
    activation: str = "relu"
    """relu, gelu, silu, tanh, elu, leaky_relu or crelu."""
    skip_blocks: int | None = None
    """multi_skip: how many blocks, from the first, receive the skip; None: all."""
    variance_preserving: bool = False
    """multi_skip and residual: keep every sum at unit variance at initialisation."""

    def __post_init__(self) -> None:
        if self.kind not in TORSOS:
            raise unknown_name("torso", self.kind, TORSOS)
        depth = resolve_depth(self.depth)
        resolve_width(self.width)
        check_norm(self.norm)
        if self.activation not in ACTIVATIONS:
            raise unknown_name("activation", self.activation, ACTIVATIONS)
        if self.out_features is not None and self.out_features < 1:
            raise UsageError(f"torso out_features must be at least 1, got {self.out_features}")
        if self.skip_blocks is not None:
            if self.kind != "multi_skip":
                raise UsageError(f"torso skip_blocks is for the multi_skip torso; this one is {self.kind!r}")
            if not 0 <= self.skip_blocks <= depth:
                raise UsageError(f"torso skip_blocks must be from 0 to the depth, {depth}; got {self.skip_blocks}")
        if self.variance_preserving and self.kind not in ("multi_skip", "residual"):
            raise UsageError(f"torso variance_preserving is for residual and multi_skip; this one is {self.kind!r}")


def make_encoder(
    config: EncoderConfig, observation_shape: Sequence[int], *, is_image: bool
) -> NatureCNN | ImpalaCNN | VectorEncoder:
    """Build the encoder for observations of one shape."""
    kind = config.kind if config.kind != "auto" else ("nature" if is_image else "vector")
    if kind == "vector":
        return VectorEncoder(observation_shape, norm="none" if config.norm == "auto" else config.norm)
    if not is_image:
        raise UsageError(
            f"encoder {kind!r} needs image observations, got shape {tuple(observation_shape)}; use 'vector'"
        )
    norm = "layer" if config.norm == "auto" else config.norm
    if kind == "nature":
        return NatureCNN(observation_shape, size=config.size, norm=norm, activation=config.activation)
    return ImpalaCNN(observation_shape, norm=norm, activation=config.activation)


def make_torso(config: TorsoConfig, in_features: int) -> MLPTorso | MultiSkipTorso | DenseNetTorso:
    """Build the torso; it carries ``.out_features``."""
    match config.kind:
        case "mlp":
            build: Callable[..., MLPTorso | MultiSkipTorso | DenseNetTorso] = MLPTorso
        case "densenet":
            build = DenseNetTorso
        case "residual":
            build = partial(ResidualTorso, variance_preserving=config.variance_preserving)
        case _:
            build = partial(
                MultiSkipTorso, skip_blocks=config.skip_blocks, variance_preserving=config.variance_preserving
            )
    return build(
        in_features,
        config.width,
        config.depth,
        out_features=config.out_features,
        norm=config.norm,
        activation=config.activation,
    )
