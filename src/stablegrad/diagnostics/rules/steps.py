"""Steps of the optimizer: too long, too short, back and forth, in the wrong direction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.rules.damage import damaged_since
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.rates import learning_rates
from stablegrad.diagnostics.rules.shared import (
    bad_looks,
    beginning_of,
    columns,
    holds_since,
    middle,
    together,
    total_error,
)

#: Part of the error signal of one look that is left at the next where the loss is on another scale since.
JUMP = 0.01


def thrown_weights(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Updates that changed the weights by a good part of themselves, and damage since: units that died, say.

    One very long step at any look, or several long ones in a row. They may be small again, as nothing is left that
    could move.

    Tuned on ``make bench-drawn``.
    """
    series = history.series("update_ratio")
    if not series:
        return
    typical = middle(series.values)
    long = typical > thresholds.large_update
    long[: thresholds.reference_looks] = False
    rows = np.convolve(long, np.ones(thresholds.patience), "full")[: len(long)] >= thresholds.patience
    thrown = np.flatnonzero(((typical > thresholds.throwing) | rows) & np.isfinite(typical))
    if not len(thrown):
        return
    # What was there before the weights were thrown is not of that. Numbers that end come of what grows as well, but not
    # where the first steps were long already.
    ended = len(bad_looks(history)) > 0 and thrown[0] < thresholds.reference_looks
    if ended or damaged_since(history, thresholds, int(series.steps[thrown[0]])):
        # What follows steps that end in no numbers says nothing of the first.
        value = float(typical[thrown[0]] if ended else typical[thrown].max())
        yield Finding(
            "thrown_weights", "collapsing", NETWORK, int(series.steps[thrown[0]]), value, thresholds.throwing,
            f"one update changed the median layer by {value:.0%} of its weights, and they have not recovered: the "
            "learning rate is too high",
        )  # fmt: skip


def extreme_rate(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """First steps of an optimizer that normalises them, such as Adam, as long as weights are large, and damage.

    Its steps are of the size of the learning rate whatever the gradients are; weights are of the size of one over the
    root of a layer's inputs, so that steps above some hundredths replace them.

    Kingma and Ba, arXiv 1412.6980, on the size of a step. Tuned on ``make bench-drawn``.
    """
    steps, rates = history.series("normalised_step"), history.series("effective_learning_rate")
    weights = history.series("weight_norm")
    sizes = [float(step[0] * rate[0] * np.square(norm[0])) for _, _, step, rate, norm in columns(steps, rates, weights)]
    known = [one for one in sizes if math.isfinite(one)]
    size = float(np.median(known)) if known else 0.0
    if size > thresholds.extreme_step and _harmed(history, thresholds):
        yield Finding(
            "extreme_rate", "collapsing", NETWORK, int(steps.steps[0]), size, thresholds.extreme_step,
            f"one of the first steps moved every weight by {size:.2g}, where 1e-3 is usual: the rate is far too high",
        )  # fmt: skip


def _harmed(history: History, thresholds: Thresholds) -> bool:
    """Whether something broke, features lie in one direction, or the error has not fallen after many looks."""
    if len(bad_looks(history)) or damaged_since(history, thresholds, 0):
        return True
    ranks = columns(history.series("effective_rank"))
    low = any(holds_since((one < thresholds.low_rank) & (one > 0), 2) is not None for _, _, one in ranks)
    errors = total_error(history).values.ravel()
    stays = len(errors) >= 2 * thresholds.slow_looks and bool(
        np.median(errors[-thresholds.slow_looks :]) > 0.5 * beginning_of(errors, thresholds.reference_looks)
    )
    return low or stays


def small_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Updates that move nothing while the error stays: a learning rate too low, or a stale optimizer state.

    Steps that are tiny, or steps that are small and all point the same way, as consecutive gradients agree: noise has
    no direction, and at the bottom of a valley there is none to follow.

    Updates of about a thousandth of the weights are usual (Karpathy, CS231n). Tuned on ``make bench-drawn``.
    """
    series, errors = together(history.series("update_ratio"), history.series("error_signal"))
    _, rates = learning_rates(history)
    # At the end of a schedule steps are short on purpose; one that ends too early is starved_rate's.
    if not series or (len(rates) and rates[-1] < thresholds.annealed * rates.max()):
        return
    typical = middle(series.values)
    error = np.sqrt(np.nansum(np.square(errors.values), axis=1))
    beginning = beginning_of(error, thresholds.reference_looks)
    tiny = (typical < thresholds.small_update) & (typical > 0) & (error > 0.5 * beginning)
    since = holds_since(tiny, thresholds.patience)
    how = "while the error stays"
    if since is None:
        since = _creeping_since(history, series.steps, typical, error, thresholds)
        how = "step after step in the same direction, and the error does not fall"
    if since is not None:
        value = float(np.median(typical[-thresholds.patience :]))
        yield Finding(
            "small_update", "at risk", NETWORK, int(series.steps[since]), value, thresholds.small_update,
            f"one update changes the median layer by {value:.1e} of its weights, {how}: "
            "the learning rate is too low or the optimizer's state is stale",
        )  # fmt: skip


def _creeping_since(
    history: History, steps: np.ndarray, typical: np.ndarray, error: np.ndarray, thresholds: Thresholds
) -> int | None:
    """Since when steps have been small, in one direction, and without effect; None if they are not now."""
    since = holds_since((typical < thresholds.creeping_update) & (typical > 0), thresholds.slow_looks)
    cosines = history.series("gradient_cosine")
    # Two gradients of small batches agree by chance now and then: the direction is that of all layers and many looks.
    recent = cosines.values[np.isin(cosines.steps, steps[-thresholds.slow_looks :])]
    if since is None or np.isnan(recent).all() or not np.nanmedian(recent) > thresholds.agreement:
        return None
    before, now = error[-thresholds.slow_looks :][: thresholds.patience], error[-thresholds.patience :]
    # Where next to nothing of the error is left, nothing needs to be changed.
    left = np.median(now) > thresholds.learned * beginning_of(error, thresholds.reference_looks)
    return since if left and np.median(now) > 0.9 * np.median(before) else None


def stale_state(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Steps far shorter than the learning rate of an optimizer that normalises them, such as Adam, in one direction.

    Its running mean of squared gradients is of gradients that were larger: of another run, or of rewards of another
    scale.

    Asadi et al., arXiv 2306.17833. Tuned on ``make bench-drawn``.
    """
    series, errors = together(history.series("normalised_step"), history.series("error_signal"))
    cosines = history.series("gradient_cosine")
    if not series or not cosines:
        return
    typical = middle(series.values)
    error = np.sqrt(np.nansum(np.square(errors.values), axis=1))
    looks = thresholds.patience
    recent = cosines.values[np.isin(cosines.steps, series.steps[-thresholds.slow_looks :])]
    since = holds_since((typical < thresholds.stale) & (typical > 0), looks)
    if since is None or np.isnan(recent).all() or not np.nanmedian(recent) > thresholds.agreement:
        return
    # Where next to nothing of the error is left, short steps are right. What fell all at once was not learned: the loss
    # is on another scale since.
    jumps = np.flatnonzero(error[1:] < JUMP * error[:-1])
    beginning = beginning_of(error[jumps[-1] + 1 if len(jumps) else 0 :], thresholds.reference_looks)
    left = np.median(error[-looks:]) > thresholds.learned * beginning
    if left and np.median(error[-looks:]) > 0.9 * np.median(error[-thresholds.slow_looks :][:looks]):
        value = float(np.median(typical[-looks:]))
        yield Finding(
            "stale_state", "at risk", NETWORK, int(series.steps[since]), value, thresholds.stale,
            f"steps are {value:.1e} of the learning rate although the gradients agree: the optimizer's state is of "
            "larger gradients",
        )  # fmt: skip
