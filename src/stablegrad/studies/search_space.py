"""What a search may change, in which order, where it starts, and how a setting is said on the command line.

All of it follows from the baseline's configuration and a diagnosis. A *point* holds a value for every dimension; the
configuration that it gives never has more parameters than the baseline.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from stablegrad.agents.presets import PRESETS, apply_changes
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.settings import RATE
from stablegrad.errors import UsageError
from stablegrad.networks import parameter_count
from stablegrad.networks.sizes import resolve_depth, resolve_width
from stablegrad.optimizers.catalogue import default_learning_rate
from stablegrad.options import flatten, option_words
from stablegrad.studies.kinds import UNPREFIXED
from stablegrad.training.config import RunConfig, default_run

Point = dict[str, Any]

#: The learning rate over the baseline's (``RATE``), at the same ratio between optimizers (docs/optimizers.md).
RATES = (0.1, 10.0)
KIND, SKIPS, VARIANCE = "torso.kind", "torso.skip_blocks", "torso.variance_preserving"
CLIP, ENCODER_NORM, OPTIMIZER = "max_grad_norm", "encoder.norm", "optimizer.name"
NORM, ACTIVATION = "torso.norm", "torso.activation"
SKIPPING = ("residual", "multi_skip")

#: All dimensions, in the order of a diagnosis that says nothing: the paper's two interventions first. What depends on
#: the torso's kind stands behind it.
DIMENSIONS = (KIND, OPTIMIZER, RATE, NORM, ACTIVATION, VARIANCE, SKIPS, CLIP, ENCODER_NORM)
#: Those that prescriptions change; the others depend on the torso's kind.
ANSWERED = tuple(name for name in DIMENSIONS if name not in (VARIANCE, SKIPS))

#: Dimensions that the first sampled trial varies; every ``TRIALS_A_DIMENSION`` further trials one more is opened. So a
#: search of few trials looks where the diagnosis points, and one of many looks everywhere.
FIRST_OPEN = 3
TRIALS_A_DIMENSION = 3

#: Prescriptions that are joined into one starting point.
JOINED = 3


class Suggester(Protocol):
    """Chooses values; an ``optuna.Trial`` is one."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of ``choices``."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number from ``low`` to ``high``."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""


class Space:
    """The settings around one baseline.

    Args:
        base: the baseline; its network is the budget.

    Attributes:
        base: the baseline.
        budget: parameters of its network, which no setting exceeds.
        choices: values by dimension, the baseline's first; a learning rate's factor has none, as it is a number.
    """

    def __init__(self, base: RunConfig):
        self.base = base
        self.spec = base.spec
        self.budget = self.parameters(base)
        agent, depth = base.agent, resolve_depth(base.agent.torso.depth)
        self._options = flatten(dataclasses.asdict(agent))
        other_norm = "none" if self._encoder_norm(agent.encoder.norm) == "layer" else "layer"
        clip = INTERVENTIONS["clip_gradients"].changes(self._options)
        values: dict[str, tuple[Any, ...]] = {
            KIND: (agent.torso.kind, "multi_skip", "residual", "mlp"),
            OPTIMIZER: (agent.optimizer.name, "kron", "radam", "adam"),
            NORM: (agent.torso.norm, "layer", "none"),
            ACTIVATION: (agent.torso.activation, "relu", "gelu", "leaky_relu"),
            VARIANCE: (agent.torso.variance_preserving, False, True),
            SKIPS: (depth if agent.torso.skip_blocks is None else agent.torso.skip_blocks, *range(depth, 0, -1)),
            CLIP: (agent.max_grad_norm, clip[CLIP]),
            ENCODER_NORM: (agent.encoder.norm, other_norm),
        }
        self.choices = {name: tuple(dict.fromkeys(value)) for name, value in values.items()}

    def parameters(self, config: RunConfig) -> int:
        """Parameters of a configuration's network, which is not allocated."""
        return parameter_count(lambda: nn.ModuleDict(config.build_networks()))

    @property
    def base_point(self) -> Point:
        """The baseline."""
        return {name: 1.0 if name == RATE else self.choices[name][0] for name in DIMENSIONS}

    def config(self, point: Mapping[str, Any]) -> RunConfig:
        """The configuration of a point; dimensions that it leaves out are as in the baseline.

        A setting that would have more parameters than the baseline gets the widest torso with which it has not.
        """
        values = {**self.base_point, **point}
        kind = values[KIND]
        all_blocks = resolve_depth(self.base.agent.torso.depth)
        skips = values[SKIPS] if kind == "multi_skip" and values[SKIPS] < all_blocks else None
        changes = {name: value for name, value in values.items() if name not in (RATE, SKIPS, VARIANCE)}
        changes |= {SKIPS: skips, VARIANCE: bool(values[VARIANCE]) and kind in SKIPPING}
        optimizer, rate = self.base.agent.optimizer, values[RATE]
        if rate != 1.0 or (optimizer.learning_rate is not None and values[OPTIMIZER] != optimizer.name):
            # A rate that was given for one optimizer is said as Adam's, from which that of every other follows.
            adam_rate = optimizer.initial_learning_rate / default_learning_rate(optimizer.name, 1.0)
            changes["optimizer.learning_rate"] = None
            changes["optimizer.adam_learning_rate"] = adam_rate if rate == 1.0 else float(f"{adam_rate * rate:.3g}")
        return self._within_budget(dataclasses.replace(self.base, agent=apply_changes(self.base.agent, changes)))

    def suggest(self, trial: Suggester) -> Point:
        """Let a trial choose every dimension that means something with what it chose before."""
        point: Point = {}
        for name in DIMENSIONS:
            if (name == VARIANCE and point[KIND] not in SKIPPING) or (name == SKIPS and point[KIND] != "multi_skip"):
                continue
            if name == RATE:
                point[name] = trial.suggest_float(name, *RATES, log=True)
            elif name == SKIPS:
                if len(self.choices[SKIPS]) > 1:
                    point[name] = trial.suggest_int(name, min(self.choices[SKIPS]), max(self.choices[SKIPS]))
            else:
                point[name] = trial.suggest_categorical(name, self.choices[name])
        return point

    def starting_points(self, prescriptions: Sequence[Prescription]) -> dict[str, Point]:
        """Where a search starts, by name: the baseline, each prescription, those joined, the stable preset.

        What says the same run as one before it is left out, as is what a search cannot change (``unsearched``).
        """
        answers = self.answers(prescriptions)
        joined: Point = {}
        for answer in list(answers.values())[:JOINED]:
            joined = {**answer, **joined}  # the first wins where two contradict each other
        named: dict[str, Point] = {
            "baseline": {},
            **answers,
            "prescriptions joined": joined,
            "stable": self._with_meant_norm(PRESETS["stable"]),
        }
        points: dict[str, Point] = {}
        found: set[str] = set()
        for name, point in named.items():
            identity = agent_identity(self.config(point))
            if identity not in found:
                found.add(identity)
                points[name] = {**self.base_point, **point}
        return points

    def answers(self, prescriptions: Sequence[Prescription]) -> dict[str, Point]:
        """The prescriptions that a search can try, as changes of the baseline."""
        return {one.name: answer for one in prescriptions if (answer := self._answer(one))}

    def trial(self, name: str, factor: float | None = None) -> RunConfig:
        """The baseline with all that an intervention changes, which may make it smaller.

        Args:
            name: the intervention's.
            factor: of the learning rate, without the bounds of a search.
        """
        changes = self._changes(name, factor)
        config = self.config({name: value for name, value in changes.items() if name in ANSWERED})
        others = {name: value for name, value in changes.items() if name not in ANSWERED}
        return dataclasses.replace(config, agent=apply_changes(config.agent, others))

    def order(self, prescriptions: Sequence[Prescription]) -> tuple[str, ...]:
        """The dimensions in the order in which a search opens them: what is prescribed first."""
        prescribed = [name for one in prescriptions for name in self._answer(one)]
        return tuple(dict.fromkeys((*prescribed, *DIMENSIONS)))

    def unsearched(self, prescriptions: Sequence[Prescription]) -> list[str]:
        """Names of prescriptions that a search cannot try: no options of the agent, as it has them, or its size."""
        answers = self.answers(prescriptions)
        return [one.name for one in prescriptions if one.name not in answers]

    def pinned(self, order: Sequence[str], sampled: int) -> Point:
        """What a sampled trial leaves as it is in the baseline: all but the first dimensions of ``order``.

        Args:
            order: from :meth:`order`.
            sampled: how many trials have been sampled before it.
        """
        opened = order[: FIRST_OPEN + sampled // TRIALS_A_DIMENSION]
        return {name: value for name, value in self.base_point.items() if name not in opened}

    def _answer(self, prescription: Prescription) -> Point:
        """The prescription as a change of the baseline; empty where it is none that a search can try."""
        low, high = RATES
        changes = self._changes(prescription.name, prescription.factor)
        point = {name: value for name, value in changes.items() if name in ANSWERED}
        return {name: min(max(value, low), high) if name == RATE else value for name, value in point.items()}

    def _changes(self, name: str, factor: float | None) -> dict[str, Any]:
        """What an intervention changes in the baseline's agent, by option."""
        return self._with_meant_norm(INTERVENTIONS[name].changes(self._options, factor))

    def _with_meant_norm(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes with the encoder's norm as it is meant by "auto", or without it where the baseline has it."""
        meant = {name: self._encoder_norm(value) if name == ENCODER_NORM else value for name, value in changes.items()}
        if meant.get(ENCODER_NORM) == self._encoder_norm(self.base.agent.encoder.norm):
            del meant[ENCODER_NORM]
        return meant

    def _encoder_norm(self, norm: str) -> str:
        """What "auto" is for this encoder."""
        kind = self.base.agent.encoder.kind
        is_image = self.spec.is_image if kind == "auto" else kind != "vector"
        return norm if norm != "auto" else "layer" if is_image else "none"

    def _within_budget(self, config: RunConfig) -> RunConfig:
        if self.parameters(config) <= self.budget:
            return config

        def narrowed(width: int) -> RunConfig:
            torso = dataclasses.replace(config.agent.torso, width=width)
            return dataclasses.replace(config, agent=dataclasses.replace(config.agent, torso=torso))

        fits, too_wide = 0, resolve_width(config.agent.torso.width)
        while too_wide - fits > 1:
            middle = (fits + too_wide) // 2
            if self.parameters(narrowed(middle)) <= self.budget:
                fits = middle
            else:
                too_wide = middle
        if not fits:
            raise UsageError(f"no width of a {config.agent.torso.kind} torso has at most {self.budget:,} parameters")
        return narrowed(fits)


def agent_identity(config: RunConfig) -> str:
    """The same for two configurations that train the same agent."""
    return json.dumps(dataclasses.asdict(config.agent), sort_keys=True)


def changes_of(base: RunConfig, config: RunConfig) -> dict[str, Any]:
    """What differs between two agents, by the options' names."""
    before, after = (flatten(dataclasses.asdict(one.agent)) for one in (base, config))
    return {name: value for name, value in after.items() if value != before[name]}


def fresh_seeds(used: Sequence[int], count: int) -> tuple[int, ...]:
    """``count`` seeds above all that were used."""
    return tuple(range(max(used) + 1, max(used) + 1 + count))


def train_command(config: RunConfig) -> str:
    """The command line that trains ``config``: its preset, and every option that differs from what that gives."""
    default = default_run(config.algorithm, config.env, config.preset)
    before, after = (flatten(dataclasses.asdict(one)) for one in (default, config))
    words = ["stablegrad", "train", config.algorithm, "--env", config.env]
    for name, value in after.items():
        if name == "preset" and value != "baseline":
            words += ["--preset", value]
        elif name not in ("env", "algorithm", "preset") and value != before.get(name):
            for prefix in UNPREFIXED:
                name = name.removeprefix(f"{prefix}.")
            words += option_words(name, value)
    return shlex.join(words)


def describe(changes: Mapping[str, Any]) -> str:
    """Changes in one line."""
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "as it is"
