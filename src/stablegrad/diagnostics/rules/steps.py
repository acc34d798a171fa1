"""Steps of the optimizer: too long, too short, back and forth, in the wrong direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
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


def large_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Updates that throw the weights about: the median layer changes by several percent in one step.

    A network that is far from anything good starts with long steps; so the first looks do not count, and steps that
    are shorter than at the beginning do only where they are very long. While the error falls far below where it began,
    steps are as long as they have to be.

    Updates of about a thousandth of the weights are usual (Karpathy, CS231n). Tuned on ``make bench-drawn``.
    """
    series = history.series("update_ratio")
    if not series:
        return
    typical = middle(series.values)
    beginning = beginning_of(typical, thresholds.reference_looks)
    large = typical > max(thresholds.large_update, min(beginning, 4 * thresholds.large_update))
    large[: thresholds.reference_looks] = False
    since = holds_since(large, thresholds.patience)
    errors = total_error(history).values.ravel()
    first = beginning_of(errors, thresholds.reference_looks)
    learns = (
        len(errors) > 2 * thresholds.patience
        and np.median(errors[-thresholds.patience :]) < thresholds.learning * first
    )
    if since is not None and not learns:
        value = float(np.median(typical[-thresholds.patience :]))
        yield Finding(
            "large_update", "collapsing" if value > 4 * thresholds.large_update else "at risk", NETWORK,
            int(series.steps[since]), value, thresholds.large_update,
            f"one update changes the median layer by {value:.1%} of its weights: the learning rate is too high",
        )  # fmt: skip


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


def update_burst(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """An update far above all before it, which were of a usual size, and damage since: a burst of the learning rate.

    Tuned on ``make bench-drawn``.
    """
    series = history.series("update_ratio")
    if not series:
        return
    typical = middle(series.values)
    for look in np.flatnonzero((typical > thresholds.throwing) & np.isfinite(typical)):
        before = typical[:look]
        if look < 2 * thresholds.reference_looks or not typical[look] > thresholds.burst * np.nanmedian(before):
            continue
        usual = float(np.nanmedian(before))
        # First steps are long where an optimizer has no memory of gradients yet.
        calm = np.nanmax(before[thresholds.reference_looks :]) < thresholds.large_update
        if calm and damaged_since(history, thresholds, int(series.steps[look])):
            yield Finding(
                "update_burst", "collapsing", NETWORK, int(series.steps[look]), float(typical[look]), usual,
                f"one update changed the median layer by {typical[look]:.0%} of its weights, where {usual:.1%} was "
                "usual until then, and they have not recovered",
            )  # fmt: skip
        return


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


def overshooting(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that jumps from one side of a valley to the other: every gradient turns the last one back.

    Consecutive gradients near the edge of stability oppose each other somewhat in healthy training too (Cohen et al.,
    arXiv 2103.00065), so only long steps count that are nearly undone, for long, while the error does not fall.

    Tuned on ``make bench-drawn``.
    """
    looks = 2 * thresholds.slow_looks
    errors = total_error(history)
    for site, steps, cosines, updates in columns(history.series("gradient_cosine"), history.series("update_ratio")):
        back = (cosines < -thresholds.overshooting) & (updates > thresholds.long_step)
        # Not every single one is: a spoiled look or two change nothing.
        if len(steps) < looks or not np.mean(back[-looks:]) > 0.5 or _falls(errors, steps[-looks:]):
            continue
        value = float(np.median(cosines[-looks:]))
        yield Finding(
            "overshooting", "at risk", site, int(steps[-looks:][back[-looks:]][0]), value, -thresholds.overshooting,
            f"each update of '{site}' undoes the last one (cosine of their gradients {value:.2f}): the learning rate "
            "is too high for it",
        )  # fmt: skip


def _falls(errors: Series, steps: np.ndarray) -> bool:
    """Whether the error in the later half of some looks is below that in the earlier half."""
    values = errors.values[np.isin(errors.steps, steps)].ravel()
    half = len(values) // 2
    return half > 0 and bool(np.median(values[half:]) < 0.9 * np.median(values[:half]))


def ascending(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs that grow ever faster, step by step in one direction, while the error never falls: the way is up.

    Tuned on ``make bench-drawn``.
    """
    yield from _running_away(history, thresholds, "ascending")


def runaway(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs, their error and the updates grow ever faster, in one direction: each feeds the next.

    Van Hasselt et al. (arXiv 1812.02648) on values that are learned from themselves. Tuned on ``make bench-drawn``.
    """
    yield from _running_away(history, thresholds, "runaway")


def _running_away(history: History, thresholds: Thresholds, name: str) -> Iterator[Finding]:
    """Positive feedback. Too long steps turn back; here consecutive gradients agree while everything grows.

    An error that stays about what it was while outputs run away is that of a loss with the wrong sign; where it grows
    with them, what is wanted runs away as well.
    """
    updates, errors, cosines = history.series("update_ratio"), total_error(history), history.series("gradient_cosine")
    sizes = history.series("output_size")
    if not (updates and errors and cosines and sizes):
        return
    steps = reduce(np.intersect1d, [one.steps for one in (updates, errors, cosines, sizes)])
    columns = [middle(one.values[np.isin(one.steps, steps)]) for one in (updates, errors, cosines, sizes)]
    finite = np.isfinite(np.stack(columns)).all(axis=0)
    steps, (update, error, cosine, size) = steps[finite], (one[finite] for one in columns)
    if len(steps) <= thresholds.reference_looks:
        return
    growth = [one / beginning_of(one, thresholds.reference_looks) for one in (update, error, size)]
    wrong_way = np.minimum.accumulate(error) > 0.85 * error[: thresholds.reference_looks].min()
    together = (growth[0] > thresholds.runaway) & (growth[2] > thresholds.runaway) & (cosine > thresholds.agreement)
    # In a warm-up steps grow, and with them small first outputs, before the error falls.
    stays = growth[1] < thresholds.staying
    # Outputs that began next to nothing, of small weights or many layers, grow whatever is learned.
    first_size, first_error = (beginning_of(one, thresholds.reference_looks) for one in (size, error))
    far = (growth[2] > thresholds.far) & (first_size > thresholds.from_nothing * first_error)
    held = together & wrong_way & (stays & far if name == "ascending" else ~stays)
    # Where numbers have ended there may have been no time for more than one look.
    ended = bool(len(bad_looks(history)))
    since = holds_since(held, 1 if ended else thresholds.patience)
    if since is not None:
        value = float(growth[2][-1])
        yield Finding(
            name, "collapsing", NETWORK, int(steps[since]), value, thresholds.runaway,
            f"outputs are {value:.0f} times what they were, and every step is longer than the last, in its direction, "
            + ("while the error does not fall" if name == "ascending" else "and so is the error"),
        )  # fmt: skip
