"""More trainings that rules are tuned on: until they were looked at, they were the part that is held out.

One was taken out since, an optimizer of a copy of the network: the monitor refuses to be attached to it, and says why.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from benchmarks.diagnosis import tasks
from benchmarks.diagnosis.networks import biased, he, mlp, scaled, widths
from benchmarks.diagnosis.register import (
    adam,
    adamw,
    between,
    cosine,
    failure,
    healthy,
    linear,
    once,
    sgd,
    torso,
    warmup,
)
from benchmarks.diagnosis.rollouts import a2c, pqn
from benchmarks.diagnosis.tasks import Data, changed
from benchmarks.diagnosis.training import Setup, q_learning, supervised, two_views, values
from torch import Tensor, nn
from torch.optim import ASGD, SGD, Adagrad, Adam, Adamax, NAdam, RAdam, RMSprop

from stablegrad.networks import MultiSkipTorso
from stablegrad.optimizers import Kron

# -- networks


class Strided(nn.Module):
    """Strided convolutions over 12 x 12 images and one hidden linear layer."""

    def __init__(self, channels: int = 8, function=F.silu, norm: bool = False, outputs: int = 6):
        super().__init__()
        self.function = function
        self.first = nn.Conv2d(1, channels, 5, stride=2, padding=2)
        self.second = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 2 * channels) if norm else nn.Identity()
        self.hidden = nn.Linear(2 * channels * 9, 48)
        self.head = nn.Linear(48, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 12, 12] to [rows, outputs]."""
        x = self.function(self.first(x))
        x = self.function(self.norm(self.second(x)))
        return self.head(self.function(self.hidden(x.flatten(1))))


class ResNet(nn.Module):
    """Residual blocks with batch norm, as of He et al. 2016, over small images."""

    def __init__(self, channels: int = 12, blocks: int = 3, outputs: int = 6):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 12, 12] to [rows, outputs]."""
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def signal_net(channels: int = 12, activation: type[nn.Module] = nn.ELU) -> nn.Sequential:
    """Convolutions over signals of 32 samples."""
    return nn.Sequential(
        nn.Conv1d(1, channels, 5, stride=2, padding=2), activation(),
        nn.Conv1d(channels, 2 * channels, 5, stride=2, padding=2), activation(),
        nn.Flatten(), nn.Linear(16 * channels, 5),
    )  # fmt: skip


class Marked(nn.Module):
    """A recurrent network over sequences of pairs."""

    def __init__(self, width: int = 24, cell: type[nn.Module] = nn.LSTM):
        super().__init__()
        self.cell, self.head = cell(2, width, batch_first=True), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length, 2] to [rows, 1]."""
        return self.head(self.cell(x)[0][:, -1])


class Mixer(nn.Module):
    """Tokens are cut from images; what is mixed are places, then channels (Tolstikhin et al. 2021)."""

    def __init__(self, width: int = 24, blocks: int = 2, outputs: int = 6):
        super().__init__()
        self.embed = nn.Conv2d(1, width, 3, stride=3)
        self.places = nn.ModuleList(mlp(16, 24, 16, activation="gelu") for _ in range(blocks))
        self.channels = nn.ModuleList(mlp(width, 48, width, activation="gelu") for _ in range(blocks))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 12, 12] to [rows, outputs]."""
        x = self.embed(x).flatten(2).transpose(1, 2)
        for number, (place, channel) in enumerate(zip(self.places, self.channels, strict=True)):
            x = x + place(self.norms[2 * number](x).transpose(1, 2)).transpose(1, 2)
            x = x + channel(self.norms[2 * number + 1](x))
        return self.head(x.mean(1))


class ActorCritic(nn.Module):
    """One body, logits and a value."""

    def __init__(self, inputs: int, width: int, actions: int, function=torch.tanh, cut: bool = False):
        super().__init__()
        self.function, self.cut = function, cut
        self.body, self.more = nn.Linear(inputs, width), nn.Linear(width, width)
        self.policy, self.value = nn.Linear(width, actions), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, actions + 1]."""
        h = self.function(self.more(self.function(self.body(x))))
        logits = self.policy(h)
        return torch.cat([logits.detach() if self.cut else logits, self.value(h)], 1)


class TwoTasks(nn.Module):
    """One body, a label and a number; only one of the two may be heard."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.body = mlp(inputs, width, width, activation="silu")
        self.label, self.number = nn.Linear(width, classes), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, inputs] to logits and a number."""
        h = F.silu(self.body(x))
        return self.label(h), self.number(h)


def _two_tasks(label: float, number: float):
    def criterion(data: Data, output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
        loss = number * (output[1][:, 0] - target / data.classes).square().mean()
        return loss + label * F.cross_entropy(output[0], target) if label else loss

    return criterion


def _grid_net(width: int = 64, norm: str = "layer", activation: str = "relu") -> nn.Module:
    return mlp(12, width, width, 4, norm=norm, activation=activation)


def _other(make: type[torch.optim.Optimizer], **options):
    return lambda model: make(model.parameters(), **options)


# == healthy ==

healthy(
    "shells, silu, NAdam",
    0.85,
    lambda: supervised(
        tasks.shells(), mlp(6, 80, 80, 3, activation="silu"), _other(NAdam, lr=3e-3), steps=400, batch=100
    ),
)
healthy(
    "shells, four elu layers, Nesterov, annealed by a cosine",
    0.8,
    lambda: supervised(
        tasks.shells(),
        mlp(*widths(6, (48, 4), 3), activation="elu"),
        sgd(0.05, momentum=0.9, nesterov=True),
        steps=500,
        batch=32,
        schedule=cosine(500),
    ),
)
healthy(
    "blobs, 20 classes, Adagrad",
    0.85,
    lambda: supervised(tasks.blobs(), mlp(24, 96, 96, 20), _other(Adagrad, lr=2e-2), steps=350, batch=48),
)
healthy(
    "blobs, gelu with layer norm, AdamW, batches of 16",
    0.85,
    lambda: supervised(
        tasks.blobs(),
        mlp(24, 64, 64, 64, 20, activation="gelu", norm="layer"),
        adamw(2e-3, weight_decay=0.05),
        steps=500,
        batch=16,
    ),
)
healthy(
    "blobs, six layers with batch norm, Adamax",
    0.85,
    lambda: supervised(tasks.blobs(), mlp(*widths(24, (48, 6), 20), norm="batch"), _other(Adamax, lr=5e-3), steps=300),
)
healthy(
    "blobs, a wide single layer, plain SGD",
    0.85,
    lambda: supervised(tasks.blobs(), mlp(24, 512, 20), sgd(0.2), steps=400, batch=64),
)
healthy(
    "blobs, 18 layers of a multi-skip torso, RAdam",
    0.85,
    lambda: supervised(tasks.blobs(), torso(MultiSkipTorso, 24, 20, 48, 8), _other(RAdam, lr=1e-3), steps=250),
)
healthy(
    "blobs, focal loss and dropout",
    0.8,
    lambda: supervised(
        tasks.blobs(),
        mlp(24, 96, 96, 20, dropout=0.2),
        adam(2e-3),
        steps=400,
        criterion=lambda data, output, target: _focal(output, target),
    ),
)
healthy(
    "wine, standardised, 178 rows again and again",
    0.95,
    lambda: supervised(tasks.wine(), mlp(13, 24, 24, 3), adam(5e-3), steps=600, batch=0),
)
healthy(
    "friedman, silu, Adam",
    0.8,
    lambda: supervised(tasks.friedman(), mlp(10, 64, 64, 1, activation="silu"), adam(3e-3), steps=500, batch=50),
)
healthy(
    "friedman, relu, RMSprop, absolute error",
    0.75,
    lambda: supervised(
        tasks.friedman(),
        mlp(10, 96, 96, 1),
        _other(RMSprop, lr=1e-3),
        steps=500,
        criterion=lambda data, output, target: (output - target).abs().mean(),
    ),
)
healthy(
    "friedman, tanh, SGD, rate halved every 100 steps",
    0.7,
    lambda: supervised(
        tasks.friedman(),
        mlp(10, 64, 64, 1, activation="tanh"),
        sgd(0.2, momentum=0.8),
        steps=500,
        schedule=lambda step: 0.5 ** (step // 100),
    ),
)
healthy(
    "friedman, multi-skip torso, Kron",
    0.8,
    lambda: supervised(
        tasks.friedman(), torso(MultiSkipTorso, 10, 1, 48, 3), lambda m: Kron(m.parameters(), lr=1e-3), steps=300
    ),
)
healthy(
    "gratings, strided convolutions, silu",
    0.85,
    lambda: supervised(tasks.gratings(), Strided(), adam(2e-3), steps=250),
)
healthy(
    "gratings, strided convolutions, relu, SGD with warm-up",
    0.85,
    lambda: supervised(
        tasks.gratings(), Strided(12, torch.relu, norm=True), sgd(0.05, momentum=0.9), steps=300, schedule=warmup(60)
    ),
)
healthy(
    "gratings, residual net with batch norm",
    0.8,
    lambda: supervised(tasks.gratings(), ResNet(), adam(3e-3), steps=200, batch=48),
)
healthy("gratings, mixer", 0.6, lambda: supervised(tasks.gratings(), Mixer(), adamw(3e-3), steps=400, batch=48))
healthy(
    "tones, convolutions over time, elu", 0.9, lambda: supervised(tasks.tones(), signal_net(), adam(2e-3), steps=250)
)
healthy(
    "tones, convolutions over time, leaky relu, averaged SGD",
    0.85,
    lambda: supervised(tasks.tones(), signal_net(16, nn.LeakyReLU), _other(ASGD, lr=0.1), steps=350),
)
healthy("marked sum, LSTM", 0.7, lambda: supervised(tasks.marked_sum(), Marked(), adam(1e-2), steps=500, clip=1.0))
healthy(
    "tones, labels of a third wrong",
    0.7,
    lambda: supervised(_mislabelled(), signal_net(), adam(2e-3), steps=300, evaluate=tasks.tones()),
)
healthy(
    "blobs, new classes come in at step 200",
    0.75,
    lambda: supervised(
        lambda step: _first_classes(10) if step < 200 else tasks.blobs(), mlp(24, 96, 96, 20), adam(2e-3), steps=500
    ),
)
healthy(
    "friedman, batches of 4, Adam with a small rate",
    0.6,
    lambda: supervised(tasks.friedman(), mlp(10, 64, 64, 1), adam(1e-3), steps=900, batch=4),
)
healthy(
    "blobs, fine-tuned from shuffled labels",
    0.75,
    lambda: supervised(
        lambda step: _shuffled(0) if step <= 150 else tasks.blobs(),
        mlp(24, 96, 96, 20, norm="layer"),
        adam(3e-3),
        steps=450,
    ),
)
healthy(
    "grid, PQN",
    0.7,
    lambda: pqn(tasks.grid(), _grid_net(), _other(RAdam, lr=2e-3), steps=600, schedule=linear(600, 0.1)),
)
healthy(
    "grid, PQN, one minibatch, silu, Adam",
    0.7,
    lambda: pqn(tasks.grid(), _grid_net(96, activation="silu"), adam(2e-3), steps=500, minibatches=1, epochs=4),
)
healthy(
    "garnet, PQN, multi-skip torso, Kron",
    0.5,
    lambda: pqn(
        tasks.garnet(), torso(MultiSkipTorso, 24, 3, 48, 3), lambda m: Kron(m.parameters(), lr=1e-3), steps=400
    ),
)
healthy("grid, A2C, tanh", 0.7, lambda: a2c(tasks.grid(), ActorCritic(12, 64, 4), adam(3e-3), steps=500))
healthy(
    "garnet, A2C, relu, RMSprop",
    0.4,
    lambda: a2c(tasks.garnet(), ActorCritic(24, 64, 3, torch.relu), _other(RMSprop, lr=1e-3), steps=500),
)
healthy(
    "grid, values of the random policy, silu",
    0.7,
    lambda: values(_random_walk(), mlp(12, 64, 64, 1, activation="silu"), adam(3e-3), steps=900, target_every=20),
)
healthy(
    "garnet, Q-learning, double, wide, clipped",
    0.5,
    lambda: q_learning(tasks.garnet(), mlp(24, 192, 192, 3), adam(1e-3), steps=700, double=True, clip=10.0),
)
healthy(
    "garnet, values of actions",
    0.5,
    lambda: q_learning(tasks.garnet(), mlp(24, 96, 96, 3, norm="layer"), adam(3e-3), steps=900, by_values=True),
)
healthy(
    "blobs, two tasks",
    0.8,
    lambda: supervised(tasks.blobs(), TwoTasks(24, 64, 20), adam(3e-3), steps=300, criterion=_two_tasks(1.0, 1.0)),
)
healthy(
    "two views of blobs",
    0.6,
    lambda: two_views(tasks.blobs(), mlp(24, 64, 64, 24, activation="silu"), adam(2e-3), steps=300, noise=0.3),
)
healthy(
    "gratings, 24 layers of 1x1 convolutions beside skips",
    0.6,
    lambda: supervised(tasks.gratings(), _deep_skips(), adam(2e-3), steps=300),
)


def _focal(output: Tensor, target: Tensor) -> Tensor:
    """Lin et al. 2017."""
    log_share = output.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -((1 - log_share.exp()).square() * log_share).mean()


def _mislabelled() -> Data:
    data, generator = tasks.tones(), torch.Generator().manual_seed(71)
    wrong = torch.rand(data.targets.shape, generator=generator) < 0.33
    return changed(data, targets=torch.where(wrong, (data.targets + 1) % data.classes, data.targets))


def _first_classes(classes: int) -> Data:
    data = tasks.blobs()
    rows = data.targets < classes
    return changed(data, inputs=data.inputs[rows], targets=data.targets[rows])


def _shuffled(seed: int) -> Data:
    data = tasks.blobs()
    return changed(data, targets=data.targets[torch.randperm(3000, generator=torch.Generator().manual_seed(seed))])


def _random_walk() -> tasks.DecisionProcess:
    """The grid as the random policy walks it."""
    process = tasks.grid()
    return tasks.DecisionProcess(
        process.features, process.transitions.mean(0, keepdim=True), process.rewards.mean(0, keepdim=True), 0.9
    )


class _Skip(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.f = nn.Sequential(nn.GroupNorm(2, channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


def _deep_skips() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        *[_Skip(16) for _ in range(22)],
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 36, 6),
    )


# == failures ==

failure(
    "vanishing: depth",
    "12 sigmoid layers, NAdam",
    "shells, silu, NAdam",
    lambda: supervised(
        tasks.shells(), mlp(*widths(6, (80, 12), 3), activation="sigmoid"), _other(NAdam, lr=3e-3), steps=400, batch=100
    ),
)
failure(
    "vanishing: depth",
    "26 silu layers, Adam",
    "friedman, silu, Adam",
    lambda: supervised(
        tasks.friedman(), mlp(*widths(10, (64, 26), 1), activation="silu"), adam(3e-3), steps=500, batch=50
    ),
)
failure(
    "vanishing: depth",
    "30 elu layers, plain SGD, 20 classes",
    "blobs, a wide single layer, plain SGD",
    lambda: supervised(tasks.blobs(), mlp(*widths(24, (32, 30), 20), activation="elu"), sgd(0.2), steps=400),
)
failure(
    "vanishing: depth",
    "PQN on 24 plain relu layers",
    "grid, PQN",
    lambda: pqn(
        tasks.grid(), mlp(*widths(12, (64, 24), 4)), _other(RAdam, lr=2e-3), steps=600, schedule=linear(600, 0.1)
    ),
)
failure(
    "vanishing: saturation",
    "three tanh layers, weights 80 times too large",
    "friedman, tanh, SGD, rate halved every 100 steps",
    lambda: supervised(
        tasks.friedman(),
        scaled(mlp(10, 64, 64, 64, 1, activation="tanh"), 80.0, slice(0, 3)),
        sgd(0.02, momentum=0.8),
        steps=500,
        schedule=lambda step: 0.5 ** (step // 100),
    ),
)
failure(
    "vanishing: saturation",
    "sigmoid units with biases of 15",
    "shells, silu, NAdam",
    lambda: supervised(
        tasks.shells(),
        biased(mlp(6, 80, 80, 3, activation="sigmoid"), 15.0),
        _other(NAdam, lr=3e-3),
        steps=400,
        batch=100,
    ),
)
failure(
    "vanishing: saturation",
    "strided convolutions, tanh, weights 150 times too large",
    "gratings, strided convolutions, silu",
    lambda: supervised(tasks.gratings(), scaled(Strided(8, torch.tanh), 150.0, slice(0, 3)), adam(2e-3), steps=250),
)
failure(
    "vanishing: tiny weights",
    "five silu layers, gain 0.03",
    "shells, four elu layers, Nesterov, annealed by a cosine",
    lambda: supervised(
        tasks.shells(),
        he(mlp(*widths(6, (48, 5), 3), activation="silu"), 0.03),
        sgd(0.05, momentum=0.9, nesterov=True),
        steps=500,
        batch=32,
        schedule=cosine(500),
    ),
)
failure(
    "vanishing: tiny weights",
    "strided convolutions, weights a thousandth",
    "gratings, strided convolutions, relu, SGD with warm-up",
    lambda: supervised(
        tasks.gratings(), scaled(Strided(12, torch.relu), 1e-3), sgd(0.05, momentum=0.9), steps=300, schedule=warmup(60)
    ),
)
failure(
    "exploding",
    "9 elu layers, gain 6, Nesterov",
    "shells, four elu layers, Nesterov, annealed by a cosine",
    lambda: supervised(
        tasks.shells(),
        he(mlp(*widths(6, (48, 9), 3), activation="elu"), 6.0),
        sgd(0.05, momentum=0.9, nesterov=True),
        steps=500,
        batch=32,
    ),
)
failure(
    "exploding",
    "1x1 convolutions beside 40 skips, no norm, gain 2",
    "gratings, 24 layers of 1x1 convolutions beside skips",
    lambda: supervised(tasks.gratings(), _growing_skips(), sgd(0.02, momentum=0.9), steps=300),
)
failure(
    "exploding",
    "A2C, the loss goes up",
    "grid, A2C, tanh",
    lambda: a2c(tasks.grid(), ActorCritic(12, 64, 4), adam(3e-3), steps=500, ascend=True),
    fault="sign",
)
failure(
    "exploding",
    "gradients summed over all steps",
    "tones, convolutions over time, leaky relu, averaged SGD",
    lambda: supervised(
        tasks.tones(), signal_net(16, nn.LeakyReLU), lambda m: _Summing(m.parameters(), lr=0.2), steps=350
    ),
)
failure(
    "dying relu",
    "biases of -9, RMSprop",
    "friedman, relu, RMSprop, absolute error",
    lambda: supervised(tasks.friedman(), biased(mlp(10, 96, 96, 96, 1), -9.0), _other(RMSprop, lr=1e-3), steps=500),
)
failure(
    "dying relu",
    "a burst of the rate at step 120, Adagrad",
    "blobs, 20 classes, Adagrad",
    lambda: supervised(
        tasks.blobs(),
        mlp(24, 96, 96, 96, 20),
        _other(Adagrad, lr=2e-2),
        steps=350,
        batch=48,
        schedule=between(120, 122, 3000.0),
    ),
    onset=120,
)
failure(
    "dying relu",
    "strided convolutions, biases of -8 behind the second",
    "gratings, strided convolutions, silu",
    lambda: supervised(tasks.gratings(), _drowned(), adam(2e-3), steps=250),
)
failure(
    "frozen layer",
    "convolutions of tiny weights left out of the optimizer",
    "tones, convolutions over time, elu",
    lambda: supervised(
        tasks.tones(), scaled(signal_net(2), 0.02, slice(0, 2)), lambda m: Adam(m[5].parameters(), lr=2e-3), steps=250
    ),
)
failure(
    "frozen layer",
    "a bottleneck of 2 at a rate of zero",
    "blobs, 20 classes, Adagrad",
    lambda: supervised(tasks.blobs(), mlp(24, 2, 96, 20), _still(2e-2), steps=350, batch=48),
)
failure(
    "dead head",
    "A2C, logits detached",
    "grid, A2C, tanh",
    lambda: a2c(tasks.grid(), ActorCritic(12, 64, 4, cut=True), adam(3e-3), steps=500, entropy=0.0),
    fault="cut",
)
failure(
    "dead head",
    "two tasks, the label's loss is missing",
    "blobs, two tasks",
    lambda: supervised(tasks.blobs(), TwoTasks(24, 64, 20), adam(3e-3), steps=300, criterion=_two_tasks(0.0, 1.0)),
    fault="cut",
)
failure(
    "dead head",
    "a relu behind logits that start below zero",
    "blobs, 20 classes, Adagrad",
    lambda: supervised(
        tasks.blobs(),
        biased(mlp(24, 96, 96, 20, output=nn.ReLU()), -20.0, slice(-1, None)),
        _other(Adagrad, lr=2e-2),
        steps=350,
        batch=48,
    ),
    fault="cut",
)
failure(
    "rank collapse",
    "two views of blobs, nothing keeps features apart",
    "two views of blobs",
    lambda: two_views(
        tasks.blobs(), mlp(24, 64, 64, 24, activation="silu"), adam(2e-3), steps=300, noise=0.3, spread=0.0
    ),
    fault="objective",
)
failure(
    "rank collapse",
    "a penalty on the outputs outweighs the loss",
    "friedman, silu, Adam",
    lambda: supervised(
        tasks.friedman(),
        mlp(10, 64, 64, 1, activation="silu"),
        adam(3e-3),
        steps=500,
        batch=50,
        adjust=lambda step, loss, output: loss + 20 * output.square().mean(),
    ),
    fault="objective",
)
failure(
    "rank collapse",
    "decoupled decay of 150, gelu with layer norm",
    "blobs, gelu with layer norm, AdamW, batches of 16",
    lambda: supervised(
        tasks.blobs(), mlp(24, 64, 64, 64, 20, activation="gelu"), adamw(2e-3, weight_decay=150.0), steps=500, batch=16
    ),
)
failure(
    "over-normalised",
    "layer norm over two units",
    "friedman, silu, Adam",
    lambda: supervised(
        tasks.friedman(),
        nn.Sequential(
            nn.Linear(10, 64),
            nn.SiLU(),
            nn.Linear(64, 2),
            nn.LayerNorm(2),
            nn.Linear(2, 64),
            nn.SiLU(),
            nn.Linear(64, 1),
        ),
        adam(3e-3),
        steps=500,
        batch=50,
    ),
)
failure(
    "over-normalised",
    "batch norm over weights 2,000 times too large",
    "blobs, six layers with batch norm, Adamax",
    lambda: supervised(
        tasks.blobs(), scaled(mlp(24, 6, 6, 20, norm="batch"), 2000.0, slice(0, 3)), _other(Adamax, lr=5e-3), steps=300
    ),
)
failure(
    "over-normalised",
    "strided convolutions, a norm over each single value",
    "gratings, strided convolutions, silu",
    lambda: supervised(tasks.gratings(), _value_norm(), adam(2e-3), steps=250),
)
failure(
    "rate too high",
    "NAdam at 20",
    "shells, silu, NAdam",
    lambda: supervised(
        tasks.shells(), mlp(6, 80, 80, 3, activation="silu"), _other(NAdam, lr=20.0), steps=400, batch=100
    ),
)
failure(
    "rate too high",
    "residual net, SGD at 30",
    "gratings, residual net with batch norm",
    lambda: supervised(tasks.gratings(), ResNet(), sgd(30.0, momentum=0.9), steps=200, batch=48),
)
failure(
    "rate too high",
    "LSTM, Adam at 10",
    "marked sum, LSTM",
    lambda: supervised(tasks.marked_sum(), Marked(), adam(10.0), steps=500, clip=1.0),
)
failure(
    "rate too high",
    "PQN, Adam at 0.5",
    "grid, PQN, one minibatch, silu, Adam",
    lambda: pqn(tasks.grid(), _grid_net(96, activation="silu"), adam(0.5), steps=500, minibatches=1, epochs=4),
)
failure(
    "rate too high",
    "Nesterov at 4, momentum 0.95",
    "shells, four elu layers, Nesterov, annealed by a cosine",
    lambda: supervised(
        tasks.shells(),
        mlp(*widths(6, (48, 4), 3), activation="elu"),
        sgd(4.0, momentum=0.95, nesterov=True),
        steps=500,
        batch=32,
    ),
)
failure(
    "rate too low",
    "NAdam at 1e-7",
    "shells, silu, NAdam",
    lambda: supervised(
        tasks.shells(), mlp(6, 80, 80, 3, activation="silu"), _other(NAdam, lr=1e-7), steps=400, batch=100
    ),
)
failure(
    "rate too low",
    "strided convolutions, annealed within 12 steps",
    "gratings, strided convolutions, silu",
    lambda: supervised(tasks.gratings(), Strided(), adam(2e-3), steps=250, schedule=lambda step: max(0.6**step, 1e-4)),
)
failure(
    "rate too low",
    "PQN, SGD at 1e-6",
    "grid, PQN",
    lambda: pqn(tasks.grid(), _grid_net(), sgd(1e-6), steps=600),
)
failure(
    "rate too low",
    "signals, SGD at 1e-5",
    "tones, convolutions over time, elu",
    lambda: supervised(tasks.tones(), signal_net(), sgd(1e-5, momentum=0.5), steps=250),
)
failure(
    "stale state",
    "NAdam, second moments of another run",
    "shells, silu, NAdam",
    lambda: supervised(
        tasks.shells(),
        mlp(6, 80, 80, 3, activation="silu"),
        _other(NAdam, lr=3e-3, betas=(0.9, 0.9999)),
        steps=400,
        batch=100,
        event=once(3, _foreign),
    ),
)
failure(
    "stale state",
    "PQN, rewards a hundred thousand times larger for 50 steps",
    "grid, PQN",
    lambda: pqn(
        tasks.grid(),
        _grid_net(),
        adam(2e-3, betas=(0.9, 0.99999)),
        steps=600,
        clip=None,
        reward_scale=lambda step: 1e5 if step <= 50 else 1.0,
        schedule=lambda step: 0.01 if step <= 50 else 1.0,
    ),
)
failure(
    "target drift",
    "Q-learning, a discount of 1.05, wide",
    "garnet, values of actions",
    lambda: q_learning(
        tasks.garnet(), mlp(24, 96, 96, 3), adam(3e-3), steps=900, by_values=True, discount=1.05, target_every=3
    ),
    fault="targets",
)
failure(
    "target drift",
    "PQN, a discount of 1.2, no norm",
    "garnet, PQN, multi-skip torso, Kron",
    lambda: pqn(tasks.garnet(), mlp(24, 64, 64, 3), adam(3e-3), steps=400, discount=1.2, clip=None),
    fault="targets",
)
failure(
    "target drift",
    "friedman, answers wanted that grow",
    "friedman, silu, Adam",
    lambda: supervised(
        lambda step: changed(tasks.friedman(), targets=tasks.friedman().targets * 1.03**step),
        mlp(10, 64, 64, 1, activation="silu"),
        adam(3e-3),
        steps=500,
        batch=50,
    ),
    fault="targets",
)
failure(
    "not a number",
    "entropy by hand from step 90",
    "blobs, focal loss and dropout",
    lambda: supervised(
        tasks.blobs(),
        mlp(24, 96, 96, 20),
        adam(2e-3),
        steps=400,
        adjust=lambda step, loss, output: loss - _entropy(output) if step >= 90 else loss,
    ),
    onset=90,
    fault="loss",
)
failure(
    "not a number",
    "a sensor fails at step 160",
    "friedman, silu, Adam",
    lambda: supervised(
        lambda step: _broken_sensor() if step >= 160 else tasks.friedman(),
        mlp(10, 64, 64, 1, activation="silu"),
        adam(3e-3),
        steps=500,
        batch=50,
    ),
    onset=160,
)
failure(
    "not a number",
    "advantages divided by a spread of zero",
    "gratings, strided convolutions, silu",
    lambda: supervised(
        tasks.gratings(),
        Strided(),
        adam(2e-3),
        steps=250,
        adjust=lambda step, loss, output: loss / output[:1, 0].std(correction=0) if step == 110 else loss,
    ),
    onset=110,
    fault="loss",
)
failure(
    "data shift",
    "inputs 200 times larger from step 250",
    "shells, silu, NAdam",
    lambda: supervised(
        lambda step: changed(tasks.shells(), inputs=tasks.shells().inputs * (200.0 if step >= 250 else 1.0)),
        mlp(6, 80, 80, 3, activation="tanh"),
        _other(NAdam, lr=3e-3),
        steps=400,
        batch=100,
    ),
    onset=250,
)
failure(
    "data shift",
    "a gain of 5,000 and an offset of 20,000 from step 150",
    "tones, convolutions over time, elu",
    lambda: supervised(
        lambda step: (
            changed(tasks.tones(), inputs=tasks.tones().inputs * 5000 + 20000) if step >= 150 else tasks.tones()
        ),
        signal_net(12, nn.Tanh),
        adam(2e-3),
        steps=250,
    ),
    onset=150,
)
failure(
    "data shift",
    "features a thousandth from step 200, SGD",
    "friedman, tanh, SGD, rate halved every 100 steps",
    lambda: supervised(
        lambda step: changed(tasks.friedman(), inputs=tasks.friedman().inputs * (1e-3 if step >= 200 else 1.0)),
        mlp(10, 64, 64, 1, activation="tanh"),
        sgd(0.1, momentum=0.8),
        steps=500,
    ),
    onset=200,
)
failure(
    "plasticity",
    "ten shufflings of the labels, 16 plain layers",
    "blobs, fine-tuned from shuffled labels",
    lambda: supervised(
        lambda step: _shuffled((step - 1) // 45) if step <= 400 else tasks.blobs(),
        he(mlp(*widths(24, (48, 16), 20))),
        adam(5e-3),
        steps=450,
    ),
)


def _entropy(output: Tensor) -> Tensor:
    shares = (40 * output).softmax(1)
    return -0.01 * (shares * shares.log()).sum(1).mean()


def _growing_skips() -> nn.Module:
    """Branches as large as what they are added to: everything doubles and more, forty times."""
    blocks = []
    for _ in range(40):
        block = _Skip(16)
        block.f[0] = nn.Identity()
        blocks.append(block)
    return he(
        nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2), *blocks, nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 6)
        ),
        2.0,
    )


class _Summing(SGD):
    """``zero_grad`` is called on another optimizer."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""


def _drowned() -> nn.Module:
    model = Strided(8, torch.relu)
    with torch.no_grad():
        model.second.bias.fill_(-8.0)
    return model


def _still(lr: float):
    """Adagrad with a rate of zero for the first layer."""
    return lambda model: Adagrad(
        [{"params": list(model[0].parameters()), "lr": 0.0}, {"params": list(model[1:].parameters())}], lr=lr
    )


def _value_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=4),
        nn.SiLU(),
        nn.Conv2d(8, 16, 3),
        nn.GroupNorm(16, 16),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(16, 6),
    )


def _foreign(setup: Setup) -> None:
    for state in setup.optimizer.state.values():
        state["exp_avg_sq"].fill_(1e6)


def _broken_sensor() -> Data:
    inputs = tasks.friedman().inputs.clone()
    inputs[::7, 2] = math.nan
    return changed(tasks.friedman(), inputs=inputs)
