"""What figures show, worked out once for pictures and pages: curves with a band, gradient maps on one colour scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stablegrad.pages import SETTING_COLOURS
from stablegrad.studies.comparison import Comparison, RunRecord
from stablegrad.studies.curves import Curve, GradientMap, common_grid, extract, gradient_map, layer_names, on_grid
from stablegrad.studies.statistics import mean_interval
from stablegrad.studies.summary import RETURN

PART_COLOURS = {
    "environment": "#56b4e9",
    "act": "#009e73",
    "update": "#cc79a7",
    "optimizer": "#d55e00",
    "diagnostics": "#e6c700",
    "other": "#999999",
}
DECADES = 8  # of the colour scale, at most: a vanished 1e-30 would flatten all other differences


@dataclass(frozen=True)
class ReturnSeries:
    """Learning curves of one setting.

    Attributes:
        name: of the setting.
        colour: its colour in every figure.
        runs: (seed, finished, curve) for every run with at least one point.
        steps: float64 [points], common to all finished runs; empty where there is none.
        mean: float64 [points], over finished runs.
        interval: lower and upper end of the mean's interval; None with fewer than two finished runs.
        seconds_per_step: mean over finished runs; None where unknown.
    """

    name: str
    colour: str
    runs: list[tuple[int, bool, Curve]]
    steps: NDArray[np.float64]
    mean: NDArray[np.float64]
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    seconds_per_step: float | None


@dataclass(frozen=True)
class GradientMaps:
    """Gradient maps to be shown side by side.

    Attributes:
        names: of the settings or the run.
        maps: one each.
        seeds: how many runs each map is the geometric mean of.
        low: log10 of the norm at the lower end of the one colour scale; lower norms take its colour.
        high: log10 of the norm at the upper end.
    """

    names: list[str]
    maps: list[GradientMap]
    seeds: list[int]
    low: float
    high: float


def records_by_setting(comparison: Comparison) -> dict[str, list[RunRecord]]:
    """The runs of each setting in the order of the seeds, first setting first."""
    return {setting: [comparison.record(setting, seed) for seed in comparison.seeds] for setting in comparison.settings}


def return_series(records: dict[str, list[RunRecord]], summary: dict[str, Any]) -> list[ReturnSeries]:
    """Learning curves of every setting.

    Args:
        records: setting -> runs.
        summary: of the comparison they belong to, for the seconds of a step.
    """
    series = []
    for (name, runs), colour in zip(records.items(), SETTING_COLOURS, strict=False):
        curves = [(run.seed, run.finished, extract(run.metrics, RETURN)) for run in runs]
        finished = [curve for _, done, curve in curves if done and curve.steps.size]
        grid = common_grid(finished, 200)
        values = on_grid(finished, grid)
        estimate = mean_interval(values) if grid.size else None
        thousand = summary["cost"][name]["seconds_per_1000_steps"]
        series.append(
            ReturnSeries(
                name,
                colour,
                [entry for entry in curves if entry[2].steps.size],
                grid,
                np.empty(0) if estimate is None else estimate.mean,
                None if estimate is None else estimate.interval,
                None if thousand is None else thousand / 1000,
            )
        )
    return series


def gradient_maps(records: dict[str, list[RunRecord]], points: int = 100) -> GradientMaps | None:
    """Gradient norms of every setting on one colour scale; None where no run has measured any.

    Finished runs count; a setting without one shows the runs that it has.

    Args:
        records: name -> runs.
        points: how many times at most.
    """
    names, maps, seeds = [], [], []
    for name, runs in records.items():
        measured = [run for run in runs if layer_names(run.metrics)]
        shown = [run for run in measured if run.finished] or measured
        if not shown:
            continue
        names.append(name)
        seeds.append(len(shown))
        maps.append(gradient_map([run.metrics for run in shown], _forward_order(shown), points))
    if not maps:
        return None
    values = np.concatenate([found.log10_norms[np.isfinite(found.log10_norms)] for found in maps])
    high = float(values.max()) if values.size else 0.0
    low = max(float(values.min()), high - DECADES) if values.size else -1.0
    return GradientMaps(names, maps, seeds, low, max(high, low + 0.1))


def edges(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borders of the cells around evenly spaced steps: one more than steps; one step has a cell of width 1."""
    if steps.size < 2:
        return np.concatenate([steps - 0.5, steps + 0.5])
    half = (steps[1] - steps[0]) / 2
    return np.append(steps - half, steps[-1] + half)


def _forward_order(runs: Sequence[RunRecord]) -> list[str]:
    """Layers that were measured, in the order of the summary; those it does not name after them."""
    named = [layer for run in runs for layer in run.summary.get("layers") or []]
    measured = [layer for run in runs for layer in layer_names(run.metrics)]
    return [layer for layer in dict.fromkeys([*named, *measured]) if layer in set(measured)]
