"""The held-out trainings: other tasks, networks, optimizers and faults than those that rules are tuned on.

Written without a look at the rules, checked for validity by their scores alone, and committed before a monitor was
attached to any of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.diagnosis.networks import TiedAutoencoder, biased, he, mlp, scaled, widths
from benchmarks.diagnosis.register import (
    adam,
    adamw,
    between,
    cosine,
    held_out_failure,
    held_out_healthy,
    linear,
    once,
    sgd,
    warmup,
)
from benchmarks.diagnosis.rollouts import a2c, pqn
from benchmarks.diagnosis.tasks import Data, DecisionProcess, changed, normed, seeded
from benchmarks.diagnosis.training import (
    BATCH_SEED,
    Setup,
    Step,
    actor_critic,
    bandit,
    q_learning,
    set_learning_rate,
    supervised,
    values,
)
from torch import Tensor, nn
from torch.optim import Adadelta, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop

# -- tasks


def _labelled(raw: tuple[np.ndarray, np.ndarray], classes: int) -> Data:
    return Data(torch.tensor(raw[0], dtype=torch.float32), torch.tensor(raw[1]).long(), classes)


@cache
def quantiles() -> Data:
    """Five normal inputs by their distance from the origin; four classes of one size."""
    from sklearn.datasets import make_gaussian_quantiles

    return _labelled(make_gaussian_quantiles(n_samples=2400, n_features=5, n_classes=4, random_state=301), 4)


@cache
def broken_quantiles() -> Data:
    """The same, with every tenth row far out."""
    inputs = quantiles().inputs.clone()
    inputs[::10] *= 1e4
    return changed(quantiles(), inputs=inputs)


@cache
def haystack() -> Data:
    """Thirty inputs, of which six tell five classes apart."""
    from sklearn.datasets import make_classification

    raw = make_classification(
        2400, 30, n_informative=6, n_redundant=4, n_classes=5, n_clusters_per_class=2, class_sep=1.5, flip_y=0.0,
        random_state=303,
    )  # fmt: skip
    data = _labelled(raw, 5)
    return changed(data, inputs=normed(data.inputs))


@cache
def reshuffled(seed: int) -> Data:
    """The same with labels in another order."""
    return changed(haystack(), targets=haystack().targets[torch.randperm(2400, generator=seeded(seed))])


@cache
def reordered(seed: int) -> Data:
    """The same with inputs in another order."""
    return changed(haystack(), inputs=haystack().inputs[:, torch.randperm(30, generator=seeded(seed))])


@cache
def sheet() -> Data:
    """How far along a sheet that is bent to an S a point of space lies."""
    from sklearn.datasets import make_s_curve

    inputs, along = make_s_curve(2000, noise=0.1, random_state=305)
    targets = torch.tensor(along, dtype=torch.float32)[:, None]
    return Data(normed(torch.tensor(inputs, dtype=torch.float32)), normed(targets))


@cache
def impedance(raw: bool = False) -> Data:
    """Friedman's second function; its inputs reach from 1 to 1,800 unless they are standardised."""
    from sklearn.datasets import make_friedman2

    inputs, targets = (torch.tensor(part, dtype=torch.float32) for part in make_friedman2(2000, random_state=307))
    return Data(inputs if raw else normed(inputs), normed(targets)[:, None])


@cache
def arm() -> Data:
    """Where the hand of an arm is, by the angles of three joints."""
    angles = 4.0 * torch.rand(2500, 3, generator=seeded(311)) - 2.0
    bent, lengths = angles.cumsum(1), torch.tensor([1.0, 0.8, 0.5])
    return Data(angles, normed(torch.stack([(lengths * bent.cos()).sum(1), (lengths * bent.sin()).sum(1)], 1)))


@cache
def flow() -> Data:
    """Where a point of Lorenz's flow is a fifth of a second later."""
    place = torch.tensor([0.0, 0.0, 25.0]) + 8.0 * torch.randn(2500, 3, generator=seeded(313))

    def moved(place: Tensor, steps: int) -> Tensor:
        for _ in range(steps):
            x, y, z = place.unbind(1)
            place = place + 0.004 * torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)
        return place

    start = moved(place, 500)
    return Data(normed(start), normed(moved(start, 50)))


@cache
def table(columns: int = 5, kinds: int = 12) -> Data:
    """Prices by five categories of twelve kinds, the first two of which act together."""
    generator = seeded(317)
    inputs = torch.randint(kinds, (4000, columns), generator=generator)
    prices = torch.randn(columns, kinds, generator=generator).gather(1, inputs.T).sum(0)
    prices = prices + torch.randn(kinds, kinds, generator=generator)[inputs[:, 0], inputs[:, 1]]
    return Data(inputs, normed(prices + 0.2 * torch.randn(4000, generator=generator))[:, None])


@cache
def glyphs(kinds: int = 8, size: int = 9) -> Data:
    """Noisy [1, 9, 9] images of eight signs, somewhere."""
    generator = seeded(331)
    signs = (torch.rand(kinds, 5, 5, generator=generator) < 0.45).float()
    labels = torch.randint(kinds, (2400,), generator=generator)
    images = 0.35 * torch.randn(2400, size, size, generator=generator)
    corners = torch.randint(size - 4, (2400, 2), generator=generator).tolist()
    for image, label, (row, column) in zip(images, labels.tolist(), corners, strict=True):
        image[row : row + 5, column : column + 5] += 1.5 * signs[label]
    return Data(images[:, None] - 0.2, labels, kinds)


@cache
def misread() -> Data:
    """Two labels in five are drawn at random."""
    data, generator = glyphs(), seeded(337)
    random = torch.randint(8, data.targets.shape, generator=generator)
    lost = torch.rand(data.targets.shape, generator=generator) < 0.4
    return changed(data, targets=torch.where(lost, random, data.targets))


@cache
def spots() -> Data:
    """[1, 10, 10] images of one to four spots, by how many there are."""
    generator = seeded(347)
    labels = torch.randint(4, (2400,), generator=generator)
    places = torch.rand(2400, 25, generator=generator).argsort(1)[:, :4]
    images = torch.zeros(2400, 25).scatter_(1, places, (torch.arange(4) <= labels[:, None]).float())
    images = images.view(2400, 5, 5).repeat_interleave(2, 1).repeat_interleave(2, 2)
    return Data((images + 0.2 * torch.randn(2400, 10, 10, generator=generator))[:, None], labels, 4)


@cache
def waveforms(length: int = 40) -> Data:
    """Noisy [40, 1] signals of four forms: sine, square, triangle and saw."""
    generator = seeded(349)
    labels = torch.randint(4, (2000,), generator=generator)
    pitch = (2 + 2 * torch.rand(2000, 1, generator=generator)) / length
    phase = (pitch * torch.arange(length) + torch.rand(2000, 1, generator=generator)) % 1
    wave = (2 * torch.pi * phase).sin()
    forms = torch.stack([wave, wave.sign(), 4 * (phase - 0.5).abs() - 1, 2 * phase - 1])
    signals = forms[labels, torch.arange(2000)] + 0.2 * torch.randn(2000, length, generator=generator)
    return Data(signals[..., None], labels, 4)


@cache
def pairs(letters: int = 8, numbers: int = 6) -> Data:
    """Five pairs of a letter and a number, and a letter: which number stood beside it."""
    generator = seeded(353)
    order = torch.rand(3000, letters, generator=generator).argsort(1)[:, :5]
    beside = torch.randint(numbers, (3000, 5), generator=generator)
    asked = torch.randint(5, (3000, 1), generator=generator)
    letter = torch.cat([order, order.gather(1, asked)], 1)
    number = torch.cat([beside, torch.full((3000, 1), numbers)], 1)
    return Data(torch.stack([letter, number], 2), beside.gather(1, asked)[:, 0], numbers)


@cache
def letters(tokens: int = 8, length: int = 10) -> Data:
    """The next letter after ten, which the last two make likely and no more."""
    generator = seeded(359)
    likely = (2.0 * torch.randn(tokens, tokens, tokens, generator=generator)).softmax(2)
    text = [torch.randint(tokens, (3000,), generator=generator) for _ in range(2)]
    while len(text) <= length:
        text.append(torch.multinomial(likely[text[-2], text[-1]], 1, generator=generator)[:, 0])
    return Data(torch.stack(text[:-1], 1), text[-1], tokens)


@cache
def curves(length: int = 32) -> Data:
    """Smooth curves of 32 values under noise, and without it."""
    generator = seeded(367)
    time = torch.linspace(0, 2 * torch.pi, length)
    smooth = torch.zeros(2000, length)
    for waves in (1, 2, 3):
        phase = 2 * torch.pi * torch.rand(2000, 1, generator=generator)
        smooth = smooth + torch.randn(2000, 1, generator=generator) * (waves * time + phase).sin() / waves**0.5
    return Data(smooth + 0.6 * torch.randn(2000, length, generator=generator), smooth)


@cache
def clicks(features: int = 300) -> Data:
    """Of 300 inputs three in a hundred are one and the rest zero; two classes."""
    generator = seeded(373)
    inputs = (torch.rand(3000, features, generator=generator) < 0.03).float()
    signal = inputs @ torch.randn(features, generator=generator)
    return Data(inputs, (signal > signal.median()).long(), 2)


@cache
def uneven() -> Data:
    """Three classes: about 84, 12 and 4 in a hundred rows."""
    inputs = torch.randn(4000, 8, generator=seeded(379))
    second, third = inputs[:, 0] + inputs[:, 1] * inputs[:, 2], inputs[:, 3].square() - inputs[:, 4]
    labels = (second > second.quantile(0.88)).long()
    return Data(inputs, labels.masked_fill(third > third.quantile(0.96), 2), 3)


@cache
def evened() -> Data:
    """As many rows of each class of :func:`uneven`, for the score."""
    data = uneven()
    by_class = [(data.targets == label).nonzero()[:, 0] for label in range(3)]
    rows = torch.cat([rows[: min(map(len, by_class))] for rows in by_class])
    return Data(data.inputs[rows], data.targets[rows], 3)


@cache
def outliers(share: float = 0.1) -> Data:
    """A smooth function of six inputs; one target in ten is off by a lot."""
    generator = seeded(383)
    inputs = torch.randn(2500, 6, generator=generator)
    targets = normed((2 * inputs[:, 0]).sin() + inputs[:, 1] * inputs[:, 2] + inputs[:, 3].abs())[:, None]
    off = (torch.rand(2500, 1, generator=generator) < share) * 15 * torch.randn(2500, 1, generator=generator)
    return Data(inputs, targets + off)


# -- decision processes


@cache
def lake(side: int = 5, discount: float = 0.95) -> DecisionProcess:
    """Slippery ice with three holes, which lead back to the start, as does the corner that pays."""
    states, holes = side * side, (7, 11, 18)
    moves = ((0, 1), (1, 0), (0, -1), (-1, 0))
    transitions, rewards = torch.zeros(4, states, states), torch.zeros(4, states)
    for state in range(states):
        row, column = divmod(state, side)
        for action in range(4):
            if state in holes or state == states - 1:
                transitions[action, state, 0] = 1.0
                rewards[action, state] = -0.3 if state in holes else 1.0
                continue
            for turn, share in ((0, 0.8), (1, 0.1), (3, 0.1)):
                down, right = moves[(action + turn) % 4]
                end = min(max(row + down, 0), side - 1) * side + min(max(column + right, 0), side - 1)
                transitions[action, state, end] += share
    return DecisionProcess(torch.eye(states), transitions, rewards, discount)


@cache
def engine(ages: int = 14, discount: float = 0.9) -> DecisionProcess:
    """An engine wears out: run it, oil it or replace it."""
    transitions, rewards = torch.zeros(3, ages, ages), torch.zeros(3, ages)
    for age in range(ages):
        worn = (age / (ages - 1)) ** 2
        for further, share in ((1, 0.6), (2, 0.4)):
            transitions[0, age, min(age + further, ages - 1)] += share
        transitions[1, age, max(age - 2, 0)], transitions[2, age, 0] = 1.0, 1.0
        rewards[:, age] = torch.tensor([1 - 2 * worn, 0.2 - worn, -1.0])
    seen = (torch.arange(ages)[:, None] >= torch.arange(ages)).float()
    return DecisionProcess(2 * seen - 1, transitions, rewards, discount)


def paid(process: DecisionProcess, factor: float) -> DecisionProcess:
    """Rewards in other units."""
    return replace(process, rewards=factor * process.rewards)


@cache
def hill(places: int = 12, speeds: int = 9, discount: float = 0.95) -> DecisionProcess:
    """A car too weak for a hill has to swing (Moore 1990), on a grid of places and speeds."""
    transitions, rewards = torch.zeros(3, places * speeds, places * speeds), torch.full((3, places * speeds), -0.02)
    where, fast = np.linspace(-1.2, 0.6, places), np.linspace(-0.07, 0.07, speeds)
    start = int(np.abs(where + 0.5).argmin()) * speeds + speeds // 2
    for state in range(places * speeds):
        for action in range(3):
            place, speed = where[state // speeds], fast[state % speeds]
            for _ in range(5):
                speed = np.clip(speed + 0.0015 * (action - 1) - 0.0025 * np.cos(3 * place), -0.07, 0.07)
                place = max(place + speed, -1.2)
                speed = 0.0 if place == -1.2 else speed
            if place >= 0.55:
                transitions[action, state, start], rewards[action, state] = 1.0, 1.0
                continue
            # Between the nearest places and speeds of the grid.
            near, rest = divmod((min(place, 0.6) + 1.2) / 1.8 * (places - 1), 1)
            slow, more = divmod((speed + 0.07) / 0.14 * (speeds - 1), 1)
            for one, share in ((near, 1 - rest), (min(near + 1, places - 1), rest)):
                for two, part in ((slow, 1 - more), (min(slow + 1, speeds - 1), more)):
                    transitions[action, state, int(one) * speeds + int(two)] += share * part
    one, two = torch.meshgrid(torch.linspace(-1, 1, places), torch.linspace(-1, 1, speeds), indexing="ij")
    bumps = [
        (-6 * ((one - x).square() + (two - y).square())).exp().flatten()
        for x in torch.linspace(-1, 1, 6)
        for y in torch.linspace(-1, 1, 5)
    ]
    return DecisionProcess(torch.stack(bumps, 1), transitions, rewards, discount)


@cache
def gambler(goal: int = 20, discount: float = 0.9) -> DecisionProcess:
    """Capital of 1 to 19, stakes of 1, 2, 4 or as much as is of use; 20 pays; both ends lead back to 6."""
    transitions, rewards = torch.zeros(4, goal - 1, goal - 1), torch.zeros(4, goal - 1)
    for capital in range(1, goal):
        for action, stake in enumerate((1, 2, 4, goal)):
            stake = min(stake, capital, goal - capital)
            for end, share in ((capital + stake, 0.4), (capital - stake, 0.6)):
                rewards[action, capital - 1] += share * (end == goal) - 0.3 * share * (end == 0)
                transitions[action, capital - 1, (end if 0 < end < goal else 6) - 1] += share
    return DecisionProcess(torch.eye(goal - 1), transitions, rewards, discount)


@cache
def queue(most: int = 9, discount: float = 0.9) -> DecisionProcess:
    """Customers wait, which costs; they are served at three speeds, which cost as well."""
    transitions, rewards = torch.zeros(3, most + 1, most + 1), torch.zeros(3, most + 1)
    for action, (speed, cost) in enumerate(((0.2, 0.0), (0.55, 0.3), (0.9, 1.0))):
        for waiting in range(most + 1):
            rewards[action, waiting] = -0.15 * waiting - cost
            for come, share in ((0, 0.3), (1, 0.5), (2, 0.2)):
                for served, part in ((1, speed), (0, 1 - speed)):
                    end = min(max(waiting - served, 0) + come, most)
                    transitions[action, waiting, end] += share * part
    length = torch.linspace(0, 1, most + 1)[:, None]
    waves = torch.pi * length * torch.arange(1, 5)
    return DecisionProcess(torch.cat([2 * length - 1, waves.cos(), waves.sin()], 1), transitions, rewards, discount)


def drifting(process: DecisionProcess) -> DecisionProcess:
    """What happens under the random policy, as the only action."""
    return replace(
        process,
        transitions=process.transitions.mean(0, keepdim=True),
        rewards=process.rewards.mean(0, keepdim=True),
    )


@cache
def walk(places: int = 19, discount: float = 0.95) -> DecisionProcess:
    """A walk between two ends, one of which costs and the other pays (Sutton 1988)."""
    transitions, rewards = torch.zeros(1, places, places), torch.zeros(1, places)
    for place in range(places):
        for end in (place - 1, place + 1):
            inside = 0 <= end < places
            transitions[0, place, end if inside else places // 2] += 0.5
            rewards[0, place] += 0.0 if inside else math.copysign(0.5, end)
    where = torch.linspace(-1, 1, places)[:, None]
    return DecisionProcess((-8 * (where - torch.linspace(-1, 1, 9)).square()).exp(), transitions, rewards, discount)


@cache
def star(discount: float = 0.97) -> DecisionProcess:
    """Six places and a seventh where most ways end, with features that overlap (Baird 1995), and some pay."""
    transitions = torch.full((1, 7, 7), 0.5 / 6)
    transitions[:, :, 6] = 0.5
    features = torch.cat([2 * torch.eye(7), torch.ones(7, 1)], 1)
    features[6, 6:] = torch.tensor([1.0, 2.0])
    return DecisionProcess(features, transitions, torch.tensor([[1.0, -1.0, 0.5, 2.0, -0.5, 0.0, -0.3]]), discount)


@cache
def delivery(side: int = 4, discount: float = 0.95) -> DecisionProcess:
    """A parcel is fetched in one corner and brought to another; the last action picks up and puts down."""
    places = side * side
    transitions, rewards = torch.zeros(5, 2 * places, 2 * places), torch.full((5, 2 * places), -0.02)
    for state in range(2 * places):
        loaded, place = divmod(state, places)
        row, column = divmod(place, side)
        for action, (down, right) in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0))):
            end = min(max(row + down, 0), side - 1) * side + min(max(column + right, 0), side - 1)
            transitions[action, state, loaded * places + end] += 0.9
            transitions[action, state, state] += 0.1
        fits = place == (places - 1 if loaded else side - 1)
        transitions[4, state, (1 - loaded) * places + place if fits else state] = 1.0
        rewards[4, state] = (1.0 if loaded else 0.1) if fits else -0.1
    place, loaded = torch.arange(2 * places) % places, torch.arange(2 * places) // places
    seen = [F.one_hot(place // side, side), F.one_hot(place % side, side), F.one_hot(loaded, 2)]
    return DecisionProcess(torch.cat(seen, 1).float(), transitions, rewards, discount)


# -- networks


def plain(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm=None) -> nn.Sequential:
    """As :func:`mlp`, of any activation and norm (width to module)."""
    parts: list[nn.Module] = []
    for n, m in pairwise(sizes[:-1]):
        parts += [nn.Linear(n, m), *([norm(m)] if norm is not None else []), activation()]
    return nn.Sequential(*parts, nn.Linear(*sizes[-2:]))


def gated(*sizes: int) -> nn.Sequential:
    """Layers of which one half opens and shuts the other (Dauphin et al. 2017)."""
    parts: list[nn.Module] = []
    for n, m in pairwise(sizes[:-1]):
        parts += [nn.Linear(n, 2 * m), nn.GLU()]
    return nn.Sequential(*parts, nn.Linear(*sizes[-2:]))


def shut(model: nn.Sequential, bias: float) -> nn.Sequential:
    """Set the biases of all gates, in place."""
    with torch.no_grad():
        for layer in model[:-1:2]:
            layer.bias[layer.out_features // 2 :] = bias
    return model


def orthogonal(model: nn.Module, gain: float = 5 / 3, last: float | None = None) -> nn.Module:
    """Orthogonal matrices and biases of zero, in place; the last layer with a gain of its own."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer in linear:
        nn.init.orthogonal_(layer.weight, gain if last is None or layer is not linear[-1] else last)
        nn.init.zeros_(layer.bias)
    return model


def silent(model: nn.Sequential) -> nn.Sequential:
    """The last layer starts at zero."""
    nn.init.zeros_(model[-1].weight)
    nn.init.zeros_(model[-1].bias)
    return model


def alike(model: nn.Module, weight: float = 0.03) -> nn.Module:
    """All weights start alike."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(weight if parameter.ndim > 1 else 0.0)
    return model


class Maxout(nn.Module):
    """The larger of two linear layers (Goodfellow et al. 2013)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        return torch.maximum(*self.linear(x).chunk(2, 1))


class FromZero(nn.Module):
    """x + a f(x), where a starts at zero (Bachlechner et al. 2021)."""

    def __init__(self, width: int):
        super().__init__()
        self.linear, self.amount = nn.Linear(width, width), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] to the same."""
        return x + self.amount * F.silu(self.linear(x))


class Dense(nn.Module):
    """Every layer sees what all before it have made."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs + k * width, width) for k in range(depth))
        self.head = nn.Linear(inputs + depth * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        for layer in self.layers:
            x = torch.cat([x, F.elu(layer(x))], 1)
        return self.head(x)


class Opposites(nn.Module):
    """What is above zero beside what is below (Shang et al. 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        """[rows, units] to [rows, 2 units]."""
        return torch.cat([x.relu(), (-x).relu()], 1)


def opposites(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), Opposites(), nn.Linear(2 * width, width), Opposites(), nn.Linear(2 * width, outputs)
    )


class Looked(nn.Module):
    """An embedding for each column of a table, and a perceptron."""

    def __init__(self, columns: int = 5, kinds: int = 12, width: int = 8, hidden: int = 64):
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(kinds, width) for _ in range(columns))
        self.body = mlp(columns * width, hidden, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, columns] to [rows, 1]."""
        return self.body(torch.cat([embed(x[:, k]) for k, embed in enumerate(self.embed)], 1))


class Columns(nn.Module):
    """Attention between the columns of a table."""

    def __init__(self, columns: int = 5, kinds: int = 12, width: int = 24):
        super().__init__()
        self.register_buffer("first", kinds * torch.arange(columns))
        self.embed = nn.Embedding(kinds * columns, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, columns] to [rows, 1]."""
        return self.head(self.norm(self.block(self.embed(x + self.first)).mean(1)))


class Squeezed(nn.Module):
    """Convolutions over 9 x 9 images whose channels are weighed by what is in all of them (Hu et al. 2018)."""

    def __init__(self, channels: int = 10, outputs: int = 8):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, channels, 3), nn.Conv2d(channels, 2 * channels, 3, stride=2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(m) for m in (channels, 2 * channels))
        self.weigh = mlp(2 * channels, 8, 2 * channels, output=nn.Sigmoid())
        self.head = nn.Linear(18 * channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 9, 9] to [rows, outputs]."""
        x = self.norms[0](self.first(x)).relu()
        x = self.norms[1](self.second(x)).relu()
        return self.head((x * self.weigh(x.mean((2, 3)))[..., None, None]).flatten(1))


def signs(
    channels: int = 10, outputs: int = 8, norm=None, activation: Callable[[], nn.Module] = nn.ReLU, drop: float = 0.0
) -> nn.Sequential:
    """Two convolutions over 9 x 9 images."""
    norms = [norm(m) if norm is not None else nn.Identity() for m in (channels, 2 * channels)]
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), norms[0], activation(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2), norms[1], activation(),
        nn.Dropout2d(drop), nn.Flatten(), nn.Linear(18 * channels, outputs),
    )  # fmt: skip


def _groups(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


class Counting(nn.Module):
    """Residual convolutions over 10 x 10 images, and the mean over all places."""

    def __init__(self, channels: int = 12, blocks: int = 2, outputs: int = 4):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(3, channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1))
            for _ in range(blocks)
        )
        self.hidden, self.head = nn.Linear(channels, 32), nn.Linear(32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 10, 10] to [rows, outputs]."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.hidden(4 * x.relu().mean((2, 3))).relu())


class Transposed(nn.Module):
    """[rows, length, 1] to [rows, 1, length]."""

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length, channels] to [rows, channels, length]."""
        return x.transpose(1, 2)


def over_time(channels: int = 12, activation: Callable[[], nn.Module] = nn.GELU) -> nn.Sequential:
    """Three convolutions over signals of 40 values."""
    return nn.Sequential(
        Transposed(), nn.Conv1d(1, channels, 5, stride=2), activation(),
        nn.Conv1d(channels, channels, 3, stride=2), activation(), nn.Conv1d(channels, 2 * channels, 3), activation(),
        nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Linear(4 * channels, 4),
    )  # fmt: skip


class BothWays(nn.Module):
    """A recurrent network that reads two values at a time, forwards and backwards, and the mean of its states."""

    def __init__(self, width: int = 20, outputs: int = 4):
        super().__init__()
        self.cell = nn.GRU(2, width, batch_first=True, bidirectional=True)
        self.head = mlp(2 * width, 32, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length, 1] to [rows, outputs]."""
        return self.head(self.cell(x.unflatten(1, (-1, 2)).flatten(2))[0].mean(1))


class Lookup(nn.Module):
    """The last pair asks the others; they are mixed, or by mistake only the best is taken."""

    def __init__(self, letters: int = 8, numbers: int = 6, width: int = 32, hard: bool = False):
        super().__init__()
        self.letter, self.number, self.hard = nn.Embedding(letters, width), nn.Embedding(numbers + 1, width), hard
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = mlp(width, 48, numbers)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, pairs, 2] to [rows, numbers]."""
        h = self.letter(x[..., 0]) + self.number(x[..., 1])
        fit = self.query(h[:, -1:]) @ self.key(h[:, :-1]).transpose(1, 2) / h.shape[-1] ** 0.5
        share = F.one_hot(fit.argmax(2), fit.shape[2]).float() if self.hard else fit.softmax(2)
        return self.head((share @ self.value(h[:, :-1]))[:, 0])


class Reading(nn.Module):
    """A recurrent network over letters, whose embedding is its head as well."""

    def __init__(self, tokens: int = 8, width: int = 32):
        super().__init__()
        self.embed, self.cell = nn.Embedding(tokens, width), nn.LSTM(width, width, batch_first=True)
        nn.init.normal_(self.embed.weight, 0.0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length] to [rows, tokens]."""
        return F.linear(self.cell(self.embed(x))[0][:, -1], self.embed.weight)


class Hourglass(nn.Module):
    """Down to an eighth of the length and up again, beside shortcuts (Ronneberger et al. 2015)."""

    def __init__(self, channels: int = 12):
        super().__init__()
        sizes = (1, channels, channels, channels)
        self.down = nn.ModuleList(nn.Conv1d(n, m, 4, stride=2, padding=1) for n, m in pairwise(sizes))
        self.up = nn.ModuleList(nn.Conv1d(n + channels, channels, 3, padding=1) for n in sizes[:0:-1])
        self.up[-1] = nn.Conv1d(channels + 1, channels, 3, padding=1)
        self.head = nn.Conv1d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length] to the same."""
        x = x[:, None]
        before = []
        for layer in self.down:
            before.append(x)
            x = F.gelu(layer(x))
        for layer, shortcut in zip(self.up, reversed(before), strict=True):
            x = F.gelu(layer(torch.cat([x.repeat_interleave(2, 2), shortcut], 1)))
        return self.head(x)[:, 0]


class PolicyAndValue(nn.Module):
    """A body of any kind, logits and a value; the logits may be cut off by mistake."""

    def __init__(self, body: nn.Module, width: int, actions: int, cut: bool = False):
        super().__init__()
        self.body, self.cut = body, cut
        self.policy, self.value = nn.Linear(width, actions), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, actions + 1]."""
        h = self.body(x)
        logits = self.policy(h)
        return torch.cat([logits.detach() if self.cut else logits, self.value(h)], 1)


# -- optimizers


class Lion(Optimizer):
    """Steps of one size in the direction of the sign of a mean of gradients (Chen et al. 2023)."""

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step; there are no closures."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                mean = self.state[parameter].setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * mean.lerp(parameter.grad, 1 - group["betas"][0]).sign())
                mean.lerp_(parameter.grad, 1 - group["betas"][1])


class _Keeping(NAdam):
    """Somebody forgot ``zero_grad``."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""


def _by(make: type[Optimizer], **options):
    return lambda model: make(model.parameters(), **options)


# -- loops


def replay(
    process: DecisionProcess,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 700,
    batch: int = 48,
    walkers: int = 8,
    memory: int = 300,
    target_every: int = 20,
    huber: bool = True,
    discount: float | None = None,
    clip: float | None = None,
    schedule: Callable[[int], float] | None = None,
) -> Setup:
    """Q-learning from what its own policy met lately (Mnih et al. 2015).

    Args:
        process: what is controlled.
        model: features to [rows, actions].
        make_optimizer: model to optimizer.
        steps: optimizer steps, one after each move of all walkers.
        batch: transitions a step.
        walkers: side by side.
        memory: moves of all walkers that are kept.
        target_every: steps between copies to the target network.
        huber: loss, in place of the square.
        discount: what the learner believes; None: the truth.
        clip: gradients to this norm.
        schedule: step to a factor of the learning rate.
    """
    discount = process.discount if discount is None else discount

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        state = torch.randint(process.states, (walkers,), generator=generator)
        target, kept = copy.deepcopy(setup.model), torch.zeros(3, steps, walkers, dtype=torch.int64)
        for step in range(1, steps + 1):
            model, optimizer = setup.model, setup.optimizer
            set_learning_rate(optimizer, schedule, step)
            if step % target_every == 0:
                target = copy.deepcopy(model)
            with torch.no_grad():
                best = model(process.features[state]).argmax(1)
            random = torch.randint(process.actions, (walkers,), generator=generator)
            explore = torch.rand(walkers, generator=generator) < max(1 - 1.5 * step / steps, 0.1)
            action = torch.where(explore, random, best)
            following = torch.multinomial(process.transitions[action, state], 1, generator=generator)[:, 0]
            kept[:, step - 1] = torch.stack([state, action, following])
            met, state = process.rewards[action, state], following
            rows = torch.randint(max(step - memory, 0), step, (batch,), generator=generator)
            one = torch.randint(walkers, (batch,), generator=generator)
            where, action, following = kept[:, rows, one]
            with torch.no_grad():
                goal = process.rewards[action, where] + discount * target(process.features[following]).max(1).values
            found = model(process.features[where]).gather(1, action[:, None])[:, 0]
            loss = F.smooth_l1_loss(found, goal) if huber else 0.5 * (found - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            yield Step(loss.item(), None, -met.mean().item())

    setup = Setup(model, make_optimizer(model), loop, lambda: _greedy(process, setup.model), steps)
    return setup


def _greedy(process: DecisionProcess, model: nn.Module) -> float:
    """The score of the actions of which a network thinks most; what else it answers is left aside."""
    with torch.no_grad():
        found = model(process.features)[:, : process.actions]
    if not found.isfinite().all():
        return -1.0
    return process.policy_score(F.one_hot(found.argmax(1), process.actions).float())


def ppo(
    process: DecisionProcess,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 480,
    epochs: int = 3,
    minibatch: int = 64,
    entropy: float = 0.02,
    trace: float = 0.9,
    clip: float | None = 0.5,
    schedule: Callable[[int], float] | None = None,
) -> Setup:
    """Proximal policy optimisation (Schulman et al. 2017), with one network for policy and value.

    Args:
        process: what is controlled.
        model: features to [rows, actions + 1]: logits and a value.
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        epochs: passes over a rollout of 128 rows.
        minibatch: rows a step; of a pass's last step, what is left.
        entropy: bonus.
        trace: lambda of the advantages.
        clip: gradients to this norm.
        schedule: step to a factor of the learning rate.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        state, step = torch.randint(process.states, (16,), generator=generator), 0
        while step < steps:
            rows: list[tuple[Tensor, ...]] = []
            for _ in range(8):
                with torch.no_grad():
                    output = setup.model(process.features[state])
                log_policy, value = output[:, :-1].nan_to_num(0.0).log_softmax(1), output[:, -1]
                action = torch.multinomial(log_policy.exp(), 1, generator=generator)
                reward = process.rewards[action[:, 0], state]
                rows.append((state, action[:, 0], log_policy.gather(1, action)[:, 0], value, reward))
                state = torch.multinomial(process.transitions[action[:, 0], state], 1, generator=generator)[:, 0]
            with torch.no_grad():
                ahead = setup.model(process.features[state])[:, -1]
            gain, gains = torch.zeros(16), []
            for _, _, _, value, reward in reversed(rows):
                gain = reward + process.discount * ahead - value + process.discount * trace * gain
                gains.insert(0, gain)
                ahead = value
            where, action, before, value, reward = (torch.cat(part) for part in zip(*rows, strict=True))
            gains = torch.cat(gains)
            for _ in range(epochs):
                for chosen in torch.randperm(128, generator=generator).split(minibatch):
                    step += 1
                    if step > steps:
                        return
                    model, optimizer = setup.model, setup.optimizer
                    set_learning_rate(optimizer, schedule, step)
                    output = model(process.features[where[chosen]])
                    log_policy = output[:, :-1].log_softmax(1)
                    ratio = (log_policy.gather(1, action[chosen, None])[:, 0] - before[chosen]).exp()
                    advantage = gains[chosen]
                    advantage = advantage - advantage.mean()
                    advantage = advantage / ((advantage.square().sum() / (len(chosen) - 1)).sqrt() + 1e-6)
                    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
                    loss = loss + entropy * (log_policy.exp() * log_policy).sum(1).mean()
                    loss = loss + 0.5 * (output[:, -1] - gains[chosen] - value[chosen]).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    if clip is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip)
                    optimizer.step()
                    yield Step(loss.item(), None, -reward.mean().item())

    setup = Setup(model, make_optimizer(model), loop, lambda: _greedy(process, setup.model), steps)
    return setup


def triplets(
    data: Data,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 400,
    batch: int = 64,
    margin: float = 0.5,
    apart: bool = True,
) -> Setup:
    """Rows of a class are to lie nearer to each other than to rows of other classes (Schroff et al. 2015).

    Args:
        data: inputs and classes.
        model: inputs to features, of which the direction counts.
        make_optimizer: model to optimizer.
        steps: optimizer steps.
        batch: triplets.
        margin: how much nearer.
        apart: False: that other classes are to lie apart was forgotten.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        order, count = data.targets.argsort(stable=True), data.targets.bincount()
        begin = count.cumsum(0) - count
        for _ in range(steps):
            model, optimizer = setup.model, setup.optimizer
            one = torch.randint(len(order), (batch,), generator=generator)
            label, (near, far) = data.targets[one], torch.rand(2, batch, generator=generator)
            like = order[begin[label] + (near * count[label]).long()]
            beyond = count[label] + (far * (len(order) - count[label])).long()
            other = order[(begin[label] + beyond) % len(order)]
            one, like, other = (F.normalize(model(data.inputs[rows]), dim=1) for rows in (one, like, other))
            loss = (one - like).square().sum(1)
            if apart:
                loss = (loss - (one - other).square().sum(1) + margin).relu()
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            yield Step(loss.mean().item(), None, loss.mean().item())

    def score() -> float:
        """Of the nearest mean of a class, under a little noise."""
        with torch.no_grad():
            features = F.normalize(setup.model(data.inputs), dim=1)
        features = features + 0.05 * torch.randn(features.shape, generator=seeded(389))
        if not features.isfinite().all():
            return -1.0
        means = torch.stack([features[data.targets == label].mean(0) for label in range(data.classes)])
        right = (torch.cdist(features, means).argmin(1) == data.targets).float().mean().item()
        return (right - 1 / data.classes) / (1 - 1 / data.classes)

    setup = Setup(model, make_optimizer(model), loop, score, steps)
    return setup


# == healthy ==

held_out_healthy(
    "quantiles, maxout, Nesterov",
    0.7,
    lambda: supervised(
        quantiles(),
        nn.Sequential(Maxout(5, 48), Maxout(48, 48), nn.Linear(48, 4)),
        sgd(0.03, momentum=0.9, nesterov=True),
        steps=700,
    ),
)
held_out_healthy(
    "haystack, gelu, Lion",
    0.8,
    lambda: supervised(
        haystack(), plain(30, 64, 64, 5, activation=nn.GELU), _by(Lion, lr=5e-4, weight_decay=0.1), steps=600
    ),
)
held_out_healthy(
    "haystack, learned early, trained on for long",
    0.9,
    lambda: supervised(haystack(), plain(30, 128, 128, 5), sgd(0.1, momentum=0.9), steps=1400, batch=96),
)
held_out_healthy(
    "haystack, classes reshuffled every 70 steps, layer norm",
    0.65,
    lambda: supervised(
        lambda step: reshuffled((step - 1) // 70) if step <= 490 else haystack(),
        plain(30, 96, 96, 5, norm=nn.LayerNorm),
        adam(5e-3),
        steps=700,
    ),
)
held_out_healthy(
    "haystack, inputs in another order every 80 steps, RMS norm",
    0.5,
    lambda: supervised(
        lambda step: reordered((step - 1) // 80),
        plain(30, 96, 96, 5, norm=nn.RMSNorm),
        _by(RMSprop, lr=2e-3),
        steps=720,
    ),
)
held_out_healthy(
    "sheet, 16 branches that start at zero",
    0.9,
    lambda: supervised(
        sheet(), nn.Sequential(nn.Linear(3, 32), *[FromZero(32) for _ in range(16)], nn.Linear(32, 1)), adam(3e-3),
        steps=350,
    ),
)  # fmt: skip
held_out_healthy(
    "sheet, tanh, orthogonal, a large rate",
    0.9,
    lambda: supervised(
        sheet(),
        orthogonal(plain(*widths(3, (64, 4), 1), activation=nn.Tanh), 1.4, 0.3),
        sgd(0.1, momentum=0.8),
        steps=700,
        batch=100,
    ),
)
held_out_healthy(
    "impedance, raw inputs behind batch norm, AdamW",
    0.85,
    lambda: supervised(
        impedance(True), nn.Sequential(nn.BatchNorm1d(4), *plain(4, 48, 48, 1)), adamw(4e-3, weight_decay=0.1),
        steps=600,
    ),
)  # fmt: skip
held_out_healthy(
    "arm, gates, restarts ever further apart",
    0.9,
    lambda: supervised(
        arm(),
        gated(3, 64, 64, 2),
        adamw(8e-3),
        steps=560,
        schedule=lambda step: _restarts(step, 80),
    ),
)
held_out_healthy(
    "arm, last layer zero at first, NAdam",
    0.9,
    lambda: supervised(
        arm(), silent(plain(3, 80, 80, 2, activation=nn.SiLU)), _by(NAdam, lr=3e-3), steps=600, batch=80
    ),
)
held_out_healthy(
    "flow, dense connections, Adamax",
    0.85,
    lambda: supervised(flow(), Dense(3, 24, 5, 3), _by(Adamax, lr=6e-3), steps=500),
)
held_out_healthy(
    "table, embeddings, Adagrad",
    0.75,
    lambda: supervised(table(), Looked(), _by(Adagrad, lr=3e-2), steps=700, batch=100),
)
held_out_healthy(
    "table, attention between columns, warm-up",
    0.7,
    lambda: supervised(table(), Columns(), adamw(5e-3), steps=500, batch=64, schedule=warmup(100)),
)
held_out_healthy(
    "glyphs, channels weighed, batch norm, one cycle",
    0.85,
    lambda: supervised(
        glyphs(),
        Squeezed(),
        sgd(0.2, momentum=0.9),
        steps=350,
        batch=48,
        schedule=lambda step: min(step / 120, (352 - step) / 230),
    ),
)
held_out_healthy(
    "glyphs, group norm, channels dropped, decay of 0.5",
    0.75,
    lambda: supervised(
        glyphs(), signs(16, norm=_groups, drop=0.25), adamw(4e-3, weight_decay=0.5), steps=400, batch=64
    ),
)
held_out_healthy(
    "glyphs, two labels in five random, leaky relu",
    0.55,
    lambda: supervised(
        misread(),
        signs(16, activation=nn.LeakyReLU, drop=0.3),
        _by(RAdam, lr=3e-3),
        steps=400,
        batch=96,
        evaluate=glyphs(),
    ),
)
held_out_healthy(
    "glyphs, light comes and goes every 40 steps",
    0.75,
    lambda: supervised(
        lambda step: _lit() if (step // 40) % 2 else glyphs(),
        nn.Sequential(nn.InstanceNorm2d(1), *signs(12)),
        adam(4e-3),
        steps=390,
    ),
)
held_out_healthy("glyphs, triplets", 0.5, lambda: triplets(glyphs(), signs(8, 16), adam(4e-3), steps=400, batch=48))
held_out_healthy(
    "waveforms, convolutions, AMSGrad, clipped at 0.02",
    0.8,
    lambda: supervised(waveforms(), over_time(), adam(4e-3, amsgrad=True), steps=400, batch=24, clip=0.02),
)
held_out_healthy(
    "waveforms, read both ways",
    0.7,
    lambda: supervised(waveforms(), BothWays(), adam(8e-3), steps=220, batch=32, schedule=linear(260)),
)
held_out_healthy(
    "pairs, one asks the others, AdamW",
    0.85,
    lambda: supervised(pairs(), Lookup(), adamw(4e-3), steps=700, batch=64, schedule=warmup(60)),
)
held_out_healthy(
    "letters, LSTM, the next can only be guessed at",
    0.4,
    lambda: supervised(letters(), Reading(), adam(1e-2), steps=350, batch=64, clip=1.0),
)
held_out_healthy(
    "spots, residual convolutions, Nesterov",
    0.85,
    lambda: supervised(spots(), Counting(), sgd(0.03, momentum=0.9, nesterov=True), steps=450, batch=48),
)
held_out_healthy(
    "curves, hourglass with shortcuts, NAdam",
    0.7,
    lambda: supervised(curves(), Hourglass(), _by(NAdam, lr=4e-3), steps=350, batch=40),
)
held_out_healthy(
    "curves, tied matrices, tanh, a code of 10",
    0.65,
    lambda: supervised(curves(), TiedAutoencoder(32, 48, 10, torch.tanh), adam(4e-3), steps=700),
)
held_out_healthy(
    "clicks, nearly all inputs zero, Adagrad",
    0.8,
    lambda: supervised(clicks(), plain(300, 64, 64, 2), _by(Adagrad, lr=2e-2), steps=500, batch=64),
)
held_out_healthy(
    "uneven classes, focal loss, layer norm",
    0.6,
    lambda: supervised(
        uneven(),
        plain(8, 64, 64, 3, norm=nn.LayerNorm, activation=nn.SiLU),
        adam(4e-3),
        steps=700,
        batch=128,
        criterion=_focal,
        evaluate=evened(),
    ),
)
held_out_healthy(
    "wild outliers, Huber's loss, RAdam",
    0.75,
    lambda: supervised(
        outliers(),
        plain(6, 96, 96, 1, activation=nn.Mish),
        _by(RAdam, lr=4e-3),
        steps=700,
        criterion=lambda data, output, target: F.huber_loss(output, target, delta=0.3),
        evaluate=outliers(0.0),
    ),
)
held_out_healthy(
    "lake, learned from what was met lately",
    0.7,
    lambda: replay(lake(), plain(25, 64, 64, 4), adam(2e-3), steps=900),
)
held_out_healthy(
    "lake, PPO, tanh, orthogonal",
    0.7,
    lambda: ppo(lake(), _two_in_one(25, 4), adam(5e-3), steps=600),
)
held_out_healthy(
    "engine, rewards in the hundreds, layer norm",
    0.8,
    lambda: q_learning(
        paid(engine(), 300.0), plain(14, 64, 64, 3, norm=nn.LayerNorm), adam(1e-2), steps=700, huber=True
    ),
)
held_out_healthy(
    "engine, values of actions, rewards of a hundredth, RMSprop",
    0.7,
    lambda: q_learning(
        paid(engine(), 0.01),
        plain(14, 48, 48, 3, activation=nn.ELU),
        _by(RMSprop, lr=1e-3),
        steps=900,
        by_values=True,
        target_every=5,
        schedule=linear(900),
    ),
)
held_out_healthy(
    "hill, PQN, layer norm, RAdam",
    0.6,
    lambda: pqn(
        hill(), plain(30, 64, 64, 3, norm=nn.LayerNorm), _by(RAdam, lr=3e-3), steps=800, schedule=linear(800, 0.1)
    ),
)
held_out_healthy(
    "hill, double, mish, batches of 128",
    0.6,
    lambda: q_learning(hill(), plain(30, 96, 96, 3, activation=nn.Mish), adam(3e-3), steps=800, batch=128, double=True),
)
held_out_healthy(
    "gambler, Nesterov, one input a state",
    0.6,
    lambda: q_learning(
        gambler(), plain(19, 64, 4), sgd(0.3, momentum=0.9, nesterov=True), steps=900, batch=96, target_every=8
    ),
)
held_out_healthy(
    "queue, A2C, no bonus, becomes certain",
    0.7,
    lambda: a2c(queue(), plain(9, 64, 64, 4, activation=nn.Tanh), adam(5e-3), steps=500, entropy=0.0),
)
held_out_healthy(
    "queue, A2C, relu, RMSprop",
    0.7,
    lambda: a2c(queue(), PolicyAndValue(mlp(9, 64, 64, output=nn.ReLU()), 64, 3), _by(RMSprop, lr=2e-3), steps=500),
)
held_out_healthy(
    "queue, values, costs in the hundreds",
    0.8,
    lambda: values(
        drifting(queue()),
        plain(9, 64, 64, 1, activation=nn.SiLU),
        adam(2e-2),
        steps=1000,
        target_every=4,
        reward_scale=lambda step: 200.0,
        schedule=linear(1050),
    ),
)
held_out_healthy(
    "bandit, eight arms, Lion",
    0.6,
    lambda: bandit(
        mlp(8, 64, 64, 8, activation="gelu"), _by(Lion, lr=1e-3, weight_decay=0.05), steps=700, batch=128, arms=8
    ),
)
held_out_healthy(
    "bandit, rewards around a hundred",
    0.65,
    lambda: bandit(
        mlp(8, 48, 4, activation="silu"), _by(NAdam, lr=4e-3), steps=600, reward=lambda step, hit: 100 + 3 * hit
    ),
)
held_out_healthy(
    "bandit, every third reward is drawn at random",
    0.6,
    lambda: bandit(mlp(8, 64, 4, norm="layer"), adamw(5e-3), steps=700, batch=96, reward=_at_random),
)
held_out_healthy(
    "actor and critic, layer norm, AdamW",
    0.65,
    lambda: actor_critic(
        mlp(8, 64, 4, norm="layer", activation="silu"), mlp(8, 64, 64, 1, activation="silu"), adamw(4e-3), steps=600
    ),
)
held_out_healthy(
    "walk, no target network, tanh, momentum",
    0.8,
    lambda: values(walk(), plain(9, 48, 48, 1, activation=nn.Tanh), sgd(0.1, momentum=0.9), steps=900, target_every=0),
)
held_out_healthy(
    "star, values, no hidden layer",
    0.7,
    lambda: values(star(), nn.Sequential(nn.Linear(8, 1)), sgd(0.3), steps=2500, target_every=0, batch=48),
)
held_out_healthy(
    "delivery, PQN, opposites, NAdam",
    0.6,
    lambda: pqn(
        delivery(), opposites(10, 48, 5), _by(NAdam, lr=3e-3), steps=900, minibatches=4, schedule=linear(900, 0.05)
    ),
)
held_out_healthy(
    "delivery, from what was met lately, batches of 24, clipped",
    0.5,
    lambda: replay(delivery(), plain(10, 96, 96, 5, activation=nn.SiLU), adam(2e-3), steps=1200, batch=24, clip=1.0),
)


def _restarts(step: int, first: int) -> float:
    """Cosines, each twice as long as the one before (Loshchilov and Hutter 2017)."""
    step, length = step - 1, first
    while step >= length:
        step, length = step - length, 2 * length
    return cosine(length)(step)


@cache
def _lit() -> Data:
    return changed(glyphs(), inputs=6 * glyphs().inputs + 9)


def _focal(data: Data, output: Tensor, target: Tensor) -> Tensor:
    """Lin et al. 2017, with weights of the classes."""
    log_share = output.log_softmax(1).gather(1, target[:, None])[:, 0]
    return -(torch.tensor([1.0, 4.0, 10.0])[target] * (1 - log_share.exp()).square() * log_share).mean()


def _two_in_one(inputs: int, actions: int, cut: bool = False) -> nn.Module:
    """A body of two tanh layers, initialised as is usual for PPO."""
    model = PolicyAndValue(
        orthogonal(mlp(inputs, 64, 64, output=nn.Tanh(), activation="tanh"), 2**0.5), 64, actions, cut
    )
    nn.init.orthogonal_(model.policy.weight, 0.01)
    return model


def _at_random(step: int, hit: Tensor) -> Tensor:
    """One reward in three says nothing."""
    generator = seeded(step)
    lost = torch.rand(hit.shape, generator=generator) < 1 / 3
    return torch.where(lost, torch.randint(2, hit.shape, generator=generator).float(), hit)


# == failures ==

held_out_failure(
    "vanishing: depth",
    "25 leaky relu layers, Nesterov",
    "quantiles, maxout, Nesterov",
    lambda: supervised(
        quantiles(),
        plain(*widths(5, (48, 25), 4), activation=nn.LeakyReLU),
        sgd(0.03, momentum=0.9, nesterov=True),
        steps=600,
    ),
)
held_out_failure(
    "vanishing: depth",
    "PPO on 20 tanh layers",
    "lake, PPO, tanh, orthogonal",
    lambda: ppo(lake(), plain(*widths(25, (48, 20), 5), activation=nn.Tanh), adam(1e-3), steps=400),
)
held_out_failure(
    "vanishing: saturation",
    "gates that start shut, biases of -25",
    "arm, gates, restarts ever further apart",
    lambda: supervised(
        arm(),
        shut(gated(3, 64, 64, 2), -25.0),
        adamw(8e-3),
        steps=560,
        schedule=lambda step: _restarts(step, 80),
    ),
)
held_out_failure(
    "vanishing: saturation",
    "A2C, tanh layers 60 times too large",
    "queue, A2C, no bonus, becomes certain",
    lambda: a2c(
        queue(),
        scaled(plain(9, 64, 64, 64, 4, activation=nn.Tanh), 60.0, slice(0, 3)),
        adam(2e-3),
        steps=400,
        entropy=0.0,
    ),
)
held_out_failure(
    "vanishing: tiny weights",
    "embeddings and layers a thousandth, momentum",
    "table, embeddings, Adagrad",
    lambda: supervised(table(), scaled(Looked(), 1e-3), sgd(0.05, momentum=0.9), steps=600, batch=100),
)
held_out_failure(
    "vanishing: tiny weights",
    "values, orthogonal, gain 0.02",
    "walk, no target network, tanh, momentum",
    lambda: values(
        walk(),
        orthogonal(plain(9, 48, 48, 48, 1, activation=nn.Tanh), 0.02),
        sgd(0.1, momentum=0.9),
        steps=800,
        target_every=0,
    ),
)
held_out_failure(
    "exploding",
    "dense connections, gain 4, Nesterov",
    "flow, dense connections, Adamax",
    lambda: supervised(flow(), he(Dense(3, 24, 8, 3), 4.0), sgd(0.03, momentum=0.9, nesterov=True), steps=400),
)
held_out_failure(
    "exploding",
    "control through six layers, gain 8",
    "hill, double, mish, batches of 128",
    lambda: q_learning(
        hill(), he(plain(*widths(30, (64, 6), 3), activation=nn.Mish), 8.0), sgd(0.01), steps=600, double=True
    ),
)
held_out_failure(
    "exploding",
    "values of costs in the hundreds, SGD",
    "queue, values, costs in the hundreds",
    lambda: values(
        drifting(queue()),
        plain(9, 64, 64, 1),
        sgd(0.03),
        steps=700,
        target_every=4,
        reward_scale=lambda step: 200.0,
    ),
)
held_out_failure(
    "exploding",
    "raw inputs, momentum",
    "impedance, raw inputs behind batch norm, AdamW",
    lambda: supervised(impedance(True), plain(4, 48, 48, 1), sgd(0.01, momentum=0.9), steps=500),
)
held_out_failure(
    "exploding",
    "the critic's error is maximised",
    "actor and critic, layer norm, AdamW",
    lambda: actor_critic(
        mlp(8, 64, 4, norm="layer", activation="silu"),
        mlp(8, 64, 64, 1, activation="silu"),
        adamw(4e-3),
        steps=600,
        critic_loss=lambda step, loss: -loss,
    ),
    fault="sign",
)
held_out_failure(
    "exploding",
    "the distance from the hand is maximised, NAdam",
    "arm, last layer zero at first, NAdam",
    lambda: supervised(
        arm(),
        plain(3, 80, 80, 2, activation=nn.SiLU),
        _by(NAdam, lr=3e-3),
        steps=500,
        batch=80,
        adjust=lambda step, loss, output: -loss,
    ),
    fault="sign",
)
held_out_failure(
    "exploding",
    "gradients of all steps so far, NAdam",
    "arm, last layer zero at first, NAdam",
    lambda: supervised(arm(), plain(3, 80, 80, 2, activation=nn.SiLU), _by(_Keeping, lr=3e-3), steps=500, batch=80),
)
held_out_failure(
    "exploding",
    "gradients of all steps so far, from what was met lately",
    "lake, learned from what was met lately",
    lambda: replay(lake(), plain(25, 64, 64, 4), _by(_Keeping, lr=2e-3), steps=700),
)
held_out_failure(
    "dying relu",
    "clicks, biases of -4, Adagrad",
    "clicks, nearly all inputs zero, Adagrad",
    lambda: supervised(clicks(), biased(plain(300, 64, 64, 2), -4.0), _by(Adagrad, lr=2e-2), steps=400, batch=64),
)
held_out_failure(
    "dying relu",
    "a burst of the rate at step 250, from what was met lately",
    "lake, learned from what was met lately",
    lambda: replay(
        lake(), plain(25, 64, 64, 64, 4), adam(2e-3), steps=700, schedule=between(250, 256, 500.0), huber=False
    ),
    onset=250,
)
held_out_failure(
    "dying relu",
    "one batch ten thousand times too large, momentum",
    "haystack, learned early, trained on for long",
    lambda: supervised(
        lambda step: changed(haystack(), inputs=1e4 * haystack().inputs) if step == 60 else haystack(),
        plain(30, 128, 128, 5),
        sgd(0.1, momentum=0.9),
        steps=500,
        batch=96,
    ),
    onset=60,
)
held_out_failure(
    "frozen layer",
    "what asks and is asked is left out of the optimizer",
    "pairs, one asks the others, AdamW",
    lambda: supervised(
        pairs(),
        Lookup(),
        lambda model: Adam([*model.value.parameters(), *model.head.parameters()], lr=4e-3),
        steps=600,
        batch=64,
    ),
)
held_out_failure(
    "frozen layer",
    "PQN through one unit at a rate of zero",
    "delivery, PQN, opposites, NAdam",
    lambda: pqn(
        delivery(),
        nn.Sequential(nn.Linear(10, 1), *opposites(1, 48, 5)),
        lambda model: NAdam(
            [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[1:].parameters()}], lr=3e-3
        ),
        steps=700,
        minibatches=4,
    ),
)
held_out_failure(
    "cut off",
    "only the best pair is taken",
    "pairs, one asks the others, AdamW",
    lambda: supervised(pairs(), Lookup(hard=True), adamw(4e-3), steps=600, batch=64, schedule=warmup(60)),
    fault="cut",
)
held_out_failure(
    "dead head",
    "only one of two coordinates has a loss",
    "arm, last layer zero at first, NAdam",
    lambda: supervised(
        arm(),
        silent(plain(3, 80, 80, 2, activation=nn.SiLU)),
        _by(NAdam, lr=3e-3),
        steps=500,
        batch=80,
        criterion=lambda data, output, target: 0.5 * (output - target)[:, 0].square().mean(),
    ),
    fault="cut",
)
held_out_failure(
    "dead head",
    "PPO, logits without a gradient",
    "lake, PPO, tanh, orthogonal",
    lambda: ppo(lake(), _two_in_one(25, 4, cut=True), adam(5e-3), steps=500),
    fault="cut",
)
held_out_failure(
    "rank collapse",
    "glyphs of a kind are to be alike, and no more",
    "glyphs, triplets",
    lambda: triplets(glyphs(), signs(8, 16), adam(4e-3), steps=400, batch=48, apart=False),
    fault="objective",
)
held_out_failure(
    "rank collapse",
    "PQN, decoupled decay of 60",
    "delivery, PQN, opposites, NAdam",
    lambda: pqn(delivery(), opposites(10, 48, 5), adamw(3e-3, weight_decay=60.0), steps=700, minibatches=4),
)
held_out_failure(
    "rank collapse",
    "a squared penalty of 0.3 in SGD, tanh",
    "sheet, tanh, orthogonal, a large rate",
    lambda: supervised(
        sheet(),
        orthogonal(plain(*widths(3, (64, 4), 1), activation=nn.Tanh), 1.4, 0.3),
        sgd(0.1, momentum=0.8, weight_decay=0.3),
        steps=500,
        batch=100,
    ),
)
held_out_failure(
    "rank collapse",
    "all weights start alike, control",
    "hill, double, mish, batches of 128",
    lambda: q_learning(
        hill(), alike(plain(30, 96, 96, 3, activation=nn.Mish)), adam(3e-3), steps=600, batch=128, double=True
    ),
)
held_out_failure(
    "over-normalised",
    "each row standardised, where its length tells",
    "quantiles, maxout, Nesterov",
    lambda: supervised(
        quantiles(),
        nn.Sequential(nn.LayerNorm(5), Maxout(5, 48), Maxout(48, 48), nn.Linear(48, 4)),
        sgd(0.03, momentum=0.9, nesterov=True),
        steps=600,
    ),
)
held_out_failure(
    "over-normalised",
    "batch norm behind the values",
    "queue, values, costs in the hundreds",
    lambda: values(
        drifting(queue()),
        nn.Sequential(*plain(9, 64, 64, 1, activation=nn.SiLU), nn.BatchNorm1d(1, affine=False)),
        adam(3e-3),
        steps=700,
        target_every=4,
    ),
)
held_out_failure(
    "rate too high",
    "Lion at 0.2",
    "haystack, gelu, Lion",
    lambda: supervised(haystack(), plain(30, 64, 64, 5, activation=nn.GELU), _by(Lion, lr=0.2), steps=400),
)
held_out_failure(
    "rate too high",
    "PPO, Adam at 0.5",
    "lake, PPO, tanh, orthogonal",
    lambda: ppo(lake(), _two_in_one(25, 4), adam(0.5), steps=400),
)
held_out_failure(
    "rate too high",
    "a warm-up that never ends",
    "table, attention between columns, warm-up",
    lambda: supervised(table(), Columns(), adamw(1e-3), steps=500, batch=64, schedule=lambda step: 1.025**step),
    onset=100,
)
held_out_failure(
    "rate too low",
    "the rate falls by a tenth every step, from what was met lately",
    "lake, learned from what was met lately",
    lambda: replay(lake(), plain(25, 64, 64, 4), adam(2e-3), steps=700, schedule=lambda step: 0.9**step),
)
held_out_failure(
    "rate too low",
    "A2C, an epsilon of 1,000",
    "queue, A2C, no bonus, becomes certain",
    lambda: a2c(queue(), plain(9, 64, 64, 4, activation=nn.Tanh), adam(5e-3, eps=1e3), steps=500, entropy=0.0),
)
held_out_failure(
    "rate too low",
    "letters, Adadelta at 1e-3",
    "letters, LSTM, the next can only be guessed at",
    lambda: supervised(letters(), Reading(), _by(Adadelta, lr=1e-3), steps=300, batch=64, clip=1.0),
)
held_out_failure(
    "stale state",
    "AMSGrad, a loss a million times larger for 12 steps",
    "waveforms, convolutions, AMSGrad, clipped at 0.02",
    lambda: supervised(
        waveforms(),
        over_time(),
        adam(4e-3, amsgrad=True),
        steps=400,
        batch=24,
        adjust=lambda step, loss, output: loss * (1e6 if step <= 12 else 1.0),
    ),
)
held_out_failure(
    "stale state",
    "momentum of another run, hardly forgotten",
    "spots, residual convolutions, Nesterov",
    lambda: supervised(spots(), Counting(), sgd(0.03, momentum=0.999), steps=400, batch=48, event=once(3, _pushed)),
)
held_out_failure(
    "stale state",
    "PQN, averages of squares of far larger rewards",
    "hill, PQN, layer norm, RAdam",
    lambda: pqn(
        hill(),
        plain(30, 64, 64, 3, norm=nn.LayerNorm),
        _by(RMSprop, lr=1e-3, alpha=0.99999),
        steps=600,
        event=once(2, _far_larger),
    ),
)
held_out_failure(
    "target drift",
    "from what was met lately, a discount of 1.1",
    "lake, learned from what was met lately",
    lambda: replay(lake(), plain(25, 64, 64, 4), adam(3e-3), steps=900, discount=1.1, huber=False, target_every=5),
    fault="targets",
)
held_out_failure(
    "target drift",
    "star, only ways to the middle are learned from",
    "star, values, no hidden layer",
    lambda: values(
        star(),
        nn.Sequential(nn.Linear(8, 1)),
        sgd(0.3),
        steps=1200,
        target_every=0,
        batch=48,
        rows=lambda state, following: (state, torch.full_like(following, 6)),
    ),
    fault="targets",
)
held_out_failure(
    "not a number",
    "PPO, the last batch holds a single row",
    "lake, PPO, tanh, orthogonal",
    lambda: ppo(lake(), _two_in_one(25, 4), adam(5e-3), steps=400, minibatch=127),
    onset=2,
    fault="loss",
)
held_out_failure(
    "not a number",
    "the arc cosine of one from step 150",
    "arm, gates, restarts ever further apart",
    lambda: supervised(
        arm(),
        gated(3, 64, 64, 2),
        adamw(4e-3),
        steps=400,
        adjust=lambda step, loss, output: loss + 0.01 * _angles(output) if step >= 150 else loss,
    ),
    onset=150,
    fault="loss",
)
held_out_failure(
    "not a number",
    "a reward of infinity at step 250",
    "walk, no target network, tanh, momentum",
    lambda: values(
        walk(),
        plain(9, 48, 48, 1, activation=nn.Tanh),
        sgd(0.1, momentum=0.9),
        steps=500,
        target_every=0,
        reward_scale=lambda step: math.inf if step == 250 else 1.0,
    ),
    onset=250,
)
held_out_failure(
    "data shift",
    "places are numbered anew from step 500, the rate is nearly gone",
    "delivery, PQN, opposites, NAdam",
    lambda: pqn(
        delivery(),
        opposites(10, 48, 5),
        _by(NAdam, lr=3e-3),
        steps=700,
        minibatches=4,
        features=lambda step, x: x.roll(3, 1) if step >= 500 else x,
        schedule=lambda step: max(1 - step / 500, 0.003),
    ),
    onset=500,
)
held_out_failure(
    "data shift",
    "glyphs dark on light and a hundred times brighter from step 180, tanh",
    "glyphs, channels weighed, batch norm, one cycle",
    lambda: supervised(
        lambda step: changed(glyphs(), inputs=200 - 100 * glyphs().inputs) if step >= 180 else glyphs(),
        signs(activation=nn.Tanh),
        sgd(0.05, momentum=0.9),
        steps=350,
        batch=48,
    ),
    onset=180,
)
held_out_failure(
    "data shift",
    "every tenth row is broken from step 200",
    "quantiles, maxout, Nesterov",
    lambda: supervised(
        lambda step: broken_quantiles() if step >= 200 else quantiles(),
        plain(5, 48, 48, 4),
        sgd(0.03, momentum=0.9, nesterov=True),
        steps=450,
        evaluate=quantiles(),
    ),
    onset=200,
)
held_out_failure(
    "plasticity",
    "classes reshuffled every 70 steps, 14 plain layers",
    "haystack, classes reshuffled every 70 steps, layer norm",
    lambda: supervised(
        lambda step: reshuffled((step - 1) // 70) if step <= 490 else haystack(),
        he(plain(*widths(30, (48, 14), 5))),
        adam(8e-3),
        steps=700,
    ),
)
held_out_failure(
    "plasticity",
    "inputs in another order every 80 steps, 12 plain layers",
    "haystack, inputs in another order every 80 steps, RMS norm",
    lambda: supervised(
        lambda step: reordered((step - 1) // 80), he(plain(*widths(30, (48, 12), 5))), _by(RMSprop, lr=6e-3), steps=720
    ),
)


def _pushed(setup: Setup) -> None:
    for state in setup.optimizer.state.values():
        state["momentum_buffer"].normal_(0.0, 0.5, generator=seeded(397))


def _far_larger(setup: Setup) -> None:
    for state in setup.optimizer.state.values():
        state["square_avg"].fill_(1e8)


def _angles(output: Tensor) -> Tensor:
    """Between each answer and itself."""
    return F.cosine_similarity(output, output.detach()).clamp(-1, 1).acos().mean()
