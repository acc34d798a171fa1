"""How steady a learning curve is: its spread, whether it collapsed early, and when it reached a level.

Pure functions of one run's curve: ``steps`` (increasing environment steps) and ``returns`` (at each of them, the mean
return of the last episodes), both of shape [points]. A curve with fewer than ``MINIMUM_POINTS`` points is too short to
judge: the functions say None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stablegrad.studies.scores import ROUNDING

MINIMUM_POINTS = 10


@dataclass(frozen=True)
class Collapse:
    """What :func:`early_collapse` found.

    Attributes:
        collapsed: whether most of what had been gained was lost again for good.
        step: where the curve fell below the line and stayed there; None without a collapse.
        best_step: where the smoothed curve was at its best.
        lost_share: (best - end) / (best - start) of the smoothed curve; None where nothing was gained.
    """

    collapsed: bool
    step: int | None
    best_step: int
    lost_share: float | None


def smooth(returns: ArrayLike, window: float) -> NDArray[np.float64]:
    """Moving straight-line fit (Savgol filter of order 1): inside it is the moving mean.

    A straight line stays what it is, up to both ends of the curve, where a plain moving mean bends.

    Args:
        returns: the curve, shape [points], at even distances; at least ``MINIMUM_POINTS``.
        window: its width, as a share of the points in (0, 1]; at least 5 points are taken.

    Returns:
        the smoothed curve, shape [points].
    """
    from scipy.signal import savgol_filter  # half a second, with scipy.stats

    values = np.asarray(returns, dtype=np.float64)
    width = min(max(5, round(window * values.size)), values.size)
    return savgol_filter(values, width - (width + 1) % 2, polyorder=1, mode="interp")


def curve_spread(steps: ArrayLike, returns: ArrayLike, window: float = 0.25) -> float | None:
    """Standard deviation of the curve around its own trend, over the second half of its steps.

    The second half, because early on the curve climbs and its scatter says little about the trained agent. The trend
    is :func:`smooth` over a quarter of the points.

    Args:
        steps: environment steps, shape [points], increasing.
        returns: mean return at each, shape [points].
        window: as in :func:`smooth`.

    Returns:
        the spread, in the unit of the return; None for a curve that is too short.
    """
    at, curve = _curve(steps, returns)
    if curve.size < MINIMUM_POINTS:
        return None
    residual = curve - smooth(curve, window)
    return float(np.sqrt(np.mean(residual[at >= (at[0] + at[-1]) / 2] ** 2)))


def early_collapse(
    steps: ArrayLike,
    returns: ArrayLike,
    *,
    lost: float = 0.5,
    persistence: float = 0.1,
    window: float = 0.1,
    minimum_gain: float = 0.0,
) -> Collapse | None:
    """Whether a run learned something and then lost it for good, before its end.

    On the smoothed curve, let the gain be its best value minus its start. The run collapsed where

    1. the gain is more than ``minimum_gain`` and more than twice the curve's scatter around the smoothed curve
       (otherwise nothing was learned that could be lost: a failure, but not a collapse);
    2. after the best, the curve fell below ``best - lost * gain`` and stayed there until the end;
    3. that last stretch covers at least ``persistence`` of the run's steps, so that a dip on the last lines is not
       taken for a collapse.

    Args:
        steps: environment steps, shape [points], increasing.
        returns: mean return at each, shape [points].
        lost: the share of the gain that must be lost, in (0, 1].
        persistence: the share of the run's steps that it must stay lost.
        window: as in :func:`smooth`.
        minimum_gain: what counts as having learned, in the unit of the return.

    Returns:
        what was found; None for a curve that is too short.
    """
    at, curve = _curve(steps, returns)
    if curve.size < MINIMUM_POINTS:
        return None
    smoothed = smooth(curve, window)
    best = int(np.argmax(smoothed))
    gain = float(smoothed[best] - smoothed[0])
    if gain <= max(minimum_gain, 2 * float(np.std(curve - smoothed)), 1e-9 * float(np.abs(curve).max())):
        return Collapse(False, None, int(at[best]), None)
    share = float((smoothed[best] - smoothed[-1]) / gain)
    above = np.flatnonzero(smoothed >= smoothed[best] - lost * gain)
    fell = int(above[-1]) + 1  # the first point of the last stretch below the line
    collapsed = fell < at.size and at[-1] - at[fell] >= persistence * (at[-1] - at[0])
    return Collapse(bool(collapsed), int(at[fell]) if collapsed else None, int(at[best]), share)


def steps_to_reach(steps: ArrayLike, returns: ArrayLike, level: float) -> int | None:
    """The first logged step at which the curve is at ``level`` (but for rounding) or above.

    Args:
        steps: environment steps, shape [points], increasing.
        returns: mean return at each, shape [points].
        level: the return to reach.

    Returns:
        the step; None where it never is.
    """
    at, curve = _curve(steps, returns)
    reached = np.flatnonzero(curve >= level - ROUNDING * abs(level))
    return int(at[reached[0]]) if reached.size else None


def _curve(steps: ArrayLike, returns: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    at, curve = np.asarray(steps, dtype=np.float64), np.asarray(returns, dtype=np.float64)
    if at.ndim != 1 or at.shape != curve.shape:
        raise ValueError(f"steps and returns should be lists of one length, got shapes {at.shape} and {curve.shape}")
    if np.any(np.diff(at) <= 0):
        raise ValueError("steps should increase from point to point")
    return at, curve
