"""Small networks of many shapes, with activations as modules and as functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU,
    "prelu": nn.PReLU,
}  # fmt: skip


def mlp(
    *sizes: int, activation: str = "relu", norm: str = "none", dropout: float = 0.0, output: nn.Module | None = None
) -> nn.Sequential:
    """Linear, norm, activation, dropout of each size; the last is linear, followed by ``output`` if there is one."""
    parts: list[nn.Module] = []
    for n, m in pairwise(sizes[:-1]):
        parts.append(nn.Linear(n, m))
        if norm != "none":
            parts.append(nn.LayerNorm(m) if norm == "layer" else nn.BatchNorm1d(m))
        parts.append(ACTIVATIONS[activation]())
        if dropout:
            parts.append(nn.Dropout(dropout))
    parts.append(nn.Linear(*sizes[-2:]))
    return nn.Sequential(*parts, *([output] if output is not None else []))


def scaled(model: nn.Module, gain: float, layers: slice = slice(None)) -> nn.Module:
    """Multiply the weight matrices of some layers, in place."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    with torch.no_grad():
        for matrix in matrices[layers]:
            matrix.mul_(gain)
    return model


def he(model: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """He's initialisation of all matrices, in place, and biases of zero."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, gain / fan_in**0.5)
                if module.bias is not None:
                    module.bias.zero_()
    return model


class Residual(nn.Module):
    """Blocks x + W2 act(W1 norm(x)), all functions."""

    def __init__(self, inputs: int, width: int, blocks: int, outputs: int, norm: bool = True, function=F.relu):
        super().__init__()
        self.function = function
        self.project = nn.Linear(inputs, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(blocks))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        x = self.project(x)
        for norm, first, second in zip(self.norms, self.first, self.second, strict=True):
            x = x + second(self.function(first(norm(x))))
        return self.head(self.function(x))


class SmallCNN(nn.Module):
    """Three convolutions over 8 x 8 images, with functional activations."""

    def __init__(self, channels: int = 12, norm: str = "none", function=F.relu, outputs: int = 10):
        super().__init__()
        self.function = function
        sizes = [1, channels, 2 * channels, 2 * channels]
        self.convolutions = nn.ModuleList(nn.Conv2d(n, m, 3, padding=1) for n, m in pairwise(sizes))
        norms = {"none": lambda m: nn.Identity(), "batch": nn.BatchNorm2d, "group": lambda m: nn.GroupNorm(4, m)}
        self.norms = nn.ModuleList(norms[norm](m) for m in sizes[1:])
        self.head = nn.Linear(2 * channels * 4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.function(norm(convolution(x)))
            x = F.max_pool2d(x, 2) if x.shape[-1] > 2 else x
        return self.head(x.flatten(1))


class Recurrent(nn.Module):
    """A recurrent network over tokens or numbers; the answer is read off its last state."""

    def __init__(self, tokens: int, width: int, outputs: int, cell: str = "gru"):
        super().__init__()
        self.embed = nn.Embedding(tokens, width) if tokens else nn.Linear(1, width)
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}[cell](width, width, batch_first=True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        return self.head(self.cell(self.embed(x))[0][:, -1])


class WithTarget(nn.Module):
    """A network that carries a frozen copy of itself as a submodule."""

    def __init__(self, online: nn.Module, target: nn.Module):
        super().__init__()
        self.online, self.target = online, target
        self.target.load_state_dict(online.state_dict())
        self.target.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        return self.online(x)

    def update(self, part: float = 1.0) -> None:
        """Move the copy a part of the way."""
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.online.parameters(), strict=True):
                old.lerp_(new, part)


def widths(*sizes: int | Sequence[int]) -> list[int]:
    """Sizes, some of them given as (width, times)."""
    return [width for size in sizes for width in ([size[0]] * size[1] if isinstance(size, tuple) else [size])]
