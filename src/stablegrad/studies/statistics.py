"""Statistics of a few seeds: intervals of means, paired differences, who wins how often, aggregates over many tasks.

Pure functions of arrays. Deep RL runs are few and their returns far from normal, so means come with an interval, and
comparisons with a probability of improvement, as Agarwal et al. (2021, arXiv 2108.13264) ask for.

What is here is for one task: values [seeds]. For many tasks, scores [runs, tasks], see
:mod:`~stablegrad.studies.aggregates` (one number), :mod:`~stablegrad.studies.bootstrap` (its interval) and
:mod:`~stablegrad.studies.scores` (labelled matrices); all that people need of them is reachable here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from stablegrad.studies.aggregates import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    aggregate_optimality_gap,
    human_normalized_scores,
    interquartile_mean,
    probability_of_improvement,
)
from stablegrad.studies.bootstrap import (
    BootstrapInterval,
    PerformanceProfile,
    SampleEfficiency,
    aggregates,
    human_normalized_aggregates,
    improvement_interval,
    paired_bootstrap,
    performance_profile,
    sample_efficiency_curve,
    stratified_bootstrap,
)
from stablegrad.studies.scores import Score, ScoreMatrix, finite, score_matrix, without_rounding

__all__ = [
    "BootstrapInterval",
    "MeanInterval",
    "PerformanceProfile",
    "SampleEfficiency",
    "Score",
    "ScoreMatrix",
    "aggregate_iqm",
    "aggregate_mean",
    "aggregate_median",
    "aggregate_optimality_gap",
    "aggregates",
    "human_normalized_aggregates",
    "human_normalized_scores",
    "improvement_interval",
    "interquartile_mean",
    "mean_interval",
    "paired_bootstrap",
    "paired_difference",
    "performance_profile",
    "probability_of_improvement",
    "sample_efficiency_curve",
    "score_matrix",
    "share_of_pairs_won",
    "stratified_bootstrap",
]


@dataclass(frozen=True)
class MeanInterval:
    """A mean with its Student-t confidence interval; scalars, or arrays where many means were taken at once.

    Attributes:
        mean: the mean.
        interval: lower and upper end; None where fewer than two values say nothing about their scatter.
        count: how many values each mean is of.
    """

    mean: NDArray[np.float64]
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    count: int


def mean_interval(values: ArrayLike, confidence: float = 0.95, axis: int = 0) -> MeanInterval:
    """Mean and Student-t interval, ``mean ± t_{(1+c)/2, n-1} s / sqrt(n)`` with the unbiased ``s``.

    Args:
        values: numbers, any shape; at least one along ``axis``.
        confidence: the share of repetitions in which the interval holds the true mean, if values are normal.
        axis: the axis of the independent repetitions (seeds).

    Returns:
        mean and interval ends with ``axis`` removed.

    Raises:
        ValueError: no values, a value that is not finite, or a confidence outside (0, 1).
    """
    array = finite("values", values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, got {confidence}")
    count = array.shape[axis]
    mean = array.mean(axis=axis)
    if count < 2:
        return MeanInterval(mean, None, count)
    half = stdtrit(count - 1, (1 + confidence) / 2) * array.std(axis=axis, ddof=1) / np.sqrt(count)
    return MeanInterval(mean, (mean - half, mean + half), count)


def paired_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> MeanInterval:
    """Mean of ``second - first`` over pairs with its Student-t interval.

    Pairs that share a seed share their luck, which the difference takes out. What differs by rounding alone is equal.

    Args:
        first: one value a pair, shape [pairs].
        second: the partner's value, same shape and order.
        confidence: as in :func:`mean_interval`.

    Raises:
        ValueError: the shapes differ, or as in :func:`mean_interval`.
    """
    before, after = _pairs(first, second)
    return mean_interval(after - before, confidence)


def share_of_pairs_won(x: ArrayLike, y: ArrayLike) -> float:
    """The share of pairs in which ``x`` is higher than its partner in ``y``; a tie counts half.

    Args:
        x: one value a pair, shape [pairs].
        y: the partner's value, same shape and order.

    Returns:
        a number in [0, 1].

    Raises:
        ValueError: no values, one that is not finite, or shapes that differ.
    """
    ours, theirs = _pairs(x, y)
    return float((1 + np.sign(ours - theirs).mean()) / 2)


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = finite("x", x), finite("y", y)
    if first.shape != second.shape:
        raise ValueError(f"paired values should have one shape, got {first.shape} and {second.shape}")
    first, second = without_rounding(first, second)
    return first, second
