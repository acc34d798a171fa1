"""Intervals of aggregates: what else might have come out with other seeds on the same tasks.

The stratified bootstrap of Agarwal et al. (2021, arXiv 2108.13264, section 4.1) and rliable: the runs of each task are
drawn with replacement, independently of other tasks, and the interval lies between percentiles of the replicates'
statistic. Tasks are not drawn: nothing is said about other tasks. With few runs the interval is too narrow
(docs/statistics.md has figures).

All functions take ``replicates`` (how many, at least 100), ``confidence`` (the share of repetitions in which the
interval should hold the true value) and ``rng`` (a seed, or a NumPy generator, which is advanced). The same seed gives
the same interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stablegrad.studies.aggregates import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_median,
    aggregate_optimality_gap,
    human_normalized_scores,
    improvement,
)
from stablegrad.studies.scores import ScoreMatrix, agree, finite, matrix, same_tasks, without_rounding

REPLICATES = 10_000
FEWEST_REPLICATES = 100  # fewer have no 2.5th percentile to speak of
CHUNK = 2**22  # numbers at once: 32 MB of float64, and as much again for the statistic's own work

Statistic = Callable[..., ArrayLike]
"""Scores [..., runs, tasks] of one agent (or of two: two arguments) -> [...], or [..., any more]."""


@dataclass(frozen=True)
class BootstrapInterval:
    """A statistic with its bootstrap interval; scalars, or arrays where many were taken at once.

    Attributes:
        estimate: the statistic of the scores as they are.
        interval: lower and upper end; None where fewer than two runs say nothing about their scatter.
        count: runs a task; of two agents the fewer.
    """

    estimate: NDArray[np.float64]
    interval: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    count: int


@dataclass(frozen=True)
class PerformanceProfile(BootstrapInterval):
    """Share of runs above each threshold, with pointwise intervals.

    Attributes:
        thresholds: float64 [thresholds].
    """

    thresholds: NDArray[np.float64]


@dataclass(frozen=True)
class SampleEfficiency(BootstrapInterval):
    """An aggregate after each of many budgets, with pointwise intervals.

    Attributes:
        budgets: float64 [budgets], environment steps.
    """

    budgets: NDArray[np.float64]


def stratified_bootstrap(
    scores: ArrayLike,
    statistic: Statistic = aggregate_iqm,
    *,
    against: ArrayLike | None = None,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> BootstrapInterval:
    """A statistic of one agent's scores, or of two agents', with its interval.

    Args:
        scores: [..., runs, tasks]. What shares a run lies along the axes before: budgets, or the partner of a pair;
            they are drawn together.
        statistic: takes [..., runs, tasks] and reduces the last two axes, as the aggregates do; with ``against``, takes
            two such arrays.
        against: another agent's scores on the same tasks, drawn independently; the number of runs may differ.

    Raises:
        ValueError: no scores, one that is not finite, fewer than two axes, different tasks or budgets, a statistic that
            does not keep the leading axes or gives a number that is not finite, or an option out of range.
    """
    arrays = [matrix("scores", scores)] if against is None else same_tasks(scores, against, ("scores", "against"))
    return BootstrapInterval(*_interval(arrays, statistic, replicates, confidence, rng))


def aggregates(
    scores: ArrayLike,
    *,
    target: float = 1.0,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> Mapping[str, BootstrapInterval]:
    """The four aggregates of one agent, of the same replicates.

    Args:
        scores: normalised, [runs, tasks].
        target: of the optimality gap.

    Returns:
        "iqm", "median", "mean" and "optimality_gap", each with its interval.

    Raises:
        ValueError: as in :func:`stratified_bootstrap`.
    """

    def gap(replicate: ArrayLike) -> NDArray[np.float64]:
        return aggregate_optimality_gap(replicate, target)

    named: dict[str, Callable[[ArrayLike], NDArray[np.float64]]] = {
        "iqm": aggregate_iqm,
        "median": aggregate_median,
        "mean": aggregate_mean,
        "optimality_gap": gap,
    }
    together = stratified_bootstrap(
        scores,
        lambda replicate: np.stack([function(replicate) for function in named.values()], axis=-1),
        replicates=replicates,
        confidence=confidence,
        rng=rng,
    )
    estimate, interval = together.estimate, together.interval
    ends = [None if interval is None else (interval[0][..., i], interval[1][..., i]) for i in range(len(named))]
    return MappingProxyType(
        {name: BootstrapInterval(estimate[..., i], ends[i], together.count) for i, name in enumerate(named)}
    )


def human_normalized_aggregates(
    raw: ArrayLike | ScoreMatrix, games: Sequence[str] | None = None, **options: Any
) -> Mapping[str, BootstrapInterval]:
    """:func:`aggregates` of Atari scores that are human-normalised first.

    Args:
        raw: undiscounted returns of whole games, [runs, games].
        games: as in :func:`~stablegrad.studies.aggregates.human_normalized_scores`.
        options: of :func:`aggregates`.

    Raises:
        UsageError, ValueError: as in these two.
    """
    if isinstance(raw, ScoreMatrix) and games is None:
        return aggregates(human_normalized_scores(raw), **options)
    return aggregates(human_normalized_scores(raw, games or ()), **options)


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    *,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> BootstrapInterval:
    """Probability that a run of ``x`` is better than one of ``y`` on a random task, with its interval.

    Args:
        x: the one's scores, [n, tasks].
        y: the other's, [m, tasks]; drawn independently of ``x``.

    Returns:
        :func:`~stablegrad.studies.aggregates.probability_of_improvement` and its interval.

    Raises:
        ValueError: as in :func:`stratified_bootstrap`.
    """
    arrays = without_rounding(*same_tasks(x, y, ("x", "y")))
    combinations = arrays[0].shape[-2] * arrays[1].size
    return BootstrapInterval(*_interval(arrays, improvement, replicates, confidence, rng, numbers=combinations))


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    statistic: Statistic = aggregate_iqm,
    *,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> BootstrapInterval:
    """``statistic(second) - statistic(first)`` where runs are paired by seed; pairs are drawn together.

    What a pair shares is taken out: wholly for the mean, in part for statistics that are not sums of runs.

    Args:
        first: the one's scores, [runs, tasks].
        second: the other's, same shape: row i is the partner of row i.
        statistic: as in :func:`stratified_bootstrap`.

    Raises:
        ValueError: the shapes or seeds differ, or as in :func:`stratified_bootstrap`.
    """
    pairs = np.stack(without_rounding(*same_tasks(first, second, ("first", "second"), paired=True)), axis=-3)

    def difference(replicate: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.subtract(statistic(replicate[..., 1, :, :]), statistic(replicate[..., 0, :, :]))

    return BootstrapInterval(*_interval([pairs], difference, replicates, confidence, rng))


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    *,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> PerformanceProfile:
    """The run-score distribution: which share of all runs scores above each threshold.

    Where one agent's profile lies above another's everywhere, it is better by every quantile (Agarwal et al. 2021,
    section 4.2). The band holds at each threshold by itself, not everywhere at once.

    Args:
        scores: normalised, [runs, tasks].
        thresholds: increasing, [thresholds].

    Returns:
        estimate and interval ends [thresholds].

    Raises:
        ValueError: thresholds that do not increase, or as in :func:`stratified_bootstrap`.
    """
    grid = _increasing("thresholds", thresholds)
    array = matrix("scores", scores)
    if array.ndim != 2:
        raise ValueError(f"scores should be [runs, tasks], got shape {array.shape}")
    above = array > grid[:, None, None]

    def share(replicate: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.count_nonzero(replicate, axis=(-2, -1)) / array.size

    return PerformanceProfile(*_interval([above], share, replicates, confidence, rng), thresholds=grid)


def sample_efficiency_curve(
    scores: ArrayLike | Sequence[ScoreMatrix],
    budgets: ArrayLike | None = None,
    statistic: Statistic = aggregate_iqm,
    *,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
    rng: int | np.random.Generator = 0,
) -> SampleEfficiency:
    """An aggregate after each of many budgets. A run is drawn with its whole curve, at all budgets alike.

    Args:
        scores: [runs, tasks, budgets], or a ``ScoreMatrix`` for every budget.
        budgets: environment steps, increasing, [budgets]; score matrices name their own.
        statistic: as in :func:`stratified_bootstrap`.

    Returns:
        estimate and interval ends [budgets]; the band holds at each budget by itself.

    Raises:
        ValueError: budgets that are missing, do not increase or are not as many as there are scores, matrices of
            different tasks or seeds, or as in :func:`stratified_bootstrap`.
    """
    labelled = [one for one in scores if isinstance(one, ScoreMatrix)] if isinstance(scores, Sequence) else []
    if isinstance(scores, Sequence) and labelled and len(labelled) == len(scores):
        if budgets is not None:
            raise ValueError("budgets should be left out: score matrices name their own")
        first = labelled[0]
        for one in labelled[1:]:
            agree(first, one, (f"budget {first.budget}", f"budget {one.budget}"), seeds=True, budget=False)
        budgets = [one.budget for one in labelled]
        curves = np.stack([one.values for one in labelled])
    else:
        array = finite("scores", scores)
        if array.ndim != 3:
            raise ValueError(f"scores should be [runs, tasks, budgets], got shape {array.shape}")
        curves = np.moveaxis(array, -1, 0)
    if budgets is None:
        raise ValueError("budgets should name the environment steps of the last axis of scores")
    steps = _increasing("budgets", budgets)
    if len(steps) != len(curves):
        raise ValueError(f"{len(steps)} budgets for scores at {len(curves)}")
    return SampleEfficiency(*_interval([curves], statistic, replicates, confidence, rng), budgets=steps)


def _interval(
    arrays: Sequence[NDArray[Any]],
    statistic: Statistic,
    replicates: int,
    confidence: float,
    rng: int | np.random.Generator,
    numbers: int = 0,
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64]] | None, int]:
    """Estimate, interval and count; ``numbers``: how many a replicate needs, if more than the scores."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, got {confidence}")
    if replicates < FEWEST_REPLICATES:
        raise ValueError(f"replicates should be at least {FEWEST_REPLICATES}, got {replicates}")
    # Two of the same: a statistic that mixes replicates, or is not made for many, does not give two equal results.
    twice = _call(statistic, [np.stack([array, array]) for array in arrays])
    rounding = 1e-12 * max(float(np.abs(array).max()) for array in arrays)  # a difference may be nothing else
    if not np.allclose(twice[0], twice[1], rtol=1e-9, atol=rounding):
        raise ValueError("statistic should reduce the last two axes [runs, tasks] and keep those before them apart")
    count = min(array.shape[-2] for array in arrays)
    if count < 2:
        return twice[0], None, count
    chunk = max(1, CHUNK // max(numbers, sum(array.size for array in arrays)))
    generator = np.random.default_rng(rng)
    parts = [_call(statistic, drawn) for drawn in _draws(arrays, replicates, chunk, generator)]
    low, high = np.quantile(np.concatenate(parts), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return twice[0], (low, high), count


def _draws(
    arrays: Sequence[NDArray[Any]], replicates: int, chunk: int, generator: np.random.Generator
) -> Iterator[list[NDArray[Any]]]:
    """Chunks of replicates [chunk, ..., runs, tasks] of each array, which are drawn independently."""
    # A stream an array: the size of the chunks changes nothing in what is drawn.
    streams = [np.random.default_rng(seed) for seed in generator.integers(2**63, size=len(arrays))]
    for start in range(0, replicates, chunk):
        drawn = []
        for array, stream in zip(arrays, streams, strict=True):
            runs, tasks = array.shape[-2:]
            rows = stream.integers(runs, size=(min(chunk, replicates - start), runs, tasks))
            flat = array.reshape(*array.shape[:-2], runs * tasks)
            picked = np.take(flat, rows * tasks + np.arange(tasks), axis=-1)
            drawn.append(np.moveaxis(picked, -3, 0))
        yield drawn


def _call(statistic: Statistic, drawn: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The statistic of some replicates: [replicates, ...]."""
    result = np.asarray(statistic(*drawn), dtype=np.float64)
    if result.shape[:1] != drawn[0].shape[:1]:
        raise ValueError(
            f"statistic should reduce the last two axes [runs, tasks] of {drawn[0].shape} and keep those before them, "
            f"got {result.shape}"
        )
    if not np.isfinite(result).all():
        raise ValueError("statistic should be finite for every replicate")
    return result


def _increasing(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = finite(name, values)
    if array.ndim != 1 or (np.diff(array) <= 0).any():
        raise ValueError(f"{name} should be a list that increases")
    return array
