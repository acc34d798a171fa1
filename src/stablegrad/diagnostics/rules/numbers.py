"""Figures that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import columns


def nonfinite(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that is not a number or infinite. Holds at once: nothing after it can be trusted.

    Tuned on ``make bench-drawn``.
    """
    for site, steps, _ in columns(history.series("nonfinite")):
        yield Finding(
            "nonfinite", "collapsed", site, int(steps[0]), math.nan, 0.0,
            f"the gradient of '{site}' stopped being finite at step {steps[0]:,}",
        )  # fmt: skip


def nonfinite_input(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs that are not numbers or infinite, where gradients are so too: what goes in is at fault.

    Tuned on ``make bench-drawn``.
    """
    first = [int(steps[0]) for _, steps, _ in columns(history.series("nonfinite"))]
    for site, steps, values in columns(history.series("input_mean")):
        bad = steps[~np.isfinite(values)]
        if first and len(bad) and bad[0] <= min(first):
            yield Finding(
                "nonfinite_input", "collapsed", site, int(bad[0]), math.nan, 0.0,
                f"inputs were not finite at step {bad[0]:,}",
            )  # fmt: skip
