"""Trials to figures: what was found, what was a false alarm, how early, and by which rule."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benchmarks.diagnosis.scenarios import KEPT, SCENARIOS, Scenario
from benchmarks.diagnosis.trial import replay

from stablegrad.diagnostics import LEVELS, Finding, History
from stablegrad.diagnostics.rules import verdict_of

#: Steps over which a person smooths a curve in the mind.
SMOOTHING = 20
#: Part of the range of the healthy twin's curve by which a curve is visibly above it.
VISIBLE = 0.25
#: Part of its twin's score that a training must reach to count as restored.
RESTORED = 0.85


@dataclass(frozen=True)
class Alarms:
    """When a rule spoke.

    Attributes:
        first: step of the first alarm at or after the onset of the fault; None: never.
        rules: which rules held at it.
        early: step of an alarm before the onset; None: there was none.
        final: rules that held at the end.
    """

    first: int | None = None
    rules: tuple[str, ...] = ()
    early: int | None = None
    final: tuple[str, ...] = ()


@dataclass
class Judged:
    """A scenario with everything that is known of it; it goes from one process to another."""

    name: str
    score: float
    valid: bool
    why_not: str
    symptom: int | None
    steps: int
    alarms: Alarms = field(default_factory=Alarms)
    #: Our verdicts: the worst at any look from the onset on, and the last.
    worst: str = LEVELS[0]
    last: str = LEVELS[0]

    @property
    def scenario(self) -> Scenario:
        """What was judged."""
        return SCENARIOS[self.name]

    @property
    def lead(self) -> int | None:
        """Steps between the first alarm and the moment at which the curve shows it."""
        first = self.alarms.first
        return None if first is None or self.symptom is None else self.symptom - first


def wilson(hits: int, of: int) -> list[float] | None:
    """95% interval of a share (Wilson 1927)."""
    if not of:
        return None
    z, share = 1.959963984540054, hits / of
    centre, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return [round((centre + sign * half) / (1 + z * z / of), 4) for sign in (-1, 1)]


def smooth(curve: Sequence[float]) -> np.ndarray:
    """Mean of the last ``SMOOTHING`` values; infinite where one of them is no number."""
    values = np.array([value if math.isfinite(value) else math.inf for value in curve], dtype=np.float64)
    return np.array([values[max(end - SMOOTHING, 0) : end].mean() for end in range(1, len(values) + 1)])


def symptom_step(curve: Sequence[float], twin: Sequence[float]) -> int:
    """The step at which a person who watches the curve sees that something is wrong; the last one if it never shows.

    The first from which on, to the end, the smoothed curve is above the healthy twin's by more than ``VISIBLE`` of the
    range of the twin's own. A curve that is longer than the twin's is held against the twin's end.
    """
    ours, theirs = smooth(curve), smooth(twin)
    theirs = np.concatenate([theirs, np.full(max(len(ours) - len(theirs), 0), theirs[-1])])[: len(ours)]
    visible = ours > theirs + VISIBLE * (theirs.max() - theirs.min())
    hidden = np.flatnonzero(~visible)
    return int(min(hidden[-1] + 2, len(ours))) if len(hidden) else 1


def judge_all(pool: ProcessPoolExecutor, trials: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> list[Judged]:
    """Verdicts on scenarios; the twins of failures must be among the trials."""
    waiting = [pool.submit(judge_one, name, trials[name], trials.get(SCENARIOS[name].twin)) for name in names]
    return [future.result() for future in waiting]


def judge_one(name: str, trial: Mapping[str, Any], twin: Mapping[str, Any] | None) -> Judged:
    scenario = SCENARIOS[name]
    score, symptom, why = trial["score"], None, ""
    if twin is not None:
        symptom = symptom_step(trial["watched"], twin["watched"])
        if twin["score"] < SCENARIOS[scenario.twin].goal:
            why = f"its twin scores {twin['score']:.2f} and does not reach its goal"
        elif not score <= KEPT * twin["score"]:
            why = f"scores {score:.2f}, more than {KEPT:.0%} of its twin's {twin['score']:.2f}: no failure"
    elif not score >= scenario.goal:
        why = f"scores {score:.2f}, below its goal of {scenario.goal:.2f}: not healthy"
    history = History.from_dict(trial["history"])
    found = list(replay(history))
    looks = [(step, rules_of(findings)) for step, findings in found]
    alarms = first_alarm(looks, scenario.onset)
    verdicts = [verdict_of(findings) for step, findings in found if step >= scenario.onset] or [LEVELS[0]]
    worst = max(verdicts, key=LEVELS.index)
    return Judged(name, score, not why, why, symptom, len(trial["losses"]), alarms, worst, verdicts[-1])


def rules_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(finding.rule for finding in findings))


def first_alarm(looks: Iterable[tuple[int, tuple[str, ...]]], onset: int) -> Alarms:
    """From the rules that held after each look."""
    first, rules, early, final = None, (), None, ()
    for step, final in looks:
        if final and step < onset and early is None:
            early = step
        elif final and step >= onset and first is None:
            first, rules = step, final
    return Alarms(first, rules, early, final)


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Recall, false alarms and lead time over valid scenarios."""
    sick = [one for one in judged if one.valid and one.scenario.kind]
    well = [one for one in judged if one.valid and not one.scenario.kind]
    found = [one for one in sick if one.alarms.first is not None]
    false = [one for one in well if one.alarms.first is not None]
    early = [one for one in sick if one.alarms.early is not None]
    leads = [one.lead for one in found]
    return {
        "recall": share(len(found), len(sick)),
        "false_alarms": share(len(false), len(well)),
        "alarms_before_onset": len(early),
        "lead_steps": {
            "median": statistics.median(leads) if leads else None,
            "quartiles": [float(q) for q in np.percentile(leads, [25, 75])] if leads else None,
            "before_it_shows": share(sum(lead > 0 for lead in leads), len(leads)),
        },
        "rules": {
            rule: {"failures": sick_count, "healthy": well_count}
            for rule in sorted({rule for one in [*sick, *well] for rule in one.alarms.rules})
            for sick_count, well_count in [(sum(rule in one.alarms.rules for one in group) for group in (sick, well))]
        },
        "missed": sorted(one.scenario.name for one in sick if one not in found),
        "falsely_alarmed": sorted(one.scenario.name for one in false),
    }


def by_level(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Recall and false alarms where only verdicts of at least a level count: at any look, and at the last."""
    valid = [one for one in judged if one.valid]
    groups = {"recall": [one for one in valid if one.scenario.kind]}
    groups["false_alarms"] = [one for one in valid if not one.scenario.kind]
    return {
        level: {
            name: {
                when: share(sum(LEVELS.index(getattr(one, verdict)) >= place for one in group), len(group))
                for when, verdict in (("at any look", "worst"), ("at the end", "last"))
            }
            for name, group in groups.items()
        }
        for place, level in enumerate(LEVELS[1:], start=1)
    }


def share(hits: int, of: int) -> dict[str, Any]:
    return {"share": round(hits / of, 4) if of else None, "of": of, "hits": hits, "interval": wilson(hits, of)}


def confusion(judged: Sequence[Judged]) -> dict[str, dict[str, int]]:
    """Kind of failure against the rule that is named first at the first alarm."""
    table: dict[str, Counter[str]] = {}
    for one in judged:
        if one.valid:
            rules = one.alarms.rules
            table.setdefault(one.scenario.kind or "healthy", Counter())[rules[0] if rules else "none"] += 1
    return {kind: dict(counts.most_common()) for kind, counts in table.items()}
