"""Before a change is made: a short paired trial of what was prescribed.

:func:`verify` lets the network and a changed copy of it learn the synthetic task of the pre-flight side by side, on the
same rows, labels and batches, for a few seeds. Seeds change what is learned and what the changed network draws anew;
the weights that both begin with are those of the network. :func:`verify_training` does it with anybody's training.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.diagnostics.interventions import INTERVENTIONS, CannotApply, Intervention
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.diagnostics.relearning import (
    Contestant,
    OptimizerFactory,
    check_model,
    copy_of,
    default_optimizer,
    late,
    learn,
    make_task,
    optimizer_of,
    own_randomness,
    plan,
    rehearse,
)
from stablegrad.errors import StablegradError, UsageError
from stablegrad.hardware import denormals_flushed
from stablegrad.optimizers import Kron

CONFIDENCE = 0.95
PHASES = 5
#: With three pairs a 95% interval is 4.3 standard errors to each side, and effects of 40 points stay in doubt.
SEEDS = 5
#: Prescriptions that are tried.
TOP = 3
UNCHANGED = "unchanged"
#: Kron's rate here, over the one that follows from Adam's: on reshuffled labels it needs a third (docs/benchmarks.md,
#: "Kron's learning rate"; the paper's ratio).
KRON_RATE = 1 / 3


@dataclass(frozen=True)
class Trial:
    """What a trial of one change showed.

    Attributes:
        name: the intervention's name.
        title: the change in a few words.
        decision: "go": the interval of the effect lies above 0; "no-go": it does not; "not tried".
        reason: why, in words.
        effect: ``score`` with the change minus without it, mean over seeds; None where it was not tried.
        low: lower end of the effect's paired Student-t 95% interval over seeds.
        high: upper end.
        step_time: median time of a training step over that without the change, the two taken in turns.
        memory: bytes of weights, gradients and optimizer state over those without it.
        seeds: pairs.
        score: what the effect is one on, such as "the return".
    """

    name: str
    title: str
    decision: str
    reason: str
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    step_time: float | None = None
    memory: float | None = None
    seeds: int = 0
    score: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@denormals_flushed()
def verify(
    model: nn.Module,
    sample_input: Tensor,
    prescriptions: Sequence[Prescription],
    *,
    seeds: int = SEEDS,
    top: int = TOP,
    optimizer: OptimizerFactory | None = None,
    seconds: float = 180.0,
    phases: int = PHASES,
    seed: int = 0,
    on_progress: Callable[[int, float], None] | None = None,
) -> list[Trial]:
    """Try prescriptions on copies of a network; the network and all random numbers of the program stay as they are.

    Args:
        model: the network.
        sample_input: as of :func:`stablegrad.diagnostics.preflight.diagnose`.
        prescriptions: what to try, the most promising first.
        seeds: pairs, at least 2.
        top: how many of the prescriptions that can be applied by themselves are tried.
        optimizer: as of ``diagnose``.
        seconds: time it may take, about.
        phases: how often labels are reshuffled, and once.
        seed: the first seed.
        on_progress: called after every pair with the number of pairs done and the seconds that they took.

    Returns:
        one trial a prescription, in their order, up to the last one that was tried. The score is the mean accuracy over
        the steps of the later half of the phases.

    Raises:
        UsageError: as of ``diagnose``, fewer than 2 seeds, or too little time for a network as slow as this one.
        StablegradError: time was up before two pairs were done.
    """
    if seeds < 2:
        raise UsageError(f"a trial needs at least 2 seeds, as one says nothing about chance; got {seeds}")
    if top < 1 or not 0 < seconds < math.inf or phases < 2:
        raise UsageError(f"top must be at least 1, phases 2, seconds above 0; got {top}, {phases}, {seconds}")
    check_model(model, sample_input)
    _check_prescriptions(prescriptions)
    factory = optimizer or default_optimizer(sample_input)
    started = time.perf_counter()
    with own_randomness(sample_input.device, seed), torch.enable_grad():
        refused: dict[str, str] = {}
        makers: dict[str, Callable[[], Contestant]] = {UNCHANGED: lambda: _contestant(model, factory, None)}
        for prescription in prescriptions:
            if len(makers) > top:
                break
            try:
                makers[prescription.name] = _maker(
                    model, factory, INTERVENTIONS[prescription.name], prescription.factor
                )
            except CannotApply as error:
                refused[prescription.name] = str(error)
        listed = [one for one in prescriptions if one.name in makers or one.name in refused]
        if len(makers) == 1:
            return [Trial(one.name, one.title, "not tried", refused[one.name]) for one in listed]
        task = make_task(copy_of(model).train(), sample_input, seed=seed)
        step_seconds = sum(rehearse(task, make) for make in makers.values())
        planned = plan(step_seconds, seconds, phases, spent=time.perf_counter() - started, runs=seeds)
        pairs: list[Mapping[str, Contestant]] = []
        first = time.perf_counter()
        for number in range(seed, seed + seeds):
            torch.manual_seed(number)
            task = make_task(copy_of(model).train(), sample_input, seed=number, phases=planned[0], steps=planned[1])
            contestants = {name: make() for name, make in makers.items()}
            if not learn(task, contestants, deadline=started + 1.5 * seconds):
                break
            pairs.append(contestants)
            if on_progress is not None:
                on_progress(len(pairs), time.perf_counter() - first)
    if len(pairs) < 2:
        raise StablegradError(
            f"time was up after {len(pairs)} of {seeds} seeds; give the trial more than {seconds:.0f} seconds"
        )
    return [
        Trial(one.name, one.title, "not tried", refused[one.name])
        if one.name in refused
        else _outcome(one, [pair[UNCHANGED] for pair in pairs], [pair[one.name] for pair in pairs])
        for one in listed
    ]


Change = Callable[[nn.Module, Optimizer], Optimizer]


@denormals_flushed()
def verify_training(
    train: Callable[[Change, int], float],
    prescriptions: Sequence[Prescription],
    *,
    seeds: Sequence[int] = range(SEEDS),
    top: int = TOP,
) -> list[Trial]:
    """Try prescriptions in a training of one's own, each on the same seeds as the training as it is.

    ::

        def train(change, seed):
            torch.manual_seed(seed)
            model = make_model()
            optimizer = change(model, torch.optim.Adam(model.parameters(), lr=3e-4))
            ...  # the loop, as short as shows what is wrong
            return mean_return

        for trial in verify_training(train, monitor.report().prescriptions):
            print(trial.title, trial.decision, trial.reason)

    Args:
        train: trains once and returns a score, the higher the better; it calls ``change(model, optimizer)`` before the
            first step, and goes on with the optimizer that this returns.
        prescriptions: what to try, the most promising first.
        seeds: at least 2.
        top: how many of the prescriptions that can be applied by themselves are tried.

    Returns:
        one trial a prescription, in their order, up to the last one that was tried. A training whose score is no number
        counts as the worst score of all; where none without a change has one, a change is a go if all with it have.

    Raises:
        UsageError: fewer than 2 seeds.
        StablegradError: ``train`` did not make the change, or no training as it is nor changed has a score.
    """
    if len(set(seeds)) < 2:
        raise UsageError(f"a trial needs at least 2 seeds, as one says nothing about chance; got {list(seeds)}")
    _check_prescriptions(prescriptions)
    if not callable(train):
        raise UsageError(f"train must be a function of (change, seed) that returns a score, got {type(train).__name__}")
    scores: dict[str, list[float]] = {UNCHANGED: [_trained(train, _unchanged, seed) for seed in seeds]}
    refused: dict[str, str] = {}
    for one in prescriptions:
        if len(scores) > top:
            break
        intervention = INTERVENTIONS[one.name]
        try:
            if intervention.again:
                raise CannotApply(f"{one.name} is made again and again during a training, not once before it")
            scores[one.name] = [_trained(train, _changing(intervention, one.factor), seed) for seed in seeds]
        except CannotApply as error:
            refused[one.name] = str(error)
    numbers = [score for all_of in scores.values() for score in all_of if math.isfinite(score)]
    if not numbers:
        raise StablegradError("no training of the trial returned a score that is a number")
    worst = min(numbers)
    ended = {name: sum(map(math.isfinite, all_of)) for name, all_of in scores.items()}
    trials = []
    for one in prescriptions:
        if one.name in refused:
            trials.append(Trial(one.name, one.title, "not tried", refused[one.name]))
        elif one.name in scores and ended[UNCHANGED] == 0:
            reason = f"no training without it returned a number, {ended[one.name]} of {len(seeds)} with it"
            decision = "go" if ended[one.name] == len(seeds) else "no-go"
            trials.append(Trial(one.name, one.title, decision, reason, seeds=len(seeds), score="the score"))
        elif one.name in scores:
            without, with_it = (
                [score if math.isfinite(score) else worst for score in scores[name]] for name in (UNCHANGED, one.name)
            )
            trials.append(_decided(one, without, with_it, "the score", "{:.4g}"))
    return trials


def _check_prescriptions(prescriptions: object) -> None:
    if not isinstance(prescriptions, Sequence) or not all(isinstance(one, Prescription) for one in prescriptions):
        raise UsageError("prescriptions must be those of a report: report.prescriptions, or some of them")


def _trained(train: Callable[[Change, int], float], change: Change, seed: int) -> float:
    made = False

    def once(model: nn.Module, optimizer: Optimizer) -> Optimizer:
        nonlocal made
        made = True
        return change(model, optimizer)

    score = train(once, seed)
    if not made:
        raise StablegradError("train did not call change(model, optimizer): call it once, before the first step")
    return float(score)


def _unchanged(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    return optimizer


def _changing(intervention: Intervention, factor: float | None) -> Change:
    return lambda model, optimizer: intervention.apply(model, optimizer, factor)


def _decided(
    prescription: Prescription, without: Sequence[float], with_it: Sequence[float], score: str, shown: str
) -> Trial:
    """The trial of a change from the scores of its pairs."""
    # Scores that are equal but for rounding are equal.
    pairs = zip(without, with_it, strict=True)
    effect, low, high = paired_interval([0.0 if math.isclose(a, b, rel_tol=1e-9) else b - a for a, b in pairs])
    before, after = (shown.format(statistics.fmean(values)) for values in (without, with_it))
    decision, verdict = decide(low, high)
    return Trial(
        prescription.name,
        prescription.title,
        decision,
        f"{verdict}: {score} {before} without, {after} with it, {len(without)} pairs",
        effect,
        low,
        high,
        seeds=len(without),
        score=score,
    )


def decide(low: float, high: float) -> tuple[str, str]:
    """("go" or "no-go", why in words), from the interval of an effect."""
    if low > 0:
        return "go", "better"
    return "no-go", "worse" if high < 0 else "no difference that is told from chance"


def paired_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(mean, low, high): Student's t interval of the mean of paired differences, at least two."""
    values = np.asarray(differences, dtype=np.float64)
    half = stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean() - half), float(values.mean() + half)


def training_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    """Bytes of weights, gradients and whatever tensors the optimizer holds, every storage once."""
    waiting: list[Any] = [optimizer, *(one for p in model.parameters() for one in (p, p.grad))]
    storages: dict[int, int] = {}
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if value is None or id(value) in seen or isinstance(value, str | bytes | int | float | type) or callable(value):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value
        elif hasattr(value, "__dict__"):
            waiting += vars(value).values()
    return sum(storages.values())


def _maker(
    model: nn.Module, factory: OptimizerFactory, intervention: Intervention, factor: float | None
) -> Callable[[], Contestant]:
    """A function that makes the changed network; raises CannotApply where that cannot be done."""

    def make() -> Contestant:
        return _contestant(model, factory, intervention, factor)

    if intervention.change is None or not intervention.again:
        make()
    return make


def _contestant(
    model: nn.Module, factory: OptimizerFactory, intervention: Intervention | None, factor: float | None = None
) -> Contestant:
    changed = copy_of(model)
    contestant = Contestant(changed, optimizer_of(changed, factory))
    if intervention is None:
        return contestant
    if intervention.again:
        contestant.before_phase = lambda one: _apply_again(intervention, one)
        return contestant
    # A copy of a compiled network was not compiled yet, so it sees what changes inside.
    inner = getattr(changed, "_orig_mod", changed)
    contestant.optimizer = intervention.apply(inner, contestant.optimizer, factor)
    if isinstance(contestant.optimizer, Kron):
        for group in contestant.optimizer.param_groups:
            group["lr"] *= KRON_RATE
    return contestant


def _apply_again(intervention: Intervention, contestant: Contestant) -> None:
    # There may be nothing to change at the moment, such as no dormant unit.
    with contextlib.suppress(CannotApply):
        contestant.optimizer = intervention.apply(contestant.model, contestant.optimizer)


def _outcome(prescription: Prescription, without: Sequence[Contestant], with_it: Sequence[Contestant]) -> Trial:
    before, after = ([late(one.accuracies) for one in group] for group in (without, with_it))
    return replace(
        _decided(prescription, before, after, "accuracy while it re-learns", "{:.0%}"),
        step_time=statistics.median(b.step_seconds / a.step_seconds for a, b in zip(without, with_it, strict=True)),
        memory=training_bytes(with_it[0].model, with_it[0].optimizer)
        / training_bytes(without[0].model, without[0].optimizer),
    )
