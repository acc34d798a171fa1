"""Networks and data that only planted faults use."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from benchmarks.diagnosis.networks import mlp
from benchmarks.diagnosis.tasks import Data, DecisionProcess, changed, digits, teacher
from torch import Tensor, nn


@cache
def shuffled_digits(seed: int) -> Data:
    data = digits()
    return changed(data, targets=data.targets[torch.randperm(1797, generator=torch.Generator().manual_seed(seed))])


@cache
def positive_teacher() -> Data:
    """The same, lifted above zero: rates, prices."""
    data = teacher(1)
    return changed(data, targets=data.targets - data.targets.min() + 0.5)


@cache
def most_frequent_token(length: int = 9, tokens: int = 3) -> Data:
    inputs = torch.randint(tokens, (2048, length), generator=torch.Generator().manual_seed(13))
    counts = F.one_hot(inputs, tokens).sum(1) + torch.tensor([0.0, 0.1, 0.2])
    return Data(inputs, counts.argmax(1), tokens)


@cache
def running_sum(length: int = 8) -> Data:
    inputs = torch.randn(2048, length, 1, generator=torch.Generator().manual_seed(17))
    return Data(inputs, inputs.sum(1) / length**0.5)


@cache
def gratings(size: int = 12, directions: int = 6) -> Data:
    """Noisy [1, 12, 12] images of stripes, by their direction."""
    generator = torch.Generator().manual_seed(53)
    labels = torch.randint(directions, (2000,), generator=generator)
    angle = labels * torch.pi / directions + 0.05 * torch.randn(2000, generator=generator)
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    along = angle.cos()[:, None, None] * x + angle.sin()[:, None, None] * y
    phase = 2 * torch.pi * torch.rand(2000, 1, 1, generator=generator)
    images = torch.sin(1.4 * along + phase) + 0.5 * torch.randn(2000, size, size, generator=generator)
    return Data(images[:, None], labels, directions)


@cache
def grid(side: int = 6, discount: float = 0.95) -> DecisionProcess:
    """A square with slippery moves; its last corner pays and leads back to the first."""
    states, moves = side * side, ((0, 1), (0, -1), (1, 0), (-1, 0))
    transitions, rewards = torch.zeros(4, states, states), torch.full((4, states), -0.02)
    for state in range(states):
        row, column = divmod(state, side)
        ends = [
            min(max(row + down, 0), side - 1) * side + min(max(column + right, 0), side - 1) for down, right in moves
        ]
        for action in range(4):
            if state == states - 1:
                transitions[action, state, 0], rewards[action, state] = 1.0, 1.0
                continue
            for other, end in enumerate(ends):
                transitions[action, state, end] += 0.85 if other == action else 0.05
    row, column = torch.arange(states) // side, torch.arange(states) % side
    features = torch.cat([F.one_hot(row, side), F.one_hot(column, side)], 1).float()
    return DecisionProcess(features, transitions, rewards, discount)


def biased(model: nn.Module, bias: float, layers: slice = slice(0, -1)) -> nn.Module:
    """Set the biases of some linear layers, in place."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for module in linear[layers]:
            module.bias.fill_(bias)
    return model


class Transformer(nn.Module):
    """Attention blocks over tokens; the answer is read off the last token, or the mean of all.

    Args:
        tokens: how many there are.
        length: of a sequence.
        width: of the stream.
        blocks: how many.
        outputs: of the head; None: the embedding, transposed, is the head.
        norm_first: normalise the branches' inputs.
        skips: False leaves out skips and perceptrons, so that attention is all there is.
    """

    def __init__(
        self, tokens: int, length: int, width: int, blocks: int, outputs: int | None, norm_first=True, skips=True
    ):
        super().__init__()
        self.skips = skips
        self.embed = nn.Embedding(tokens, width)
        self.place = nn.Parameter(0.1 * torch.randn(length, width))
        if skips:
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, batch_first=True, norm_first=norm_first)
                for _ in range(blocks)
            )
        else:
            self.blocks = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs) if outputs is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        x = self.embed(x) + self.place
        for block in self.blocks:
            x = block(x) if self.skips else block(x, x, x, need_weights=False)[0]
        x = self.norm(x[:, -1] + x.mean(1))
        return self.head(x) if self.head is not None else F.linear(x, self.embed.weight)


class Branches(nn.Module):
    """Two encoders side by side, each of which sees half of the features; one may be cut off by mistake."""

    def __init__(self, features: int, width: int, outputs: int, cut: bool = False):
        super().__init__()
        self.half, self.cut = features // 2, cut
        self.left, self.right = mlp(self.half, width, width), mlp(features - self.half, width, width)
        self.head = nn.Linear(2 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] inputs to [rows, ...] answers."""
        left, right = self.left(x[:, : self.half]), self.right(x[:, self.half :])
        return self.head(torch.relu(torch.cat([left.detach() if self.cut else left, right], 1)))
