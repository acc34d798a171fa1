"""One number for many runs on many tasks: mean, median, interquartile mean, optimality gap, who improves on whom.

Pure functions of scores [..., runs, tasks]: the last two axes are reduced, any before them are kept, so that thousands
of bootstrap replicates are one call. Named and defined as in Agarwal et al. (2021, arXiv 2108.13264) and their rliable;
scores should be normalised, so that tasks can be set beside each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stablegrad.environments.atari_scores import human_normalized_score
from stablegrad.studies.scores import ScoreMatrix, finite, matrix, same_tasks, without_rounding


def interquartile_mean(values: ArrayLike, axis: int | None = 0) -> NDArray[np.float64]:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end.

    Less swayed by one lucky or broken seed than the mean, and less noisy than the median
    (Agarwal et al. 2021, section 4.3). It is ``scipy.stats.trim_mean(values, 0.25, axis)``, with the same rounding:
    of fewer than four values none is left out. Over the axis of runs of a matrix [runs, tasks] it is each task's; the
    paper's and rliable's IQM pools all runs of all tasks first, which is ``axis=None`` or :func:`aggregate_iqm`, and
    not the mean of the tasks' IQMs.

    Args:
        values: numbers, any shape.
        axis: the axis to take the mean over; None for all values.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = finite("values", values)
    if axis is None:
        array, axis = array.ravel(), 0
    array = np.sort(np.moveaxis(array, axis, -1), axis=-1)
    count = array.shape[-1]
    cut = count // 4
    return array[..., cut : count - cut].mean(axis=-1)


def aggregate_mean(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean over tasks of the mean over runs. One task with huge scores decides it.

    Args:
        scores: [..., runs, tasks].

    Returns:
        float64 [...].

    Raises:
        ValueError: no scores, one that is not finite, or fewer than two axes.
    """
    return matrix("scores", scores).mean(axis=(-2, -1))


def aggregate_median(scores: ArrayLike) -> NDArray[np.float64]:
    """Median over tasks of the mean over runs. The scores of nearly half of the tasks may be 0 and it does not move.

    Args, returns and errors as in :func:`aggregate_mean`.
    """
    return np.asarray(np.median(matrix("scores", scores).mean(axis=-2), axis=-1))[()]


def aggregate_iqm(scores: ArrayLike) -> NDArray[np.float64]:
    """Interquartile mean of all runs of all tasks together: see :func:`interquartile_mean`.

    Args, returns and errors as in :func:`aggregate_mean`.
    """
    array = matrix("scores", scores)
    return interquartile_mean(array.reshape(*array.shape[:-2], -1), axis=-1)


def aggregate_optimality_gap(scores: ArrayLike, target: float = 1.0) -> NDArray[np.float64]:
    """How far scores fall short of ``target`` on average; what lies above it earns nothing. Lower is better.

    Args:
        scores: [..., runs, tasks].
        target: the score that is good enough: 1 is a human's, where scores are human-normalised.

    Returns:
        float64 [...], at least 0.

    Raises:
        ValueError: the target is not finite, or as in :func:`aggregate_mean`.
    """
    if not np.isfinite(target):
        raise ValueError(f"target should be finite, got {target}")
    return target - np.minimum(matrix("scores", scores), target).mean(axis=(-2, -1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """``P(X > Y) + P(X = Y) / 2`` over all combinations of one value of each, regardless of seed.

    This is the Mann-Whitney U statistic divided by the number of combinations; over many tasks, the mean of
    the tasks' probabilities (Agarwal et al. 2021, section 4.3). It says how often, not by how much.

    Args:
        x: values of the one, shape [n], or [n, tasks].
        y: values of the other, shape [m], or [m, tasks]; n and m may differ.

    Returns:
        a number in [0, 1]; 0.5 says that neither tends to be higher.

    Raises:
        ValueError: no values, one that is not finite, one axis against two, or different tasks or budgets.
    """
    ours, theirs = finite("x", x), finite("y", y)
    if ours.ndim == theirs.ndim == 1:
        return float(improvement(*without_rounding(ours[:, None], theirs[:, None])))
    if ours.ndim != 2 or theirs.ndim != 2:
        raise ValueError(f"x and y should both be [runs], or [runs, tasks], got {ours.shape} and {theirs.shape}")
    return float(improvement(*without_rounding(*same_tasks(x, y, ("x", "y")))))


def improvement(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of improvement of [..., n, tasks] over [..., m, tasks], unchecked: float64 [...]."""
    ours, theirs = x[..., :, None, :], y[..., None, :, :]
    # Whole numbers, so that a probability and that of the other side add up to exactly 1 before they are divided.
    wins = np.count_nonzero(ours > theirs, axis=(-3, -2, -1)) + np.count_nonzero(ours >= theirs, axis=(-3, -2, -1))
    return np.asarray(wins) / (2 * x.shape[-2] * y.shape[-2] * x.shape[-1])


@overload
def human_normalized_scores(raw: ScoreMatrix) -> ScoreMatrix: ...
@overload
def human_normalized_scores(raw: ArrayLike, games: Sequence[str]) -> NDArray[np.float64]: ...
def human_normalized_scores(
    raw: ArrayLike | ScoreMatrix, games: Sequence[str] | None = None
) -> NDArray[np.float64] | ScoreMatrix:
    """Atari scores where 0 is a random agent and 1 a human tester: (raw - random) / (human - random), by game.

    Args:
        raw: undiscounted returns of whole games, [..., runs, games].
        games: the columns' games, "Breakout" or "Breakout-v5"; a ``ScoreMatrix`` names its own.

    Returns:
        the same shape; a ``ScoreMatrix`` if one was given.

    Raises:
        UsageError: a game without reference scores.
        ValueError: games are not named, named twice or not as many as columns, or as in :func:`aggregate_mean`.
    """
    array = matrix("raw", raw)
    if isinstance(raw, ScoreMatrix):
        if games is not None:
            raise ValueError("games should be left out: the score matrix names its own")
        games = raw.tasks
    if games is None or isinstance(games, str) or len(games) != array.shape[-1]:
        raise ValueError(f"games should name the {array.shape[-1]} columns of raw, got {games}")
    twice = [game for game, count in Counter(game.removesuffix("-v5") for game in games).items() if count > 1]
    if twice:
        raise ValueError(f"every game should be named once, got {', '.join(twice)} again")
    values = np.stack([human_normalized_score(game, array[..., i]) for i, game in enumerate(games)], axis=-1)
    return ScoreMatrix(values, raw.tasks, raw.seeds, raw.budget) if isinstance(raw, ScoreMatrix) else values
