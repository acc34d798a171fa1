"""Figures that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import bad_looks, beginning_of, columns, middle, stretch


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


def nonfinite_at_once(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients that are not finite at the first look of all: the weights are too large to begin with.

    Tuned on ``make bench-drawn``.
    """
    steps = bad_looks(history)
    inputs = history.series("input_mean")
    if (
        _bad_from_the_first_look(history)
        and np.isfinite(inputs.values[:1]).all()
        and not _usual_weights(history, thresholds)
    ):
        yield Finding(
            "nonfinite_at_once", "collapsed", NETWORK, int(steps[0]), math.nan, 0.0,
            f"the gradients of finite inputs were not finite at step {steps[0]:,}, the first that was looked at",
        )  # fmt: skip


def nonfinite_suddenly(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients that are not finite although weights, or all updates until then, were of a usual size: it is the loss.

    A logarithm of zero, an exponential of something large, a division by a spread of zero, or half precision. What
    grows too large on its way shows in the updates before.

    Tuned on ``make bench-drawn``.
    """
    steps = bad_looks(history)
    if _bad_from_the_first_look(history) and _usual_weights(history, thresholds):
        if np.isfinite(history.series("input_mean").values[:1]).all():
            yield Finding(
                "nonfinite_suddenly", "collapsed", NETWORK, int(steps[0]), math.nan, 0.0,
                f"gradients were not finite at step {steps[0]:,}, the first looked at, with weights of a usual size",
            )  # fmt: skip
        return
    updates, normalised = history.series("update_ratio"), history.series("normalised_step")
    before = updates.values[updates.steps < steps[0]] if len(steps) else np.empty((0, 0))
    if not len(before):
        return
    typical = middle(before)
    # Steps that are normalised cannot grow without end, so what is not finite does not come from them.
    largest = thresholds.throwing if normalised else thresholds.large_update
    grew = len(typical) > 2 and typical[-1] > thresholds.runaway * beginning_of(typical, thresholds.reference_looks)
    if not typical[-1] > largest and not grew:
        yield Finding(
            "nonfinite_suddenly", "collapsed", NETWORK, int(steps[0]), math.nan, 0.0,
            f"gradients stopped being finite at step {steps[0]:,}, after updates of a usual size",
        )  # fmt: skip


def _bad_from_the_first_look(history: History) -> bool:
    steps = bad_looks(history)
    return len(steps) > 0 and not (history.series("gradient_norm").steps < steps[0]).any()


def _usual_weights(history: History, thresholds: Thresholds) -> bool:
    """Whether the first weights are known, and none of them stretch what passes through them many times over."""
    gains = history.series("weight_gain")
    known = gains.values[:1][np.isfinite(gains.values[:1])]
    return len(known) > 0 and bool(known.max() < thresholds.stretching) and stretch(history) < thresholds.compounding
