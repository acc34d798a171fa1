"""What the rules share: conditions that hold for some looks, a beginning, figures side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any

import numpy as np

from stablegrad.diagnostics.history import NETWORK, History, Series
from stablegrad.diagnostics.rules.finding import Thresholds


def holds_since(condition: np.ndarray, patience: int) -> int | None:
    """Index of the look at which ``condition`` began to hold until now; None unless for ``patience`` looks in a row."""
    if len(condition) < patience or not condition[-patience:].all():
        return None
    false = np.flatnonzero(~condition)
    return int(false[-1]) + 1 if len(false) else 0


def beginning_of(values: np.ndarray, looks: int) -> float:
    """Median of the first figures there are."""
    there = values[~np.isnan(values)][:looks]
    return float(np.median(there)) if len(there) else math.nan


def middle(values: np.ndarray) -> np.ndarray:
    """[T] median of each row of [T, sites], NaN left out; NaN where nothing is left.

    ``np.nanmedian`` of such small rows takes five to eight times as long, and a verdict takes dozens of them.
    """
    values = np.sort(values, axis=1)
    there = np.count_nonzero(~np.isnan(values), axis=1)
    rows = np.arange(len(values))
    low, high = values[rows, np.maximum(there - 1, 0) // 2], values[rows, np.minimum(there // 2, values.shape[1] - 1)]
    return np.where(there > 0, (low + high) / 2, math.nan)


def columns(*series: Series) -> Iterator[tuple[Any, ...]]:
    """(site, steps, values, values, ...) of each site that all series have, at the looks at which all have a value."""
    for site in series[0].sites:
        if not all(site in one.sites for one in series):
            continue
        there = [one.steps[~np.isnan(one.site(site))] for one in series]
        steps = reduce(np.intersect1d, there)
        if len(steps):
            yield site, steps, *(one.site(site)[np.searchsorted(one.steps, steps)] for one in series)


def together(a: Series, b: Series) -> tuple[Series, Series]:
    """Two series at the steps that both have."""
    steps = np.intersect1d(a.steps, b.steps)
    rows_a, rows_b = np.searchsorted(a.steps, steps), np.searchsorted(b.steps, steps)
    return Series(a.metric, steps, a.sites, a.values[rows_a]), Series(b.metric, steps, b.sites, b.values[rows_b])


def layer_errors(history: History) -> Series:
    """The error signal of the outputs that depend on each layer, at the looks that have gradients and errors.

    Where outputs depend on different layers (``layer_error``) each layer has an error of its own, and looks that do not
    have it have none; else it is that of all outputs.
    """
    gradients, error = together(history.series("gradient_norm"), history.series("error_signal"))
    total = np.sqrt(np.nansum(np.square(error.values), axis=1, keepdims=True))
    values = np.broadcast_to(total, gradients.values.shape).copy()
    own = history.series("layer_error")
    _, here, there = np.intersect1d(gradients.steps, own.steps, return_indices=True)
    for column, site in enumerate(gradients.sites):
        if site in own.sites:
            values[:, column] = math.nan
            values[here, column] = own.site(site)[there]
    return Series("layer_error", gradients.steps, gradients.sites, values)


def reach(history: History) -> Series:
    """Gradient norm of each layer over the norm of the error signal that enters at the outputs which depend on it.

    Where no error signal was seen, the plain gradient norm.
    """
    gradients = history.series("gradient_norm")
    if not history.series("error_signal"):
        return gradients
    errors = layer_errors(history)
    gradients, errors = together(gradients, errors)
    return Series("reach", gradients.steps, gradients.sites, gradients.values / errors.values)


def is_learned(history: History, site: str, thresholds: Thresholds) -> bool:
    """Whether next to nothing is left of the error that a layer is trained on."""
    if not history.series("error_signal"):
        return False
    errors = layer_errors(history).site(site)
    errors = errors[~np.isnan(errors)]
    looks = thresholds.patience
    left = np.median(errors[-looks:]) if len(errors) > looks else math.inf
    return bool(left < thresholds.learned * beginning_of(errors, thresholds.reference_looks))


def total_error(history: History) -> Series:
    """The error signal of all outputs together."""
    error = history.series("error_signal")
    total = np.sqrt(np.nansum(np.square(error.values), axis=1, keepdims=True))
    return Series("error_signal", error.steps, [NETWORK] if error else [], total)


def error_left(history: History, thresholds: Thresholds) -> float:
    """The error of now over the largest of the first looks; NaN where there are too few."""
    errors, looks = total_error(history).values.ravel(), thresholds.patience
    return float(np.median(errors[-looks:]) / np.nanmax(errors[:looks])) if len(errors) >= 2 * looks else math.nan


def stretch(history: History) -> float:
    """By how much the first weights of all layers together stretch what passes: each beyond the sqrt(2) of ReLU.

    Gains of He et al. (arXiv 1502.01852) multiply where nothing stands between layers that normalises.
    """
    gains = history.series("weight_gain").values[:1]
    return float(np.prod(np.maximum(gains[np.isfinite(gains)] / math.sqrt(2), 1.0)))


def bad_looks(history: History) -> np.ndarray:
    """Steps of the looks at which gradients were not finite."""
    series = history.series("nonfinite")
    return series.steps[np.nansum(series.values, axis=1) > 0]


def running_low(values: np.ndarray) -> np.ndarray:
    """[T] the lowest value until then, above zero."""
    return np.maximum(np.minimum.accumulate(values), 1e-30)
