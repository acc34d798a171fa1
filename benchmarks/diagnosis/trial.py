"""One scenario: trained under our monitor, and once more with a prescription."""

from __future__ import annotations

import time
from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import torch
from benchmarks.diagnosis.scenarios import SCENARIOS, Scenario
from benchmarks.diagnosis.training import Setup

from stablegrad.diagnostics import Finding, History, Monitor, Report, judge
from stablegrad.diagnostics.interventions import INTERVENTIONS, CannotApply, fitting

EVERY, PROBE_EVERY = 5, 25
SEED = 0
#: Steps between two applications of an intervention that is made again and again.
AGAIN = 50


def build(scenario: Scenario) -> Setup:
    torch.manual_seed(SEED)
    return scenario.make()


def run(name: str) -> dict[str, Any]:
    """What is measured of a scenario: its losses, its score, the monitor's history."""
    torch.set_num_threads(1)
    started = time.process_time()
    setup = build(SCENARIOS[name])
    # The two lines of a person who wants a diagnosis; nothing is logged.
    with Monitor(setup.model, setup.optimizer, every=EVERY, probe_every=PROBE_EVERY) as monitor:
        steps = list(setup.loop(setup))
    history = monitor.fetch()
    # Each optimizer counts its own steps, so with two of them rows need not come in order.
    history = History(sorted(history.rows, key=itemgetter(0)), history.order, history.frozen)
    return {
        "score": setup.score(),
        "losses": [step.loss for step in steps],
        "watched": [step.watched for step in steps],
        "history": history.to_dict(),
        "notes": monitor.notes,
        "seconds": time.process_time() - started,
    }


def treat(name: str, prescription: str, alarm: int, factor: float | None) -> dict[str, float | None]:
    """Scores of the scenario with a prescription: from a fresh start, and live from the alarm on where it can be.

    None where it cannot be applied so.
    """
    torch.set_num_threads(1)
    scenario = SCENARIOS[name]
    if prescription in scenario.by_hand:
        torch.manual_seed(SEED)
        return {"fresh": _finish(scenario.by_hand[prescription]()), "live": None}
    intervention = INTERVENTIONS[prescription]
    scores: dict[str, float | None] = {"fresh": None, "live": None}
    if intervention.change is not None:
        scores["fresh"] = _treated(scenario, prescription, 0, factor)
        if intervention.live:
            scores["live"] = _treated(scenario, prescription, alarm, factor)
    return scores


def _treated(scenario: Scenario, prescription: str, at: int, factor: float | None) -> float | None:
    """The score with a prescription applied after step ``at``; None if it cannot be.

    A fault in the state of an optimizer that the prescription replaces cannot be made in its successor's: None as well,
    as nothing is known then.
    """
    setup = build(scenario)
    applied = _apply(setup, prescription, factor) if not at else False
    try:
        for number, _ in enumerate(setup.loop(setup), start=1):
            due = INTERVENTIONS[prescription].again and number > at and number % AGAIN == 0
            if (at and number == at) or due:
                applied = _apply(setup, prescription, factor) or applied
    except KeyError:
        return None
    return setup.score() if applied else None


def _apply(setup: Setup, prescription: str, factor: float | None) -> bool:
    """Apply to every network that it can be applied to."""
    apply = INTERVENTIONS[prescription].apply
    try:
        if not isinstance(setup.model, dict):
            setup.optimizer = apply(setup.model, setup.optimizer, factor)
            return True
    except CannotApply:
        return False
    applied = False
    for place, (model, optimizer) in enumerate(zip(setup.model.values(), list(setup.optimizer), strict=True)):
        try:
            setup.optimizer[place] = apply(model, optimizer, factor)
            applied = True
        except CannotApply:
            pass
    return applied


def _finish(setup: Setup) -> float:
    for _ in setup.loop(setup):
        pass
    return setup.score()


def report(name: str, history: History, alarm: int) -> Report:
    """The report at the end of a scenario; where nothing is found any more then, that of the first alarm."""
    seen = history
    if not (findings := judge(seen)):
        seen = history.until(alarm)
        findings = judge(seen)
    return Report(findings, seen, fitting=_fitting(name))


def _fitting(name: str) -> frozenset[str]:
    """Names of the interventions that have something to change on a scenario's networks."""
    setup = build(SCENARIOS[name])
    models = list(setup.model.values()) if isinstance(setup.model, dict) else [setup.model]
    optimizers = setup.optimizer
    return fitting(*zip(models, optimizers if isinstance(optimizers, list) else [optimizers], strict=True))


def replay(history: History) -> Iterator[tuple[int, list[Finding]]]:
    """(step, findings) from what was seen up to each look."""
    looks = sorted({int(step) for metric in history.metrics() for step in history.series(metric).steps})
    for step in looks:
        yield step, judge(history.until(step))
