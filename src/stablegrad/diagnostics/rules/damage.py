"""What broke since a step: the evidence that long steps or strange inputs did harm."""

from __future__ import annotations

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Thresholds
from stablegrad.diagnostics.rules.gradients import fading_gradient, no_gradient
from stablegrad.diagnostics.rules.outputs import constant_output, rank_collapse
from stablegrad.diagnostics.rules.units import dead_units, saturated_units


def damaged_since(history: History, thresholds: Thresholds, step: int) -> bool:
    """Whether something broke at a step or after it."""
    rules = (dead_units, saturated_units, constant_output, rank_collapse, no_gradient, fading_gradient)
    found = [finding for rule in rules for finding in rule(history, thresholds)]
    return any(finding.since >= step and finding.level != "at risk" for finding in found)
