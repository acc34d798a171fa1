"""A training beside a healthy smaller one of the same task: what tells the large one from the small one.

Only figures that do not grow with a network are held against each other: shares, directions of features, the part of
the error that reaches the first layer (whose inputs are the same), changes relative to weights. Both trainings are read
up to the last step that both have reached, and the medians over the last third of their looks are compared, so that
neither the length of a training nor the noise of single looks counts. All thresholds lie far beyond what seeds of one
network differ by (``python -m pytest tests/diagnostics/test_beside.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.diagnostics.rules.finding import Finding, Thresholds
from stablegrad.diagnostics.rules.shared import beginning_of, total_error
from stablegrad.errors import UsageError

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
    return list(learns_less(own, other, thresholds))


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


def _both(own: Series, other: Series, site: str) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    if site in own.sites and site in other.sites:
        values, twins = own.site(site), other.site(site)
        there = ~np.isnan(values)
        yield site, own.steps[there], values[there], twins[~np.isnan(twins)]


def _last(values: np.ndarray) -> np.ndarray:
    """The last third of some figures; nothing where there are too few to tell an end from a beginning."""
    return values[-(len(values) // 3) :] if len(values) >= FEWEST else values[:0]


def _end(values: np.ndarray) -> float:
    """Median of the last third; NaN where there are too few, which meets no condition."""
    return float(np.median(_last(values))) if len(_last(values)) else math.nan


def _since(steps: np.ndarray) -> int:
    """Where the last third begins."""
    return int(_last(steps)[0])
