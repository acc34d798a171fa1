"""Encoders: an observation to a flat feature vector."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks.layers import (
    channels_before,
    channels_per_input,
    check_norm,
    conv,
    make_activation,
    make_norm,
)

#: What becomes of the last maps: every place is a feature, or one mean a channel is.
POOLS = ("none", "average")

#: Channels of the three convolutions of the Nature CNN by size (arXiv 2506.15544).
NATURE_CHANNELS = {"small": (16, 32, 32), "medium": (32, 64, 64), "large": (64, 128, 128)}
#: Channels of the three stages of the Impala CNN (Espeholt et al. 2018, the "deep" network).
IMPALA_CHANNELS = (16, 32, 32)
#: Of each block of the Hadamax encoder: channels, side of the convolutions, side and stride of the pool.
HADAMAX_BLOCKS = ((32, 8, 4, 4), (64, 4, 2, 2), (64, 3, 3, 1))


class _PixelConv(nn.Conv2d):
    """The first convolution of an image encoder: reads bytes as numbers from 0 to 1.

    Observations stay uint8 until here, a quarter of the memory traffic. The division by 255 is done on the weights
    instead of on the pixels, of which there are some hundred times more; bytes are exact in bfloat16, too.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8:
            return super().forward(x)
        mixed = torch.is_autocast_enabled(x.device.type)
        dtype = torch.get_autocast_dtype(x.device.type) if mixed else self.weight.dtype
        # Channels last is the layout in which the convolutions are fastest, on CPUs by a quarter of the whole pass.
        pixels = x.to(dtype, memory_format=torch.channels_last)
        return F.conv2d(pixels, self.weight / 255.0, self.bias, self.stride, self.padding)


class _ImageLayerNorm(nn.LayerNorm):
    """LayerNorm over [C, H, W] that leaves the channels-last layout as it is; the same numbers as nn.LayerNorm."""

    def forward(self, x: Tensor) -> Tensor:
        channels, *sides = self.normalized_shape
        weight, bias = self.weight.permute(1, 2, 0), self.bias.permute(1, 2, 0)
        return F.layer_norm(x.permute(0, 2, 3, 1), (*sides, channels), weight, bias, self.eps).permute(0, 3, 1, 2)


def _check_image_norm(name: str) -> None:
    check_norm(name)
    if name == "batch":
        raise UsageError("encoder norm 'batch' is for state vectors; a CNN has layer or none")


def _make_image_norm(name: str, shape: Sequence[int]) -> nn.Module:
    _check_image_norm(name)
    return _ImageLayerNorm(list(shape)) if name == "layer" else nn.Identity()


def _image_shape(observation_shape: Sequence[int], smallest: int) -> tuple[int, int, int]:
    if len(observation_shape) != 3 or min(observation_shape[1:]) < smallest:
        raise UsageError(
            f"this encoder needs images of shape (channels, height >= {smallest}, width >= {smallest}), "
            f"got observations of shape {tuple(observation_shape)}; use the vector encoder"
        )
    channels, height, width = observation_shape
    return channels, height, width


class _ImageEncoder(nn.Module):
    """What all image encoders do with the maps of their ``layers``.

    Global average pooling ("average") keeps the mean of every channel over all places, so that the first layer of the
    torso has some hundred times fewer inputs: with the Impala CNN that is Impoola (Trumpp et al., arXiv 2503.05546).
    """

    layers: nn.Module

    def __init__(self, pool: str) -> None:
        super().__init__()
        if pool not in POOLS:
            raise unknown_name("encoder pool", pool, POOLS)
        self.pool = pool

    def _feature_count(self, channels: int, height: int, width: int) -> int:
        return channels if self.pool == "average" else channels * height * width

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, C, H, W]``, uint8 (scaled to [0, 1]) or float, to ``[batch, out_features]``."""
        maps = self.layers(observation)
        return maps.mean(dim=(2, 3)) if self.pool == "average" else maps.flatten(1)


class NatureCNN(_ImageEncoder):
    """Three convolutions (8x8/4, 4x4/2, 3x3/1), each followed by LayerNorm over [C, H, W] and an activation.

    Mnih et al. 2015; with the normalisation of Gallici et al. 2024. At size "medium" (32, 64, 64 channels) a
    4 x 84 x 84 stack gives 3,136 features.

    Args:
        observation_shape: (channels, height, width), sides of at least 36 pixels.
        size: "small", "medium" or "large", or three channel counts.
        norm: "layer" or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
        pool: "none" or "average", of the last maps.
    """

    def __init__(
        self,
        observation_shape: Sequence[int] = (4, 84, 84),
        *,
        size: str | Sequence[int] = "medium",
        norm: str = "layer",
        activation: str = "relu",
        pool: str = "none",
    ):
        super().__init__(pool)
        channels, height, width = _image_shape(observation_shape, smallest=36)
        if isinstance(size, str):
            if size not in NATURE_CHANNELS:
                raise unknown_name("Nature CNN size", size, NATURE_CHANNELS)
            size = NATURE_CHANNELS[size]
        if len(size) != 3:
            raise UsageError(f"the Nature CNN has three convolutions, got {len(size)} channel counts")
        layers: dict[str, nn.Module] = {}
        for number, (out_channels, (kernel, stride)) in enumerate(
            zip(size, ((8, 4), (4, 2), (3, 1)), strict=True), start=1
        ):
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            made = channels_before(activation, out_channels)
            layers[f"conv{number}"] = conv(
                channels, made, kernel, stride, kind=_PixelConv if number == 1 else nn.Conv2d
            )
            layers[f"norm{number}"] = _make_image_norm(norm, (made, height, width))
            layers[f"activation{number}"] = make_activation(activation, overwrites=True)
            channels = out_channels
        self.layers = nn.Sequential(OrderedDict(layers))
        self.out_features = self._feature_count(channels, height, width)


class _ImpalaBlock(nn.Module):
    """x + conv(act(conv(act(x)))), each convolution normalised where asked."""

    def __init__(self, channels: int, height: int, width: int, norm: str, activation: str):
        super().__init__()
        shape, activated = (channels, height, width), channels * channels_per_input(activation)
        self.branch = nn.Sequential(
            make_activation(activation),
            conv(activated, channels, 3, padding=1),
            _make_image_norm(norm, shape),
            make_activation(activation, overwrites=True),
            conv(activated, channels, 3, padding=1),
            _make_image_norm(norm, shape),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ImpalaCNN(_ImageEncoder):
    """Three stages of convolution, max pool and two residual blocks (Espeholt et al. 2018, figure 3 right).

    A 4 x 84 x 84 stack gives 32 x 11 x 11 = 3,872 features.

    Args:
        observation_shape: (channels, height, width), sides of at least 8 pixels.
        norm: "layer" (after every convolution) or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
        pool: "none" or "average", of the last maps; "average" is Impoola.
    """

    def __init__(
        self,
        observation_shape: Sequence[int] = (4, 84, 84),
        *,
        norm: str = "layer",
        activation: str = "relu",
        pool: str = "none",
    ):
        super().__init__(pool)
        channels, height, width = _image_shape(observation_shape, smallest=8)
        stages: list[nn.Module] = []
        for out_channels in IMPALA_CHANNELS:
            first = conv(channels, out_channels, 3, padding=1, kind=nn.Conv2d if stages else _PixelConv)
            stages += [first, nn.MaxPool2d(3, stride=2, padding=1)]
            height, width = (height + 1) // 2, (width + 1) // 2
            stages += [_ImpalaBlock(out_channels, height, width, norm, activation) for _ in range(2)]
            channels = out_channels
        self.layers = nn.Sequential(*stages, make_activation(activation))
        self.out_features = self._feature_count(channels * channels_per_input(activation), height, width)


class _ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of every place of [batch, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _xavier_conv(kind: type[nn.Conv2d], in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    """A convolution with Xavier normal weights and a bias of zero."""
    layer = kind(in_channels, out_channels, kernel)
    if not layer.weight.is_meta and layer.bias is not None:
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


def _same_padding(height: int, width: int, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom for ceil(side / stride) outputs, the odd pixel after the image ("SAME")."""
    across, down = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (width, height))
    return across // 2, across - across // 2, down // 2, down - down // 2


class _HadamaxBlock(nn.Module):
    """maxpool(act(norm(conv_a(x))) * act(norm(conv_b(x))))."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        block: tuple[int, int, int, int],
        norm: str,
        activation: str,
        kind: type[nn.Conv2d],
    ):
        super().__init__()
        in_channels, height, width = shape
        channels, kernel, pool, stride = block
        made = channels_before(activation, channels)
        self.pad = nn.ConstantPad2d(_same_padding(height, width, kernel, 1), 0)
        self.conv_a, self.conv_b = (_xavier_conv(kind, in_channels, made, kernel) for _ in range(2))
        # Flax's epsilon.
        self.norm_a, self.norm_b = (
            _ChannelLayerNorm(made, eps=1e-6) if norm == "layer" else nn.Identity() for _ in range(2)
        )
        self.activation_a, self.activation_b = (make_activation(activation, overwrites=True) for _ in range(2))
        pool_padding = _same_padding(height, width, pool, stride)
        self.pool = nn.Sequential(nn.ConstantPad2d(pool_padding, -math.inf), nn.MaxPool2d(pool, stride))
        self.out_shape = (channels, -(-height // stride), -(-width // stride))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(x)
        one = self.activation_a(self.norm_a(self.conv_a(x)))
        other = self.activation_b(self.norm_b(self.conv_b(x)))
        return self.pool(one * other)


class HadamaxCNN(_ImageEncoder):
    """Three blocks of two convolutions, whose activations are multiplied and max-pooled (arXiv 2505.15345).

    8x8 with 32 channels, pooled 4/4; 4x4 with 64, 2/2; 3x3 with 64, 3/1. Convolutions have stride 1 and keep height and
    width, so that a 4 x 84 x 84 stack gives 64 x 11 x 11 = 7,744 features and takes 20 times the arithmetic of the
    Nature CNN. It follows the authors' JAX code, which normalises the channels of every place; their PyTorch port
    normalises channels, height and width together and pads otherwise. GELU is exact here and an approximation there.
    The linear layer of 512 units that follows there is the torso's first here.

    Args:
        observation_shape: (channels, height, width), sides of at least 8 pixels.
        norm: "layer", over channels, after every convolution; or "none".
        activation: see ``stablegrad.networks.layers.ACTIVATIONS``.
        pool: "none" or "average", of the last maps.
    """

    def __init__(
        self,
        observation_shape: Sequence[int] = (4, 84, 84),
        *,
        norm: str = "layer",
        activation: str = "gelu",
        pool: str = "none",
    ):
        super().__init__(pool)
        _check_image_norm(norm)
        shape = _image_shape(observation_shape, smallest=8)
        blocks: list[nn.Module] = []
        for block in HADAMAX_BLOCKS:
            made = _HadamaxBlock(shape, block, norm, activation, nn.Conv2d if blocks else _PixelConv)
            blocks.append(made)
            shape = made.out_shape
        self.layers = nn.Sequential(*blocks)
        self.out_features = self._feature_count(*shape)


class VectorEncoder(nn.Module):
    """Flattens a vector observation; its features can be normalised, in each observation or over a batch.

    It has no weights of its own: the torso's first linear layer reads the state. LayerNorm on raw states removes their
    scale, which carries information in most control tasks, so the default is "none".

    Args:
        observation_shape: shape of one observation.
        norm: "none", "layer" or "batch".
    """

    def __init__(self, observation_shape: Sequence[int], *, norm: str = "none"):
        super().__init__()
        check_norm(norm)
        self.out_features = prod(observation_shape)
        self.norm = make_norm(norm, self.out_features)

    def forward(self, observation: Tensor) -> Tensor:
        """``[batch, *observation_shape]`` to ``[batch, out_features]``, float32; bytes become numbers from 0 to 1."""
        features = observation.flatten(1).float()
        return self.norm(features / 255.0 if observation.dtype == torch.uint8 else features)
