"""How likely it is that a training ends failed, from what was measured of its network and, where known, its returns.

A logistic regression of a dozen quantities, fitted on real trainings of agents of many sizes and settings
(``python -m benchmarks.diagnosis.risk``); "failed" is less than half of the way from random play to what a shallow
network of the same agent reaches at its best rate. Its numbers are in ``risk.json``, with how often statements like it
were right about environments that it was not fitted on. The rules name causes; this says how it will end.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from stablegrad.diagnostics.capacity import newest_capacities
from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.rules.outcome import Outcome
from stablegrad.text import percent

#: Looks whose median is a figure's newest value, and its first.
RECENT, FIRST = 5, 3
#: Drivers that are told at most.
TOLD = 3


@dataclass(frozen=True)
class Quantity:
    """One input of the regression.

    Attributes:
        high: what a value above the usual is, in words.
        low: what a value below it is.
        measure: computes it; NaN where it was not measured.
    """

    high: str
    low: str
    measure: Callable[[History, Outcome | None], float]


@dataclass(frozen=True)
class Risk:
    """The probability that a training ends failed.

    Attributes:
        probability: in [0, 1].
        drivers: what raises or lowers it most, in words, with the change of its log odds.
        alike: trainings of other environments of which the same was said, within a fifth.
        failed: how many of these failed.
        with_returns: whether returns were among the quantities.
    """

    probability: float
    drivers: list[tuple[str, float]]
    alike: int
    failed: int
    with_returns: bool

    @property
    def in_words(self) -> str:
        """One sentence, and how often such a one was right."""
        raised = [words for words, change in self.drivers if change > 0]
        lowered = [words for words, change in self.drivers if change < 0]
        reasons = "; ".join(
            f"{what}: {', '.join(words)}" for what, words in (("for it", raised), ("against it", lowered)) if words
        )
        record = f"of {self.alike} trainings of which this was said, {self.failed} did" if self.alike else ""
        told = "; ".join(filter(None, (reasons, record)))
        return f"it ends failed with a probability of {percent(self.probability)} ({told})"


def assess(history: History, outcome: Outcome | None) -> Risk | None:
    """The probability that a training ends failed.

    Args:
        history: what was measured so far.
        outcome: its returns; None: not known.

    Returns:
        None where too little was measured: fewer than half of the quantities, or nothing was fitted.
    """
    with_returns = outcome is not None and len(outcome.returns) >= 2 * FIRST
    model = _models().get("returns" if with_returns else "network")
    if model is None:
        return None
    found = quantities(history, outcome if with_returns else None)
    names = list(model["coefficients"])
    if sum(math.isfinite(found[name]) for name in names) < len(names) / 2:
        return None
    changes = {name: _change(model, name, found[name]) for name in names}
    odds = model["intercept"] + sum(changes.values())
    probability = 1.0 / (1.0 + math.exp(-odds))
    told = sorted(names, key=lambda name: -abs(changes[name]))[:TOLD]
    place = next(row for row in model["reliability"] if probability <= row["up_to"])
    return Risk(
        probability,
        [(_words(model, name, found[name]), changes[name]) for name in told if changes[name]],
        place["trainings"],
        place["failed"],
        with_returns,
    )


def quantities(history: History, outcome: Outcome | None) -> dict[str, float]:
    """All quantities by name; NaN for what was not measured."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # Medians of sites where nothing was measured are NaN, as they should be.
        warnings.simplefilter("ignore", RuntimeWarning)
        return {name: one.measure(history, outcome) for name, one in QUANTITIES.items()}


def _change(model: Mapping[str, Any], name: str, value: float) -> float:
    """Change of the log odds by a quantity; what was not measured is taken for usual."""
    scaled = (value - model["means"][name]) / model["deviations"][name]
    return model["coefficients"][name] * min(max(scaled, -LIMIT), LIMIT) if math.isfinite(scaled) else 0.0


#: Standard deviations beyond which a quantity is no more unusual.
LIMIT = 3.0


def _words(model: Mapping[str, Any], name: str, value: float) -> str:
    one = QUANTITIES[name]
    return one.high if value > model["means"][name] else one.low


@cache
def _models() -> dict[str, Any]:
    path = resources.files("stablegrad.diagnostics").joinpath("risk.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# == quantities ==


def _newest(history: History, metric: str) -> np.ndarray:
    """[sites] medians of a metric's newest looks."""
    series = history.series(metric)
    return np.nanmedian(series.values[-RECENT:], axis=0) if series else np.empty(0)


def _first(history: History, metric: str) -> np.ndarray:
    series = history.series(metric)
    return np.nanmedian(series.values[:FIRST], axis=0) if series else np.empty(0)


def _mean(values: np.ndarray) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else math.nan


def _log(value: float) -> float:
    return math.log10(max(value, 1e-12)) if math.isfinite(value) else math.nan


def _lost(history: History, outcome: Outcome | None) -> float:
    found = newest_capacities(history).values()
    return max((_log(one.lost) for one in found), default=math.nan)


def _lacking(history: History, outcome: Outcome | None) -> float:
    found = newest_capacities(history).values()
    return max((_log(one.live / one.small) for one in found), default=math.nan)


def _rank(history: History, outcome: Outcome | None) -> float:
    """Effective rank of the features as a share of their number, log10; the smallest of several networks."""
    ranks, counts = history.series("effective_rank"), history.series("feature_count")
    if not ranks or not counts:
        return math.nan
    newest, count = _newest(history, "effective_rank"), counts.values[-1]
    shares = [
        newest[ranks.sites.index(site)] / count[counts.sites.index(site)]
        for site in ranks.sites
        if site in counts.sites
    ]
    return _log(float(np.nanmin(shares))) if shares else math.nan


def _dormant(history: History, outcome: Outcome | None) -> float:
    return _mean(_newest(history, "dormant"))


def _churn(history: History, outcome: Outcome | None) -> float:
    return _mean(_newest(history, "churn"))


def _update(history: History, outcome: Outcome | None) -> float:
    return _log(float(np.nanmedian(values)) if len(values := _newest(history, "update_ratio")) else math.nan)


def _vanishing(history: History, outcome: Outcome | None) -> float:
    """Gradient of the first quarter of the layers over that of the last, each for the size of its weights, log10."""
    gradients, weights = history.series("gradient_norm"), history.series("weight_norm")
    sites = [site for site in gradients.sites if site in weights.sites] if gradients and weights else []
    if len(sites) < 3:
        return math.nan
    newest, sizes = _newest(history, "gradient_norm"), _newest(history, "weight_norm")
    relative = np.array(
        [newest[gradients.sites.index(site)] / sizes[weights.sites.index(site)] for site in sites], np.float64
    )
    quarter = max(len(sites) // 4, 1)
    return _log(_mean(relative[:quarter])) - _log(_mean(relative[-quarter:]))


def _error(history: History, outcome: Outcome | None) -> float:
    """Growth of the error signal since the beginning, log10."""
    return _log(_mean(_newest(history, "error_signal"))) - _log(_mean(_first(history, "error_signal")))


def _alike(history: History, outcome: Outcome | None) -> float:
    """Spread of the outputs between inputs over their size, log10: little where a network answers alike."""
    return _log(_mean(_newest(history, "output_std"))) - _log(_mean(_newest(history, "output_size")))


def _way(history: History, outcome: Outcome | None) -> float:
    """Share of the way from random play to the target; where these are not known, NaN."""
    if outcome is None or outcome.random is None or outcome.target is None or outcome.target <= outcome.random:
        return math.nan
    return min(max((_now(outcome) - outcome.random) / (outcome.target - outcome.random), -0.5), 1.2)


def _gain(history: History, outcome: Outcome | None) -> float:
    """How far returns rose since the beginning, in units of their size then, log10."""
    if outcome is None:
        return math.nan
    begin = float(np.median(outcome.returns[:FIRST]))
    size = max(abs(begin), float(np.std(outcome.returns[: 2 * FIRST])), 1e-9)
    return math.asinh((_now(outcome) - begin) / size)


def _fallen(history: History, outcome: Outcome | None) -> float:
    """Share of what had been gained at best that is lost again, in [0, 1]."""
    if outcome is None:
        return math.nan
    returns = np.convolve(outcome.returns, np.ones(FIRST) / FIRST, mode="valid")
    gained = returns.max() - returns[0]
    return float((returns.max() - returns[-1]) / gained) if gained > 0 else 1.0


def _rising(history: History, outcome: Outcome | None) -> float:
    """Share of the gain that came in the last third, in [-1, 1]."""
    if outcome is None:
        return math.nan
    third = max(len(outcome.returns) // 3, 1)
    before, begin = (
        float(np.median(outcome.returns[-third - FIRST : -third])),
        float(np.median(outcome.returns[:FIRST])),
    )
    scale = max(abs(_now(outcome) - begin), abs(before - begin), 1e-9)
    return (_now(outcome) - before) / scale


def _now(outcome: Outcome) -> float:
    return float(np.median(outcome.returns[-FIRST:]))


#: By name. Those from "way" on need returns.
QUANTITIES: dict[str, Quantity] = {
    "lost capacity": Quantity("it has lost ability to learn", "it learns like a fresh network", _lost),
    "lacking capacity": Quantity("it learns less than a small network", "it learns no less than a small one", _lacking),
    "rank": Quantity("its features span many directions", "its features span few directions", _rank),
    "dormant units": Quantity("many units are dormant", "few units are dormant", _dormant),
    "churn": Quantity("each update changes many actions", "updates change few actions", _churn),
    "update size": Quantity("updates are large", "updates are small", _update),
    "gradient at the bottom": Quantity(
        "gradients reach the first layers", "gradients fade on the way to the first layers", _vanishing
    ),
    "growth of the error": Quantity("the error has grown", "the error has not grown", _error),
    "spread of the outputs": Quantity("outputs tell inputs apart", "outputs hardly tell inputs apart", _alike),
    "way": Quantity("returns have come far", "returns have not come far", _way),
    "gain": Quantity("returns have risen", "returns have hardly risen", _gain),
    "fallen": Quantity("returns fell from their best", "returns are near their best", _fallen),
    "rising": Quantity("returns still rise", "returns no longer rise", _rising),
}
OF_RETURNS = ("way", "gain", "fallen", "rising")
