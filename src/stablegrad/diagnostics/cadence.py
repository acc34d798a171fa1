"""When a history that grows is judged anew."""

from __future__ import annotations

import math

#: First rows at each of which there is a verdict, and growth of their number from one to the next afterwards.
FIRST_ROWS, GROWTH = 20, 1.05


def is_due(rows: int) -> bool:
    """Whether a history is judged when it has grown to this many rows.

    A verdict takes time in proportion to the rows. At geometric distances that of all verdicts is too, and not in
    proportion to their square. It depends on nothing else, so that a resumed run is judged where an undisturbed one is.
    """
    return 0 < rows <= FIRST_ROWS or _number(rows) > _number(rows - 1)


def last_due(rows: int) -> int:
    """The largest number of rows up to this one at which a history is judged; 0 if there is none."""
    return next((n for n in range(rows, 0, -1) if is_due(n)), 0)


def _number(rows: int) -> int:
    return int(math.log(max(rows, 1)) / math.log(GROWTH))
