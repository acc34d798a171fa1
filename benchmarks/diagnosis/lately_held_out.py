"""More trainings that rules are tuned on: until they were looked at, they were the third part that is held out.

Written without a look at the rules, checked for validity by their scores alone, and committed before a monitor was
attached to any of them. The tasks, the networks and two of the loops stand here too, for nothing else uses them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.diagnosis.networks import Encoded, Recurrent, WithTarget, biased, he, mlp, scaled, widths
from benchmarks.diagnosis.register import (
    adam,
    adamw,
    cosine,
    failure,
    healthy,
    linear,
    once,
    sgd,
    warmup,
)
from benchmarks.diagnosis.rollouts import a2c, pqn
from benchmarks.diagnosis.tasks import Data, DecisionProcess, changed, normed, seeded
from benchmarks.diagnosis.training import BATCH_SEED, Setup, Step, q_learning, supervised, values
from torch import Tensor, nn
from torch.optim import Adadelta, Adafactor, Adagrad, Adam, Adamax, NAdam, Optimizer, RAdam, RMSprop, Rprop

# -- tasks


def _drawn(raw: tuple[np.ndarray, np.ndarray], classes: int = 0) -> Data:
    """Inputs and targets of scikit-learn, standardised."""
    inputs = normed(torch.tensor(raw[0], dtype=torch.float32))
    targets = torch.tensor(raw[1])
    return Data(inputs, targets.long() if classes else normed(targets.float())[:, None], classes)


@cache
def moons() -> Data:
    """Two half moons, and six inputs that say nothing."""
    from sklearn.datasets import make_moons

    data = _drawn(make_moons(1500, noise=0.15, random_state=101), 2)
    return changed(data, inputs=torch.cat([data.inputs, torch.randn(1500, 6, generator=seeded(103))], 1))


@cache
def checkerboard(cells: int = 4) -> Data:
    """Points of the plane by the colour of their field."""
    points = 2 * torch.rand(3000, 2, generator=seeded(107)) - 1
    fields = ((points + 1) * cells / 2).floor().long()
    return Data(2 * points, fields.sum(1) % 2, 2)


@cache
def iris() -> Data:
    from sklearn.datasets import load_iris

    return _drawn(load_iris(return_X_y=True), 3)


@cache
def hastie() -> Data:
    """Ten normal inputs by the length of their vector (Hastie et al. 2009, example 10.2)."""
    from sklearn.datasets import make_hastie_10_2

    inputs, sides = make_hastie_10_2(3000, random_state=109)
    return _drawn((inputs, sides > 0), 2)


@cache
def roll() -> Data:
    """How far along a rolled sheet a point of space lies."""
    from sklearn.datasets import make_swiss_roll

    return _drawn(make_swiss_roll(2000, noise=0.3, random_state=113))


@cache
def arctangent() -> Data:
    """Friedman's third function: four inputs of unlike scales, standardised."""
    from sklearn.datasets import make_friedman3

    return _drawn(make_friedman3(2000, noise=0.02, random_state=127))


@cache
def pendulum() -> Data:
    """How angle and speed of a driven pendulum change within half a second."""
    generator = seeded(131)
    angle = 2 * torch.pi * torch.rand(2500, generator=generator)
    speed, push = 3 * torch.randn(2500, generator=generator), 2 * torch.randn(2500, generator=generator)
    seen = torch.stack([angle.cos(), angle.sin(), speed / 3, push / 2], 1)
    now, fast = angle.clone(), speed.clone()
    for _ in range(10):
        fast = fast + 0.05 * (10 * now.sin() + push - 0.1 * fast)
        now = now + 0.05 * fast
    return Data(seen, normed(torch.stack([now.cos() - angle.cos(), now.sin() - angle.sin(), fast - speed], 1)))


@cache
def picture(side: int = 48) -> Data:
    """Colours of a picture by the place in it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    ripples = (14 * (x.square() + y.square())).sin()
    colours = [ripples, (6 * x + 4 * y).sin() * (-2 * y.square()).exp(), ((x - 0.3).abs() + y.abs() < 0.5).float() - x]
    return Data(torch.stack([x, y], 2).reshape(-1, 2), torch.stack(colours, 2).reshape(-1, 3))


def _log_rate(x: Tensor) -> Tensor:
    return (0.8 * (1.5 * x[:, 0]).sin() + 0.5 * x[:, 1] * x[:, 2] - 0.3 * x[:, 3].abs() + 1.0)[:, None]


@cache
def counts() -> Data:
    """How often something happens, by eight inputs."""
    inputs = torch.randn(2500, 8, generator=seeded(137))
    return Data(inputs, torch.poisson(_log_rate(inputs).exp(), generator=seeded(139)))


@cache
def rates() -> Data:
    """The logarithms of the rates of :func:`counts`, for the score."""
    return Data(counts().inputs, _log_rate(counts().inputs))


@cache
def rare() -> Data:
    """One row of twelve or so is of the second class."""
    inputs = torch.randn(4000, 12, generator=seeded(149))
    signal = inputs[:, 0] * inputs[:, 1] + inputs[:, 2].square() + inputs[:, 3]
    return Data(inputs, (signal > 3.1).long(), 2)


@cache
def evened() -> Data:
    """As many rows of both classes of :func:`rare`, for the score."""
    data = rare()
    ones, zeros = data.targets.nonzero()[:, 0], (data.targets == 0).nonzero()[:, 0]
    rows = torch.cat([ones, zeros[: len(ones)]])
    return Data(data.inputs[rows], data.targets[rows], 2)


class Labels(Data):
    """Several labels a row, each of which holds or does not."""

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Binary cross entropy."""
        return F.binary_cross_entropy_with_logits(output, targets)

    def score(self, model: nn.Module) -> float:
        """Mean of sensitivity and specificity, over chance."""
        model.eval()
        with torch.no_grad():
            output = model(self.inputs)
        model.train()
        if not output.isfinite().all():
            return -1.0
        said, true = output > 0, self.targets > 0.5
        return ((said & true).sum() / true.sum() + (~said & ~true).sum() / (~true).sum() - 1).item()


@cache
def labelled() -> Labels:
    """Six labels by 20 inputs."""
    generator = seeded(151)
    inputs = torch.randn(2500, 20, generator=generator)
    hidden = (inputs @ torch.randn(20, 12, generator=generator) / 3).tanh()
    return Labels(inputs, (hidden @ torch.randn(12, 6, generator=generator) > 0.8).float())


@cache
def words(topics: int = 8, vocabulary: int = 200, length: int = 16) -> Data:
    """Words of short texts, by their topic."""
    generator = seeded(157)
    likely = (1.6 * torch.randn(topics, vocabulary, generator=generator)).softmax(1)
    labels = torch.randint(topics, (2500,), generator=generator)
    return Data(torch.multinomial(likely[labels], length, True, generator=generator), labels, topics)


@cache
def bags() -> Data:
    """The same, as counts of each word, most of which are zero."""
    return changed(words(), inputs=F.one_hot(words().inputs, 200).sum(1).float())


@cache
def ratings(users: int = 120, items: int = 90) -> Data:
    """What users think of items, from four hidden traits."""
    generator = seeded(163)
    likes, traits = torch.randn(users, 4, generator=generator), torch.randn(items, 4, generator=generator)
    liked = torch.randn(items, generator=generator)
    pairs = torch.stack(
        [torch.randint(users, (6000,), generator=generator), torch.randint(items, (6000,), generator=generator)], 1
    )
    given = 0.5 * (likes[pairs[:, 0]] * traits[pairs[:, 1]]).sum(1) + 0.7 * liked[pairs[:, 1]]
    return Data(pairs, normed(given + 0.2 * torch.randn(6000, generator=generator))[:, None])


@cache
def clock(hours: int = 19) -> Data:
    """Sums of two hours on a clock of 19: all pairs."""
    one, two = torch.meshgrid(torch.arange(hours), torch.arange(hours), indexing="ij")
    return Data(torch.stack([one, two], 2).reshape(-1, 2), ((one + two) % hours).reshape(-1), hours)


@cache
def shapes(size: int = 10) -> Data:
    """Noisy [1, 10, 10] images of five shapes, somewhere."""
    generator = seeded(167)
    forms = torch.zeros(5, 5, 5)
    forms[0, [0, -1]], forms[0, :, [0, -1]] = 1.0, 1.0
    forms[1, 2], forms[1, :, 2] = 1.0, 1.0
    forms[2] = torch.maximum(torch.eye(5), torch.eye(5).flip(1))
    forms[3, 1:4, 1:4] = 1.0
    forms[4, 0], forms[4, :, 0] = 1.0, 1.0
    labels = torch.randint(5, (2400,), generator=generator)
    corners = torch.randint(size - 4, (2400, 2), generator=generator).tolist()
    images = 0.35 * torch.randn(2400, size, size, generator=generator)
    for image, label, (row, column) in zip(images, labels.tolist(), corners, strict=True):
        image[row : row + 5, column : column + 5] += 1.5 * forms[label]
    return Data(images[:, None] - 0.2, labels, 5)


@cache
def turned() -> Data:
    """Images of the last shape turned by quarters, by how many."""
    data = shapes()
    rows = (data.targets == 4).nonzero()[:, 0]
    images = torch.cat([data.inputs[rows].rot90(turns, (2, 3)) for turns in range(4)])
    return Data(images, torch.arange(4).repeat_interleave(len(rows)), 4)


@cache
def brackets(pairs: int = 6) -> Data:
    """Strings of brackets, half of them balanced; the others have as many of both kinds."""
    order = torch.rand(20000, 2 * pairs, generator=seeded(173)).argsort(1) % 2
    balanced = ((1 - 2 * order).cumsum(1).min(1).values >= 0).long()
    right, wrong = (balanced == 1).nonzero()[:1200, 0], (balanced == 0).nonzero()[:1200, 0]
    rows = torch.cat([right, wrong])
    return Data(order[rows], balanced[rows], 2)


@cache
def series(length: int = 24) -> Data:
    """The next value of two waves with noise, after [24, 1] values."""
    generator = seeded(179)
    time = torch.arange(length + 1)
    signal = torch.zeros(2200, length + 1)
    for slow, fast in ((0.2, 0.5), (0.7, 1.3)):
        pitch = slow + (fast - slow) * torch.rand(2200, 1, generator=generator)
        signal += (pitch * time + 2 * torch.pi * torch.rand(2200, 1, generator=generator)).sin()
    signal += 0.1 * torch.randn(2200, length + 1, generator=generator)
    return Data(signal[:, :-1, None], signal[:, -1:])


@cache
def spans() -> Data:
    """How far the members of [8, 3] sets reach along a direction."""
    generator = seeded(181)
    sets = torch.randn(2500, 8, 3, generator=generator)
    along = sets @ torch.tensor([0.8, -0.6, 0.3])
    return Data(sets, normed(along.max(1).values - along.min(1).values)[:, None])


@cache
def friends(people: int = 300) -> tuple[Data, Tensor]:
    """People in four circles, known by poor features and by who knows whom; and the matrix of who does, normalised."""
    generator = seeded(191)
    circle = torch.arange(people) % 4
    share = torch.where(circle[:, None] == circle, 0.08, 0.01)
    known = (torch.rand(people, people, generator=generator) < share).float().triu(1)
    known = known + known.T + torch.eye(people)
    known = known / known.sum(1, keepdim=True)
    features = torch.randn(4, 12, generator=generator)[circle] + 2.0 * torch.randn(people, 12, generator=generator)
    return Data(features, circle, 4), known


@cache
def few_friends() -> Data:
    """The circles of one in five are known; the others are marked as unknown."""
    data = friends()[0]
    known = torch.rand(300, generator=seeded(193)) < 0.2
    return changed(data, targets=torch.where(known, data.targets, -100))


@cache
def river(places: int = 16, discount: float = 0.95) -> DecisionProcess:
    """Swimming against a stream: little is paid at its mouth, much at its spring."""
    transitions, rewards = torch.zeros(2, places, places), torch.zeros(2, places)
    for place in range(places):
        down, up = max(place - 1, 0), min(place + 1, places - 1)
        transitions[0, place, down] = 1.0
        for end, share in ((up, 0.6), (place, 0.3), (down, 0.1)):
            transitions[1, place, end] += share
    rewards[0, 0], rewards[1, -1] = 0.05, 1.0
    where = torch.linspace(-1, 1, places)[:, None]
    features = (-(12 * (where - torch.linspace(-1, 1, 10)).square())).exp()
    return DecisionProcess(features, transitions, rewards, discount)


@cache
def stock(most: int = 24, discount: float = 0.9) -> DecisionProcess:
    """How much to order: selling pays, storing and ordering cost."""
    orders, wanted = (0, 4, 8, 12), torch.tensor([0.05, 0.1, 0.15, 0.2, 0.2, 0.15, 0.1, 0.05])
    transitions, rewards = torch.zeros(4, most + 1, most + 1), torch.zeros(4, most + 1)
    for action, order in enumerate(orders):
        for level in range(most + 1):
            full = min(level + order, most)
            rewards[action, level] -= 0.04 * full + 0.15 * order + (0.8 if order else 0.0)
            for demand, share in enumerate(wanted.tolist()):
                sold = min(full, demand)
                transitions[action, level, full - sold] += share
                rewards[action, level] += 0.6 * share * sold
    level = torch.linspace(0, 1, most + 1)[:, None]
    waves = torch.arange(1, 7) * torch.pi * level
    return DecisionProcess(torch.cat([2 * level - 1, waves.cos(), waves.sin()], 1), transitions, rewards, discount)


@cache
def cliff(rows: int = 4, columns: int = 8, discount: float = 0.95) -> DecisionProcess:
    """From one corner to the other along a cliff; who falls, or arrives, begins again."""
    states, start, goal = rows * columns, (rows - 1) * columns, rows * columns - 1
    transitions, rewards = torch.zeros(4, states, states), torch.full((4, states), -0.02)
    for state in range(states):
        row, column = divmod(state, columns)
        for action, (down, right) in enumerate(((0, 1), (0, -1), (1, 0), (-1, 0))):
            if state == goal or (row == rows - 1 and column > 0):
                transitions[action, state, start] = 1.0
                rewards[action, state] = 1.0 if state == goal else -0.5
                continue
            end = min(max(row + down, 0), rows - 1) * columns + min(max(column + right, 0), columns - 1)
            transitions[action, state, end] += 0.9
            transitions[action, state, state] += 0.1
    return DecisionProcess(torch.eye(states), transitions, rewards, discount)


@cache
def downstream() -> DecisionProcess:
    """The river as the random policy swims in it."""
    process = river()
    return DecisionProcess(
        process.features, process.transitions.mean(0, keepdim=True), process.rewards.mean(0, keepdim=True), 0.9
    )


# -- networks


def layers(
    *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU, norm=None, dropout: float = 0.0
) -> nn.Sequential:
    """As :func:`mlp`, of any activation and norm (width to module)."""
    parts: list[nn.Module] = []
    for n, m in pairwise(sizes[:-1]):
        parts += [nn.Linear(n, m), *([norm(m)] if norm is not None else []), activation()]
        if dropout:
            parts.append(nn.AlphaDropout(dropout) if activation is nn.SELU else nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(*sizes[-2:]))


class Sine(nn.Module):
    """Of a multiple of what comes in."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """[...] to [...]."""
        return (self.factor * x).sin()


def sirens(width: int = 64, first: float = 8.0) -> nn.Sequential:
    """Sine units, initialised as by Sitzmann et al. 2020."""
    model = nn.Sequential(
        nn.Linear(2, width), Sine(first), nn.Linear(width, width), Sine(8.0), nn.Linear(width, width), Sine(8.0),
        nn.Linear(width, 3),
    )  # fmt: skip
    with torch.no_grad():
        model[0].weight.uniform_(-0.5, 0.5)
        for number in (2, 4, 6):
            model[number].weight.uniform_(-((6 / width) ** 0.5) / 8, (6 / width) ** 0.5 / 8)
    return model


class Waves(nn.Module):
    """Fixed random features in front of a network (Tancik et al. 2020)."""

    def __init__(self, model: nn.Module, inputs: int, waves: int, scale: float):
        super().__init__()
        self.model = model
        self.register_buffer("pitch", scale * torch.randn(inputs, waves))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        x = x @ self.pitch
        return self.model(torch.cat([x.sin(), x.cos()], 1))


class Branch(nn.Module):
    """x + W2 act(W1 norm(x))."""

    def __init__(self, width: int, norm: nn.Module, function=F.silu):
        super().__init__()
        self.norm, self.function = norm, function
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] to the same."""
        return x + self.down(self.function(self.up(self.norm(x))))


def branched(inputs: int, width: int, blocks: int, outputs: int, norm=nn.RMSNorm, function=F.silu) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        *[Branch(width, norm(width), function) for _ in range(blocks)],
        norm(width),
        nn.Linear(width, outputs),
    )


class Highway(nn.Module):
    """Layers with gates that let their inputs past (Srivastava et al. 2015)."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int, gate: float = -1.0):
        super().__init__()
        self.enter, self.head = nn.Linear(inputs, width), nn.Linear(width, outputs)
        self.plain = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.gates = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        for one in self.gates:
            nn.init.constant_(one.bias, gate)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        x = self.enter(x)
        for plain, gate in zip(self.plain, self.gates, strict=True):
            x = x.lerp(plain(x).tanh(), gate(x).sigmoid())
        return self.head(x)


class Experts(nn.Module):
    """Four small networks and a gate that weighs them."""

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.gate = nn.Linear(inputs, 4)
        self.experts = nn.ModuleList(layers(inputs, width, outputs, activation=nn.Mish) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, outputs]."""
        answers = torch.stack([expert(x) for expert in self.experts], 2)
        return torch.einsum("roe,re->ro", answers, self.gate(x).softmax(1))


class Factors(nn.Module):
    """Products of what is embedded of two, and a bias of each."""

    def __init__(self, users: int = 120, items: int = 90, width: int = 8, spread: float = 0.3):
        super().__init__()
        self.user, self.item = nn.Embedding(users, width), nn.Embedding(items, width)
        self.users, self.items = nn.Embedding(users, 1), nn.Embedding(items, 1)
        for table in (self.user, self.item):
            nn.init.normal_(table.weight, 0.0, spread)
        for table in (self.users, self.items):
            nn.init.zeros_(table.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 2] to [rows, 1]."""
        user, item = x[:, 0], x[:, 1]
        fit = (self.user(user) * self.item(item)).sum(1, keepdim=True)
        return fit + self.users(user) + self.items(item)


class Towers(nn.Module):
    """A network over each of two embeddings, and their product; one may be cut off."""

    def __init__(self, users: int = 120, items: int = 90, width: int = 24, cut: bool = False):
        super().__init__()
        self.user, self.item, self.cut = nn.Embedding(users, width), nn.Embedding(items, width), cut
        self.left, self.right = layers(width, 48, 12, activation=nn.GELU), layers(width, 48, 12, activation=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 2] to [rows, 1]."""
        left, right = self.left(self.user(x[:, 0])), self.right(self.item(x[:, 1]))
        if self.cut:
            left = left.detach()
        return (left * right).sum(1, keepdim=True)


class Sums(nn.Module):
    """Two embedded tokens, side by side, and a perceptron."""

    def __init__(self, tokens: int = 19, width: int = 32, hidden: int = 128):
        super().__init__()
        self.embed, self.hidden, self.head = (
            nn.Embedding(tokens, width), nn.Linear(2 * width, hidden), nn.Linear(hidden, tokens),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 2] to [rows, tokens]."""
        return self.head(self.hidden(self.embed(x).flatten(1)).relu())


def depthwise(
    channels: int = 16, outputs: int = 5, activation: Callable[[], nn.Module] = nn.Hardswish
) -> nn.Sequential:
    """Convolutions of each channel by itself, then of all at each place, over 10 x 10 images."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), activation(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels),
        nn.Conv2d(channels, 2 * channels, 1), activation(),
        nn.Conv2d(2 * channels, 2 * channels, 3, stride=2, padding=1, groups=2 * channels),
        nn.Conv2d(2 * channels, 2 * channels, 1), activation(),
        nn.Flatten(), nn.Linear(18 * channels, outputs),
    )  # fmt: skip


def plain_cnn(
    channels: int = 10, outputs: int = 5, norm=nn.BatchNorm2d, activation: Callable[[], nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Two convolutions and pools over 10 x 10 images, and a hidden layer."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), norm(channels), activation(), nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3), norm(2 * channels), activation(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * channels, 32), activation(), nn.Linear(32, outputs),
    )  # fmt: skip


class Patches(nn.Module):
    """Attention over patches of images (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int = 32, blocks: int = 1, outputs: int = 5):
        super().__init__()
        self.embed, self.place = nn.Conv2d(1, width, 2, stride=2), nn.Parameter(0.1 * torch.randn(25, width))
        self.blocks = nn.Sequential(
            *[
                nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
                for _ in range(blocks)
            ]
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, 1, 10, 10] to [rows, outputs]."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.norm(self.blocks(x)).mean(1))


class Dilated(nn.Module):
    """Convolutions over time that look further back layer by layer, beside skips."""

    def __init__(self, channels: int = 16, depth: int = 3):
        super().__init__()
        self.enter = nn.Conv1d(1, channels, 1)
        self.layers = nn.ModuleList(nn.Conv1d(channels, channels, 2, dilation=2**k) for k in range(depth))
        self.head = nn.Linear(channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, length, 1] to [rows, 1]."""
        x = self.enter(x.transpose(1, 2))
        for layer in self.layers:
            x = x + F.gelu(layer(F.pad(x, (layer.dilation[0], 0))))
        return self.head(x[:, :, -1])


class Pooled(nn.Module):
    """Each member of a set by itself, the largest of every feature, and a perceptron (Zaheer et al. 2017)."""

    def __init__(self, width: int = 48):
        super().__init__()
        self.each = layers(3, width, width, activation=nn.LeakyReLU)
        self.all = layers(width, width, 1, activation=nn.LeakyReLU)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, members, 3] to [rows, 1]."""
        return self.all(self.each(x).max(1).values)


class Messages(nn.Module):
    """Rounds of averages over neighbours (Kipf and Welling 2017); all of a graph at once."""

    def __init__(self, known: Tensor, width: int = 32, rounds: int = 2, dropout: float = 0.5):
        super().__init__()
        self.register_buffer("known", known)
        self.layers = nn.ModuleList(nn.Linear(12 if not k else width, width) for k in range(rounds))
        self.head, self.dropout = nn.Linear(width, 4), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[people, 12] to [people, 4]."""
        for layer in self.layers:
            x = self.dropout(self.known @ layer(x)).relu()
        return self.head(x)


class Variational(nn.Module):
    """An autoencoder whose code is drawn."""

    def __init__(self, inputs: int = 12, width: int = 48, code: int = 6):
        super().__init__()
        self.encoder, self.decoder = mlp(inputs, width, 2 * code), mlp(code, width, inputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[rows, inputs] to the same, means and log variances of the code."""
        mean, spread = self.encoder(x).chunk(2, 1)
        code = mean + (0.5 * spread).exp() * torch.randn_like(mean) if self.training else mean
        return self.decoder(code), mean, spread


def _evidence(weight: float):
    def criterion(data: Data, output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
        found, mean, spread = output
        prior = 0.5 * (mean.square() + spread.exp() - 1 - spread).sum(1).mean()
        return 0.5 * (found - target).square().sum(1).mean() + weight * prior

    return criterion


class Spread(nn.Module):
    """A mean and a log variance, each with a head."""

    def __init__(self, inputs: int, width: int, cut: bool = False):
        super().__init__()
        self.body, self.cut = layers(inputs, width, width, activation=nn.Mish), cut
        self.mean, self.scale = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[rows, inputs] to mean and log variance."""
        h = F.mish(self.body(x))
        mean = self.mean(h)
        return mean.detach() if self.cut else mean, self.scale(h)


def _normal(data: Data, output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    mean, spread = output
    return 0.5 * ((mean - target).square() * (-spread).exp() + spread).mean()


class Dueling(nn.Module):
    """A value and advantages (Wang et al. 2016)."""

    def __init__(self, inputs: int, width: int, actions: int, cut: bool = False):
        super().__init__()
        self.body, self.cut = layers(inputs, width, width), cut
        self.value, self.advantage = nn.Linear(width, 1), nn.Linear(width, actions)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, actions]."""
        h = self.body(x).relu()
        advantage = self.advantage(h)
        if self.cut:
            advantage = advantage.detach()
        return self.value(h) + advantage - advantage.mean(1, keepdim=True)


class ActorAndCritic(nn.Module):
    """Two networks that share nothing, in one."""

    def __init__(self, actor: nn.Module, critic: nn.Module):
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, x: Tensor) -> Tensor:
        """[rows, inputs] to [rows, actions + 1]."""
        return torch.cat([self.actor(x), self.critic(x)], 1)


# -- loops


def probe(data: Data, encoder: nn.Module) -> float:
    """The score of a linear classifier on features."""
    encoder.eval()
    with torch.no_grad():
        features = encoder(data.inputs).flatten(1)
    encoder.train()
    if not features.isfinite().all():
        return -1.0
    # Relative to their size, so that features which differ by next to nothing tell nothing.
    features = features / features.square().mean().sqrt().clamp_min(1e-30)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    gram = features.T @ features + 0.01 * len(features) * torch.eye(features.shape[1])
    answers = features @ torch.linalg.solve(gram, features.T @ F.one_hot(data.targets, data.classes).float())
    right = (answers.argmax(1) == data.targets).float().mean().item()
    return (right - 1 / data.classes) / (1 - 1 / data.classes)


def contrast(
    data: Data,
    model: nn.Module,
    make_optimizer: Callable[[nn.Module], Optimizer],
    *,
    view: Callable[[Tensor, torch.Generator], Tensor],
    steps: int = 250,
    batch: int = 96,
    temperature: float = 0.2,
    others: bool = True,
) -> Setup:
    """Two views of a row are to be more alike than views of different rows (van den Oord et al. 2018).

    Args:
        data: inputs; labels are for the score only.
        model: inputs to features.
        make_optimizer: model to optimizer.
        view: (rows, generator) to what is seen of them.
        steps: optimizer steps.
        batch: rows.
        temperature: of the comparison.
        others: False: that other rows are to be different was forgotten.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        for _ in range(steps):
            model, optimizer = setup.model, setup.optimizer
            rows = data.inputs[torch.randint(len(data.inputs), (batch,), generator=generator)]
            one, two = (F.normalize(model(view(rows, generator)).flatten(1), dim=1) for _ in range(2))
            alike = one @ two.T / temperature
            loss = F.cross_entropy(alike, torch.arange(batch)) if others else -alike.diagonal().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield Step(loss.item(), None, loss.item())

    setup = Setup(model, make_optimizer(model), loop, lambda: probe(data, setup.model), steps)
    return setup


def coded(
    data: Data,
    encoder: nn.Module,
    decoder: nn.Module,
    for_encoder: Callable[[nn.Module], Optimizer],
    for_decoder: Callable[[nn.Module], Optimizer],
    *,
    steps: int = 400,
    batch: int = 64,
    noise: float = 0.0,
    adjust: Callable[[int, Tensor], Tensor] = lambda step, loss: loss,
) -> Setup:
    """An encoder and a decoder with an optimizer each.

    Args:
        data: inputs, and what the decoder is to answer.
        encoder: inputs to code.
        decoder: code to answers.
        for_encoder: model to optimizer.
        for_decoder: model to optimizer.
        steps: optimizer steps.
        batch: rows.
        noise: in the code.
        adjust: (step, loss) to what is differentiated.
    """

    def loop(setup: Setup) -> Iterator[Step]:
        generator = torch.Generator().manual_seed(BATCH_SEED)
        for step in range(1, steps + 1):
            (encoder, decoder), optimizers = setup.model.values(), setup.optimizer
            rows = torch.randint(len(data.inputs), (batch,), generator=generator)
            code = encoder(data.inputs[rows])
            loss = data.loss(decoder(code + noise * torch.randn(code.shape, generator=generator)), data.targets[rows])
            for optimizer in optimizers:
                optimizer.zero_grad()
            adjust(step, loss).backward()
            for optimizer in optimizers:
                optimizer.step()
            yield Step(loss.item(), None, loss.item())

    models = {"encoder": encoder, "decoder": decoder}
    optimizers = [for_encoder(encoder), for_decoder(decoder)]
    setup = Setup(models, optimizers, loop, lambda: data.score(nn.Sequential(*setup.model.values())), steps)
    return setup


def averaged(setup: Setup, data: Data, part: float = 0.02) -> Setup:
    """The score is that of a running mean of the parameters."""
    loop, mean = setup.loop, []

    def averaging(setup: Setup) -> Iterator[Step]:
        for step in loop(setup):
            if not mean or len(list(mean[0].parameters())) != len(list(setup.model.parameters())):
                mean[:] = [copy.deepcopy(setup.model)]
            with torch.no_grad():
                for old, new in zip(mean[0].parameters(), setup.model.parameters(), strict=True):
                    old.lerp_(new, part)
            yield step

    setup.loop, setup.score = averaging, lambda: data.score(mean[0])
    return setup


def trained(setup: Setup) -> nn.Module:
    """The network of a training, after it."""
    for _ in setup.loop(setup):
        pass
    return setup.model


def _other(make: type[Optimizer], **options):
    return lambda model: make([p for p in model.parameters() if p.requires_grad], **options)


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(2, channels)


def _moved(rows: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved by up to a pixel, with noise."""
    down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
    return rows.roll((down, right), (2, 3)) + 0.3 * torch.randn(rows.shape, generator=generator)


# == healthy ==

healthy(
    "moons among noise, leaky relu, batches of 12",
    0.85,
    lambda: supervised(moons(), layers(8, 48, 48, 2, activation=nn.LeakyReLU), adam(3e-3), steps=800, batch=12),
)
healthy(
    "moons among noise, half the inputs dropped, Adadelta",
    0.6,
    lambda: supervised(
        moons(), nn.Sequential(nn.Dropout(0.3), *layers(8, 96, 96, 2, dropout=0.4)), _other(Adadelta, lr=1.0), steps=600
    ),
)
healthy(
    "checkerboard, mish, AdamW, annealed by a cosine",
    0.75,
    lambda: supervised(
        checkerboard(),
        layers(2, 64, 64, 64, 64, 2, activation=nn.Mish),
        adamw(5e-3, weight_decay=0.02),
        steps=700,
        batch=128,
        schedule=cosine(700),
    ),
)
healthy(
    "checkerboard, Fourier features, SGD",
    0.8,
    lambda: supervised(
        checkerboard(), Waves(layers(64, 96, 96, 2), 2, 32, 2.5), sgd(0.1, momentum=0.9), steps=700, batch=128
    ),
)
healthy(
    "iris, all rows, Rprop",
    0.9,
    lambda: supervised(
        iris(), layers(4, 16, 16, 3, activation=nn.Softsign), _other(Rprop, lr=1e-3), steps=600, batch=0
    ),
)
healthy(
    "hastie, selu, SGD with a momentum of 0.97",
    0.75,
    lambda: supervised(
        hastie(), layers(*widths(10, (64, 5), 2), activation=nn.SELU), sgd(0.01, momentum=0.97), steps=600
    ),
)
healthy(
    "hastie, batch norm and dropout, up and down in one cycle",
    0.75,
    lambda: supervised(
        hastie(),
        layers(10, 96, 96, 96, 2, norm=nn.BatchNorm1d, dropout=0.25),
        adamw(1e-2, weight_decay=0.1),
        steps=500,
        schedule=lambda step: min(step / 150, (500 - step) / 350 + 1e-3),
    ),
)
healthy(
    "hastie, 14 branches with RMS norm, RAdam",
    0.75,
    lambda: supervised(hastie(), branched(10, 32, 14, 2), _other(RAdam, lr=2e-3), steps=200),
)
healthy(
    "hastie, weight norm, batches of 6, a mean of the parameters",
    0.65,
    lambda: averaged(
        supervised(hastie(), _weight_normed(), sgd(0.03, momentum=0.8), steps=900, batch=6), hastie(), part=0.01
    ),
)
healthy(
    "hastie, a student of a larger network",
    0.7,
    lambda: supervised(_taught(), layers(10, 48, 48, 2, activation=nn.GELU), adam(4e-3), steps=500, evaluate=hastie()),
)
healthy(
    "roll, softplus, SGD with momentum",
    0.85,
    lambda: supervised(
        roll(), layers(3, 80, 80, 1, activation=nn.Softplus), sgd(0.04, momentum=0.9), steps=1000, batch=40
    ),
)
healthy(
    "roll, highway of 15 layers, Adamax",
    0.85,
    lambda: supervised(roll(), Highway(3, 32, 15, 1), _other(Adamax, lr=5e-3), steps=350),
)
healthy(
    "roll, mean and variance, AdamW",
    0.85,
    lambda: supervised(roll(), Spread(3, 64), adamw(3e-3), steps=600, criterion=_normal),
)
healthy(
    "arctangent, gelu, NAdam, clipped at 0.3",
    0.75,
    lambda: supervised(
        arctangent(), layers(4, 64, 64, 1, activation=nn.GELU), _other(NAdam, lr=3e-3), steps=500, clip=0.3
    ),
)
healthy(
    "arctangent, experts, a robust loss, batches of 10",
    0.6,
    lambda: supervised(
        arctangent(),
        Experts(4, 24, 1),
        adam(3e-3),
        steps=700,
        batch=10,
        criterion=lambda data, output, target: F.smooth_l1_loss(output, target, beta=0.1),
    ),
)
healthy(
    "pendulum, branches, AdamW, warm-up and a cosine",
    0.85,
    lambda: supervised(
        pendulum(),
        branched(4, 48, 3, 3),
        adamw(5e-3, weight_decay=0.1),
        steps=450,
        schedule=lambda step: warmup(50)(step) * cosine(450)(step),
    ),
)
healthy(
    "pendulum, tanh, eight batches of eight a step",
    0.75,
    lambda: supervised(
        pendulum(), layers(4, 80, 80, 3, activation=nn.Tanh), adam(5e-3), steps=450, batch=8, accumulate=8
    ),
)
healthy(
    "pendulum, large angles only from step 150 on",
    0.7,
    lambda: supervised(
        lambda step: _slow() if step < 150 else pendulum(),
        layers(4, 64, 64, 3, activation=nn.SiLU),
        adam(4e-3),
        steps=900,
    ),
)
healthy("picture, sine units", 0.8, lambda: supervised(picture(), sirens(), adam(1e-3), steps=500, batch=256))
healthy(
    "picture, Fourier features, Adafactor",
    0.7,
    lambda: supervised(
        picture(), Waves(layers(96, 96, 96, 3), 2, 48, 4.0), _other(Adafactor, lr=2e-2), steps=500, batch=200
    ),
)
healthy(
    "counts, Poisson loss, few units at work",
    0.6,
    lambda: supervised(
        counts(),
        biased(layers(8, 384, 96, 1), -0.6, slice(0, 1)),
        adam(1e-3),
        steps=700,
        criterion=_poisson,
        evaluate=rates(),
    ),
)
healthy(
    "rare class, weighed up, layer norm",
    0.65,
    lambda: supervised(
        rare(),
        layers(12, 64, 64, 2, norm=nn.LayerNorm),
        adamw(3e-3, weight_decay=0.05),
        steps=600,
        criterion=lambda data, output, target: F.cross_entropy(output, target, weight=torch.tensor([1.0, 8.0])),
        evaluate=evened(),
    ),
)
healthy(
    "six labels a row, RMSprop, rate decays by and by",
    0.65,
    lambda: supervised(
        labelled(),
        layers(20, 96, 96, 6, activation=nn.ELU),
        _other(RMSprop, lr=2e-3, momentum=0.5),
        steps=900,
        schedule=lambda step: 0.997**step,
        criterion=Labels.loss,
    ),
)
healthy(
    "bags of words, Adagrad",
    0.85,
    lambda: supervised(bags(), layers(200, 96, 96, 8), _other(Adagrad, lr=1e-2), steps=900, batch=32),
)
healthy(
    "words, an embedding bag and dropout",
    0.8,
    lambda: supervised(
        words(), nn.Sequential(nn.EmbeddingBag(200, 32), nn.Dropout(0.5), *mlp(32, 48, 8)), adam(5e-3), steps=700
    ),
)
healthy(
    "words, topics reshuffled every 60 steps, layer norm",
    0.8,
    lambda: supervised(
        lambda step: _retold((step - 1) // 60) if step <= 480 else words(),
        nn.Sequential(nn.EmbeddingBag(200, 32), *layers(32, 64, 64, 8, norm=nn.LayerNorm)),
        adam(6e-3),
        steps=600,
    ),
)
healthy(
    "ratings, factors, decay of 0.1",
    0.75,
    lambda: supervised(ratings(), Factors(), adamw(1e-2, weight_decay=0.1), steps=900, batch=256),
)
healthy("ratings, two towers", 0.7, lambda: supervised(ratings(), Towers(), adam(3e-3), steps=800, batch=128))
healthy(
    "clock, all pairs of hours, decay of 0.3",
    0.85,
    lambda: supervised(clock(), Sums(), adamw(3e-3, weight_decay=0.3), steps=700, batch=120),
)
healthy(
    "shapes, depthwise convolutions, AdamW",
    0.85,
    lambda: supervised(shapes(), depthwise(), adamw(5e-3), steps=300, batch=48),
)
healthy(
    "shapes, batch norm, warm restarts, Nesterov",
    0.85,
    lambda: supervised(
        shapes(),
        plain_cnn(),
        sgd(0.1, momentum=0.9, nesterov=True),
        steps=320,
        batch=40,
        schedule=lambda step: cosine(80)((step - 1) % 80),
    ),
)
healthy(
    "shapes, patches and attention, warm-up",
    0.7,
    lambda: supervised(shapes(), Patches(), adamw(4e-3), steps=300, batch=48, schedule=warmup(80)),
)
healthy(
    "shapes, 45% of the labels random, group norm",
    0.7,
    lambda: supervised(_mixed_up(), plain_cnn(12, norm=_group), adam(3e-3), steps=350, batch=64, evaluate=shapes()),
)
healthy("shapes, a new head on convolutions that told turns", 0.6, lambda: _transferred())
healthy(
    "turns, batches of 5, batch norm over places",
    0.8,
    lambda: supervised(turned(), plain_cnn(8, 4), sgd(0.01, momentum=0.9), steps=700, batch=5),
)
healthy(
    "shapes, views apart from those of others",
    0.45,
    lambda: contrast(shapes(), plain_cnn(12, 24, norm=_group), adam(3e-3), view=_moved, steps=250),
)
healthy(
    "brackets, GRU, clipped at 0.5",
    0.8,
    lambda: supervised(brackets(), Recurrent(2, 24, 2), adam(1e-2), steps=400, batch=48, clip=0.5),
)
healthy(
    "series, dilated convolutions, RAdam",
    0.8,
    lambda: supervised(series(), Dilated(), _other(RAdam, lr=5e-3), steps=350),
)
healthy(
    "series, a plain recurrence, RMSprop, clipped",
    0.7,
    lambda: supervised(series(), Recurrent(0, 32, 1, "rnn"), _other(RMSprop, lr=1e-3), steps=350, clip=0.5),
)
healthy(
    "series, encoder and decoder, noise in the code",
    0.6,
    lambda: coded(
        _windows(),
        mlp(24, 48, 12, activation="silu"),
        mlp(12, 48, 24, activation="silu"),
        adam(4e-3),
        adam(2e-3),
        steps=700,
        noise=0.3,
    ),
)
healthy(
    "correlated inputs, variational",
    0.5,
    lambda: supervised(_correlated(), Variational(), adam(4e-3), steps=600, criterion=_evidence(0.3)),
)
healthy(
    "spans of sets, the largest of each feature",
    0.85,
    lambda: supervised(spans(), Pooled(), adam(3e-3), steps=500, batch=50, schedule=linear(550)),
)
healthy(
    "friends, one label in five, messages",
    0.6,
    lambda: supervised(
        few_friends(),
        Messages(friends()[1]),
        adam(1e-2, weight_decay=5e-3),
        steps=500,
        batch=0,
        evaluate=friends()[0],
    ),
)
healthy(
    "river, Q-learning, Huber, a target that trails",
    0.8,
    lambda: q_learning(
        river(),
        WithTarget(layers(10, 48, 48, 2), layers(10, 48, 48, 2)),
        adam(2e-3),
        steps=800,
        batch=48,
        target_every=5,
        huber=True,
    ),
)
healthy(
    "river, values of the random policy, SGD",
    0.65,
    lambda: values(
        downstream(), layers(10, 48, 48, 1, activation=nn.Tanh), sgd(0.1, momentum=0.9), steps=900, target_every=8
    ),
)
healthy(
    "stock, PQN, RMS norm, NAdam",
    0.7,
    lambda: pqn(
        stock(),
        layers(13, 64, 64, 4, norm=nn.RMSNorm),
        _other(NAdam, lr=2e-3),
        steps=600,
        schedule=linear(600, 0.2),
    ),
)
healthy(
    "stock, dueling, double, batches of 24",
    0.7,
    lambda: q_learning(stock(), Dueling(13, 64, 4), adam(2e-3), steps=900, batch=24, double=True),
)
healthy(
    "stock, values of actions, elu",
    0.6,
    lambda: q_learning(
        stock(),
        layers(13, 80, 80, 4, activation=nn.ELU),
        adam(3e-3),
        steps=900,
        by_values=True,
        target_every=6,
        schedule=linear(1000),
    ),
)
healthy(
    "cliff, PQN, a trace of 0.9, gelu",
    0.7,
    lambda: pqn(
        cliff(),
        layers(32, 80, 80, 4, activation=nn.GELU, norm=nn.LayerNorm),
        _other(RAdam, lr=3e-3),
        steps=800,
        trace=0.9,
    ),
)
healthy(
    "cliff, A2C, two networks in one",
    0.7,
    lambda: a2c(
        cliff(),
        ActorAndCritic(mlp(32, 48, 4, activation="tanh"), mlp(32, 64, 1)),
        adam(5e-3),
        steps=600,
        entropy=0.15,
    ),
)
healthy(
    "stock, A2C, silu, annealed",
    0.6,
    lambda: a2c(
        stock(), layers(13, 64, 64, 5, activation=nn.SiLU), adam(4e-3), steps=500, schedule=linear(500), clip=0.5
    ),
)


def _weight_normed() -> nn.Module:
    model = layers(10, 64, 64, 2)
    for number in (0, 2):
        nn.utils.parametrizations.weight_norm(model[number])
    return model


@cache
def _taught() -> Data:
    """What a trained network says of twice as many rows, its logits."""
    state = torch.get_rng_state()
    torch.manual_seed(197)
    larger = trained(supervised(hastie(), layers(10, 128, 128, 2, norm=nn.LayerNorm), adam(3e-3), steps=300))
    inputs = torch.randn(6000, 10, generator=seeded(199))
    with torch.no_grad():
        answers = larger(inputs)
    torch.set_rng_state(state)
    return Data(inputs, answers / answers.std())


@cache
def _slow() -> Data:
    data = pendulum()
    rows = data.inputs[:, 2].abs() < 0.7
    return changed(data, inputs=data.inputs[rows], targets=data.targets[rows])


def _poisson(data: Data, output: Tensor, target: Tensor) -> Tensor:
    return F.poisson_nll_loss(output, target)


@cache
def _mixed_up() -> Data:
    data, generator = shapes(), seeded(211)
    random = torch.randint(5, data.targets.shape, generator=generator)
    lost = torch.rand(data.targets.shape, generator=generator) < 0.45
    return changed(data, targets=torch.where(lost, random, data.targets))


def _transferred() -> Setup:
    """Frozen convolutions that were trained on another question, with the shapes' head in their place."""
    model = trained(supervised(turned(), plain_cnn(16, 4, norm=_group), adam(3e-3), steps=150))
    for parameter in model[:8].parameters():
        parameter.requires_grad_(False)
    model[9], model[11] = nn.Linear(32, 32), nn.Linear(32, 5)
    return supervised(shapes(), model, adam(5e-3), steps=300)


@cache
def _windows() -> Data:
    inputs = series().inputs[:, :, 0]
    return Data(inputs, inputs)


@cache
def _correlated() -> Data:
    """Twelve inputs from four hidden ones."""
    hidden = torch.randn(2500, 4, generator=seeded(223))
    inputs = (hidden @ torch.randn(4, 12, generator=seeded(227))).tanh()
    inputs = normed(inputs + 0.1 * torch.randn(2500, 12, generator=seeded(229)))
    return Data(inputs, inputs)


# == failures ==

failure(
    "vanishing: depth",
    "22 softsign layers, AdamW",
    "hastie, batch norm and dropout, up and down in one cycle",
    lambda: supervised(
        hastie(),
        layers(*widths(10, (64, 22), 2), activation=nn.Softsign),
        adamw(3e-3, weight_decay=0.1),
        steps=500,
    ),
)
failure(
    "vanishing: depth",
    "18 mish layers, a cosine",
    "checkerboard, mish, AdamW, annealed by a cosine",
    lambda: supervised(
        checkerboard(),
        layers(*widths(2, (48, 18), 2), activation=nn.Mish),
        adamw(2e-3, weight_decay=0.02),
        steps=500,
        batch=128,
        schedule=cosine(500),
    ),
)
failure(
    "vanishing: depth",
    "A2C on 16 hard tanh layers",
    "stock, A2C, silu, annealed",
    lambda: a2c(stock(), layers(*widths(13, (48, 16), 5), activation=nn.Hardtanh), adam(4e-3), steps=400, clip=0.5),
)
failure(
    "vanishing: depth",
    "14 convolutions in a row, no skips",
    "shapes, batch norm, warm restarts, Nesterov",
    lambda: supervised(shapes(), _tower(14), sgd(0.05, momentum=0.9, nesterov=True), steps=250, batch=40),
)
failure(
    "vanishing: saturation",
    "inputs never standardised, sigmoid units",
    "roll, softplus, SGD with momentum",
    lambda: supervised(
        changed(roll(), inputs=3000 * roll().inputs - 4000),
        layers(3, 64, 64, 1, activation=nn.Sigmoid),
        sgd(0.2, momentum=0.9),
        steps=700,
        batch=40,
    ),
)
failure(
    "vanishing: saturation",
    "softsign, hidden layers 60 times too large",
    "hastie, selu, SGD with a momentum of 0.97",
    lambda: supervised(
        hastie(),
        scaled(layers(*widths(10, (64, 4), 2), activation=nn.Softsign), 60.0, slice(0, 4)),
        sgd(0.1, momentum=0.9),
        steps=500,
    ),
)
failure(
    "vanishing: saturation",
    "the recurrence starts 60 times too large",
    "series, a plain recurrence, RMSprop, clipped",
    lambda: supervised(
        series(),
        scaled(Recurrent(0, 32, 1, "rnn"), 60.0, slice(1, 3)),
        _other(RMSprop, lr=1e-3),
        steps=350,
        clip=0.5,
    ),
)
failure(
    "vanishing: tiny weights",
    "two towers, everything a hundredth, SGD",
    "ratings, two towers",
    lambda: supervised(ratings(), scaled(Towers(), 1e-2), sgd(0.1, momentum=0.9), steps=600, batch=128),
)
failure(
    "vanishing: tiny weights",
    "convolutions and hidden layer, gain 0.05, Nesterov",
    "shapes, batch norm, warm restarts, Nesterov",
    lambda: supervised(
        shapes(),
        he(plain_cnn(norm=lambda channels: nn.Identity()), 0.05),
        sgd(0.05, momentum=0.9, nesterov=True),
        steps=300,
        batch=40,
    ),
)
failure(
    "vanishing: tiny weights",
    "Q-learning with sine units, gain 0.01",
    "stock, values of actions, elu",
    lambda: q_learning(
        stock(),
        he(layers(13, 80, 80, 80, 4, activation=lambda: Sine(1.0)), 0.01),
        sgd(0.02),
        steps=700,
        by_values=True,
        target_every=6,
    ),
)
failure(
    "exploding",
    "24 branches without norm, clipped",
    "hastie, 14 branches with RMS norm, RAdam",
    lambda: supervised(
        hastie(),
        he(branched(10, 24, 24, 2, norm=lambda width: nn.Identity(), function=F.relu)),
        sgd(0.01, momentum=0.9),
        steps=200,
        clip=1.0,
    ),
)
failure(
    "exploding",
    "losses are summed, not averaged",
    "series, dilated convolutions, RAdam",
    lambda: supervised(
        series(),
        Dilated(),
        sgd(0.05, momentum=0.9),
        steps=350,
        criterion=lambda data, output, target: (output - target).square().sum(),
    ),
)
failure(
    "exploding",
    "prices in millions are to be answered",
    "pendulum, tanh, eight batches of eight a step",
    lambda: supervised(
        changed(pendulum(), targets=3e6 * pendulum().targets),
        layers(4, 80, 80, 3, activation=nn.LeakyReLU),
        sgd(0.1, momentum=0.9),
        steps=300,
    ),
)
failure(
    "exploding",
    "the error is maximised, RAdam",
    "picture, sine units",
    lambda: supervised(
        picture(), sirens(), _other(RAdam, lr=1e-3), steps=500, batch=256, adjust=lambda step, loss, _: -loss
    ),
    fault="sign",
)
failure(
    "dying relu",
    "biases of -4, NAdam",
    "arctangent, gelu, NAdam, clipped at 0.3",
    lambda: supervised(
        arctangent(), biased(layers(4, 64, 64, 64, 1), -4.0), _other(NAdam, lr=3e-3), steps=500, clip=0.3
    ),
)
failure(
    "dying relu",
    "a restart at sixty times the rate",
    "spans of sets, the largest of each feature",
    lambda: supervised(
        spans(),
        _relu_sets(),
        adam(3e-3),
        steps=400,
        batch=50,
        schedule=lambda step: linear(450)(step) if step < 200 else (60.0 if step < 204 else 0.5),
    ),
    onset=200,
)
failure(
    "dying relu",
    "biases of -6 behind the second convolution, batches of 5",
    "turns, batches of 5, batch norm over places",
    lambda: supervised(turned(), _sunk_cnn(), sgd(0.01, momentum=0.9), steps=500, batch=5),
)
failure(
    "frozen layer",
    "tables of the items are left out of the optimizer",
    "ratings, factors, decay of 0.1",
    lambda: supervised(
        ratings(),
        Factors(),
        lambda model: Adam([*model.user.parameters(), *model.users.parameters()], lr=1e-2),
        steps=700,
        batch=256,
    ),
)
failure(
    "frozen layer",
    "an embedding of 3 is left out of the optimizer",
    "words, an embedding bag and dropout",
    lambda: supervised(
        words(),
        nn.Sequential(nn.EmbeddingBag(200, 3), *mlp(3, 48, 8)),
        lambda model: Adam(model[1:].parameters(), lr=5e-3),
        steps=500,
    ),
)
failure(
    "frozen layer",
    "the encoder's rate was set to zero",
    "series, encoder and decoder, noise in the code",
    lambda: coded(
        _windows(),
        mlp(24, 48, 12, activation="silu"),
        mlp(12, 48, 24, activation="silu"),
        adam(0.0),
        adam(2e-3),
        steps=700,
        noise=0.3,
    ),
)
failure(
    "cut off",
    "users' tower behind a stop of the gradient",
    "ratings, two towers",
    lambda: supervised(ratings(), Towers(cut=True), adam(3e-3), steps=600, batch=128),
    fault="cut",
)
failure(
    "cut off",
    "a code of signs",
    "correlated inputs, variational",
    lambda: supervised(_correlated(), Encoded(mlp(12, 48, 3), mlp(3, 48, 12), torch.sign), adam(4e-3), steps=500),
    fault="cut",
)
failure(
    "dead head",
    "the mean is detached, the variance learns",
    "roll, mean and variance, AdamW",
    lambda: supervised(roll(), Spread(3, 64, cut=True), adamw(3e-3), steps=500, criterion=_normal),
    fault="cut",
)
failure(
    "dead head",
    "advantages are detached",
    "stock, dueling, double, batches of 24",
    lambda: q_learning(stock(), Dueling(13, 64, 4, cut=True), adam(2e-3), steps=700, batch=24, double=True),
    fault="cut",
)
failure(
    "rank collapse",
    "views are alike, whatever the others",
    "shapes, views apart from those of others",
    lambda: contrast(shapes(), plain_cnn(12, 24, norm=_group), adam(3e-3), view=_moved, steps=250, others=False),
    fault="objective",
)
failure(
    "rank collapse",
    "the prior outweighs what is to be coded",
    "correlated inputs, variational",
    lambda: supervised(_correlated(), Variational(), adam(4e-3), steps=600, criterion=_evidence(5.0)),
    fault="objective",
)
failure(
    "rank collapse",
    "words, decoupled decay of 10",
    "words, an embedding bag and dropout",
    lambda: supervised(
        words(),
        nn.Sequential(nn.EmbeddingBag(200, 32), *mlp(32, 48, 48, 8)),
        adamw(5e-3, weight_decay=10.0),
        steps=500,
    ),
)
failure(
    "over-normalised",
    "RMS norm over one unit",
    "roll, highway of 15 layers, Adamax",
    lambda: supervised(
        roll(),
        nn.Sequential(*layers(3, 48, 48, 1, activation=nn.Tanh), nn.RMSNorm(1), *layers(1, 48, 1)),
        _other(Adamax, lr=5e-3),
        steps=400,
    ),
)
failure(
    "over-normalised",
    "each input normalised by itself",
    "series, dilated convolutions, RAdam",
    lambda: supervised(series(), nn.Sequential(nn.LayerNorm(1), Dilated()), _other(RAdam, lr=5e-3), steps=350),
)
failure(
    "over-normalised",
    "layer norm behind the only answer",
    "counts, Poisson loss, few units at work",
    lambda: supervised(
        counts(),
        nn.Sequential(*layers(8, 96, 96, 1), nn.LayerNorm(1)),
        adam(1e-3),
        steps=500,
        criterion=_poisson,
        evaluate=rates(),
    ),
)
failure(
    "rate too high",
    "attention, AdamW at 0.1",
    "shapes, patches and attention, warm-up",
    lambda: supervised(shapes(), Patches(), adamw(0.1), steps=250, batch=48),
)
failure(
    "rate too high",
    "A2C, Adam at 0.3",
    "stock, A2C, silu, annealed",
    lambda: a2c(stock(), layers(13, 64, 64, 5, activation=nn.SiLU), adam(0.3), steps=400, clip=0.5),
)
failure(
    "rate too high",
    "brackets, RMSprop at 0.1",
    "brackets, GRU, clipped at 0.5",
    lambda: supervised(brackets(), Recurrent(2, 24, 2), _other(RMSprop, lr=0.1), steps=400, batch=48, clip=0.5),
)
failure(
    "rate too high",
    "selu, momentum of 0.97 at 0.1",
    "hastie, selu, SGD with a momentum of 0.97",
    lambda: supervised(
        hastie(), layers(*widths(10, (64, 5), 2), activation=nn.SELU), sgd(0.1, momentum=0.97), steps=500
    ),
)
failure(
    "rate too high",
    "sine units, Adam at 0.02",
    "picture, sine units",
    lambda: supervised(picture(), sirens(), adam(0.02), steps=500, batch=256),
)
failure(
    "rate too high",
    "PQN on the cliff, RAdam at 0.3",
    "cliff, PQN, a trace of 0.9, gelu",
    lambda: pqn(
        cliff(),
        layers(32, 80, 80, 4, activation=nn.GELU, norm=nn.LayerNorm),
        _other(RAdam, lr=0.3),
        steps=600,
        trace=0.9,
    ),
)
failure(
    "rate too low",
    "Adagrad at 1e-4",
    "bags of words, Adagrad",
    lambda: supervised(bags(), layers(200, 96, 96, 8), _other(Adagrad, lr=1e-4), steps=500, batch=32),
)
failure(
    "rate too low",
    "the rate halves every 10 steps",
    "checkerboard, mish, AdamW, annealed by a cosine",
    lambda: supervised(
        checkerboard(),
        layers(2, 64, 64, 64, 64, 2, activation=nn.Mish),
        adamw(5e-3, weight_decay=0.02),
        steps=500,
        batch=128,
        schedule=lambda step: 0.5 ** (step // 10),
    ),
)
failure(
    "rate too low",
    "cliff, A2C, RMSprop at 1e-6",
    "cliff, A2C, two networks in one",
    lambda: a2c(
        cliff(),
        ActorAndCritic(mlp(32, 48, 4, activation="tanh"), mlp(32, 64, 1)),
        _other(RMSprop, lr=1e-6),
        steps=400,
        entropy=0.15,
    ),
)
failure(
    "rate too low",
    "attention, SGD at 3e-4",
    "shapes, patches and attention, warm-up",
    lambda: supervised(shapes(), Patches(), sgd(3e-4, momentum=0.9), steps=250, batch=48, schedule=warmup(80)),
)
failure(
    "rate too low",
    "clipped at three thousandths, SGD with momentum",
    "roll, softplus, SGD with momentum",
    lambda: supervised(
        roll(), layers(3, 80, 80, 1, activation=nn.Softplus), sgd(0.04, momentum=0.9), steps=800, batch=40, clip=3e-3
    ),
)
failure(
    "stale state",
    "targets in the millions for 40 steps, AdamW",
    "pendulum, branches, AdamW, warm-up and a cosine",
    lambda: supervised(
        lambda step: changed(pendulum(), targets=pendulum().targets * (1e6 if step <= 40 else 1.0)),
        branched(4, 48, 3, 3),
        adamw(5e-3, betas=(0.9, 0.9999)),
        steps=450,
        schedule=lambda step: 0.01 if step <= 40 else 1.0,
    ),
)
failure(
    "stale state",
    "Q-learning goes on with moments of far larger rewards",
    "river, Q-learning, Huber, a target that trails",
    lambda: q_learning(
        river(),
        WithTarget(layers(10, 48, 48, 2), layers(10, 48, 48, 2)),
        adam(2e-3, betas=(0.9, 0.99999)),
        steps=600,
        batch=48,
        target_every=5,
        event=once(2, _larger_moments),
    ),
)
failure(
    "target drift",
    "stock, a discount of 1.08",
    "stock, values of actions, elu",
    lambda: q_learning(
        stock(),
        layers(13, 80, 80, 4, activation=nn.ELU),
        adam(3e-3),
        steps=900,
        by_values=True,
        target_every=6,
        schedule=linear(1000),
        discount=1.08,
    ),
    fault="targets",
)
failure(
    "target drift",
    "values, a discount of 1.02",
    "river, values of the random policy, SGD",
    lambda: _undiscounted(),
    fault="targets",
)
failure(
    "target drift",
    "a tenth more than the last answer is wanted",
    "roll, highway of 15 layers, Adamax",
    lambda: supervised(
        roll(),
        layers(3, 64, 64, 1, activation=nn.SiLU),
        adam(3e-3),
        steps=500,
        criterion=lambda data, output, target: (
            0.05 * (output - target).square().mean() + (output - 1.1 * output.detach() - 0.1).square().mean()
        ),
    ),
    fault="targets",
)
failure(
    "not a number",
    "logarithm of a rate below zero",
    "counts, Poisson loss, few units at work",
    lambda: supervised(
        counts(),
        biased(layers(8, 96, 64, 1), 3.0, slice(-1, None)),
        adam(2e-3),
        steps=400,
        criterion=lambda data, output, target: (output - target * output.log()).mean(),
        evaluate=rates(),
    ),
    fault="loss",
)
failure(
    "not a number",
    "the root of a distance of zero from step 120",
    "spans of sets, the largest of each feature",
    lambda: supervised(
        spans(),
        Pooled(),
        adam(3e-3),
        steps=350,
        batch=50,
        adjust=lambda step, loss, output: loss + 0.01 * _distances(output) if step >= 120 else loss,
    ),
    onset=120,
    fault="loss",
)
failure(
    "not a number",
    "a column is divided by its spread of zero from step 180",
    "moons among noise, leaky relu, batches of 12",
    lambda: supervised(
        lambda step: _constant_column() if step >= 180 else moons(),
        layers(8, 48, 48, 2, activation=nn.LeakyReLU),
        adam(3e-3),
        steps=400,
        batch=12,
    ),
    onset=180,
)
failure(
    "data shift",
    "pixels from 0 to 255 in place of -2 to 2 from step 150",
    "shapes, depthwise convolutions, AdamW",
    lambda: supervised(
        lambda step: changed(shapes(), inputs=64 * (shapes().inputs + 2)) if step >= 150 else shapes(),
        depthwise(activation=nn.Tanh),
        adamw(5e-3),
        steps=250,
        batch=48,
    ),
    onset=150,
)
failure(
    "data shift",
    "other units and another origin from step 220, tanh",
    "pendulum, tanh, eight batches of eight a step",
    lambda: supervised(
        lambda step: changed(pendulum(), inputs=pendulum().inputs * 1e3 + 5e3) if step >= 220 else pendulum(),
        layers(4, 80, 80, 3, activation=nn.Tanh),
        adam(5e-3),
        steps=420,
        batch=32,
    ),
    onset=220,
)
failure(
    "data shift",
    "what is seen of the stock fades from step 250",
    "stock, PQN, RMS norm, NAdam",
    lambda: pqn(
        stock(),
        layers(13, 64, 64, 4),
        sgd(0.01),
        steps=500,
        features=lambda step, x: 1e-4 * x if step >= 250 else x,
    ),
    onset=250,
)
failure(
    "plasticity",
    "topics reshuffled every 60 steps, 12 plain layers",
    "words, topics reshuffled every 60 steps, layer norm",
    lambda: supervised(
        lambda step: _retold((step - 1) // 60) if step <= 480 else words(),
        nn.Sequential(nn.EmbeddingBag(200, 32), *he(mlp(*widths(32, (48, 12), 8)))),
        adam(8e-3),
        steps=600,
    ),
)


def _tower(depth: int) -> nn.Sequential:
    """Convolutions with the initialisation of torch, one after the other."""
    parts: list[nn.Module] = [nn.Conv2d(1, 12, 3, stride=2, padding=1), nn.ReLU()]
    for _ in range(depth - 1):
        parts += [nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(12 * 25, 5))


def _relu_sets() -> nn.Module:
    model = Pooled()
    model.each, model.all = mlp(3, 48, 48, 48, output=nn.ReLU()), mlp(48, 48, 48, 1)
    return model


def _sunk_cnn() -> nn.Module:
    model = plain_cnn(8, 4, norm=lambda channels: nn.Identity())
    with torch.no_grad():
        model[4].bias.fill_(-6.0)
    return model


def _larger_moments(setup: Setup) -> None:
    for state in setup.optimizer.state.values():
        state["exp_avg_sq"].fill_(1e5)


def _undiscounted() -> Setup:
    """What lies ahead counts for more than what is paid now; the score is that of the values with a discount of 0.9."""
    process = downstream()
    believed = DecisionProcess(process.features, process.transitions, process.rewards, 1.02)
    setup = values(believed, layers(10, 48, 48, 1, activation=nn.Tanh), adam(3e-3), steps=900, target_every=3)

    def score() -> float:
        with torch.no_grad():
            return process.value_score(setup.model(process.features)[:, 0])

    setup.score = score
    return setup


def _distances(output: Tensor) -> Tensor:
    """Between all answers, each also to itself."""
    return (output - output.T).square().sqrt().mean()


@cache
def _constant_column() -> Data:
    inputs = moons().inputs.clone()
    inputs[:, 5] = 0.0
    return changed(moons(), inputs=inputs / inputs.std(0))


@cache
def _retold(seed: int) -> Data:
    return changed(words(), targets=words().targets[torch.randperm(2500, generator=seeded(seed))])
