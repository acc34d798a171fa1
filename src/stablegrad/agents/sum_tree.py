"""Drawing in proportion to weights that change: a tree of sums."""

from __future__ import annotations

import numpy as np

#: Children of a node. Wide, as NumPy pays for calls and not for numbers.
BRANCHES = 32
#: Most nodes of the top level, which is summed up and searched as a whole: a million leaves have one level above them.
TOP = 2**15


class SumTree:
    """Non-negative weights by index, with draws in proportion to them and changes, both of many at once.

    Every node is the sum of its children, and always summed anew from them: no rounding builds up, and the whole tree
    follows from the leaves bit for bit.

    Args:
        size: how many weights; all 0 at first.
    """

    def __init__(self, size: int):
        #: From the leaves, float32, to the top, float64. Lengths are filled up with 0 to whole nodes.
        self._levels = [np.zeros(length, np.float64 if above else np.float32) for above, length in _lengths(size)]
        self._size = size

    @staticmethod
    def bytes_needed(size: int) -> int:
        """Bytes of a tree, without allocating it."""
        return sum(length * (8 if above else 4) for above, length in _lengths(size))

    @property
    def weights(self) -> np.ndarray:
        """float32 [size], the weights themselves; change them with ``set`` or ``load``."""
        return self._levels[0][: self._size]

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._levels[-1].sum(dtype=np.float64))

    def load(self, weights: np.ndarray) -> None:
        """Take over all weights, [size]."""
        self.weights[:] = weights
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            sums = below.reshape(-1, BRANCHES).sum(axis=1, dtype=np.float64)
            level[: len(sums)] = sums

    def set(self, indices: np.ndarray, weights: np.ndarray | float) -> None:
        """Change some weights: int64 [count], and [count] or one number for all; of equal indices the last counts."""
        self._levels[0][indices] = weights
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            indices = indices // BRANCHES
            # A node that is named twice is summed twice, to the same number.
            level[indices] = below.reshape(-1, BRANCHES)[indices].sum(axis=1, dtype=np.float64)

    def find(self, points: np.ndarray) -> np.ndarray:
        """Indices of the weights in which points of the cumulated weights lie.

        Args:
            points: float64 [count], from 0 to ``total``, which is above 0.

        Returns:
            int64 [count]: for each the first index i with weights[0] + ... + weights[i] above the point, up to
            rounding. Its weight is above 0 in any case.
        """
        sums = np.cumsum(self._levels[-1], dtype=np.float64)
        # Rounding may have put a point at the end or beyond it.
        points = np.minimum(points, np.nextafter(sums[-1], 0.0))
        nodes = np.searchsorted(sums, points, side="right")
        points = points - np.where(nodes > 0, sums[nodes - 1], 0.0)
        each = np.arange(len(points))
        for level in self._levels[-2::-1]:
            sums = np.cumsum(level.reshape(-1, BRANCHES)[nodes], axis=1, dtype=np.float64)
            points = np.minimum(points, np.nextafter(sums[:, -1], 0.0))
            child = (sums <= points[:, None]).sum(axis=1)
            points = points - np.where(child > 0, sums[each, child - 1], 0.0)
            nodes = nodes * BRANCHES + child
        return nodes


def _lengths(size: int) -> list[tuple[bool, int]]:
    """(whether it is above the leaves, length) of every level; the last has at most ``TOP`` nodes."""
    lengths = [-(-size // BRANCHES) * BRANCHES]
    while lengths[-1] > TOP:
        lengths.append(-(-(lengths[-1] // BRANCHES) // BRANCHES) * BRANCHES)
    return [(number > 0, length) for number, length in enumerate(lengths)]
