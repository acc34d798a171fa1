"""Features before the last layer, what comes out, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, columns, error_left, holds_since, running_low, total_error
from stablegrad.diagnostics.rules.units import dead_units
from stablegrad.text import percent


def rank_collapse(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that lie in ever fewer directions (Kumar et al., arXiv 2010.14498).

    In classification the rank of healthy features falls to the number of classes; only a rank next to one is alarming:
    at risk, and collapsing where it is far below its own beginning as well. One output needs one direction: while next
    to nothing of the error is left, a low rank alone is no risk.

    Tuned on ``make bench-drawn``.
    """
    series, left = history.series("effective_rank"), error_left(history, thresholds)
    for site, steps, values in columns(series):
        beginning = beginning_of(values, 1)
        low = (values < thresholds.low_rank) & (values > 0)
        fallen = holds_since(low & (values < thresholds.rank * beginning), min(thresholds.patience, 2))
        since = fallen if fallen is not None else holds_since(low, thresholds.patience)
        if since is None:
            continue
        # Features of units that are never negative begin nearly alike, and spread as they learn.
        spreads = values[-1] > thresholds.spreading * values[-thresholds.patience :][0]
        if fallen is not None or not (spreads or left < thresholds.learned):
            value = float(values[-1])
            yield Finding(
                "rank_collapse", "at risk" if fallen is None else "collapsing", site, int(steps[since]), value,
                thresholds.low_rank if fallen is None else thresholds.rank * beginning,
                f"the features before the last layer span {value:.1f} directions; at the beginning {beginning:.1f}",
            )  # fmt: skip


def collapsed_objective(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features in one direction and outputs alike while next to nothing is left of the error: that is what is wanted.

    A network that cannot learn has its error left, and one that has learned tells its inputs apart.

    Bardes et al. (arXiv 2105.04906) on objectives that equal outputs fulfil. Tuned on ``make bench-drawn``.
    """
    left = error_left(history, thresholds)
    spreads, sizes = history.series("output_spread"), history.series("output_size")
    if not left < thresholds.learned or not spreads or not sizes:
        return
    alike = np.nanmedian(spreads.values[-1]) < thresholds.equal_outputs * np.nanmedian(sizes.values[-1])
    for site, steps, values in columns(history.series("effective_rank")):
        since = holds_since((values < thresholds.low_rank) & (values > 0), min(thresholds.patience, 2))
        if since is not None and alike:
            yield Finding(
                "collapsed_objective", "collapsing", site, int(steps[since]), float(values[-1]), thresholds.low_rank,
                f"the features before the last layer span {values[-1]:.1f} directions, outputs are alike, and "
                f"{left:.1e} of the error is left: features alike fulfil the objective",
            )  # fmt: skip


def alike_units(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features that all say the same from the beginning on: units that started alike get the same gradients.

    Tuned on ``make bench-drawn``.
    """
    layers = len(history.series("weight_norm").sites)
    outputs = columns(history.series("output_spread"), history.series("output_size"))
    # Where outputs are next to constant, features are alike as nothing comes through.
    speaks = any(spreads[0] > 0.1 * sizes[0] for _, _, spreads, sizes in outputs)
    dead = {finding.site for rule in (dead_units, constant_output) for finding in rule(history, thresholds)}
    for site, steps, values in columns(history.series("effective_rank")):
        alike = (values < thresholds.alike) & (values > 0)
        if layers > 1 and speaks and len(values) >= 2 and alike.all() and not dead:
            yield Finding(
                "alike_units", "collapsing", site, int(steps[0]), float(values[-1]), thresholds.alike,
                "all features before the last layer are one, and were from the beginning: the units are alike",
            )  # fmt: skip


def policy_churn(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """The best output of a row changes for much of the batch in one single update (Schaul et al., arXiv 2206.00730).

    Tuned on ``make bench-drawn``.
    """
    for site, steps, values in columns(history.series("churn")):
        since = holds_since(values > thresholds.churn, min(thresholds.patience, 2))
        if since is not None:
            value = float(values[-1])
            yield Finding(
                "policy_churn", "at risk", site, int(steps[since]), value, thresholds.churn,
                f"one update changes the best output of {percent(value)} of the rows",
            )  # fmt: skip


def constant_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A network that answers the same whatever it is given.

    Tuned on ``make bench-drawn``.
    """
    for site, steps, spreads, sizes in columns(history.series("output_spread"), history.series("output_size")):
        # An output of zeros has no size to compare with. Beside a large mean that all answers share, a spread that
        # grows is what is being learned.
        constant = (spreads < thresholds.constant_output * sizes) | ((spreads == 0) & (sizes == 0))
        constant &= ~(spreads > 2 * beginning_of(spreads, max(thresholds.reference_looks - 1, 1)))
        since = holds_since(constant, thresholds.patience)
        if since is not None:
            value = float(spreads[-1] / sizes[-1]) if sizes[-1] else 0.0
            yield Finding(
                "constant_output", "collapsed", site, int(steps[since]), value, thresholds.constant_output,
                f"the output is the same for all inputs (its spread is {value:.1e} of its size)",
            )  # fmt: skip


def shrinking_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs that become ever more alike, in themselves and for their size: something pulls them together.

    Tuned on ``make bench-drawn``.
    """
    for site, steps, spreads, sizes in columns(history.series("output_spread"), history.series("output_size")):
        own, relative = (
            one / beginning_of(one, thresholds.reference_looks) for one in (spreads, spreads / np.maximum(sizes, 1e-30))
        )
        shrunk = np.maximum(own, relative)
        since = holds_since(shrunk < thresholds.shrinking, thresholds.patience)
        # Outputs that were too large to begin with draw together before they spread by what is learned.
        brief = (
            holds_since(shrunk < thresholds.shrinking, thresholds.slow_looks) is None and shrunk[-1] > thresholds.shrunk
        )
        if since is not None and not brief and own[-1] < 1.5 * own[since:].min():
            yield Finding(
                "shrinking_output", "at risk", site, int(steps[since]), float(relative[-1]), thresholds.shrinking,
                f"outputs for different inputs differ by {percent(float(own[-1]))} of what they did at first",
            )  # fmt: skip


def diverging_output(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Outputs and their error grow together, far above the best they have been: values that chase each other up.

    Van Hasselt et al., arXiv 1812.02648. Tuned on ``make bench-drawn``.
    """
    for site, steps, sizes, errors in columns(history.series("output_size"), history.series("error_signal")):
        growth = np.minimum(sizes / running_low(sizes), errors / running_low(errors))
        # Outputs grow out of a small beginning by themselves, and an error that was next to nothing jumps easily.
        above = errors > 2 * beginning_of(errors, thresholds.reference_looks)
        since = holds_since((growth > thresholds.diverging) & above, thresholds.patience)
        if since is not None:
            value = float(growth[-1])
            yield Finding(
                "diverging_output", "collapsing", site, int(steps[since]), value, thresholds.diverging,
                f"outputs and their error are both {value:.0f} times the lowest they have been, and stay there",
            )  # fmt: skip


def rising_loss(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A logged loss whose median over ten looks is far above the lowest that it was, and a good part of the first.

    Above what the outputs have grown by since, squared: errors of values grow with the values. Silent where the
    outputs of a watched network were not seen, where the loss is zero or below, such as a policy's, as it has no scale
    to rise by, and while the logged ``episode_return`` is near its best.

    Tuned on ``make bench-drawn``.
    """
    steps, values = history.network("loss")
    sizes = history.series("output_size")
    if len(values) < thresholds.slow_looks or not (values > 0).all():
        return
    unseen = history.series("gradient_norm") and not sizes
    if unseen or _does_its_best(history, thresholds):
        return
    medians = _moving_median(values, thresholds.slow_looks)
    low, growth = running_low(medians), _growth_since_lowest(medians, steps[-len(medians) :], sizes)
    high = (medians > thresholds.loss_rise * low * growth**2) & (medians > thresholds.forgotten * medians[0])
    since = holds_since(high, 3 * thresholds.patience)
    if since is not None:
        value = float(medians[-1] / low[-1])
        yield Finding(
            "rising_loss", "collapsing", NETWORK, int(steps[since + thresholds.slow_looks - 1]), value,
            thresholds.loss_rise,
            f"the loss is {value:.1f} times the lowest it has been"
            + (f", while outputs have grown by a factor of {growth[-1]:.1f}" if growth[-1] > 1.05 else ""),
        )  # fmt: skip


def _moving_median(values: np.ndarray, looks: int) -> np.ndarray:
    """[T - looks + 1] medians of so many values in a row."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, looks), axis=1)


def _growth_since_lowest(medians: np.ndarray, steps: np.ndarray, sizes: Series) -> np.ndarray:
    """[T] how often as large outputs are as when the loss was lowest until then, at least 1; of several, the largest.

    Args:
        medians: [T] of the loss.
        steps: [T] at which they end.
        sizes: of the outputs; what is known at a step is the last snapshot at or before it.
    """
    last = np.maximum(np.searchsorted(sizes.steps, steps, side="right") - 1, 0)
    if not sizes:
        return np.ones(len(medians))
    known = sizes.values[last]
    lowest = np.maximum.accumulate(np.where(medians <= running_low(medians), np.arange(len(medians)), 0))
    growth = known / np.maximum(known[lowest], 1e-30)
    return np.fmax.reduce(growth, axis=1, initial=1.0)


def _does_its_best(history: History, thresholds: Thresholds) -> bool:
    """Whether the last returns that were logged lie at least three quarters of the way from the first to the best."""
    _, returns = history.network("episode_return")
    if len(returns) < 2 * thresholds.slow_looks:
        return False
    medians = _moving_median(returns, thresholds.slow_looks)
    return bool(medians[-1] > medians[0] and medians[-1] - medians[0] >= 0.75 * (medians.max() - medians[0]))


def not_learned_again(history: History, thresholds: Thresholds) -> Iterator[Finding]:
    """An error that had fallen is back near where it began and stays there: what came since is not learned.

    What a network has lost that cannot learn new targets any more (Lyle et al., arXiv 2303.01486), where nothing else
    shows it. As with ``rising_loss``, errors may grow with the outputs, and returns be near their best. Tuned on
    ``make bench-drawn``.
    """
    errors, looks = total_error(history), 2 * thresholds.slow_looks
    values = errors.values.ravel()
    if len(values) < looks + 2 * thresholds.slow_looks or _does_its_best(history, thresholds):
        return
    first, recent = beginning_of(values, thresholds.reference_looks), values[-looks:]
    medians = _moving_median(values, thresholds.slow_looks)
    growth = _growth_since_lowest(medians, errors.steps[-len(medians) :], history.series("output_size"))
    lowest, half = medians[:-looks].min(), looks // 2
    stays = np.mean(recent > thresholds.back * first) > 0.8 and np.median(recent[half:]) > 0.9 * np.median(
        recent[:half]
    )
    # Without growth this follows from the conditions above.
    regained = np.median(recent) > thresholds.back / thresholds.learning * lowest * growth[-looks:].min()
    if stays and lowest < thresholds.learning * first and regained:
        value = float(np.median(recent) / first)
        came_back = np.flatnonzero(medians <= thresholds.back * first)[-1] + thresholds.slow_looks // 2
        yield Finding(
            "not_learned_again", "collapsing", NETWORK, int(errors.steps[came_back]), value, thresholds.back,
            f"the error had fallen to {percent(float(lowest / first))} of what it was at first; it is back at "
            f"{percent(value)} and stays there",
        )  # fmt: skip
