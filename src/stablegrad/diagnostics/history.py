"""What was measured, and when: series of figures by metric, site and step.

A figure has a key ``<metric>/<site>``. The site is a layer or an activation by its module's name, or ``network`` for
figures of the whole. The same keys stand in metrics.jsonl, so a run folder is a history as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np

from stablegrad.errors import unknown_name

NETWORK = "network"

#: Metrics of layers, and of activations; all others are of the whole network.
LAYER_METRICS = (
    "gradient_norm",
    "weight_norm",
    "update_ratio",
    "gradient_cosine",
    "gradient_snr",
    "effective_learning_rate",
    "normalised_step",
    "weight_gain",
    "layer_error",
)
ACTIVATION_METRICS = ("dormant", "dead", "gradient_dormant", "saturated")


@dataclass(frozen=True)
class Series:
    """One metric over time.

    Attributes:
        metric: its name.
        steps: [T] the history's steps.
        sites: what was measured, in the order of the data's way through the network.
        values: [T, sites] float64; NaN where there is no value, infinities as they were.
    """

    metric: str
    steps: np.ndarray
    sites: list[str]
    values: np.ndarray

    def __repr__(self) -> str:
        return f"<Series {self.metric}: {len(self.steps):,} steps, {len(self.sites):,} sites>"

    def __bool__(self) -> bool:
        return self.values.size > 0

    def site(self, name: str) -> np.ndarray:
        """[T] values of one site.

        Raises:
            UsageError: it was not measured there.
        """
        if name not in self.sites:
            raise unknown_name(f"site of {self.metric}", name, self.sites)
        return self.values[:, self.sites.index(name)]


@dataclass(repr=False)
class History:
    """Figures in the order in which they were measured.

    Attributes:
        rows: (step, figures by key); steps never fall.
        order: sites in the order of the data's way; sites that are not in it come last, as they were met.
        frozen: layers of which no gradient is expected: not trained on purpose, or never called.
        step_name: what its steps count.
    """

    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    step_name: str = "optimizer steps"
    _by_metric: dict[str, list[tuple[int, dict[str, float]]]] = field(default_factory=dict, repr=False)
    _series: dict[str, Series] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        rows, self.rows = self.rows, []
        for step, figures in rows:
            self.add(step, figures)

    def __repr__(self) -> str:
        span = f", steps {self.rows[0][0]:,} to {self.rows[-1][0]:,}" if self.rows else ""
        return f"<History: {len(self.rows):,} rows{span}; metrics() lists what was measured>"

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Put figures at their step; those of a step that is there already join it."""
        _join(self.rows, step, figures)
        parts: dict[str, dict[str, float]] = {}
        for key, value in figures.items():
            metric, _, site = key.partition("/")
            parts.setdefault(metric, {})[site] = value
        for metric, part in parts.items():
            _join(self._by_metric.setdefault(metric, []), step, part)
            self._series.pop(metric, None)

    def set_order(self, order: Sequence[str]) -> None:
        """Say in which order the data pass the sites."""
        self.order = list(order)
        self._series.clear()

    def metrics(self) -> list[str]:
        """Names of all metrics there are."""
        return list(self._by_metric)

    def series(self, metric: str) -> Series:
        """All values of one metric; steps without any are left out."""
        if metric not in self._series:
            rows = self._by_metric.get(metric, [])
            place = {site: number for number, site in enumerate(self.order)}
            met = dict.fromkeys(site for _, figures in rows for site in figures)
            sites = sorted(met, key=lambda site: place.get(site, len(place)))
            values = np.array(
                [[figures.get(site, math.nan) for site in sites] for _, figures in rows], dtype=np.float64
            )
            steps = np.array([step for step, _ in rows], dtype=np.int64)
            self._series[metric] = Series(metric, steps, sites, values.reshape(len(rows), len(sites)))
        return self._series[metric]

    def network(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric of the whole network."""
        series = self.series(metric)
        if NETWORK not in series.sites:
            return np.empty(0, np.int64), np.empty(0)
        values = series.site(NETWORK)
        there = ~np.isnan(values)
        return series.steps[there], values[there]

    def until(self, step: int) -> History:
        """What was known at a step: a view, to which nothing can be added."""
        return _Until(self, step)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN is left out, infinities are the strings "inf" and "-inf"."""
        rows = [
            {"step": step} | {key: _to_json(value) for key, value in figures.items() if not math.isnan(value)}
            for step, figures in self.rows
        ]
        return {"order": self.order, "frozen": self.frozen, "step_name": self.step_name, "rows": rows}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> History:
        """From ``to_dict()``."""
        history = cls.from_rows(saved["rows"], saved["order"], saved["frozen"])
        history.step_name = saved.get("step_name", cls.step_name)
        return history

    @classmethod
    def from_rows(
        cls, rows: Iterable[Mapping[str, Any]], order: Sequence[str] = (), frozen: Sequence[str] = ()
    ) -> History:
        """From the lines of a metrics.jsonl; keys that hold no number are left out."""
        history = cls(order=list(order), frozen=list(frozen))
        for row in rows:
            figures = {key: _from_json(value) for key, value in row.items() if "/" in key}
            history.add(int(row["step"]), {key: value for key, value in figures.items() if value is not None})
        return history


class _Until(History):
    """A history up to a step, cut from the series of the whole."""

    def __init__(self, whole: History, step: int):
        super().__init__(order=whole.order, frozen=whole.frozen, step_name=whole.step_name)
        self._whole, self._step = whole, step
        self.rows = whole.rows[: bisect_right(whole.rows, step, key=itemgetter(0))]

    def metrics(self) -> list[str]:
        return [metric for metric in self._whole.metrics() if self.series(metric)]

    def series(self, metric: str) -> Series:
        whole = self._whole.series(metric)
        seen = int(np.searchsorted(whole.steps, self._step, side="right"))
        return Series(metric, whole.steps[:seen], whole.sites if seen else [], whole.values[:seen])


def looks_of(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of a metrics.jsonl that a look was taken for; gradients are logged on the others as well."""
    return [row for row in rows if any(key.startswith("update_ratio/") for key in row)]


def _join(rows: list[tuple[int, dict[str, float]]], step: int, figures: Mapping[str, float]) -> None:
    # Optimizers that count their own steps may report an earlier one than the last.
    place = len(rows) if not rows or rows[-1][0] < step else bisect_left(rows, step, key=itemgetter(0))
    if place < len(rows) and rows[place][0] == step:
        rows[place][1].update(figures)
    else:
        rows.insert(place, (step, dict(figures)))


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _from_json(value: Any) -> float | None:
    if value in ("inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
