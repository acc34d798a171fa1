"""Units of activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import columns, error_left, holds_since
from stablegrad.text import percent


def dormant_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units that pass on next to nothing (Sokar et al., arXiv 2302.12902), where their gradients agree.

    Activity alone misjudges residual and normalised networks; the same measure of the gradient (GraMa, arXiv
    2505.24061) must alarm as well where it is known.

    Tuned on ``make bench-drawn``.
    """
    for site, (steps, both) in idle_units(history).items():
        since = holds_since(both > thresholds.dormant, thresholds.patience)
        if since is not None:
            value = float(np.median(both[-thresholds.patience :]))
            yield Finding(
                "dormant_units", "collapsing" if value > 0.9 else "at risk", site, int(steps[since]), value,
                thresholds.dormant, f"{percent(value)} of the units of '{site}' pass on next to nothing",
            )  # fmt: skip


def idle_units(history: History) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(steps, share of units that are dormant, and gradient-dormant where that is known) by activation."""
    activity = {site: (steps, values) for site, steps, values in columns(history.series("dormant"))}
    for site, steps, silent, idle in columns(history.series("dormant"), history.series("gradient_dormant")):
        activity[site] = steps, np.minimum(silent, idle)
    return activity


def dead_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units that are zero on every sample of a batch.

    Lu et al., arXiv 1903.06733. Tuned on ``make bench-drawn``.
    """
    for site, steps, values in columns(history.series("dead")):
        since = holds_since(values > thresholds.dead, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]))
            level = "collapsed" if value == 1 else "collapsing" if value > 0.95 else "at risk"
            yield Finding(
                "dead_units", level, site, int(steps[since]), value, thresholds.dead,
                f"{percent(value)} of the units of '{site}' are zero on every sample",
            )  # fmt: skip


def saturated_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Values at the ends of a bounded activation's range, where its slope is zero (Glorot and Bengio 2010).

    Units that have learned to say yes or no are there as well; so only while the error is not much below where it
    began. Tuned on ``make bench-drawn``.
    """
    if error_left(history, thresholds) < thresholds.saturated_error:
        return
    for site, steps, values in columns(history.series("saturated")):
        since = holds_since(values > thresholds.saturated, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]))
            yield Finding(
                "saturated_units", "collapsing" if value > 0.9 else "at risk", site, int(steps[since]), value,
                thresholds.saturated, f"{percent(value)} of the values of '{site}' are at the ends of its range",
            )  # fmt: skip
