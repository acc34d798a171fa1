"""Every rule speaks in a training that has its fault, and none raises an alarm in healthy ones."""

import pytest
import torch
from tests.diagnostics.planted_faults import CASES

from stablegrad.diagnostics import LEVELS, Monitor, judge
from stablegrad.diagnostics.rules import verdict_of

EVERY = 5


def trained(case):
    torch.manual_seed(0)
    setup = case.make()
    with Monitor(setup.model, setup.optimizer, every=EVERY, probe_every=5 * EVERY) as monitor:
        for _ in setup.loop(setup):
            pass
    return monitor.fetch(), setup.score()


@pytest.mark.parametrize("case", [case for case in CASES if case.rule], ids=lambda case: case.name)
def test_the_fault_is_named(case):
    history, _ = trained(case)
    looks = sorted({int(step) for metric in history.metrics() for step in history.series(metric).steps})
    # From the end: what is named there is named at once.
    assert any(case.rule in {one.rule for one in judge(history.until(step))} for step in reversed(looks))


@pytest.mark.parametrize("case", [case for case in CASES if not case.rule], ids=lambda case: case.name)
def test_a_healthy_training_is_called_healthy(case):
    history, score = trained(case)
    assert score > 0.75
    assert LEVELS.index(verdict_of(judge(history))) < LEVELS.index("collapsing")
