"""Curves of runs brought onto common steps, so that seeds can be averaged.

Pure functions of what metrics.jsonl holds: one dict a line, with ``step`` and whatever was measured there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GRADIENT_PREFIX = "gradient_norm/"


class Curve(NamedTuple):
    """One measure over a run: ``steps`` increasing, ``values`` finite, both float64 [points]."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def extract(metrics: Sequence[Mapping[str, float | None]], name: str) -> Curve:
    """The curve of one measure; lines without it, or with no finite number there, are left out.

    Where a step occurs more than once (a run that was stopped and resumed), the last line counts.
    """
    points: dict[float, float] = {}
    for row in metrics:
        value = row.get(name)
        step = row.get("step")
        if value is not None and step is not None and np.isfinite(value):
            points[float(step)] = float(value)
    steps = np.array(sorted(points), dtype=np.float64)
    return Curve(steps, np.array([points[step] for step in steps], dtype=np.float64))


def common_grid(curves: Sequence[Curve], points: int) -> NDArray[np.float64]:
    """Even steps over the range that every curve covers, so that nothing is extrapolated.

    Args:
        curves: the curves; those without points are passed over.
        points: how many steps at most; a range of no length has one.

    Returns:
        float64 [at most ``points``]; empty where there is no common range.
    """
    filled = [curve for curve in curves if curve.steps.size]
    if not filled:
        return np.empty(0)
    start = max(curve.steps[0] for curve in filled)
    end = min(curve.steps[-1] for curve in filled)
    if end < start:
        return np.empty(0)
    return np.linspace(start, end, points) if end > start else np.array([start])


def on_grid(curves: Sequence[Curve], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear interpolation of every curve with points at the steps of ``grid``: float64 [curves, len(grid)]."""
    rows = [np.interp(grid, curve.steps, curve.values) for curve in curves if curve.steps.size]
    return np.stack(rows) if rows else np.empty((0, grid.size))


def mean_curve(curves: Sequence[Curve], points: int = 200) -> Curve:
    """The mean over seeds on their common grid; no points where there is no common range."""
    grid = common_grid(curves, points)
    return Curve(grid, on_grid(curves, grid).mean(axis=0) if grid.size else np.empty(0))


def layer_names(metrics: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Names of the layers whose gradients were measured, in the order of their first line (forward order)."""
    names: dict[str, None] = {}
    for row in metrics:
        names.update((key.removeprefix(GRADIENT_PREFIX), None) for key in row if key.startswith(GRADIENT_PREFIX))
    return list(names)


class GradientMap(NamedTuple):
    """Gradient norms of one setting, layer by time.

    Attributes:
        layers: names in forward order.
        steps: float64 [times].
        log10_norms: float64 [layers, times], log10 of the geometric mean over seeds; NaN where nothing was measured.
        zero: bool [layers, times], True where the norm of every seed is exactly zero (log10_norms is NaN there).
    """

    layers: list[str]
    steps: NDArray[np.float64]
    log10_norms: NDArray[np.float64]
    zero: NDArray[np.bool_]


def gradient_map(
    runs: Sequence[Sequence[Mapping[str, float | None]]], layers: Sequence[str], points: int = 100
) -> GradientMap:
    """Geometric mean over seeds of the gradient norms, on common steps.

    The mean is taken of logarithms, because norms of healthy and fading gradients lie orders of magnitude apart. A norm
    of zero has none: it counts as a tenth of the smallest positive norm of these runs, unless all seeds are zero there.

    Args:
        runs: metrics of each seed of one setting.
        layers: which layers, in forward order.
        points: how many times at most.
    """
    curves = {layer: [extract(metrics, GRADIENT_PREFIX + layer) for metrics in runs] for layer in layers}
    everything = [curve for group in curves.values() for curve in group]
    grid = common_grid(everything, points)
    positive = np.concatenate([curve.values[curve.values > 0] for curve in everything] or [np.empty(0)])
    floor = np.log10(positive.min()) - 1 if positive.size else 0.0

    norms = np.full((len(layers), grid.size), np.nan)
    zero = np.zeros(norms.shape, dtype=np.bool_)
    for row, group in enumerate(curves.values()):
        logs = [
            Curve(curve.steps, np.where(curve.values > 0, np.log10(np.where(curve.values > 0, curve.values, 1)), floor))
            for curve in group
        ]
        seeds = on_grid(logs, grid)
        if seeds.size:
            norms[row] = seeds.mean(axis=0)
            zero[row] = (seeds <= floor + 1e-9).all(axis=0)
    norms[zero] = np.nan
    return GradientMap(list(layers), grid, norms, zero)
