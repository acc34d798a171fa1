"""A training beside a healthy smaller one of the same task: what tells the large one from the small one.

Only figures that do not grow with a network are held against each other: shares, directions of features, the part of
the error that reaches the first layer (whose inputs are the same), changes relative to weights. Both trainings are read
up to the last step that both have reached, and the medians over the last third of their looks are compared, so that
neither the length of a training nor the noise of single looks counts. All thresholds lie far beyond what seeds of one
network differ by (``python -m pytest tests/diagnostics/test_beside.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, columns, error_left, middle, reach, total_error
from stablegrad.diagnostics.rules.units import idle_units
from stablegrad.errors import UsageError
from stablegrad.text import percent

#: Rules that hold a training against another one, of a smaller network.
BesideRule = Callable[[History, History, Thresholds], Iterator[Finding]]
#: (steps, shares of units) by activation.
Shares = Mapping[str, tuple[np.ndarray, np.ndarray]]
#: What says how well a training does, where both logged it, the most telling first: metric, site, in words.
OUTCOMES = (
    ("episode_return", NETWORK, "episode return"),
    ("train", "return", "return"),
    ("train", "accuracy", "accuracy"),
    ("loss", NETWORK, "loss"),
)
#: Those of them of which less is better.
FALLING = ("loss", "error")
#: Figures of which a last third is told from the first ones.
FEWEST = 6
#: Part of the smaller network's way below which next to nothing was learned.
NOTHING = 0.1


def judge_beside(history: History, twin: History, thresholds: Thresholds) -> list[Finding]:
    """What tells a training from one of a smaller network, in no order.

    Raises:
        UsageError: the other is the same training, has no looks, or counts other steps.
    """
    if twin is history:
        raise UsageError("a training cannot be judged beside itself; give that of a smaller network of the same task")
    if not twin.series("gradient_norm"):
        raise UsageError("the training to judge beside has no looks; expected one that was watched by a monitor")
    if twin.step_name != history.step_name:
        raise UsageError(
            f"the training to judge beside counts {twin.step_name}, this one {history.step_name}; expected the same"
        )
    last = min(history.rows[-1][0], twin.rows[-1][0]) if history.rows else 0
    own, other = history.until(last), twin.until(last)
    return [finding for rule in BESIDE.values() for finding in rule(own, other, thresholds)]


def learns_less(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A training that has made less than half of the way that the smaller network made from its beginning on.

    By the returns that both logged, else accuracies, else losses, else by what is left of each one's own first error
    signal. Where the smaller network made no way that stands out of its noise, there is nothing to fall behind.
    Tuned on tests/diagnostics/test_beside.py.
    """
    for metric, words, steps, values, twins in _outcomes(history, twin, thresholds):
        if not len(_last(values)) or not len(_last(twins)):
            continue
        first = beginning_of(twins, thresholds.reference_looks)
        here, there = _end(values), _end(twins)
        way = there - first
        better = -way if metric in FALLING else way
        if not better > 2 * np.std(_last(twins)):
            return
        share = (here - first) / way
        if share < thresholds.behind:
            yield Finding(
                "learns_less", "collapsing" if share < NOTHING else "at risk", NETWORK, _since(steps), here, there,
                f"the {words} is {here:.3g}; that of the network beside it went from {first:.3g} to {there:.3g}",
            )  # fmt: skip
        return


def fewer_directions(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Features in far fewer directions than those of the smaller network, which has fewer to choose from.

    Effective rank as it is (Roy and Vetterli 2007; Kumar et al., arXiv 2010.14498): how many directions a task takes
    does not depend on the network. While next to nothing of the error is left, few are enough. Tuned on
    tests/diagnostics/test_beside.py.
    """
    if error_left(history, thresholds) < thresholds.learned:
        return
    for site, steps, values, there in _common(history, twin, "effective_rank"):
        here = _end(values)
        if here < thresholds.fewer * there:
            yield Finding(
                "fewer_directions", _level(history, twin, thresholds), site, _since(steps), here, there,
                f"the features before the last layer span {here:.1f} directions, those of the one beside it "
                f"{there:.1f}",
            )  # fmt: skip


def more_dormant(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units of the median activation that pass on next to nothing, a far larger share than in the smaller network.

    Sokar et al. (arXiv 2302.12902); of the median activation, as the worst of many is worse than the worst of few.
    Tuned on tests/diagnostics/test_beside.py.
    """
    yield from _more(
        "more_dormant", idle_units(history), idle_units(twin), _level(history, twin, thresholds), thresholds.more_idle,
        "of the units of the median activation pass on next to nothing",
    )  # fmt: skip


def more_dead(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Units of the median activation that are zero on every sample, a far larger share than in the smaller network.

    Lu et al. (arXiv 1903.06733) on depth and dead units. Tuned on tests/diagnostics/test_beside.py.
    """
    own, other = (
        {site: (steps, values) for site, steps, values in columns(one.series("dead"))} for one in (history, twin)
    )
    yield from _more(
        "more_dead", own, other, _level(history, twin, thresholds), thresholds.more_idle,
        "of the units of the median activation are zero on every sample",
    )  # fmt: skip


def less_signal(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """A first layer that gets a far smaller part of the error at the output than that of the smaller network.

    Gradient norm over error signal (Glorot and Bengio 2010, on gradients by depth). Tuned on
    tests/diagnostics/test_beside.py.
    """
    first = [_first_layer(one) for one in (history, twin)]
    if first[0] is None or first[1] is None:
        return
    (site, steps, values), (_, _, twins) = first[0], first[1]
    here, there = _end(values), _end(twins)
    if here < thresholds.less_signal * there:
        yield Finding(
            "less_signal", _level(history, twin, thresholds), site, _since(steps), here, there,
            f"of each unit of the error at the output {here:.1e} reaches '{site}'; in the network beside it "
            f"{there:.1e} reaches the first layer",
        )  # fmt: skip


def longer_updates(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Steps many times as long, for the weights, as those of the smaller network, in a training that learns less.

    Healthy steps are as long as they have to be; where two trainings learn alike their steps say nothing. Tuned on
    tests/diagnostics/test_beside.py.
    """
    yield from _unlike_updates("longer_updates", history, twin, thresholds)


def shorter_updates(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Steps many times as short, for the weights, as those of the smaller network, in a training that learns less.

    Tuned on tests/diagnostics/test_beside.py.
    """
    yield from _unlike_updates("shorter_updates", history, twin, thresholds)


def more_churn(history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    """Rows whose best output changes in one update, a far larger share than in the smaller network.

    Schaul et al. (arXiv 2206.00730). Tuned on tests/diagnostics/test_beside.py.
    """
    for site, steps, values, there in _common(history, twin, "churn"):
        here = _end(values)
        if here > there + thresholds.more_churn:
            yield Finding(
                "more_churn", _level(history, twin, thresholds), site, _since(steps), here, there,
                f"one update changes the best output of {percent(here)} of the rows, in the network beside it of "
                f"{percent(there)}",
            )  # fmt: skip


BESIDE: dict[str, BesideRule] = {
    rule.__name__: rule
    for rule in (
        learns_less,
        fewer_directions,
        more_dormant,
        more_dead,
        less_signal,
        longer_updates,
        shorter_updates,
        more_churn,
    )
}


def _unlike_updates(name: str, history: History, twin: History, thresholds: Thresholds) -> Iterator[Finding]:
    behind = next(learns_less(history, twin, thresholds), None)
    series = history.series("update_ratio")
    here, there = (_end(_median(one.series("update_ratio"))) for one in (history, twin))
    low, high = (there, here) if name == "longer_updates" else (here, there)
    if behind is not None and thresholds.unlike_updates * low < high < math.inf:
        yield Finding(
            name, behind.level, NETWORK, _since(series.steps), here, there,
            f"one update changes the median layer by {here:.1e} of its weights, that of the network beside it by "
            f"{there:.1e}",
        )  # fmt: skip


def _more(name: str, own: Shares, other: Shares, level: str, threshold: float, words: str) -> Iterator[Finding]:
    """A share of units that is larger than the smaller network's by more than a threshold."""
    if not own or not other:
        return
    here, there = (float(np.median([_end(values) for _, values in by_site.values()])) for by_site in (own, other))
    if here > there + threshold:
        since = min(_since(steps) for steps, _ in own.values())
        yield Finding(
            name, level, NETWORK, since, here, there,
            f"{percent(here)} {words}, in the network beside it {percent(there)}",
        )  # fmt: skip


def _level(history: History, twin: History, thresholds: Thresholds) -> str:
    """That of what the difference goes with: of a training that learns less, or a risk alone."""
    return next((finding.level for finding in learns_less(history, twin, thresholds)), "at risk")


def _outcomes(
    history: History, twin: History, thresholds: Thresholds
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """(metric, words, steps, values, the twin's values) of what says how well both do."""
    for metric, site, words in OUTCOMES:
        for _, steps, values, twins in _both(history.series(metric), twin.series(metric), site):
            yield metric, words, steps, values, twins
    errors = [total_error(one) for one in (history, twin)]
    left = [one.values / np.nanmax(one.values[: thresholds.patience]) for one in errors if one]
    if len(left) == 2:
        yield "error", "error, of what it was at first,", errors[0].steps, left[0].ravel(), left[1].ravel()


def _common(history: History, twin: History, metric: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """(site, steps, values, the twin's median at the end) of each site that both have."""
    for site in history.series(metric).sites:
        for name, steps, values, twins in _both(history.series(metric), twin.series(metric), site):
            yield name, steps, values, _end(twins)


def _both(own: Series, other: Series, site: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    if site in own.sites and site in other.sites:
        values, twins = own.site(site), other.site(site)
        there = ~np.isnan(values)
        yield site, own.steps[there], values[there], twins[~np.isnan(twins)]


def _first_layer(history: History) -> tuple[str, np.ndarray, np.ndarray] | None:
    """(site, steps, gradient norm over error signal) of the first layer that is trained, where both were seen."""
    if not history.series("error_signal"):
        return None
    return next((one for one in columns(reach(history)) if one[0] not in history.frozen), None)


def _median(series: Series) -> np.ndarray:
    """[T] the median layer's values."""
    return middle(series.values) if series else np.empty(0)


def _last(values: np.ndarray) -> np.ndarray:
    """The last third of some figures; nothing where there are too few to tell an end from a beginning."""
    return values[-(len(values) // 3) :] if len(values) >= FEWEST else values[:0]


def _end(values: np.ndarray) -> float:
    """Median of the last third; NaN where there are too few, which meets no condition."""
    return float(np.median(_last(values))) if len(_last(values)) else math.nan


def _since(steps: np.ndarray) -> int:
    """Where the last third begins."""
    return int(_last(steps)[0])
