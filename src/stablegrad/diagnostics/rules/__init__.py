"""The rules: figures in, findings out. Each is a function with a name, a source and a threshold that can be set.

A network is judged against its own beginning (its first looks) and its own history, because thresholds that fit one
network miss another by orders of magnitude; a constant stands only where a figure has a scale of its own (a share of
units, a ratio of update to weight). A rule speaks when its condition has held for ``patience`` looks in a row up to the
newest one: a spike, or a dip that recovered, raises no alarm.
"""

from __future__ import annotations

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.beginning import unscaled_input, unscaled_weights
from stablegrad.diagnostics.rules.beside import judge_beside
from stablegrad.diagnostics.rules.finding import LEVELS, TOO_EARLY, Finding, Rule, Thresholds
from stablegrad.diagnostics.rules.gradients import (
    exploding_gradient,
    fading_gradient,
    leftover_gradient,
    no_gradient,
    no_update,
    vanishing_gradient,
)
from stablegrad.diagnostics.rules.numbers import nonfinite, nonfinite_input
from stablegrad.diagnostics.rules.outcome import (
    OUTCOME_RULES,
    Outcome,
    improves,
    judge_outcome,
    logged_outcome,
    lowered,
)
from stablegrad.diagnostics.rules.outputs import (
    alike_units,
    constant_output,
    diverging_output,
    rank_collapse,
)
from stablegrad.diagnostics.rules.rates import starved_rate
from stablegrad.diagnostics.rules.steps import (
    extreme_rate,
    small_update,
    stale_state,
    thrown_weights,
)
from stablegrad.diagnostics.rules.units import dead_units, dormant_units

__all__ = [
    "LEVELS",
    "OUTCOME_RULES",
    "RULES",
    "TOO_EARLY",
    "Finding",
    "Outcome",
    "Rule",
    "Thresholds",
    "enough_to_judge",
    "judge",
    "logged_outcome",
    "verdict_of",
]

RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        nonfinite,
        nonfinite_input,
        no_gradient,
        no_update,
        vanishing_gradient,
        fading_gradient,
        exploding_gradient,
        thrown_weights,
        extreme_rate,
        starved_rate,
        small_update,
        stale_state,
        leftover_gradient,
        dormant_units,
        dead_units,
        rank_collapse,
        alike_units,
        constant_output,
        diverging_output,
        unscaled_input,
        unscaled_weights,
    )
}


def judge(
    history: History,
    thresholds: Thresholds | None = None,
    *,
    beside: History | None = None,
    outcome: Outcome | None = None,
    ended: bool = True,
) -> list[Finding]:
    """All findings, the worst first; of equal ones, the earliest in the network first.

    Args:
        history: what was measured.
        thresholds: what the rules alarm at; None: the defaults.
        beside: of a healthy smaller network in the same task, to be held against as well.
        outcome: the returns; None: not known. While they still rise, nothing is worse than at risk but numbers that are
            not finite.
        ended: whether the returns themselves are judged, as at the end; not in the midst of a training.

    Raises:
        UsageError: ``beside`` is this history, has no looks, or counts other steps.
    """
    thresholds = thresholds or Thresholds()
    # Figures may be zero or infinite; what cannot be computed of them meets no condition.
    with np.errstate(all="ignore"):
        found = [finding for rule in RULES.values() for finding in rule(history, thresholds)]
        found += judge_beside(history, beside, thresholds) if beside is not None else []
        if outcome is not None and improves(outcome, thresholds):
            found = [lowered(finding) for finding in found]
        found += judge_outcome(outcome, history, thresholds) if outcome is not None and ended else []
    place = {site: number for number, site in enumerate(history.order)}
    return sorted(found, key=lambda finding: (-LEVELS.index(finding.level), finding.since, place.get(finding.site, -1)))


def enough_to_judge(history: History, thresholds: Thresholds | None = None) -> bool:
    """Whether there are as many snapshots as a rule needs in a row to find something (``Thresholds.patience``)."""
    return len(history.series("gradient_norm").steps) >= (thresholds or Thresholds()).patience


def verdict_of(findings: list[Finding], judged: bool = True) -> str:
    """The worst level of all findings; without any, "healthy", or "too early" where ``judged`` is false."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=LEVELS[0] if judged else TOO_EARLY)
