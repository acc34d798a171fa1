"""The classifier: standardised pixels, the paper's six convolutions or none, a torso, a linear head."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

import torch
from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks import make_torso
from stablegrad.networks.layers import conv, linear
from stablegrad.supervised.config import SupervisedConfig
from stablegrad.supervised.data import DIGITS, DataSet

#: Channels of the two convolutions of each stage, and groups of the GroupNorm after them.
CIFAR_STAGES = (((32, 64), 8), ((64, 128), 16), ((128, 128), 16))
#: Three pools halve the sides three times.
SMALLEST_SIDE = 8


class Standardize(nn.Module):
    """Bytes to numbers of mean 0 and standard deviation 1 by channel.

    Args:
        mean: [C] in units of a byte.
        std: [C] the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, C, H, W]`` uint8 to float32, channels last: the layout in which convolutions are fastest."""
        return (images.to(torch.float32, memory_format=torch.channels_last) - self.mean) / self.std


class CifarCNN(nn.Sequential):
    """Six 3 x 3 convolutions, each followed by ReLU, with a 2 x 2 max pool and channel dropout after every second.

    The network of arXiv 2506.15544 for CIFAR: 32, 64, 64, 128, 128, 128 channels; where normalised, GroupNorm with 8,
    16 and 16 groups before the pools. An image of 3 x 32 x 32 gives 2,048 features. Weights are orthogonal with gain
    sqrt(2), as in all networks here; the paper's code leaves them at torch's default.

    Args:
        image_shape: (channels, height, width), sides of at least 8 pixels.
        norm: whether to normalise.
        dropout: share of channels that are set to zero in training.
    """

    def __init__(self, image_shape: tuple[int, int, int], *, norm: bool = False, dropout: float = 0.2):
        channels, height, width = image_shape
        if min(height, width) < SMALLEST_SIDE:
            raise UsageError(
                f"the cnn encoder needs sides of at least {SMALLEST_SIDE} pixels, got {height} x {width}; use none"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for stage, (sizes, groups) in enumerate(CIFAR_STAGES, start=1):
            for number, out_channels in enumerate(sizes, start=2 * stage - 1):
                layers[f"conv{number}"] = conv(channels, out_channels, 3, padding=1)
                layers[f"relu{number}"] = nn.ReLU()
                channels = out_channels
            if norm:
                layers[f"norm{stage}"] = nn.GroupNorm(groups, channels)
            layers[f"pool{stage}"] = nn.MaxPool2d(2)
            layers[f"dropout{stage}"] = nn.Dropout2d(dropout)
        layers["flatten"] = nn.Flatten()
        super().__init__(layers)
        self.out_features = channels * (height // SMALLEST_SIDE) * (width // SMALLEST_SIDE)


class Classifier(nn.Module):
    """Images to one number a class.

    Args:
        config: its encoder and torso.
        data: what it is for: shapes, number of classes, mean and standard deviation of the training images.

    Raises:
        UsageError: the encoder does not fit the images.
    """

    def __init__(self, config: SupervisedConfig, data: DataSet):
        super().__init__()
        self.standardize = Standardize(*channel_statistics(data.train_images))
        if encoder_kind(config, data) == "cnn":
            self.encoder: nn.Module = CifarCNN(
                data.image_shape, norm=config.normalizes_encoder, dropout=config.encoder.dropout
            )
            features = self.encoder.out_features
        else:
            self.encoder = nn.Flatten()
            features = prod(data.image_shape)
        self.torso = make_torso(config.torso, features)
        self.head = linear(self.torso.out_features, data.num_classes, gain=1.0)

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, C, H, W]`` uint8 to logits ``[batch, num_classes]``."""
        return self.head(self.torso(self.encoder(self.standardize(images))))


def encoder_kind(config: SupervisedConfig, data: DataSet) -> str:
    """What ``auto`` comes to.

    Raises:
        UsageError: options of the cnn where there is none.
    """
    kind = config.encoder.kind
    if kind == "auto":
        kind = "none" if data.name == DIGITS else "cnn"
    if kind == "none" and config.encoder.has_cnn_options:
        raise UsageError("encoder norm and dropout are for the cnn encoder; this one is 'none'")
    return kind


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel of [N, C, H, W] bytes, float32 [C], in units of a byte.

    From the counts of the 256 values, so that no copy of the images in another type is made. A channel that never
    changes has a standard deviation of 1.
    """
    value = torch.arange(256, dtype=torch.float64, device="cpu")  # also where a network is made on the meta device
    means, deviations = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).to("cpu", torch.float64) / channel.numel()
        mean = (share * value).sum()
        means.append(mean)
        deviations.append((share * (value - mean).square()).sum().sqrt())
    mean, std = torch.stack(means), torch.stack(deviations)
    return mean.float(), std.masked_fill(std == 0, 1.0).float()
