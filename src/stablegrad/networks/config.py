"""Encoders and torsos by name, from settings that can be written to JSON and given on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks.encoders import NATURE_CHANNELS, POOLS, HadamaxCNN, ImpalaCNN, NatureCNN, VectorEncoder
from stablegrad.networks.layers import ACTIVATIONS, check_norm
from stablegrad.networks.parametrizations import normalize_spectra, prune_at_random
from stablegrad.networks.simba import SimbaTorso
from stablegrad.networks.simba_v2 import SimbaV2Torso
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.networks.torsos import DenseNetTorso, MLPTorso, MultiSkipTorso, ResidualTorso

#: Encoders of images by name; a new one is a line here.
IMAGE_ENCODERS: dict[str, type[NatureCNN | ImpalaCNN | HadamaxCNN]] = {
    "nature": NatureCNN,
    "impala": ImpalaCNN,
    "hadamax": HadamaxCNN,
}
ENCODERS = ("auto", *IMAGE_ENCODERS, "vector")
TORSOS = ("mlp", "residual", "multi_skip", "densenet", "simba", "simba_v2")
#: What ``make_torso`` builds.
Torso: TypeAlias = MLPTorso | MultiSkipTorso | DenseNetTorso | SimbaTorso | SimbaV2Torso


@dataclass(frozen=True)
class EncoderConfig:
    """What turns an observation into features."""

    kind: str = "auto"
    """auto (Nature CNN for images, else vector), nature, impala, hadamax or vector."""
    size: str = "medium"
    """Channels of the Nature CNN: small (16, 32, 32), medium (32, 64, 64) or large (64, 128, 128)."""
    norm: str = "auto"
    """LayerNorm after every convolution, or of a state vector: layer or none; batch: BatchNorm of a state vector; auto:
    layer in a CNN, none on a state vector."""
    activation: str = "auto"
    """relu, gelu, silu, tanh, elu, leaky_relu or crelu; auto: gelu in hadamax, else relu."""
    pool: str = "none"
    """Of a CNN's last maps: none, or average (over all places; impala with average is Impoola)."""

    def __post_init__(self) -> None:
        if self.kind == "impoola":
            raise UsageError("encoder 'impoola' is encoder.kind 'impala' with encoder.pool 'average'")
        if self.kind not in ENCODERS:
            raise unknown_name("encoder", self.kind, ENCODERS)
        if self.size not in NATURE_CHANNELS:
            raise unknown_name("encoder size", self.size, NATURE_CHANNELS)
        if self.norm != "auto":
            check_norm(self.norm)
        if self.activation not in ("auto", *ACTIVATIONS):
            raise unknown_name("activation", self.activation, ("auto", *ACTIVATIONS))
        if self.pool not in POOLS:
            raise unknown_name("encoder pool", self.pool, POOLS)
        if self.kind not in ("auto", "nature") and self.size != "medium":
            raise UsageError(f"encoder size {self.size!r} is for the Nature CNN; {self.kind!r} has one size")


@dataclass(frozen=True)
class TorsoConfig:
    """The part of the network that is made deeper and wider."""

    kind: str = "mlp"
    """mlp, residual, multi_skip, densenet, simba or simba_v2."""
    depth: int | str = "small"
    """Blocks of two layers: small 1, medium 3, large 5, xlarge 10, or a number (2 * depth + 2 linear layers; simba: one
    fewer)."""
    width: int | str = "small"
    """Units of a hidden layer: small 512, medium 1536, large 2560, xlarge 5120, or a number."""
    out_features: int | None = None
    """Size of the output; None: the width (the paper's table of sizes; its code ends at 512)."""
    norm: str = "layer"
    """After every linear layer: layer (LayerNorm), batch (BatchNorm; in agents with an actor and a critic) or none."""
    activation: str = "relu"
    """relu, gelu, silu, tanh, elu, leaky_relu or crelu."""
    skip_blocks: int | None = None
    """multi_skip: how many blocks, from the first, receive the skip; None: all."""
    variance_preserving: bool = False
    """multi_skip and residual: keep every sum at unit variance at initialisation."""
    spectral_norm: bool = False
    """Divide the weights of every linear layer by their largest singular value (arXiv 2105.05246)."""
    sparsity: float = 0.0
    """Fraction of the weights of the linear layers that is removed at random before training (arXiv 2506.17204)."""

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
        if self.kind in ("simba", "simba_v2") and self.out_features not in (None, resolve_width(self.width)):
            raise UsageError(f"torso out_features is for the other torsos; {self.kind} ends at its width")
        if self.kind == "simba_v2" and self.norm != "none":
            raise UsageError(f"torso simba_v2 normalises its features itself; give torso norm none, not {self.norm!r}")
        if self.skip_blocks is not None:
            if self.kind != "multi_skip":
                raise UsageError(f"torso skip_blocks is for the multi_skip torso; this one is {self.kind!r}")
            if not 0 <= self.skip_blocks <= depth:
                raise UsageError(f"torso skip_blocks must be from 0 to the depth, {depth}; got {self.skip_blocks}")
        if self.variance_preserving and self.kind not in ("multi_skip", "residual"):
            raise UsageError(f"torso variance_preserving is for residual and multi_skip; this one is {self.kind!r}")
        if not 0.0 <= self.sparsity < 1.0:
            raise UsageError(f"torso sparsity must be at least 0 and below 1, got {self.sparsity}")


def make_encoder(
    config: EncoderConfig, observation_shape: Sequence[int], *, is_image: bool
) -> NatureCNN | ImpalaCNN | HadamaxCNN | VectorEncoder:
    """Build the encoder for observations of one shape."""
    kind = config.kind if config.kind != "auto" else ("nature" if is_image else "vector")
    # What is "auto" is the encoder's own default.
    options = {name: value for name in ("norm", "activation") if (value := getattr(config, name)) != "auto"}
    if kind == "vector":
        if config.pool != "none":
            raise UsageError(f"encoder pool {config.pool!r} is for CNNs; this encoder is 'vector'")
        return VectorEncoder(observation_shape, norm=options.get("norm", "none"))
    if not is_image:
        raise UsageError(
            f"encoder {kind!r} needs image observations, got shape {tuple(observation_shape)}; use 'vector'"
        )
    if kind == "nature":
        options["size"] = config.size
    return IMAGE_ENCODERS[kind](observation_shape, pool=config.pool, **options)


def make_torso(config: TorsoConfig, in_features: int) -> Torso:
    """Build the torso; it carries ``.out_features``."""
    match config.kind:
        case "mlp":
            build: Callable[..., Torso] = MLPTorso
        case "densenet":
            build = DenseNetTorso
        case "simba":
            build = SimbaTorso
        case "simba_v2":
            build = SimbaV2Torso
        case "residual":
            build = partial(ResidualTorso, variance_preserving=config.variance_preserving)
        case _:
            build = partial(
                MultiSkipTorso, skip_blocks=config.skip_blocks, variance_preserving=config.variance_preserving
            )
    torso = build(
        in_features,
        config.width,
        config.depth,
        out_features=config.out_features,
        norm=config.norm,
        activation=config.activation,
    )
    if config.sparsity:
        prune_at_random(torso, config.sparsity)
    if config.spectral_norm:
        normalize_spectra(torso)
    return torso
