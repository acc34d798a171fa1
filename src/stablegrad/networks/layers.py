"""The small parts every network here is made of: initialised layers, activations, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError, unknown_name


class CReLU(nn.Module):
    """relu(x) beside relu(-x): twice as many channels, of which one of each two has a slope (Shang et al. 2016).

    Proposed against the loss of plasticity in deep RL by Abbas et al. (arXiv 2303.07507).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, ...]`` to ``[batch, 2 channels, ...]``."""
        return torch.relu(torch.cat([x, -x], dim=1))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "crelu": CReLU,
}

NORMS = ("layer", "batch", "none")
#: Of BatchNorm, as in CrossQ and XQC: statistics follow a hundredth of every batch's.
BATCH_MOMENTUM, BATCH_EPSILON = 0.01, 1e-3


def make_activation(name: str, *, overwrites: bool = False) -> nn.Module:
    """An activation by name, see ``ACTIVATIONS``.

    Args:
        name: the activation's.
        overwrites: nothing else reads its input, so a ReLU writes its output there: less memory, and on CPUs a fifth of
            the time of a small network whose passes then stay in the cache.
    """
    if name not in ACTIVATIONS:
        raise unknown_name("activation", name, ACTIVATIONS)
    return nn.ReLU(inplace=True) if overwrites and name == "relu" else ACTIVATIONS[name]()


def channels_per_input(activation: str) -> int:
    """How many channels an activation makes of one: 2 for crelu, else 1."""
    return 2 if activation == "crelu" else 1


def channels_before(activation: str, channels: int) -> int:
    """Channels that a layer must give an activation for it to pass on ``channels``; crelu wants an even number."""
    each = channels_per_input(activation)
    if channels % each:
        raise UsageError(
            f"{activation} makes two channels of one, so layers need an even number of units; one has {channels}"
        )
    return channels // each


def check_norm(name: str) -> None:
    """Raise UsageError unless ``name`` is one of ``NORMS``."""
    if name not in NORMS:
        raise unknown_name("norm", name, NORMS)


def make_norm(name: str, features: int) -> nn.Module:
    """LayerNorm or BatchNorm of ``[batch, features]``, or nothing."""
    check_norm(name)
    if name == "batch":
        return nn.BatchNorm1d(features, eps=BATCH_EPSILON, momentum=BATCH_MOMENTUM)
    return nn.LayerNorm(features) if name == "layer" else nn.Identity()


def orthogonal_(layer: nn.Linear | nn.Conv2d, gain: float = math.sqrt(2.0)) -> None:
    """Orthogonal weights (Saxe et al. 2014) and a bias of zero, in place; nothing on the meta device."""
    if layer.weight.is_meta:
        return
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def linear(in_features: int, out_features: int, gain: float = math.sqrt(2.0)) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and a bias of zero."""
    layer = nn.Linear(in_features, out_features)
    orthogonal_(layer, gain)
    return layer


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    kind: type[nn.Conv2d] = nn.Conv2d,
) -> nn.Conv2d:
    """A 2-D convolution with orthogonal weights of gain sqrt(2) and a bias of zero."""
    layer = kind(in_channels, out_channels, kernel_size, stride, padding)
    orthogonal_(layer)
    return layer


def require_positive(**values: int) -> None:
    """Raise UsageError naming the first value that is not an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
