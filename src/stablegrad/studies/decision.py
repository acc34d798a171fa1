"""From evidence to a decision: verdicts, criteria, risks and the next step, as numbers and names without words.

Pure: nothing is read, nothing is worded. What a verdict is called in a language, and how it is laid out, is
:mod:`~stablegrad.reports.summary_page`'s. Every number carries the cells of runs that it came from.

Three stages lead to adoption, and each is passed or failed by criteria that are numbers from the data:

1. *probe*: a few paired runs: is there any sign, at a bearable price?
2. *trial*: as many paired seeds as the observed scatter asks for: is the difference there?
3. *scale*: bigger networks: does the candidate gain by size, and beat what is in use now, small?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

import numpy as np

from stablegrad.networks.sizes import DEPTHS, resolve_depth
from stablegrad.studies.evidence import Evidence, EvidenceRun
from stablegrad.studies.power import pairs_needed
from stablegrad.studies.recommendation import recommend
from stablegrad.studies.scores import without_rounding
from stablegrad.studies.statistics import paired_difference
from stablegrad.studies.summary import FEW_SEEDS

#: How sure, by the widest Student-t interval of the paired difference that still excludes zero.
CERTAINTIES = {"practically_certain": 0.99, "very_likely": 0.95, "likely": 0.80}
DECISIVE = ("practically_certain", "very_likely")  # what a go needs
CONFIDENCE = CERTAINTIES["very_likely"]

FEWEST_PAIRS = 2  # of a probe: below, nothing is known of the scatter
MOST_SEEDS = 30  # an effect that needs more to be seen is not worth a trial
SAME_TIME = 1.005  # time ratios below are no extra cost
LONGER = 5  # times the steps, where a task is not solved yet
STAGES = ("probe", "trial", "scale")


@dataclass(frozen=True)
class Cell:
    """The runs of one setting at one size: where a number came from."""

    setting: str
    size: int


@dataclass(frozen=True)
class Effect:
    """A paired difference and how sure its sign is.

    Attributes:
        before: where the first score of a pair is from.
        after: where the second is from.
        before_mean: of the pairs; None where there is no pair.
        after_mean: likewise.
        mean: of after minus before.
        interval: at ``CONFIDENCE``; None below two pairs.
        count: pairs.
        won: pairs in which "after" is higher.
        certainty: a key of ``CERTAINTIES``; "equal" where no pair differs; "cannot_tell"; "few" below ``FEW_SEEDS``
            pairs; "none" without a pair.
        seeds_needed: pairs whose interval would exclude zero in 4 of 5 repetitions, were mean and scatter those
            observed; None where that cannot be said, or there is no difference.
    """

    before: Cell
    after: Cell
    before_mean: float | None
    after_mean: float | None
    mean: float | None
    interval: tuple[float, float] | None
    count: int
    won: int
    certainty: str
    seeds_needed: int | None

    @property
    def direction(self) -> int:
        """The sign of the mean; 0 without one."""
        return 0 if not self.mean else 1 if self.mean > 0 else -1

    @property
    def decisive(self) -> int:
        """The sign of the difference if it is sure enough to act on, else 0."""
        return self.direction if self.certainty in DECISIVE else 0

    @property
    def margin(self) -> float | None:
        """Half the interval's width: what the mean must exceed."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


@dataclass(frozen=True)
class Criterion:
    """One condition of a stage.

    Attributes:
        code: "pairs", "improvement" (candidate above baseline), "above_random" (candidate above random play), "growth"
            (candidate, big, above itself, small),
            "beats_small" (candidate, big, above baseline, small), "steady" or "time".
        required: the bound; None where the data give none.
        observed: None where it has not been measured.
        met: None where it cannot be told yet.
        cells: where the numbers came from.
    """

    code: str
    required: float | None
    observed: float | None
    met: bool | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Stage:
    """One stage of the rollout; ``state`` is "passed", "failed", "open" or "later"."""

    name: str
    state: str
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True)
class Risk:
    """One thing that the numbers do not cover; ``values`` are for its words, ``size`` an index into the sizes."""

    code: str
    values: dict[str, float | str]
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one setting's runs take at the largest size: means over finished runs, the largest memory."""

    seconds: float | None
    memory_bytes: int | None
    cell: Cell


@dataclass(frozen=True)
class BreakEven:
    """What the extra time must buy.

    Attributes:
        state: "reached" or "missed" (the measured share of steps is within the bound, or not), "free" (no extra time),
            "never" (the candidate did not get to the baseline's level), "nothing_to_reach" (nor did the baseline),
            "unknown" (no time, or no share of steps, is known).
        time_ratio: time of a step, candidate by baseline, median over pairs.
        allowed_share: the share of the baseline's steps with which the candidate breaks even.
        steps_share: the share that it was measured to need.
        largest_time_ratio: the time ratio up to which the candidate gets to where the baseline's whole run ends in no
            more time than that run; None where the data give none.
    """

    state: str
    time_ratio: float | None
    allowed_share: float | None
    steps_share: float | None
    largest_time_ratio: float | None


@dataclass(frozen=True)
class Decision:
    """All that the page says.

    Attributes:
        answer: see :func:`_answer`.
        advantage: candidate against baseline at the largest size.
        by_size: the same at every size, smallest first.
        growth: setting -> its score at the largest size against the smallest; empty with one size.
        scaling: the candidate at the largest size against the baseline at the smallest; None with one size.
        best_size: of the candidate: the largest, unless another is surely better than it; an index.
        means: (setting, size) -> mean score; None without one.
        costs: of the baseline and the candidate.
        total_seconds: of all runs there are.
        break_even: what the extra time must buy.
        risks: the most serious first.
        stages: probe, trial, scale.
        stage: see :class:`~stablegrad.studies.recommendation.Recommendation`, as for the next three.
        verdict: "go", "go_on", "no_go" or "wait".
        next_step: "finish", "probe", "more_seeds", "bigger", "full_form", "adopt" (the candidate at ``best_size``),
            "longer" (the candidate is the better one, but its task is not solved yet),
            "keep_small" (size does not pay, the candidate does: adopt it small), "settle_small" (so too, but whether
            the candidate pays small takes more seeds), "stay_small" (neither pays: the baseline, small) or "stop" (keep
            the baseline, and look for what is wrong).
        next_seeds: how many seeds that step takes; None where it says nothing of seeds.
        next_seconds: what it takes, all runs one after the other; None where that is not known.
    """

    answer: str
    advantage: Effect
    by_size: tuple[Effect, ...]
    growth: dict[str, Effect]
    scaling: Effect | None
    best_size: int
    means: dict[tuple[str, int], float | None]
    costs: tuple[Cost, Cost]
    total_seconds: float | None
    break_even: BreakEven
    risks: tuple[Risk, ...]
    stages: tuple[Stage, ...]
    stage: str
    verdict: str
    next_step: str
    next_seeds: int | None
    next_seconds: float | None


def decide(evidence: Evidence) -> Decision:
    """Judge the evidence; docs/decide.md has every rule."""
    first, second, last = evidence.baseline, evidence.candidate, len(evidence.sizes) - 1
    by_size = tuple(_effect(evidence, Cell(first, size), Cell(second, size)) for size in range(last + 1))
    advantage = by_size[last]
    growth = {name: _effect(evidence, Cell(name, 0), Cell(name, last)) for name in (first, second)} if last else {}
    scaling = _effect(evidence, Cell(first, 0), Cell(second, last)) if last else None
    break_even = _break_even(evidence, last)
    stages = _stages(evidence, advantage, growth.get(second), scaling, break_even)
    left = [run for run in evidence.runs if run.status == "left"]
    best = _best_size(evidence)
    peak = _effect(evidence, Cell(second, best), Cell(second, last))
    best_size = best if peak.decisive < 0 else last
    advised = recommend(
        stages,
        runs_left=bool(left),
        sizes=len(evidence.sizes),
        can_grow=evidence.kind == "comparison" and deeper(evidence.depth) is not None,
        small_form=evidence.form == "small",
        solved=evidence.references.solved(_mean(evidence.scores(second, best_size))) if evidence.references else None,
        small=by_size[0],
        small_needed=_pairs_required(by_size[0]),
    )
    # What is beyond the stage that is judged waits, whatever it would be judged by.
    reached = STAGES.index(advised.stage)
    stages = tuple(replace(stage, state="later") if place > reached else stage for place, stage in enumerate(stages))
    every_cell = [(run.setting, run.size) for run in evidence.runs]
    return Decision(
        answer=_answer(advantage, list(growth.values()), peak),
        advantage=advantage,
        by_size=by_size,
        growth=growth,
        scaling=scaling,
        best_size=best_size,
        means={cell: _mean(evidence.scores(*cell)) for cell in dict.fromkeys(every_cell)},
        costs=(_cost(evidence, Cell(first, last)), _cost(evidence, Cell(second, last))),
        total_seconds=_total([run.seconds for run in evidence.runs]),
        break_even=break_even,
        risks=_risks(evidence, advantage, growth.get(second), peak),
        stages=stages,
        stage=advised.stage,
        verdict=advised.verdict,
        next_step=advised.next_step,
        next_seeds=advised.next_seeds,
        next_seconds=_next_seconds(evidence, advised.next_step, advised.next_seeds, left),
    )


def certainty(differences: Sequence[float]) -> str:
    """How sure the sign of paired differences is, as :class:`Effect` has it."""
    if not differences:
        return "none"
    if len(differences) < FEW_SEEDS:
        return "few"
    if not any(differences):
        return "equal"
    for name, confidence in CERTAINTIES.items():
        low, high = _interval(differences, confidence) or (0.0, 0.0)
        if low > 0 or high < 0:
            return name
    return "cannot_tell"


def _effect(evidence: Evidence, before: Cell, after: Cell) -> Effect:
    scores = zip(evidence.scores(before.setting, before.size), evidence.scores(after.setting, after.size), strict=True)
    pairs = [(first, second) for first, second in scores if first is not None and second is not None]
    if pairs:
        pairs = np.column_stack(without_rounding(*np.array(pairs, dtype=np.float64).T)).tolist()
    differences = [second - first for first, second in pairs]
    needed = pairs_needed(differences, CONFIDENCE) if len(pairs) >= 2 else None
    return Effect(
        before=before,
        after=after,
        before_mean=_mean([first for first, _ in pairs]),
        after_mean=_mean([second for _, second in pairs]),
        mean=_mean(differences),
        interval=_interval(differences, CONFIDENCE),
        count=len(pairs),
        won=sum(difference > 0 for difference in differences),
        certainty=certainty(differences),
        seeds_needed=None if needed is None else max(needed, FEW_SEEDS),
    )


def _answer(advantage: Effect, growth: Sequence[Effect], peak: Effect) -> str:
    """The headline.

    Without a pair "none", with fewer than ``FEW_SEEDS`` "few". Of one size: "better", "worse", "equal", "leans_better",
    "leans_worse" (likely, not more) or "unclear".

    Of several sizes, where the candidate, big, is surely better than the baseline, big: "pays" (it gains by size),
    "peaks" (it does, but a size in between is surely better than the largest), "falls_too" (it loses by size),
    "rescued" (it does neither for sure, the baseline loses), or "any_size" (neither does). Else "worse", "grows_anyway"
    (the baseline gains by size as it is), "no_effect" or "unclear".
    """
    if advantage.certainty in ("none", "few"):
        return advantage.certainty
    if not growth:
        if advantage.certainty == "equal":
            return "equal"
        word = "better" if advantage.direction > 0 else "worse"
        if advantage.decisive:
            return word
        return f"leans_{word}" if advantage.certainty == "likely" else "unclear"
    baseline, candidate = growth
    if advantage.decisive > 0:
        if candidate.decisive:
            if candidate.decisive > 0:
                return "peaks" if peak.decisive < 0 else "pays"
            return "falls_too"
        return "rescued" if baseline.decisive < 0 else "any_size"
    if advantage.decisive < 0:
        return "worse"
    if baseline.decisive > 0:
        return "grows_anyway"
    return "no_effect" if advantage.certainty == "equal" else "unclear"


def _stages(
    evidence: Evidence, advantage: Effect, growth: Effect | None, scaling: Effect | None, break_even: BreakEven
) -> tuple[Stage, ...]:
    cells = (advantage.before, advantage.after)
    steady = _steady(evidence, advantage)
    time = _time_criterion(break_even, cells)
    improvement = None if advantage.mean is None else advantage.mean > 0
    probe = _stage(
        "probe",
        [
            Criterion("pairs", FEWEST_PAIRS, advantage.count, advantage.count >= FEWEST_PAIRS or None, cells),
            Criterion("improvement", 0.0, advantage.mean, improvement, cells),
            *_above_random(evidence, advantage),
            steady,
        ],
    )
    trial = _stage("trial", [_pairs_criterion([advantage]), _shown("improvement", advantage), steady, time])
    if growth is not None and scaling is not None:
        pairs = _pairs_criterion([growth, scaling])
        scale = _stage("scale", [pairs, _shown("growth", growth), _shown("beats_small", scaling), time])
    else:
        # Not measured yet: a bigger network is to keep at least what the trial promises.
        promised = advantage.interval[0] if advantage.interval and advantage.decisive > 0 else None
        scale = _stage(
            "scale",
            [
                Criterion("pairs", _pairs_required(advantage), None, None, cells),
                Criterion("improvement", promised, None, None, cells),
                Criterion("time", break_even.largest_time_ratio, None, None, cells),
            ],
        )
    if probe.state != "passed":
        trial = Stage("trial", "later", trial.criteria)
    if trial.state != "passed":
        scale = Stage("scale", "later", scale.criteria)
    return probe, trial, scale


def _stage(name: str, criteria: Sequence[Criterion]) -> Stage:
    """Failed where a criterion is. Of price and steadiness it waits for no number that the data do not give."""
    if any(criterion.met is False for criterion in criteria):
        return Stage(name, "failed", tuple(criteria))
    waits = any(criterion.met is None and criterion.code not in ("time", "steady") for criterion in criteria)
    return Stage(name, "open" if waits else "passed", tuple(criteria))


def _pairs_required(effect: Effect) -> int | None:
    """Pairs that settle the matter: few where it is settled or little is known; None where it would take too many."""
    if effect.certainty in DECISIVE or effect.count < FEWEST_PAIRS:
        return FEW_SEEDS
    return effect.seeds_needed if effect.seeds_needed is not None and effect.seeds_needed <= MOST_SEEDS else None


def _pairs_criterion(effects: Sequence[Effect]) -> Criterion:
    count = min(effect.count for effect in effects)
    required = [_pairs_required(effect) for effect in effects]
    known = [needed for needed in required if needed is not None]
    needed = max(known) if len(known) == len(required) else None
    cells = tuple(dict.fromkeys(cell for effect in effects for cell in (effect.before, effect.after)))
    # Where no feasible number would do, there is nothing to wait for once a few are there.
    met = (count >= needed or None) if needed is not None else False if count >= FEW_SEEDS else None
    return Criterion("pairs", needed, count, met, cells)


def _shown(code: str, effect: Effect) -> Criterion:
    """Whether an improvement is there for sure; None while more seeds could show it."""
    needed = _pairs_required(effect)
    if effect.decisive:
        met: bool | None = effect.decisive > 0
    elif effect.count < FEW_SEEDS:
        met = None
    else:
        met = False if needed is None or effect.count >= needed else None
    return Criterion(code, effect.margin, effect.mean, met, (effect.before, effect.after))


def _above_random(evidence: Evidence, advantage: Effect) -> list[Criterion]:
    """The candidate scores more than random play does, where that is known: to do less badly is no reason to go on."""
    random = None if evidence.references is None else evidence.references.random
    if random is None:
        return []
    met = None if advantage.after_mean is None else advantage.after_mean > random
    return [Criterion("above_random", random, advantage.after_mean, met, (advantage.after,))]


def _steady(evidence: Evidence, advantage: Effect) -> Criterion:
    """The candidate loses what it had learned no more often than the baseline does, as a share of its runs."""
    shares = {}
    for cell in (advantage.before, advantage.after):
        judged = [run.lost for run in evidence.of(cell.setting, cell.size) if run.lost is not None]
        shares[cell] = sum(judged) / len(judged) if judged else None
    allowed, observed = shares[advantage.before], shares[advantage.after]
    met = None if allowed is None or observed is None else observed <= allowed
    return Criterion("steady", allowed, observed, met, (advantage.before, advantage.after))


def _time_criterion(break_even: BreakEven, cells: tuple[Cell, ...]) -> Criterion:
    required, observed = break_even.largest_time_ratio, break_even.time_ratio
    met = None if required is None or observed is None else observed <= required
    return Criterion("time", required, observed, met, cells)


def _break_even(evidence: Evidence, size: int) -> BreakEven:
    pairs = {
        (run.task, run.seed): run.seconds_per_step
        for run in evidence.of(evidence.baseline, size)
        if run.seconds_per_step
    }
    ratios = [
        run.seconds_per_step / pairs[run.task, run.seed]
        for run in evidence.of(evidence.candidate, size)
        if run.seconds_per_step and pairs.get((run.task, run.seed))
    ]
    ratio = median(ratios) if ratios else None
    share = evidence.steps_share
    if ratio is None:
        state = "unknown"
    elif evidence.candidate_short:
        state = "never"
    elif evidence.nothing_to_reach:
        state = "nothing_to_reach"
    elif share is not None:
        state = "reached" if share * ratio <= 1 else "missed"
    else:
        state = "free" if ratio <= SAME_TIME else "unknown"
    return BreakEven(
        state=state,
        time_ratio=ratio,
        allowed_share=None if ratio is None else 1 / ratio,
        steps_share=share,
        largest_time_ratio=1 / evidence.whole_run_share if evidence.whole_run_share else None,
    )


def deeper(depth: int | str | None) -> str | None:
    """The next depth that has a name; None beyond the last, or where none is known."""
    if depth is None:
        return None
    return next((name for name, blocks in DEPTHS.items() if blocks > resolve_depth(depth)), None)


def _next_seconds(evidence: Evidence, step: str, seeds: int | None, left: Sequence[EvidenceRun]) -> float | None:
    """Runs to come at the mean time of those of their cell; a bigger network takes at least that of the largest."""
    cells = {(run.setting, run.size, run.task) for run in evidence.runs}
    seconds = {
        cell: _mean(
            [r.seconds for r in evidence.runs if (r.setting, r.size, r.task) == cell and r.status == "finished"]
        )
        for cell in cells
    }
    if step == "finish":
        wanted = [seconds[run.setting, run.size, run.task] for run in left]
    elif step in ("probe", "more_seeds", "settle_small", "bigger") and seeds is not None:
        wanted = [value for value in seconds.values() for _ in range(seeds)]
    elif step == "longer":
        wanted = [
            None if run.seconds is None else LONGER * run.seconds for run in evidence.runs if run.status == "finished"
        ]
    else:
        return None
    return None if any(value is None for value in wanted) else _total(wanted)


def _risks(evidence: Evidence, advantage: Effect, growth: Effect | None, peak: Effect) -> tuple[Risk, ...]:
    """Each by a rule; in the order of how much they can change the decision."""
    first, second, last = evidence.baseline, evidence.candidate, len(evidence.sizes) - 1
    cells = (advantage.before, advantage.after)
    risks = []
    pairs = min(effect.count for effect in (advantage, growth) if effect is not None)
    if pairs < FEW_SEEDS:
        risks.append(Risk("fewer_than_three", {"pairs": pairs, "fewest": FEW_SEEDS}, cells))
    elif advantage.seeds_needed is not None and pairs < advantage.seeds_needed:
        risks.append(Risk("few_seeds", {"pairs": pairs, "needed": advantage.seeds_needed}, cells))
    for code, status in (("failed", "failed"), ("unfinished", "left")):
        own = [run for run in evidence.runs if run.status == status]
        if own:
            which = tuple(dict.fromkeys(Cell(run.setting, run.size) for run in own))
            risks.append(Risk(code, {"count": len(own), "runs": len(evidence.runs)}, which))
    if peak.direction < 0 and peak.certainty in CERTAINTIES:
        assert peak.before_mean is not None and peak.after_mean is not None
        values: dict[str, float | str]
        values = {"setting": second, "size": peak.before.size, "best": peak.before_mean, "largest": peak.after_mean}
        risks.append(Risk("peak", values, (peak.before, peak.after)))
    for setting in (second, first):
        for size in range(last, -1, -1):
            judged = [run.lost for run in evidence.of(setting, size) if run.lost is not None]
            if any(judged):
                code = "collapse" if evidence.agents else "not_relearned"
                values = {"count": sum(judged), "runs": len(judged), "setting": setting}
                values["size"] = size
                risks.append(Risk(code, values, (Cell(setting, size),)))
                break  # the largest size that is struck says enough
    if evidence.passed_over:
        risks.append(Risk("best_of", {"count": len(evidence.passed_over) + 1, "setting": second}, cells))
    if len(evidence.tasks) == 1:
        risks.append(Risk("one_task", {"task": evidence.tasks[0]}))
    if evidence.budget is not None and evidence.paper_budget is not None and evidence.budget < evidence.paper_budget:
        values = {"budget": evidence.budget, "paper": evidence.paper_budget}
        values["share"] = evidence.budget / evidence.paper_budget
        risks.append(Risk("short_steps" if evidence.agents else "short_epochs", values))
    elif evidence.paper_budget is None:
        risks.append(Risk("no_paper_budget", {"task": evidence.tasks[0]}))
    if len(evidence.sizes) == 1:
        risks.append(Risk("one_size", {"size": 0}, cells))
    machines = list(dict.fromkeys(run.machine for run in evidence.runs if run.machine is not None))
    if len(machines) > 1:
        risks.append(Risk("several_machines", {"count": len(machines), "machines": "; ".join(machines)}))
    elif machines:
        risks.append(Risk("one_machine", {"machine": machines[0]}))
    return tuple(risks)


def _cost(evidence: Evidence, cell: Cell) -> Cost:
    runs = [run for run in evidence.of(cell.setting, cell.size) if run.status == "finished"]
    memory = [run.memory_bytes for run in runs if run.memory_bytes is not None]
    return Cost(_mean([run.seconds for run in runs]), max(memory, default=None), cell)


def _interval(differences: Sequence[float], confidence: float) -> tuple[float, float] | None:
    if len(differences) < 2:
        return None
    interval = paired_difference([0.0] * len(differences), differences, confidence).interval
    return None if interval is None else (float(interval[0]), float(interval[1]))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _best_size(evidence: Evidence) -> int:
    """Where the candidate's mean score is highest; of equals the largest."""

    def score(size: int) -> float:
        mean = _mean(evidence.scores(evidence.candidate, size))
        return -math.inf if mean is None else mean

    return max(range(len(evidence.sizes)), key=lambda size: (score(size), size))


def _total(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) if present else None
