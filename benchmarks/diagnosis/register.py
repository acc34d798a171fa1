"""What a scenario is, where all of them are kept, and the optimizers and schedules that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.diagnosis.training import Setup
from torch import nn
from torch.optim import SGD, Adam

#: Part of its twin's score that a failure may keep.
KEPT = 0.75
#: What scenarios are for.
PARTS = ("drawn", "drawn-held-out")
#: Faults that a person has to take out of the program, and the prescriptions that say so. What is left is the twin: a
#: layer that is connected again, a loss that stays finite or is minimised, a penalty that is weakened, a discount
#: below 1.
BY_HAND = {
    "cut": ("reconnect",),
    "blocked": ("free_output", "reconnect"),
    "loss": ("stable_loss",),
    "targets": ("slower_targets",),
}


@dataclass(frozen=True)
class Scenario:
    """One training.

    Attributes:
        name: what it is, in words.
        make: builds it; random numbers are seeded before.
        part: one of ``PARTS``.
        goal: score that a healthy one must reach; 0 for a failure.
        kind: what goes wrong; "" for a healthy one.
        twin: name of a failure's healthy counterpart.
        onset: step from which on something is wrong; an alarm before it is a false one.
        by_hand: by name of a prescription that no program can carry out: the training after a person has.
    """

    name: str
    make: Callable[[], Setup]
    part: str
    goal: float = 0.0
    kind: str = ""
    twin: str = ""
    onset: int = 1
    by_hand: Mapping[str, Callable[[], Setup]] = field(default_factory=dict)


SCENARIOS: dict[str, Scenario] = {}


def healthy(name: str, goal: float, make: Callable[[], Setup], part: str) -> None:
    """Keep a training that learns."""
    assert name not in SCENARIOS, name
    SCENARIOS[name] = Scenario(name, make, part, goal=goal)


def failure(
    kind: str,
    name: str,
    twin: str,
    make: Callable[[], Setup],
    onset: int,
    fault: str,
    part: str,
) -> None:
    """Keep a training that fails; ``fault`` is one of ``BY_HAND`` where only a person can take it out."""
    assert name not in SCENARIOS, name

    def mended() -> Setup:
        return SCENARIOS[twin].make()

    by_hand = dict.fromkeys(BY_HAND[fault] if fault else (), mended)
    SCENARIOS[name] = Scenario(name, make, part, kind=kind, twin=twin, onset=onset, by_hand=by_hand)


# -- optimizers: model to optimizer


def adam(lr: float = 1e-3, **options):
    return lambda model: Adam(_trained(model), lr=lr, **options)


def sgd(lr: float, momentum: float = 0.0, **options):
    return lambda model: SGD(_trained(model), lr=lr, momentum=momentum, **options)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


# -- schedules: step to a factor of the learning rate


def cosine(steps: int) -> Callable[[int], float]:
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))


def linear(steps: int, until: float = 0.0) -> Callable[[int], float]:
    return lambda step: max(1 - (step - 1) / steps, until)


def warmup(steps: int) -> Callable[[int], float]:
    return lambda step: min((step - 1) / steps, 1.0)


# -- what happens on the way


def once(at: int, action: Callable[[Setup], None]) -> Callable[[int, Setup], None]:
    return lambda step, setup: action(setup) if step == at else None


def between(first: int, last: int, factor: float) -> Callable[[int], float]:
    return lambda step: factor if first <= step <= last else 1.0


def torso(kind: type[nn.Module], inputs: int, outputs: int, width: int, depth: int, **options) -> nn.Module:
    body = kind(inputs, width, depth, **options)
    return nn.Sequential(body, nn.Linear(body.out_features, outputs))
