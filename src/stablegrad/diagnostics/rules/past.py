"""What came before: causes that are over by the time that a network is judged, while what they did is there to see."""

from __future__ import annotations

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Finding, Rule, Thresholds
from stablegrad.diagnostics.rules.outputs import diverging_output
from stablegrad.diagnostics.rules.steps import ascending, large_update, runaway

#: Rules whose conditions end when there is nothing left to destroy.
PASSING: tuple[Rule, ...] = (ascending, runaway, large_update, diverging_output)
#: Looks back at most, evenly spread.
LOOKS_BACK = 40


def passed(history: History, findings: list[Finding], thresholds: Thresholds | None = None) -> list[Finding]:
    """Causes that held at some look before and hold no more, of an ill network: the first finding of each rule."""
    thresholds = thresholds or Thresholds()
    steps = history.series("update_ratio").steps
    if not findings or not len(steps):
        return []
    found: dict[str, Finding] = {}
    now = {finding.rule for finding in findings}
    looks = steps[np.unique(np.linspace(0, len(steps) - 1, LOOKS_BACK).astype(int))]
    with np.errstate(all="ignore"):
        for step in looks.tolist():
            seen = history.until(step)
            for rule in PASSING:
                if rule.__name__ not in now and rule.__name__ not in found:
                    found.update({one.rule: one for one in list(rule(seen, thresholds))[:1]})
    return list(found.values())
