"""Small trainings with one planted fault each, and healthy ones, as tests of the rules.

Each takes a second or so; real trainings of agents are the corpus of ``make bench-diagnosis``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from benchmarks.diagnosis import tasks
from benchmarks.diagnosis.networks import (
    Recurrent,
    SmallCNN,
    he,
    mlp,
    scaled,
    widths,
)
from benchmarks.diagnosis.register import (
    adam,
    between,
    sgd,
    torso,
    warmup,
)
from benchmarks.diagnosis.rollouts import pqn
from benchmarks.diagnosis.tasks import (
    Data,
    changed,
    digit_images,
    digits,
    normed,
    seeded,
    teacher,
)
from benchmarks.diagnosis.training import (
    Setup,
    supervised,
    values,
)
from tests.diagnostics.planted_tasks import (
    Branches,
    Transformer,
    biased,
    gratings,
    grid,
    most_frequent_token,
    positive_teacher,
    running_sum,
    shuffled_digits,
)
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from stablegrad.networks import MultiSkipTorso
from stablegrad.optimizers import Kron


@dataclass(frozen=True)
class Case:
    """A training: its name, the rule that must speak ("" for none), and what builds it from seeded random numbers."""

    name: str
    rule: str
    make: Callable[[], Setup]


def _value_net(norm: str = "none", width: int = 64) -> nn.Module:
    return mlp(8, width, width, 1, norm=norm)


def _half_softmax(data: Data, output: Tensor, target: Tensor) -> Tensor:
    shares = output.half().exp()
    return -(shares / shares.sum(1, keepdim=True)).gather(1, target[:, None]).log().mean().float()


def _alike(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.02 if parameter.ndim == 2 else 0.0)
    return model


def _rates(lr: float, *rates: float):
    """Adam with a rate for each layer."""
    return lambda model: Adam(
        [
            {"params": list(module.parameters()), "lr": lr * rate}
            for module, rate in zip([m for m in model if isinstance(m, nn.Linear)], rates, strict=True)
        ]
    )


class _Hoarding(SGD):
    """Somebody forgot ``zero_grad``."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing."""


def _from(at: int, later: Callable[[Data], Data], data: Callable[[], Data] = digits) -> Callable[[int], Data]:
    return lambda step: later(data()) if step >= at else data()


def _left_digits() -> Data:
    """Digits whose lower halves are noise."""
    noise = torch.randn(1797, 32, generator=torch.Generator().manual_seed(29))
    return changed(digits(), inputs=torch.cat([digits().inputs[:, :32], noise], 1))


def _spoiled(data: Data, value: float) -> Data:
    inputs = data.inputs.clone()
    inputs[::20, 0] = value
    return changed(data, inputs=inputs)


def _doubling() -> tasks.DecisionProcess:
    """w -> 2w (Tsitsiklis and Van Roy 1997): a state looks ahead to one with twice its features."""
    transitions = torch.zeros(1, 8, 8)
    transitions[0, torch.arange(8), (torch.arange(8) + 4) % 8] = 1.0
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(31)).abs()
    features = torch.cat([base, 2 * base])
    return tasks.DecisionProcess(features, transitions, torch.linspace(0, 1, 8)[None], 0.95)


def _grid_net(width: int = 64, norm: str = "layer", activation: str = "relu") -> nn.Module:
    return mlp(12, width, width, 4, norm=norm, activation=activation)


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


@cache
def hastie() -> Data:
    """Ten normal inputs by the length of their vector (Hastie et al. 2009, example 10.2)."""
    from sklearn.datasets import make_hastie_10_2

    inputs, sides = make_hastie_10_2(3000, random_state=109)
    return _drawn((inputs, sides > 0), 2)


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


def _other(make: type[Optimizer], **options):
    return lambda model: make([p for p in model.parameters() if p.requires_grad], **options)


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


def _drawn(raw: tuple[np.ndarray, np.ndarray], classes: int = 0) -> Data:
    """Inputs and targets of scikit-learn, standardised."""
    inputs = normed(torch.tensor(raw[0], dtype=torch.float32))
    targets = torch.tensor(raw[1])
    return Data(inputs, targets.long() if classes else normed(targets.float())[:, None], classes)


@cache
def brackets(pairs: int = 6) -> Data:
    """Strings of brackets, half of them balanced; the others have as many of both kinds."""
    order = torch.rand(20000, 2 * pairs, generator=seeded(173)).argsort(1) % 2
    balanced = ((1 - 2 * order).cumsum(1).min(1).values >= 0).long()
    right, wrong = (balanced == 1).nonzero()[:1200, 0], (balanced == 0).nonzero()[:1200, 0]
    rows = torch.cat([right, wrong])
    return Data(order[rows], balanced[rows], 2)


CASES = [
    Case(
        "digits, 40% of the labels random",
        "",
        lambda: supervised(tasks.noisy_digits(0.4), mlp(64, 64, 64, 10), adam(1e-3), evaluate=digits()),
    ),
    Case(
        "digits, batch norm, SGD",
        "",
        lambda: supervised(digits(), mlp(64, 64, 64, 64, 10, norm="batch"), sgd(0.1, momentum=0.9)),
    ),
    Case(
        "digits, dropout", "", lambda: supervised(digits(), mlp(64, 128, 128, 10, dropout=0.5), adam(1e-3), steps=400)
    ),
    Case(
        "digits, labels reshuffled every 250 steps, layer norm",
        "",
        lambda: supervised(
            lambda step: shuffled_digits((step - 1) // 250),
            mlp(64, 256, 256, 10, norm="layer"),
            adam(3e-3),
            steps=750,
            batch=128,
        ),
    ),
    Case(
        "digits, multi-skip, Kron",
        "",
        lambda: supervised(
            digits(), torso(MultiSkipTorso, 64, 10, 64, 4), lambda m: Kron(m.parameters(), lr=1e-3), steps=250
        ),
    ),
    Case("digits, relu, Adam", "", lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-3))),
    Case("running sum, GRU", "", lambda: supervised(running_sum(), Recurrent(0, 24, 1), adam(5e-3), steps=300)),
    Case(
        "values grow far, discount 0.97",
        "",
        lambda: values(tasks.ring(0.97), _value_net(), adam(5e-3), steps=1000, target_every=5),
    ),
    Case(
        "all units start alike",
        "alike_units",
        lambda: supervised(digits(), _alike(mlp(64, 64, 64, 10, activation="tanh")), sgd(0.3)),
    ),
    Case(
        "ascent in place of descent",
        "nonfinite",
        lambda: supervised(digits(), mlp(64, 64, 64, 10), sgd(0.05, momentum=0.9), adjust=lambda step, loss, _: -loss),
    ),
    Case(
        "answers clamped out of reach",
        "constant_output",
        lambda: supervised(
            positive_teacher(), mlp(16, 64, 64, 1, output=nn.Hardtanh(-60.0, -50.0)), adam(3e-3), steps=400
        ),
    ),
    Case(
        "PQN, Adam at 0.5",
        "rank_collapse",
        lambda: pqn(grid(), _grid_net(96, activation="silu"), adam(0.5), steps=500, minibatches=1, epochs=4),
    ),
    Case(
        "relu in front of negative targets",
        "constant_output",
        lambda: supervised(
            changed(positive_teacher(), targets=-positive_teacher().targets),
            mlp(16, 64, 64, 1, output=nn.ReLU()),
            adam(3e-3),
            steps=400,
        ),
    ),
    Case(
        "biases of -12 in a hidden layer",
        "dead_units",
        lambda: supervised(digits(), biased(mlp(64, 64, 64, 10), -12.0, slice(1, 2)), adam(1e-3)),
    ),
    Case(
        "regression on targets that grow",
        "diverging_output",
        lambda: supervised(
            lambda step: changed(teacher(), targets=teacher().targets * 1.02**step),
            mlp(16, 64, 64, 2, activation="tanh"),
            adam(3e-3),
            steps=500,
        ),
    ),
    Case(
        "multi-skip, Kron at 0.3",
        "dormant_units",
        lambda: supervised(
            digits(), torso(MultiSkipTorso, 64, 10, 64, 4), lambda m: Kron(m.parameters(), lr=0.3), steps=250
        ),
    ),
    Case(
        "PQN, a discount of 1.2, no norm",
        "exploding_gradient",
        lambda: pqn(tasks.garnet(), mlp(24, 64, 64, 3), adam(3e-3), steps=400, discount=1.2, clip=None),
    ),
    Case(
        "Transformer, Adam at 0.1",
        "extreme_rate",
        lambda: supervised(most_frequent_token(), Transformer(3, 9, 32, 2, 3), adam(0.1), steps=250),
    ),
    Case(
        "12 relu layers, gain 5, clipped",
        "fading_gradient",
        lambda: supervised(digits(), he(mlp(*widths(64, (64, 12), 10)), 5.0), sgd(0.05, momentum=0.9), clip=1.0),
    ),
    Case(
        "sensor dead from step 200",
        "rank_collapse",
        lambda: supervised(
            _from(200, lambda data: changed(data, inputs=0.001 * data.inputs), teacher),
            mlp(16, 64, 64, 2),
            sgd(0.1, momentum=0.9),
            steps=400,
        ),
    ),
    Case(
        "selu, momentum of 0.97 at 0.1",
        "nonfinite",
        lambda: supervised(
            hastie(), layers(*widths(10, (64, 5), 2), activation=nn.SELU), sgd(0.1, momentum=0.97), steps=500
        ),
    ),
    Case(
        "gradients never set to zero",
        "leftover_gradient",
        lambda: supervised(digits(), mlp(64, 64, 64, 10), lambda m: _Hoarding(m.parameters(), lr=0.3)),
    ),
    Case(
        "one encoder of two detached",
        "no_gradient",
        lambda: supervised(_left_digits(), Branches(64, 32, 10, cut=True), adam(1e-3)),
    ),
    Case(
        "two tasks, the label's loss is missing",
        "no_gradient",
        lambda: supervised(tasks.blobs(), TwoTasks(24, 64, 20), adam(3e-3), steps=300, criterion=_two_tasks(0.0, 1.0)),
    ),
    Case(
        "bottleneck at a rate of zero",
        "no_update",
        lambda: supervised(digits(), mlp(64, 4, 64, 10), _rates(5e-3, 0.0, 1.0, 1.0), steps=500),
    ),
    Case(
        "tables of the items are left out of the optimizer",
        "no_update",
        lambda: supervised(
            ratings(),
            Factors(),
            lambda model: Adam([*model.user.parameters(), *model.users.parameters()], lr=1e-2),
            steps=700,
            batch=256,
        ),
    ),
    Case(
        "logarithm of a probability of zero",
        "nonfinite",
        lambda: supervised(
            tasks.cancer(),
            mlp(30, 32, 32, 2),
            sgd(0.5, momentum=0.9),
            criterion=lambda data, output, target: (
                -(8 * output).exp().div((8 * output).exp().sum(1, keepdim=True)).gather(1, target[:, None]).log().mean()
            ),
        ),
    ),
    Case(
        "10 relu layers, gain 4, SGD",
        "unscaled_weights",
        lambda: supervised(digits(), he(mlp(*widths(64, (64, 10), 10)), 4.0), sgd(0.05, momentum=0.9)),
    ),
    Case(
        "missing values from step 100",
        "nonfinite_input",
        lambda: supervised(
            lambda step: _spoiled(teacher(), math.nan) if step >= 100 else teacher(),
            mlp(16, 64, 64, 2),
            sgd(0.1, momentum=0.9),
            steps=500,
        ),
    ),
    Case(
        "softmax by hand in half precision",
        "nonfinite",
        lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(3e-3), criterion=_half_softmax),
    ),
    Case(
        "attention without skips",
        "fading_gradient",
        lambda: supervised(
            most_frequent_token(),
            Transformer(3, 9, 32, 8, 3, skips=False),
            adam(2e-3),
            steps=250,
            schedule=warmup(50),
        ),
    ),
    Case(
        "brackets, RMSprop at 0.1",
        "thrown_weights",
        lambda: supervised(brackets(), Recurrent(2, 24, 2), _other(RMSprop, lr=0.1), steps=400, batch=48, clip=0.5),
    ),
    Case("SGD at 8", "constant_output", lambda: supervised(digits(), mlp(64, 128, 64, 10), sgd(8.0))),
    Case(
        "8 sigmoid layers",
        "rank_collapse",
        lambda: supervised(digits(), mlp(*widths(64, (64, 8), 10), activation="sigmoid"), adam(1e-3), steps=400),
    ),
    Case(
        "SGD, a step of a hundred times the rate",
        "thrown_weights",
        lambda: supervised(
            digits(), mlp(64, 64, 64, 64, 10), sgd(0.05, momentum=0.9), schedule=between(80, 82, 300.0), steps=300
        ),
    ),
    Case(
        "off the policy, features double",
        "nonfinite",
        lambda: values(
            _doubling(), mlp(6, 64, 64, 1), sgd(0.02), steps=800, target_every=0, rows=lambda s, f: (s % 4, s % 4 + 4)
        ),
    ),
    Case(
        "CNN, tanh, weights 60 times too large",
        "unscaled_weights",
        lambda: supervised(
            digit_images(), scaled(SmallCNN(function=torch.tanh), 60.0, slice(0, 3)), adam(3e-3), steps=200
        ),
    ),
    Case("Adam at 1e-5", "small_update", lambda: supervised(digits(), mlp(64, 64, 64, 10), adam(1e-5))),
    Case(
        "Adam, loss a million times larger for 40 steps",
        "stale_state",
        lambda: supervised(
            digits(),
            mlp(64, 64, 64, 10),
            adam(1e-3, betas=(0.9, 0.9999)),
            adjust=lambda step, loss, _: loss * (1e6 if step <= 40 else 1.0),
            schedule=lambda step: 0.01 if step <= 40 else 1.0,
        ),
    ),
    Case(
        "strided convolutions, annealed within 12 steps",
        "starved_rate",
        lambda: supervised(gratings(), Strided(), adam(2e-3), steps=250, schedule=lambda step: max(0.6**step, 1e-4)),
    ),
    Case(
        "Adam at 0.5, four tanh layers",
        "thrown_weights",
        lambda: supervised(digits(), mlp(*widths(64, (64, 4), 10), activation="tanh"), adam(0.5)),
    ),
    Case(
        "sigmoid, raw inputs in the thousands",
        "unscaled_input",
        lambda: supervised(
            changed(digits(), inputs=1000 * digits().inputs + 1000),
            mlp(64, 24, 24, 10, activation="sigmoid"),
            adam(5e-3),
            steps=400,
        ),
    ),
    Case(
        "5 tanh layers, weights 60 times too large",
        "unscaled_weights",
        lambda: supervised(
            digits(), scaled(mlp(*widths(64, (48, 5), 10), activation="tanh"), 60.0, slice(0, 5)), sgd(0.1)
        ),
    ),
    Case(
        "tanh, one huge step of the rate",
        "thrown_weights",
        lambda: supervised(
            teacher(),
            mlp(16, 64, 64, 64, 2, activation="tanh"),
            adam(3e-3),
            steps=500,
            schedule=between(60, 62, 3000.0),
        ),
    ),
    Case(
        "24 relu layers of torch's own initialisation, Adam",
        "vanishing_gradient",
        lambda: supervised(digits(), mlp(*widths(64, (64, 24), 10)), adam(1e-3)),
    ),
]
