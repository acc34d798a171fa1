"""Before a training run: will a network of this size keep learning?

A copy of the network is aged on a synthetic task whose labels are reshuffled again and again (``relearning``), beside a
small healthy twin on the same rows, labels and batches, with the monitor attached. A network that re-learns fewer and
fewer of the labels, while the twin re-learns them all, will not keep learning when data and targets move. Where the
optimizer is the user's, a second twin with a fast one tells a slow optimizer from a network that is ill. A second copy
learns values from targets of its own on observations that drift (``bootstrapping``), beside a twin with Kron.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stablegrad.diagnostics import bootstrapping
from stablegrad.diagnostics.arguments import thresholds_of
from stablegrad.diagnostics.bootstrapping import Learner, Trajectories, learn_values
from stablegrad.diagnostics.interventions import fitting
from stablegrad.diagnostics.monitor import Monitor
from stablegrad.diagnostics.relearning import (
    FEWEST_PHASES,
    PHASES,
    STEPS,
    Contestant,
    OptimizerFactory,
    Task,
    above_chance,
    check_model,
    copy_of,
    default_optimizer,
    is_small,
    late,
    learn,
    make_task,
    optimizer_of,
    own_randomness,
    plain_logits,
    plan,
    reference_optimizer,
    rehearse,
    trained_parameters,
)
from stablegrad.diagnostics.report import Report
from stablegrad.diagnostics.rules import LEVELS, Finding, Thresholds
from stablegrad.diagnostics.twin import healthy_twin
from stablegrad.errors import StablegradError, UsageError
from stablegrad.optimizers import Kron

#: Looks of the monitor in a phase.
LOOKS = 6
#: Rules that see what is broken, whether or not the rest of the network makes up for it.
BROKEN = ("nonfinite", "no_gradient", "no_update")
#: Rules that see gradients get lost or out of hand on their way.
GRADIENT_FLOW = ("vanishing_gradient", "fading_gradient", "exploding_gradient")
#: Accuracy from which on labels count as learned by heart.
LEARNED = 0.9
#: A twin that learns less than this itself, above chance, is no measure of anything.
TWIN_LEARNS = 0.3
#: Of the time, what learning labels may take; the rest is for values.
LABELS_SHARE = 0.4
#: Kron's rate for the twin that learns values.
VALUES_RATE = 5e-4
#: Share of the values that a twin must explain to be a measure.
VALUES_TWIN_LEARNS = 0.15


@dataclass(frozen=True)
class PreflightThresholds(Thresholds):
    """What the rules and the pre-flight alarm at.

    How fast labels are learned is the mean accuracy over a phase's steps, above chance. A network is judged by the
    later half of its phases, against its twin's and against its own first phase: one that was slow from the start and
    stays as fast as it was is small or slow, not ill; at risk below half of the twin's speed, and collapsed if it
    hardly learns at all.
    """

    relearning: float = 0.75
    """slow_relearning, at risk: part of the twin's speed below which a network is slow."""
    relearning_collapsing: float = 0.5
    """slow_relearning, collapsing: the same."""
    slow_optimizer: float = 0.5
    """slow_optimizer: part of the speed of a twin with Kron that neither network nor twin reach with the optimizer."""
    relearning_collapsed: float = 0.1
    """slow_relearning, collapsed: the same; so slow a network need not have become slower."""
    kept: float = 0.8
    """slow_relearning: part of its own first speed, over the part that the twin kept of its, below which a network has
    become slower."""
    values: float = 0.7
    """unstable_values, at risk: of what the twin with Kron learns of values that bootstrap, the share that the network
    misses; from 1 on it is further off than a constant."""
    values_collapsing: float = 1.0
    """unstable_values, collapsing: the same."""
    values_collapsed: float = 2.0
    """unstable_values, collapsed: the same."""


@dataclass(frozen=True, repr=False)
class PreflightReport(Report):
    """The outcome of a pre-flight.

    Attributes:
        relearning: "network", "twin" and, where the optimizer was given, "reference" (a twin with Kron) ->
            accuracy at the end of each phase, 0 to 1; the twin's is empty without one.
        speed: the same for the mean accuracy over each phase's steps.
        values: "network" and "twin" (with Kron) -> error in values that bootstrap, of each phase, over their variance:
            1 is that of a constant. Empty where they were not tried.
        task: what was learned: rows, classes, phases, steps, optimizer, learning_rate, parameters of the networks.
    """

    relearning: dict[str, list[float]] = field(default_factory=dict)
    speed: dict[str, list[float]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: as of a report, with relearning, speed, values and task."""
        return super().to_dict() | {
            "relearning": self.relearning,
            "speed": self.speed,
            "values": self.values,
            "task": self.task,
        }

    def __str__(self) -> str:
        lines = [super().__str__()]
        if self.relearning.get("network"):
            shown = {name: " ".join(f"{fit:.0%}" for fit in fits) for name, fits in self.relearning.items() if fits}
            lines.append(f"  labels learned by the end of each phase: {shown['network']}")
            if "twin" in shown:
                lines.append(f"                twin of two hidden layers: {shown['twin']}")
        if self.values.get("network"):
            shown = {name: " ".join(f"{error:.2f}" for error in errors) for name, errors in self.values.items()}
            lines.append(f"  error in values that bootstrap, by phase: {shown['network']} (1: that of a constant)")
            lines.append(f"                      small twin with Kron: {shown['twin']}")
        return "\n".join(lines)


def diagnose(
    model: nn.Module,
    sample_input: Tensor | None = None,
    *,
    optimizer: OptimizerFactory | None = None,
    seconds: float = 120.0,
    seed: int = 0,
    phases: int = PHASES,
    compare_twin: bool = True,
    values: bool = True,
    trajectories: Trajectories | None = None,
    thresholds: Thresholds | None = None,
) -> PreflightReport:
    """Say whether a network will keep learning, before it is trained.

    A copy is trained; the network and all random numbers of the program stay as they are.

    Args:
        model: the network, with the weights that training is to begin with.
        sample_input: inputs as it will see them, [rows, ...]; only shape, type, mean and deviation count.
        optimizer: makes the optimizer from the parameters; None: Adam, at a rate that ages a network fast
            (``relearning.default_optimizer``).
        seconds: time it may take, about. A network too slow for the usual number of steps is given fewer.
        seed: of rows, labels, batches and everything else that is drawn.
        phases: how often labels are reshuffled, and once; at least 2.
        compare_twin: train a small healthy network beside it.
        values: have a second copy learn values from targets of its own as well, beside a twin with Kron.
        trajectories: observations for that, such as those of ``environments.random_play``; None: synthetic ones.
        thresholds: what the rules alarm at, a :class:`PreflightThresholds` to set those of re-learning.

    Raises:
        UsageError: the network cannot be diagnosed: no parameters, an input that it refuses, an output that cannot be
            learned from, and the like; or a step takes so long that the time is too short to say anything.
        StablegradError: time was up before there was enough to judge.
    """
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise UsageError(f"seconds must be above 0 and finite, got {seconds!r}")
    if not isinstance(phases, int) or phases < 2:
        raise UsageError(f"phases must be at least 2, as one says nothing about learning anew; got {phases!r}")
    sample_input = check_model(model, sample_input)
    factory = optimizer or default_optimizer(sample_input)
    thresholds = _with_relearning(thresholds_of(thresholds))
    started = time.perf_counter()
    with own_randomness(sample_input.device, seed), torch.enable_grad():
        task = make_task(copy_of(model).train(), sample_input, seed=seed, phases=phases)

        def network() -> Contestant:
            return Contestant(copied := copy_of(model), optimizer_of(copied, factory))

        def twin(made_by: OptimizerFactory) -> Contestant:
            small = _twin(task)
            return Contestant(small, optimizer_of(small, made_by), logits=plain_logits)

        makers = {"network": network}
        if compare_twin:
            makers["twin"] = partial(twin, factory)
            if optimizer is not None:
                makers["reference"] = partial(twin, reference_optimizer(sample_input))
        step_seconds = sum(rehearse(task, make) for make in makers.values())
        spent = time.perf_counter() - started
        try:
            planned = plan(step_seconds, LABELS_SHARE * seconds if values else seconds, phases, spent=spent)
        except UsageError:
            # Labels come first; a network so slow has its values left out.
            planned = plan(step_seconds, seconds, phases, spent=spent)
        if planned != (phases, STEPS):
            task = make_task(copy_of(model).train(), sample_input, seed=seed, phases=planned[0], steps=planned[1])
        torch.manual_seed(seed)
        contestants = {name: make() for name, make in makers.items()}
        watched = contestants["network"]
        fits = fitting((watched.model, watched.optimizer))
        with Monitor(
            watched.model,
            watched.optimizer,
            every=max(task.steps // LOOKS, 2),
            # Few rows have no rank worth the name, and labels that are reshuffled churn by design.
            probe_every=0,
            thresholds=thresholds,
        ) as monitor:
            finished = learn(task, contestants, deadline=started + 1.25 * seconds)
        learners: dict[str, Learner] = {}
        values_notes: list[str] = []
        if values:
            drawn = (model, sample_input, factory, trajectories)
            learners, values_notes = _learn_values(*drawn, seed=seed, deadline=started + seconds)
    if len(watched.fits) < min(phases, FEWEST_PHASES):
        raise StablegradError(
            f"time was up after {len(watched.fits)} of {task.phases} phases, too few to judge; give it more than "
            f"{seconds:.0f} seconds"
        )
    report = monitor.report()
    notes = list(report.notes)
    if planned != (phases, STEPS):
        notes.append(
            f"a step takes {step_seconds * 1e3:.0f} ms: {task.phases} phases of {task.steps} steps instead of {phases} "
            f"of {STEPS}"
        )
    if not finished:
        notes.append(f"time was up after {len(watched.fits)} of {task.phases} phases")
    twins = [contestants[name] for name in ("twin", "reference") if name in contestants]
    findings, more = _judge_relearning(report.findings, watched, twins, task, thresholds)
    findings, unjudged = _judge_values(findings, learners, thresholds)
    notes += [*more, *values_notes, *unjudged]
    if any(finding.rule == "no_gradient" for finding in findings):
        notes.append(
            "gradients are those of what the model returns when it is called: a part that is trained through another "
            "method (such as an actor of Stable-Baselines3's) looks cut off; diagnose that part by itself"
        )
    rates = sorted({float(group["lr"]) for group in watched.optimizer.param_groups})
    return PreflightReport(
        findings,
        report.history,
        notes,
        {"seconds": time.perf_counter() - started},
        thresholds=thresholds,
        relearning={"twin": []} | {name: list(one.fits) for name, one in contestants.items()},
        speed={"twin": []} | {name: list(one.accuracies) for name, one in contestants.items()},
        values={name: list(one.errors) for name, one in learners.items()},
        task={
            "rows": len(task.inputs),
            "classes": task.classes,
            "phases": task.phases,
            "steps": task.steps,
            "optimizer": type(watched.optimizer).__name__,
            "learning_rate": rates[0] if len(rates) == 1 else rates,
            "parameters": {name: _count(one.model) for name, one in contestants.items()},
        },
        fitting=fits,
    )


def _learn_values(
    model: nn.Module,
    sample: Tensor,
    factory: OptimizerFactory,
    trajectories: Trajectories | None,
    *,
    seed: int,
    deadline: float,
) -> tuple[dict[str, Learner], list[str]]:
    """What a copy of the network and a twin with Kron make of values, by name; none, and why, where it cannot be."""
    device = sample.device
    try:
        if trajectories is None:
            generator = torch.Generator().manual_seed(seed)
            trajectories = bootstrapping.synthetic_trajectories(sample, bootstrapping.PHASES, generator)
        made_for = (copy_of(model).train(), trajectories)
        make_task = partial(bootstrapping.make_value_task, *made_for, device=device, seed=seed)
        task = make_task(steps=bootstrapping.STEPS)
    except UsageError as error:
        return {}, [f"values that bootstrap were not tried: {error}"]
    deviation, mean = torch.std_mean(task.inputs[0].float(), dim=0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)

    def make() -> dict[str, Learner]:
        torch.manual_seed(seed)
        twin = healthy_twin(task.inputs.shape[2:], task.values.shape[-1], mean=mean, deviation=deviation).to(device)
        return {
            "network": Learner(copied := copy_of(model), optimizer_of(copied, factory)),
            "twin": Learner(twin, Kron(twin.parameters(), lr=VALUES_RATE), outputs=plain_logits),
        }

    takes = bootstrapping.step_seconds(task, make())
    left = max(deadline - time.perf_counter(), 0.0)
    steps = int(left / max(takes, 1e-9) / task.phases)
    if steps < bootstrapping.FEWEST_STEPS:
        lacking = math.ceil(bootstrapping.FEWEST_STEPS * task.phases * takes - left)
        return {}, [f"values that bootstrap were not tried; give it {lacking} seconds more"]
    if steps < task.steps:
        task = make_task(steps=steps)
    learners = make()
    learn_values(task, learners, deadline=deadline + 0.25 * steps * task.phases * takes)
    if not learners["network"].errors:
        return {}, ["values that bootstrap were not tried: time was up before the first phase ended"]
    return learners, []


def _judge_values(
    findings: list[Finding], learners: dict[str, Learner], thresholds: PreflightThresholds
) -> tuple[list[Finding], list[str]]:
    """All findings, with the one that a network's values go astray where a small one's do not; and notes.

    On trainings of agents values tell better than labels how they end (docs/benchmarks.md, "What the pre-flight
    foresees"): a network that learns them is not blamed for learning labels slowly.
    """
    if not learners:
        return findings, []
    own, small = (1.0 - late(learners[name].errors) for name in ("network", "twin"))
    if small < VALUES_TWIN_LEARNS:
        return findings, [
            f"values that bootstrap were not judged, as the twin explains only {max(small, 0):.0%} of them"
        ]
    missed = (small - own) / small
    limits = {
        "collapsed": thresholds.values_collapsed,
        "collapsing": thresholds.values_collapsing,
        "at risk": thresholds.values,
    }
    level = next((level for level, limit in limits.items() if missed > limit), None)
    if level is None:
        slow = [finding for finding in findings if finding.rule == "slow_relearning"]
        kept = [finding for finding in findings if finding.rule != "slow_relearning"]
        return kept, [f"it learns values that bootstrap; without harm to them: {finding.reason}" for finding in slow]
    sizes = [trained_parameters(learners[name].model) for name in ("network", "twin")]
    if sizes[0] < sizes[1]:
        return findings, [f"values that bootstrap were not judged, as the twin is larger: {sizes[1]:,} parameters"]
    shown = f"explains {own:.0%} of" if own >= 0 else f"is {1 - own:.2g} times as far off as a constant in"
    reason = (
        f"from its own targets, on observations that drift, it {shown} the values that it should learn; a small twin "
        f"explains {small:.0%}"
    )
    astray = Finding("unstable_values", level, "network", 1, missed, limits[level], reason)
    return _worst_first([*findings, astray]), []


def _with_relearning(thresholds: Thresholds) -> PreflightThresholds:
    return thresholds if isinstance(thresholds, PreflightThresholds) else PreflightThresholds(**vars(thresholds))


def _twin(task: Task) -> nn.Module:
    """The small network for a task, on its device."""
    inputs = task.inputs.float()
    deviation = inputs.std(dim=0)
    twin = healthy_twin(
        inputs.shape[1:], task.classes, mean=inputs.mean(dim=0), deviation=torch.where(deviation > 0, deviation, 1.0)
    )
    return twin.to(inputs.device)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _judge_relearning(
    findings: list[Finding], network: Contestant, twins: list[Contestant], task: Task, thresholds: PreflightThresholds
) -> tuple[list[Finding], list[str]]:
    """The monitor's findings together with what learning anew shows, and notes.

    Args:
        findings: the monitor's.
        network: what is judged.
        twins: none; the twin with the same optimizer; and the one with a fast optimizer, where the first is the user's.
        task: what they learned.
        thresholds: of the rules.
    """
    speed = [above_chance(accuracy, task.classes) for accuracy in network.accuracies]
    # Without a twin a network is held against its own first phase.
    small, other, larger = [speed[0]] * len(speed), "its own first phase", False
    if twins:
        larger = _count(twins[0].model) > trained_parameters(network.model)
        other = "a twin of two hidden layers" if larger else "a small twin"
        small, fast = ([above_chance(one, task.classes) for one in twin.accuracies] for twin in (twins[0], twins[-1]))
        if late(fast) >= TWIN_LEARNS and max(late(speed), late(small)) < thresholds.slow_optimizer * late(fast):
            return _with_slow_optimizer(findings, late(speed) / late(fast), network, twins, thresholds), []
        if late(small) < TWIN_LEARNS:
            return findings, [
                f"the twin itself re-learned only {late(twins[0].fits):.0%} of the labels: with these inputs and "
                "this optimizer the task is no measure of learning anew"
            ]
    elif speed[0] == 0:
        return findings, ["it did not learn the first labels either; compare it with a twin to judge that"]
    beside = late(speed) / late(small)
    kept = beside * small[0] / speed[0] if speed[0] > 0 else 0.0
    limits = {
        "collapsed": thresholds.relearning_collapsed,
        "collapsing": thresholds.relearning_collapsing,
        "at risk": thresholds.relearning,
    }
    level = next((level for level, limit in limits.items() if beside < limit), None)
    if level is None:
        return _without_harm(findings, f"learns anew at {beside:.0%} of the speed of {other}")
    if larger and is_small(network.model, task.inputs) and network.fits[0] < LEARNED:
        return findings, [
            f"it learned {network.fits[0]:.0%} of the first labels: with {trained_parameters(network.model):,} trained "
            f"parameters it is too small to learn {len(task.inputs)} rows by heart, so learning anew was not judged"
        ]
    if kept >= thresholds.kept and level != "collapsed":
        steady = f"learns at {beside:.0%} of the speed of {other}, and keeps that speed"
        if level == "at risk":
            return _without_harm(findings, steady)
        slow = Finding("slow_relearning", "at risk", "network", 1, beside, limits[level], f"it {steady}")
        return _worst_first([*findings, slow]), []
    below = [own < thresholds.relearning * other for own, other in zip(speed, small, strict=True)]
    phase = next((number for number in range(len(below)) if all(below[number:])), len(below) // 2)
    compared = f"; {other} re-learns {late(twins[0].fits):.0%}" if twins else ""
    reason = (
        f"after its labels are reshuffled it re-learns {late(network.fits):.0%} of them{compared}; it learned "
        f"{network.fits[0]:.0%} of the first labels, and has kept {min(kept, 1):.0%} of its speed"
    )
    slow = Finding("slow_relearning", level, "network", phase * task.steps + 1, beside, limits[level], reason)
    return _worst_first([*findings, slow]), []


def _with_slow_optimizer(
    findings: list[Finding],
    beside: float,
    network: Contestant,
    twins: list[Contestant],
    thresholds: PreflightThresholds,
) -> list[Finding]:
    """The findings that count, with the one that says that not the network is slow, but its optimizer."""
    fast = twins[-1].optimizer
    reason = (
        f"with this optimizer and rate neither the network ({late(network.fits):.0%} of the labels re-learned) nor a "
        f"twin of two hidden layers ({late(twins[0].fits):.0%}) learns anew in time; the twin does "
        f"({late(twins[-1].fits):.0%}) with "
        f"{type(fast).__name__} at {float(fast.param_groups[0]['lr']):g}"
    )
    slow = Finding("slow_optimizer", "at risk", "network", 1, beside, thresholds.slow_optimizer, reason)
    return _worst_first([*findings, slow])


def _worst_first(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def _without_harm(findings: list[Finding], shown: str) -> tuple[list[Finding], list[str]]:
    """The findings that count for a network that has shown that it learns, and notes on the others.

    The task ages a network harder than training does, and few rows leave many units idle: symptoms without harm are
    notes. What is broken stays as it is; gradients that get lost, which tell of worse to come, are one level less.
    """
    left: list[Finding] = []
    notes = [f"it {shown}"] if findings else []
    for finding in findings:
        level = LEVELS[LEVELS.index(finding.level) - (finding.rule in GRADIENT_FLOW)]
        if finding.rule in BROKEN + GRADIENT_FLOW and level != LEVELS[0]:
            left.append(replace(finding, level=level))
        else:
            notes.append(f"without harm here: {finding.reason}")
    return left, notes
