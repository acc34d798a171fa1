"""How many paired seeds it takes to see a difference: the power of the paired t-test.

The interval of a paired difference (:func:`~stablegrad.studies.statistics.paired_difference`) excludes zero just where
the two-sided paired t-test rejects; how often it will, for a given effect, is what the noncentral t distribution says
(Cohen 1988, chapter 2).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from stablegrad.studies.scores import finite

POWER = 0.8  # the field's convention: four in five studies of this size would see the difference
MOST_PAIRS = 10_000

# Gauss-Legendre over (0, 1); power is right to some 1e-6 with as many.
_NODES, _WEIGHTS = (np.polynomial.legendre.leggauss(200)[0] + 1) / 2, np.polynomial.legendre.leggauss(200)[1] / 2


def power_of_pairs(count: int, effect: float, confidence: float = 0.95) -> float:
    """Chance that the interval of ``count`` paired differences excludes zero.

    Args:
        count: pairs, at least 2.
        effect: mean of the differences over their standard deviation; its sign does not matter.
        confidence: of the interval.

    Raises:
        ValueError: fewer than 2 pairs, or a confidence outside (0, 1).
    """
    if count < 2:
        raise ValueError(f"count should be at least 2, got {count}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie between 0 and 1, got {confidence}")
    shift, freedom = abs(effect) * math.sqrt(count), count - 1
    bound = float(special.stdtrit(freedom, (1 + confidence) / 2))
    # The noncentral t's tails, as a mean over the scatter that the sample shows relative to the true one: scipy's own
    # noncentral t is NaN where the shift is large.
    scatter = np.sqrt(special.chdtri(freedom, 1 - _NODES) / freedom)
    beyond = special.ndtr(shift - bound * scatter) + special.ndtr(-shift - bound * scatter)
    return float(np.dot(_WEIGHTS, beyond))


def pairs_needed(differences: ArrayLike, confidence: float = 0.95, power: float = POWER) -> int | None:
    """The fewest pairs whose interval will exclude zero with probability ``power``.

    It takes the observed mean and spread for the true ones, so from few pairs it is a rough guide.

    Args:
        differences: what was observed, [pairs], at least 2.
        confidence: of the interval.
        power: how often it shall exclude zero.

    Returns:
        at least 2; None where the mean is zero, or more than ``MOST_PAIRS`` would be needed.

    Raises:
        ValueError: fewer than 2 differences, or one that is not finite.
    """
    values = finite("differences", differences)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"differences should be a list of at least 2, got shape {values.shape}")
    mean, spread = float(values.mean()), float(np.std(values, ddof=1))
    if mean == 0:
        return None
    if spread <= 1e-12 * abs(mean):
        return 2
    low, high = 1, 2
    while power_of_pairs(high, mean / spread, confidence) < power:
        low, high = high, 2 * high
        if low >= MOST_PAIRS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of_pairs(middle, mean / spread, confidence) >= power else (middle, high)
    return high if high <= MOST_PAIRS else None
