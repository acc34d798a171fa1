"""Statistics of a few seeds: intervals of means, paired differences, and who wins how often.

Pure functions of arrays. Deep RL runs are few and their returns far from normal, so means come with an interval, and
comparisons with a probability of improvement, as Agarwal et al. (2021, arXiv 2108.13264) ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


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
    array = _finite("values", values)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, got {confidence}")
    count = array.shape[axis]
    mean = array.mean(axis=axis)
    if count < 2:
        return MeanInterval(mean, None, count)
    half = stats.t.ppf((1 + confidence) / 2, count - 1) * array.std(axis=axis, ddof=1) / np.sqrt(count)
    return MeanInterval(mean, (mean - half, mean + half), count)


def paired_difference(first: ArrayLike, second: ArrayLike, confidence: float = 0.95) -> MeanInterval:
    """Mean of ``second - first`` over pairs with its Student-t interval.

    Pairs that share a seed share their luck, which the difference takes out.

    Args:
        first: one value a pair, shape [pairs].
        second: the partner's value, same shape and order.
        confidence: as in :func:`mean_interval`.

    Raises:
        ValueError: the shapes differ, or as in :func:`mean_interval`.
    """
    before, after = _pairs(first, second)
    return mean_interval(after - before, confidence)


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> float:
    """``P(X > Y) + P(X = Y) / 2`` over all combinations of one value of each, regardless of seed.

    This is the Mann-Whitney U statistic divided by the number of combinations; for one task it is what
    Agarwal et al. (2021, section 4.3) average over tasks.

    Args:
        x: values of the one, shape [n].
        y: values of the other, shape [m]; n and m may differ.

    Returns:
        a number in [0, 1]; 0.5 says that neither tends to be higher.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    difference = np.sign(_finite("x", x)[:, None] - _finite("y", y)[None, :])
    return float((1 + difference.mean()) / 2)


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


def interquartile_mean(values: ArrayLike, axis: int = 0) -> NDArray[np.float64]:
    """Mean of the middle half: a quarter of the values, rounded down, is left out at each end.

    Less swayed by one lucky or broken seed than the mean, and less noisy than the median
    (Agarwal et al. 2021, section 4.3).

    Args:
        values: numbers, any shape.
        axis: the axis to take the mean over.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    array = np.sort(np.moveaxis(_finite("values", values), axis, 0), axis=0)
    cut = array.shape[0] // 4
    return array[cut : array.shape[0] - cut].mean(axis=0)


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or array.ndim == 0:
        raise ValueError(f"{name} should be a list of at least one number")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} should be finite; leave out what is missing")
    return array


def _pairs(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _finite("x", x), _finite("y", y)
    if first.shape != second.shape:
        raise ValueError(f"paired values should have one shape, got {first.shape} and {second.shape}")
    return first, second
