"""The rules: figures in, findings out. Each is a function with a name, a source and a threshold that can be set.

A network is judged against its own beginning (its first looks) and its own history, because thresholds that fit one
network miss another by orders of magnitude; a constant stands only where a figure has a scale of its own (a share of
units, a ratio of update to weight). A rule speaks when its condition has held for ``patience`` looks in a row up to the
newest one: a spike, or a dip that recovered, raises no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.errors import UsageError

LEVELS = ("healthy", "at risk", "collapsing", "collapsed")


@dataclass(frozen=True)
class Thresholds:
    """What the rules alarm at. All can be set; the defaults are judgements (``make bench-diagnosis`` scores them)."""

    patience: int = 3
    """Looks in a row for which a condition must hold."""
    reference_looks: int = 3
    """First looks, whose median is a network's own beginning."""
    fading: float = 1e-2
    """fading_gradient: part of its own beginning to which a layer's share of the error signal may fall."""
    vanishing: float = 1e-4
    """vanishing_gradient: gradient norm over weight norm of a layer, over that of the strongest layer."""
    exploding: float = 1e3
    """exploding_gradient: gradient norm over its own beginning."""
    large_update: float = 0.05
    """large_update: median change of a layer's weights in one update, over their norm."""
    throwing: float = 0.3
    """thrown_weights: the same at any one look, where damage is left behind."""
    burst: float = 30.0
    """update_burst: the same over its median until then."""
    small_update: float = 3e-6
    """small_update: the same, from below, while the error stays."""
    creeping_update: float = 2e-4
    """small_update: the same, where step after step points the same way and the error stays."""
    agreement: float = 0.3
    """small_update: cosine of consecutive gradients, the median layer's, above which steps point the same way."""
    stale: float = 1e-2
    """stale_state: root mean square of a step over the learning rate, of an optimizer that normalises its steps."""
    overshooting: float = 0.65
    """overshooting: cosine below minus this, of consecutive gradients of a layer that changes by percents a step."""
    runaway: float = 3.0
    """runaway, ascending: growth of outputs and of updates over their own beginning."""
    dormant: float = 0.6
    """dormant_units: share of units of an activation that pass on next to nothing (Sokar et al. 2023)."""
    dead: float = 0.8
    """dead_units: share of units that are exactly zero on every sample."""
    saturated: float = 0.8
    """saturated_units: share of values at the ends of a bounded activation's range."""
    rank: float = 0.1
    """rank_collapse, collapsing: effective rank of the features over its own beginning, once it is below low_rank."""
    low_rank: float = 2.0
    """rank_collapse, at risk: effective rank of the features, at any time."""
    alike: float = 1.001
    """alike_units: effective rank of the features from the beginning on."""
    churn: float = 0.5
    """policy_churn: share of rows whose best output changes in one update (Schaul et al. 2022)."""
    constant_output: float = 1e-3
    """constant_output: spread of the outputs over a batch, relative to their size."""
    shrinking: float = 0.4
    """shrinking_output: the spread, and the spread relative to the size, over their own beginning."""
    diverging: float = 30.0
    """diverging_output: growth of both outputs and error signal over the run's best."""
    input_shift: float = 4.0
    """input_shift: move of the inputs' mean or spread, in their own standard deviations at the beginning."""
    unmoved: float = 2.0
    """input_shift: growth of the error signal over its lowest before the shift, below which the network copes."""
    unscaled: float = 50.0
    """unscaled_input: root mean square of the inputs at the beginning, where damage is there as well."""
    loss_rise: float = 10.0
    """rising_loss: loss over the lowest median it had, where the loop logs one."""

    def __post_init__(self) -> None:
        for name in ("patience", "reference_looks"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0 or not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} must be above 0 and finite, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        rule: name of the rule.
        level: "at risk", "collapsing" or "collapsed".
        site: layer or activation, or "network".
        since: step at which the condition began to hold.
        value: the figure now.
        reference: what it is held against.
        reason: a sentence for people.
    """

    rule: str
    level: str
    site: str
    since: int
    value: float
    reference: float
    reason: str


Rule = Callable[[History, Thresholds], Iterator[Finding]]


def judge(history: History, thresholds: Thresholds | None = None) -> list[Finding]:
    """All findings, the worst first; of equal ones, the earliest in the network first."""
    thresholds = thresholds or Thresholds()
    # Figures may be zero or infinite; what cannot be computed of them meets no condition.
    with np.errstate(all="ignore"):
        found = [finding for rule in RULES.values() for finding in rule(history, thresholds)]
    place = {site: number for number, site in enumerate(history.order)}
    return sorted(found, key=lambda finding: (-LEVELS.index(finding.level), finding.since, place.get(finding.site, -1)))


def verdict_of(findings: list[Finding]) -> str:
    """The worst level of all findings."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="healthy")


# -- what the rules share

#: Looks over which slow processes are judged: a direction of steps, an error that does not fall.
SLOW_LOOKS = 10
#: Part of the error signal of the beginning at which a task is learned.
LEARNED = 0.05
#: Gradient of a layer over the strongest layer's below which its steps may be lost in rounding.
ROUNDED_AWAY = 1e-10
#: Part of its beginning below which a spread of outputs is next to nothing.
SHRUNK = 0.1
#: Change of a layer's weights in one update, over their norm, that is a long step: thirty times the usual 1e-3.
LONG_STEP = 0.03


def _holds_since(condition: np.ndarray, patience: int) -> int | None:
    """Index of the look at which ``condition`` began to hold until now; None unless for ``patience`` looks in a row."""
    if len(condition) < patience or not condition[-patience:].all():
        return None
    false = np.flatnonzero(~condition)
    return int(false[-1]) + 1 if len(false) else 0


def _beginning(values: np.ndarray, looks: int) -> float:
    """Median of the first figures there are."""
    there = values[~np.isnan(values)][:looks]
    return float(np.median(there)) if len(there) else math.nan


def _columns(*series: Series) -> Iterator[tuple[Any, ...]]:
    """(site, steps, values, values, ...) of each site that all series have, at the looks at which all have a value."""
    for site in series[0].sites:
        if not all(site in one.sites for one in series):
            continue
        there = [one.steps[~np.isnan(one.site(site))] for one in series]
        steps = reduce(np.intersect1d, there)
        if len(steps):
            yield site, steps, *(one.site(site)[np.searchsorted(one.steps, steps)] for one in series)


def _together(a: Series, b: Series) -> tuple[Series, Series]:
    """Two series at the steps that both have."""
    steps = np.intersect1d(a.steps, b.steps)
    rows_a, rows_b = np.searchsorted(a.steps, steps), np.searchsorted(b.steps, steps)
    return Series(a.metric, steps, a.sites, a.values[rows_a]), Series(b.metric, steps, b.sites, b.values[rows_b])


def _reach(history: History) -> Series:
    """Gradient norm of each layer over the norm of the error signal that enters at the outputs.

    Where the error signal was not seen, the plain gradient norm.
    """
    gradients, error = history.series("gradient_norm"), history.series("error_signal")
    if not error:
        return gradients
    gradients, error = _together(gradients, error)
    total = np.sqrt(np.nansum(np.square(error.values), axis=1, keepdims=True))
    return Series("reach", gradients.steps, gradients.sites, gradients.values / total)


def _percent(share: float) -> str:
    return f"{share:.0%}"


# -- the rules


def nonfinite(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that is not a number or infinite. Holds at once: nothing after it can be trusted."""
    for site, steps, _ in _columns(history.series("nonfinite")):
        yield Finding(
            "nonfinite", "collapsed", site, int(steps[0]), math.nan, 0.0,
            f"the gradient of '{site}' stopped being finite at step {steps[0]:,}",
        )  # fmt: skip


def nonfinite_input(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs that are not numbers or infinite, where gradients are so too: what goes in is at fault."""
    first = [int(steps[0]) for _, steps, _ in _columns(history.series("nonfinite"))]
    for site, steps, values in _columns(history.series("input_mean")):
        bad = steps[~np.isfinite(values)]
        if first and len(bad) and bad[0] <= min(first):
            yield Finding(
                "nonfinite_input", "collapsed", site, int(bad[0]), math.nan, 0.0,
                f"inputs were not finite at step {bad[0]:,}",
            )  # fmt: skip


def nonfinite_at_once(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients that are not finite at the first look of all: the weights are too large to begin with."""
    steps = _bad_looks(history)
    looks = history.series("gradient_norm").steps
    inputs = history.series("input_mean")
    at_once = len(steps) and not (looks < steps[0]).any()
    if at_once and np.isfinite(inputs.values[:1]).all():
        yield Finding(
            "nonfinite_at_once", "collapsed", NETWORK, int(steps[0]), math.nan, 0.0,
            f"the gradients of finite inputs were not finite at step {steps[0]:,}, the first that was looked at",
        )  # fmt: skip


def nonfinite_suddenly(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients that stop being finite although updates were of a usual size until then: the loss is at fault.

    A logarithm of zero, an exponential of something large, a division by a spread of zero, or half precision. What
    grows too large on its way shows in the updates before.
    """
    steps = _bad_looks(history)
    updates, normalised = history.series("update_ratio"), history.series("normalised_step")
    before = updates.values[updates.steps < steps[0]] if len(steps) else np.empty((0, 0))
    if not len(before):
        return
    typical = np.nanmedian(before, axis=1)
    # Steps that are normalised cannot grow without end, so what is not finite does not come from them.
    largest = thresholds.throwing if normalised else thresholds.large_update
    grew = len(typical) > 2 and typical[-1] > thresholds.runaway * _beginning(typical, thresholds.reference_looks)
    if not typical[-1] > largest and not grew:
        yield Finding(
            "nonfinite_suddenly", "collapsed", NETWORK, int(steps[0]), math.nan, 0.0,
            f"gradients stopped being finite at step {steps[0]:,}, after updates of a usual size",
        )  # fmt: skip


def _bad_looks(history: History) -> np.ndarray:
    """Steps of the looks at which gradients were not finite."""
    series = history.series("nonfinite")
    return series.steps[np.nansum(series.values, axis=1) > 0]


def no_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets no gradient at all while others do: cut off from the loss, or behind dead units."""
    series = history.series("gradient_norm")
    if not series:
        return
    alive = np.nan_to_num(series.values).max(axis=1) > 0
    for column, site in enumerate(series.sites):
        since = _holds_since((series.values[:, column] == 0) & alive, thresholds.patience)
        if since is not None and site not in history.frozen:
            yield Finding(
                "no_gradient", "collapsed", site, int(series.steps[since]), 0.0, 0.0,
                f"'{site}' gets no gradient: it is cut off from the loss or behind units that are all dead",
            )  # fmt: skip


def no_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets gradients and never moves while others do: left out of the optimizer, or at a rate of zero."""
    series, gradients = history.series("update_ratio"), history.series("gradient_norm")
    strongest = dict(
        zip(gradients.steps.tolist(), np.nan_to_num(gradients.values, posinf=0.0).max(axis=1, initial=0.0), strict=True)
    )
    moving = {int(step) for step, row in zip(series.steps, series.values, strict=True) if np.nan_to_num(row).any()}
    for site, steps, updates, norms in _columns(series, gradients):
        others = np.array([int(step) in moving for step in steps])
        # A gradient that vanished moves its layer by less than numbers are apart.
        felt = norms > ROUNDED_AWAY * np.array([strongest[int(step)] for step in steps])
        since = _holds_since((updates == 0) & (norms > 0) & felt & others, thresholds.patience)
        if since is not None:
            yield Finding(
                "no_update", "collapsing", site, int(steps[since]), 0.0, 0.0,
                f"'{site}' gets gradients but its weights do not move: no optimizer has it, or at a learning rate of 0",
            )  # fmt: skip


def vanishing_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that fades on its way back through the layers, by its size per weight.

    The layer's gradient norm over its weight norm, against the strongest layer's: the shape of the profile, which a
    small loss does not change.
    """
    relative = {
        site: (steps, gradients / weights)
        for site, steps, gradients, weights in _columns(history.series("gradient_norm"), history.series("weight_norm"))
    }
    strongest: dict[int, float] = {}
    for steps, values in relative.values():
        for step, value in zip(steps.tolist(), np.where(np.isfinite(values), values, 0.0).tolist(), strict=True):
            strongest[step] = max(value, strongest.get(step, 0.0))
    for site, (steps, values) in relative.items():
        profile = values / np.array([strongest[step] for step in steps.tolist()])
        since = _holds_since((profile < thresholds.vanishing) & (profile > 0), thresholds.patience)
        if since is not None:
            value = float(np.median(profile[-thresholds.patience :]))
            yield Finding(
                "vanishing_gradient", "collapsing", site, int(steps[since]), value, thresholds.vanishing,
                f"the gradient of '{site}', for its weights, is {value:.1e} of the strongest layer's",
            )  # fmt: skip


def fading_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A layer that gets ever less of the error that enters at the output, against its own beginning.

    Gradient norm of the layer over norm of the error signal, so that an error that is small because the task is learned
    is not taken for a gradient that gets lost.
    """
    for site, steps, values in _columns(_reach(history)):
        beginning = _beginning(values, thresholds.reference_looks)
        since = _holds_since((values < thresholds.fading * beginning) & (values > 0), thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]) / beginning)
            yield Finding(
                "fading_gradient", "collapsing", site, int(steps[since]), value, thresholds.fading,
                f"'{site}' gets {value:.1e} of the part of the error signal that it got at the beginning",
            )  # fmt: skip


def exploding_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A gradient that is far above its own beginning, for the error that enters at the output, and stays there."""
    for site, steps, values in _columns(_reach(history)):
        beginning = _beginning(values[values > 0], thresholds.reference_looks)
        since = _holds_since(values > thresholds.exploding * beginning, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]) / beginning)
            yield Finding(
                "exploding_gradient", "collapsing", site, int(steps[since]), value, thresholds.exploding,
                f"the gradient of '{site}' is {value:.1e} times what it was at the beginning",
            )  # fmt: skip


def large_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Updates that throw the weights about: the median layer changes by several percent in one step.

    A network that is far from anything good starts with long steps; so the first looks do not count, and steps that
    are shorter than at the beginning do only where they are very long.
    """
    series = history.series("update_ratio")
    if not series:
        return
    typical = np.nanmedian(series.values, axis=1)
    beginning = _beginning(typical, thresholds.reference_looks)
    large = typical > max(thresholds.large_update, min(beginning, 4 * thresholds.large_update))
    large[: thresholds.reference_looks] = False
    since = _holds_since(large, thresholds.patience)
    if since is not None:
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
    """
    series = history.series("update_ratio")
    if not series:
        return
    typical = np.nanmedian(series.values, axis=1)
    long = typical > thresholds.large_update
    long[: thresholds.reference_looks] = False
    rows = np.convolve(long, np.ones(thresholds.patience), "full")[: len(long)] >= thresholds.patience
    thrown = np.flatnonzero(((typical > thresholds.throwing) | rows) & np.isfinite(typical))
    # What was there before the weights were thrown is not of that.
    if len(thrown) and _damaged_since(history, thresholds, int(series.steps[thrown[0]])):
        value = float(typical[thrown].max())
        yield Finding(
            "thrown_weights", "collapsing", NETWORK, int(series.steps[thrown[0]]), value, thresholds.throwing,
            f"one update changed the median layer by {value:.0%} of its weights, and they have not recovered: the "
            "learning rate is too high",
        )  # fmt: skip


def update_burst(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """An update far above all before it, which were of a usual size, and damage since: a burst of the learning rate."""
    series = history.series("update_ratio")
    if not series:
        return
    typical = np.nanmedian(series.values, axis=1)
    for look in range(2 * thresholds.reference_looks, len(typical)):
        before = typical[:look]
        usual = float(np.nanmedian(before))
        if not (typical[look] > max(thresholds.throwing, thresholds.burst * usual) and np.isfinite(typical[look])):
            continue
        if np.nanmax(before) < thresholds.large_update and _damaged_since(history, thresholds, int(series.steps[look])):
            yield Finding(
                "update_burst", "collapsing", NETWORK, int(series.steps[look]), float(typical[look]), usual,
                f"one update changed the median layer by {typical[look]:.0%} of its weights, where {usual:.1%} was "
                "usual until then, and they have not recovered",
            )  # fmt: skip
        return


def _damaged_since(history: History, thresholds: Thresholds, step: int) -> bool:
    """Whether something broke at a step or after it."""
    rules = (dead_units, saturated_units, constant_output, rank_collapse, no_gradient, fading_gradient)
    found = [finding for rule in rules for finding in rule(history, thresholds)]
    return any(finding.since >= step and finding.level != "at risk" for finding in found)


def small_update(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Updates that move nothing while the error stays: a learning rate too low, or a stale optimizer state.

    Steps that are tiny, or steps that are small and all point the same way, as consecutive gradients agree: noise has
    no direction, and at the bottom of a valley there is none to follow.
    """
    series, errors = _together(history.series("update_ratio"), history.series("error_signal"))
    if not series:
        return
    typical = np.nanmedian(series.values, axis=1)
    error = np.sqrt(np.nansum(np.square(errors.values), axis=1))
    beginning = _beginning(error, thresholds.reference_looks)
    tiny = (typical < thresholds.small_update) & (typical > 0) & (error > 0.5 * beginning)
    since = _holds_since(tiny, thresholds.patience)
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
    since = _holds_since((typical < thresholds.creeping_update) & (typical > 0), SLOW_LOOKS)
    cosines = history.series("gradient_cosine")
    # Two gradients of small batches agree by chance now and then: the direction is that of all layers and many looks.
    recent = cosines.values[np.isin(cosines.steps, steps[-SLOW_LOOKS:])]
    if since is None or np.isnan(recent).all() or not np.nanmedian(recent) > thresholds.agreement:
        return None
    before, now = error[-SLOW_LOOKS:][: thresholds.patience], error[-thresholds.patience :]
    # Where next to nothing of the error is left, nothing needs to be changed.
    left = np.median(now) > LEARNED * _beginning(error, thresholds.reference_looks)
    return since if left and np.median(now) > 0.9 * np.median(before) else None


def stale_state(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Steps far shorter than the learning rate of an optimizer that normalises them, such as Adam, in one direction.

    Its running mean of squared gradients is of gradients that were larger: of another run, or of rewards of another
    scale.
    """
    series, errors = _together(history.series("normalised_step"), history.series("error_signal"))
    cosines = history.series("gradient_cosine")
    if not series or not cosines:
        return
    typical = np.nanmedian(series.values, axis=1)
    error = np.sqrt(np.nansum(np.square(errors.values), axis=1))
    looks = thresholds.patience
    recent = cosines.values[np.isin(cosines.steps, series.steps[-SLOW_LOOKS:])]
    since = _holds_since((typical < thresholds.stale) & (typical > 0), looks)
    if since is None or np.isnan(recent).all() or not np.nanmedian(recent) > thresholds.agreement:
        return
    if np.median(error[-looks:]) > 0.9 * np.median(error[-SLOW_LOOKS:][:looks]):
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
    """
    looks = 2 * SLOW_LOOKS
    errors = _total_error(history)
    for site, steps, cosines, updates in _columns(history.series("gradient_cosine"), history.series("update_ratio")):
        back = (cosines < -thresholds.overshooting) & (updates > LONG_STEP)
        # Not every single one is: a spoiled look or two change nothing.
        if len(steps) < looks or not np.mean(back[-looks:]) > 0.5 or _falls(errors, steps[-looks:]):
            continue
        value = float(np.median(cosines[-looks:]))
        yield Finding(
            "overshooting", "at risk", site, int(steps[-looks:][back[-looks:]][0]), value, -thresholds.overshooting,
            f"each update of '{site}' undoes the last one (cosine of their gradients {value:.2f}): the learning rate "
            "is too high for it",
        )  # fmt: skip


def _total_error(history: History) -> Series:
    """The error signal of all outputs together."""
    error = history.series("error_signal")
    total = np.sqrt(np.nansum(np.square(error.values), axis=1, keepdims=True))
    return Series("error_signal", error.steps, [NETWORK] if error else [], total)


def _falls(errors: Series, steps: np.ndarray) -> bool:
    """Whether the error in the later half of some looks is below that in the earlier half."""
    values = errors.values[np.isin(errors.steps, steps)].ravel()
    half = len(values) // 2
    return half > 0 and bool(np.median(values[half:]) < 0.9 * np.median(values[:half]))


def leftover_gradient(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Gradients of the step before that are still there when the next backward pass begins: they add up."""
    for site, steps, values in _columns(history.series("leftover_gradient")):
        since = _holds_since(values > 0, thresholds.patience)
        if since is not None:
            value = float(values[-1])
            yield Finding(
                "leftover_gradient", "collapsing", site, int(steps[since]), value, 0.0,
                "gradients of the last step are still there when the next ones are added: they were not set to zero",
            )  # fmt: skip


def ascending(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs that grow ever faster, step by step in one direction, while the error never falls: the way is up."""
    yield from _running_away(history, thresholds, "ascending")


def runaway(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs, their error and the updates grow ever faster, in one direction: each feeds the next."""
    yield from _running_away(history, thresholds, "runaway")


#: Growth of the error signal over its beginning up to which it is said to stay: that of a probability is bounded.
STAYING = 3.0


def _running_away(history: History, thresholds: Thresholds, name: str) -> Iterator[Finding]:
    """Positive feedback. Too long steps turn back; here consecutive gradients agree while everything grows.

    An error that stays about what it was while outputs run away is that of a loss with the wrong sign; where it grows
    with them, what is wanted runs away as well.
    """
    updates, errors, cosines = history.series("update_ratio"), _total_error(history), history.series("gradient_cosine")
    sizes = history.series("output_size")
    if not (updates and errors and cosines and sizes):
        return
    steps = reduce(np.intersect1d, [one.steps for one in (updates, errors, cosines, sizes)])
    columns = [np.nanmedian(one.values[np.isin(one.steps, steps)], axis=1) for one in (updates, errors, cosines, sizes)]
    finite = np.isfinite(np.stack(columns)).all(axis=0)
    steps, (update, error, cosine, size) = steps[finite], (one[finite] for one in columns)
    if len(steps) <= thresholds.reference_looks:
        return
    growth = [one / _beginning(one, thresholds.reference_looks) for one in (update, error, size)]
    wrong_way = np.minimum.accumulate(error) > 0.85 * error[: thresholds.reference_looks].min()
    together = (growth[0] > thresholds.runaway) & (growth[2] > thresholds.runaway) & (cosine > thresholds.agreement)
    stays = growth[1] < STAYING
    held = together & wrong_way & (stays if name == "ascending" else ~stays)
    # Where numbers have ended there may have been no time for more than one look.
    ended = bool(len(_bad_looks(history)))
    since = _holds_since(held, 1 if ended else thresholds.patience)
    if since is not None:
        value = float(growth[2][-1])
        yield Finding(
            name, "collapsing", NETWORK, int(steps[since]), value, thresholds.runaway,
            f"outputs are {value:.0f} times what they were, and every step is longer than the last, in its direction, "
            + ("while the error does not fall" if name == "ascending" else "and so is the error"),
        )  # fmt: skip


def dormant_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units that pass on next to nothing (Sokar et al., arXiv 2302.12902), where their gradients agree.

    Activity alone misjudges residual and normalised networks; the same measure of the gradient (GraMa, arXiv
    2505.24061) must alarm as well where it is known.
    """
    activity = {site: (steps, values) for site, steps, values in _columns(history.series("dormant"))}
    for site, steps, silent, idle in _columns(history.series("dormant"), history.series("gradient_dormant")):
        activity[site] = steps, np.minimum(silent, idle)
    for site, (steps, both) in activity.items():
        since = _holds_since(both > thresholds.dormant, thresholds.patience)
        if since is not None:
            value = float(np.median(both[-thresholds.patience :]))
            yield Finding(
                "dormant_units", "collapsing" if value > 0.9 else "at risk", site, int(steps[since]), value,
                thresholds.dormant, f"{_percent(value)} of the units of '{site}' pass on next to nothing",
            )  # fmt: skip


def dead_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units that are zero on every sample of a batch."""
    for site, steps, values in _columns(history.series("dead")):
        since = _holds_since(values > thresholds.dead, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]))
            level = "collapsed" if value == 1 else "collapsing" if value > 0.95 else "at risk"
            yield Finding(
                "dead_units", level, site, int(steps[since]), value, thresholds.dead,
                f"{_percent(value)} of the units of '{site}' are zero on every sample",
            )  # fmt: skip


def saturated_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Values at the ends of a bounded activation's range, where its slope is zero (Glorot and Bengio 2010)."""
    for site, steps, values in _columns(history.series("saturated")):
        since = _holds_since(values > thresholds.saturated, thresholds.patience)
        if since is not None:
            value = float(np.median(values[-thresholds.patience :]))
            yield Finding(
                "saturated_units", "collapsing" if value > 0.9 else "at risk", site, int(steps[since]), value,
                thresholds.saturated, f"{_percent(value)} of the values of '{site}' are at the ends of its range",
            )  # fmt: skip


def rank_collapse(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that lie in ever fewer directions (Kumar et al., arXiv 2010.14498).

    In classification the rank of healthy features falls to the number of classes; only a rank next to one is alarming:
    at risk, and collapsing where it is far below its own beginning as well.
    """
    series = history.series("effective_rank")
    for site, steps, values in _columns(series):
        beginning = _beginning(values, 1)
        low = (values < thresholds.low_rank) & (values > 0)
        patience = min(thresholds.patience, 2)
        fallen = _holds_since(low & (values < thresholds.rank * beginning), patience)
        since = fallen if fallen is not None else _holds_since(low, patience)
        if since is not None:
            value = float(values[-1])
            yield Finding(
                "rank_collapse", "at risk" if fallen is None else "collapsing", site, int(steps[since]), value,
                thresholds.low_rank if fallen is None else thresholds.rank * beginning,
                f"the features before the last layer span {value:.1f} directions; at the beginning {beginning:.1f}",
            )  # fmt: skip


def alike_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that all say the same from the beginning on: units that started alike get the same gradients."""
    layers = len(history.series("weight_norm").sites)
    outputs = _columns(history.series("output_spread"), history.series("output_size"))
    # Where outputs are next to constant, features are alike as nothing comes through.
    speaks = any(spreads[0] > 0.1 * sizes[0] for _, _, spreads, sizes in outputs)
    dead = {finding.site for rule in (dead_units, constant_output) for finding in rule(history, thresholds)}
    for site, steps, values in _columns(history.series("effective_rank")):
        alike = (values < thresholds.alike) & (values > 0)
        if layers > 1 and speaks and len(values) >= 2 and alike.all() and not dead:
            yield Finding(
                "alike_units", "collapsing", site, int(steps[0]), float(values[-1]), thresholds.alike,
                "all features before the last layer are one, and were from the beginning: the units are alike",
            )  # fmt: skip


def blocked_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """An activation behind the last layer that is at its end for next to all inputs from the beginning on."""
    layers = set(history.series("weight_norm").sites)
    places = [number for number, site in enumerate(history.order) if site in layers]
    behind = history.order[places[-1] + 1 :] if places else []
    for metric in ("dead", "saturated"):
        for site, steps, values in _columns(history.series(metric)):
            if site not in behind:
                continue
            since = _holds_since(values > 0.95, thresholds.patience)
            if since is not None and steps[since] <= history.series("weight_norm").steps[0]:
                yield Finding(
                    "blocked_output", "collapsed", site, int(steps[since]), float(values[-1]), 0.95,
                    f"{_percent(float(values[-1]))} of the outputs are at the end of '{site}', behind the last layer",
                )  # fmt: skip


def policy_churn(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """The best output of a row changes for much of the batch in one single update (Schaul et al., arXiv 2206.00730)."""
    for site, steps, values in _columns(history.series("churn")):
        since = _holds_since(values > thresholds.churn, min(thresholds.patience, 2))
        if since is not None:
            value = float(values[-1])
            yield Finding(
                "policy_churn", "at risk", site, int(steps[since]), value, thresholds.churn,
                f"one update changes the best output of {_percent(value)} of the rows",
            )  # fmt: skip


def constant_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A network that answers the same whatever it is given."""
    for site, steps, spreads, sizes in _columns(history.series("output_spread"), history.series("output_size")):
        # An output of zeros has no size to compare with. Beside a large mean that all answers share, a spread that
        # grows is what is being learned.
        constant = (spreads < thresholds.constant_output * sizes) | ((spreads == 0) & (sizes == 0))
        constant &= ~(spreads > 2 * _beginning(spreads, max(thresholds.reference_looks - 1, 1)))
        since = _holds_since(constant, thresholds.patience)
        if since is not None:
            value = float(spreads[-1] / sizes[-1]) if sizes[-1] else 0.0
            yield Finding(
                "constant_output", "collapsed", site, int(steps[since]), value, thresholds.constant_output,
                f"the output is the same for all inputs (its spread is {value:.1e} of its size)",
            )  # fmt: skip


def shrinking_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs that become ever more alike, in themselves and for their size: something pulls them together."""
    for site, steps, spreads, sizes in _columns(history.series("output_spread"), history.series("output_size")):
        own, relative = (
            one / _beginning(one, thresholds.reference_looks) for one in (spreads, spreads / np.maximum(sizes, 1e-30))
        )
        shrunk = np.maximum(own, relative)
        since = _holds_since(shrunk < thresholds.shrinking, thresholds.patience)
        # Outputs that were too large to begin with draw together before they spread by what is learned.
        brief = _holds_since(shrunk < thresholds.shrinking, SLOW_LOOKS) is None and shrunk[-1] > SHRUNK
        if since is not None and not brief and own[-1] < 1.5 * own[since:].min():
            yield Finding(
                "shrinking_output", "at risk", site, int(steps[since]), float(relative[-1]), thresholds.shrinking,
                f"outputs for different inputs differ by {_percent(float(own[-1]))} of what they did at first",
            )  # fmt: skip


def diverging_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs and their error grow together, far above the best they have been: values that chase each other up."""
    for site, steps, sizes, errors in _columns(history.series("output_size"), history.series("error_signal")):
        growth = np.minimum(sizes / _running_low(sizes), errors / _running_low(errors))
        # Outputs grow out of a small beginning by themselves, and an error that was next to nothing jumps easily.
        above = errors > 2 * _beginning(errors, thresholds.reference_looks)
        since = _holds_since((growth > thresholds.diverging) & above, thresholds.patience)
        if since is not None:
            value = float(growth[-1])
            yield Finding(
                "diverging_output", "collapsing", site, int(steps[since]), value, thresholds.diverging,
                f"outputs and their error are both {value:.0f} times the lowest they have been, and stay there",
            )  # fmt: skip


def _running_low(values: np.ndarray) -> np.ndarray:
    return np.maximum(np.minimum.accumulate(values), 1e-30)


def input_shift(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs that moved far from what they were at the beginning, and an error that grew with them.

    An agent sees ever new states as it gets better; while its error stays where it was, that is progress.
    """
    errors = history.series("error_signal")
    for site, steps, means, stds in _columns(history.series("input_mean"), history.series("input_std")):
        first_mean, first_std = (_beginning(one, thresholds.reference_looks) for one in (means, stds))
        if not first_std > 0:
            continue
        moved = np.maximum(np.abs(means - first_mean) / first_std, np.maximum(stds / first_std, first_std / stds) - 1)
        since = _holds_since(moved > thresholds.input_shift, thresholds.patience)
        if since is not None and not _copes(errors, site, int(steps[since]), thresholds):
            value = float(moved[-1])
            yield Finding(
                "input_shift", "at risk", site, int(steps[since]), value, thresholds.input_shift,
                f"the inputs moved by {value:.1f} of their first standard deviations",
            )  # fmt: skip


def unscaled_input(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Inputs on a scale far above 1 from the beginning on, and damage: units at their ends, dead, or no numbers."""
    bad = len(_bad_looks(history)) > 0 and not any(nonfinite_input(history, thresholds))
    for site, steps, means, stds in _columns(history.series("input_mean"), history.series("input_std")):
        size = _beginning(np.hypot(means, stds), thresholds.reference_looks)
        if thresholds.unscaled < size < math.inf and (bad or _damaged_since(history, thresholds, 0)):
            yield Finding(
                "unscaled_input", "collapsing", site, int(steps[0]), size, thresholds.unscaled,
                f"the inputs are of size {size:.0f}: weights are made for inputs of size 1",
            )  # fmt: skip


def _copes(errors: Series, site: str, since: int, thresholds: Thresholds) -> bool:
    """Whether the error signal is about as low as it was before a step; False where it was not seen."""
    if site not in errors.sites:
        return False
    values = errors.site(site)
    before = values[errors.steps < since]
    if np.isnan(before).all() or np.isnan(values[-thresholds.patience :]).all():
        return False
    # The lowest of medians, as single looks are noisy.
    size = min(thresholds.patience, len(before))
    windows = np.lib.stride_tricks.sliding_window_view(before, size)
    lowest = np.nanmin(np.nanmedian(windows, axis=1))
    return bool(np.nanmedian(values[-thresholds.patience :]) < thresholds.unmoved * lowest)


def rising_loss(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A logged loss that is far above the lowest it has been."""
    steps, values = history.network("loss")
    if not len(values):
        return
    low = _running_low(values)
    since = _holds_since(values > thresholds.loss_rise * low, 3 * thresholds.patience)
    if since is not None:
        value = float(values[-1] / low[-1])
        yield Finding(
            "rising_loss", "collapsing", NETWORK, int(steps[since]), value, thresholds.loss_rise,
            f"the loss is {value:.1f} times the lowest it has been",
        )  # fmt: skip


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        nonfinite,
        nonfinite_input,
        nonfinite_at_once,
        nonfinite_suddenly,
        no_gradient,
        no_update,
        vanishing_gradient,
        fading_gradient,
        exploding_gradient,
        large_update,
        thrown_weights,
        update_burst,
        small_update,
        stale_state,
        overshooting,
        leftover_gradient,
        ascending,
        runaway,
        dormant_units,
        dead_units,
        saturated_units,
        rank_collapse,
        alike_units,
        policy_churn,
        constant_output,
        blocked_output,
        shrinking_output,
        diverging_output,
        input_shift,
        unscaled_input,
        rising_loss,
    )
}
