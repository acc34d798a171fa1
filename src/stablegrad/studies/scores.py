"""Score matrices [runs, tasks]: one score a run, and what it belongs to, so that nothing is mixed silently.

Every statistic of many tasks takes a plain array [runs, tasks] or a :class:`ScoreMatrix`. An array has a shape and
nothing else that could be checked; a ``ScoreMatrix`` also knows its tasks, seeds and budget, and where two that are
compared differ in them, this is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

ROUNDING = 1e-9  # relative; what is closer is equal


class Score(NamedTuple):
    """The score of one run: on which task, with which seed, after how many environment steps."""

    task: str
    seed: int
    budget: int
    value: float


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores of one agent; ``numpy.asarray`` gives the values.

    Attributes:
        values: float64 [runs, tasks]; row i is the run with ``seeds[i]`` of every task.
        tasks: names, one a column.
        seeds: one a row.
        budget: environment steps after which every one of the scores was taken.
    """

    values: NDArray[np.float64]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: int

    def __post_init__(self) -> None:
        values = matrix("values", self.values).copy()
        if values.shape != (len(self.seeds), len(self.tasks)):
            raise ValueError(f"values of {len(self.seeds)} seeds and {len(self.tasks)} tasks have shape {values.shape}")
        for kind, names in (("seed", self.seeds), ("task", self.tasks)):
            if len(set(names)) != len(names):
                raise ValueError(f"every {kind} should be named once, got {names}")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.float64]:
        return np.array(self.values, dtype=dtype, copy=copy)


def score_matrix(scores: Iterable[Score]) -> ScoreMatrix:
    """Put the scores of one agent in order: tasks by name, seeds by number.

    Args:
        scores: one a run; the order does not matter.

    Raises:
        ValueError: no scores, one that is not finite, two of one run, different budgets, or tasks with different seeds.
            Say which runs to leave out rather than let a task with fewer runs weigh less.
    """
    runs = [Score(*score) for score in scores]
    if not runs:
        raise ValueError("scores should hold at least one run")
    budgets = sorted({run.budget for run in runs})
    if len(budgets) > 1:
        raise ValueError(f"scores should be of one budget, got {', '.join(map(str, budgets))} environment steps")
    table: dict[str, dict[int, float]] = {}
    for run in runs:
        if run.seed in table.setdefault(run.task, {}):
            raise ValueError(f"{run.task} has two scores of seed {run.seed}")
        if not np.isfinite(run.value):
            raise ValueError(f"{run.task} has no finite score of seed {run.seed}: {run.value}")
        table[run.task][run.seed] = run.value
    tasks = tuple(sorted(table))
    seeds = tuple(sorted({run.seed for run in runs}))
    for task in tasks:
        missing = [seed for seed in seeds if seed not in table[task]]
        if missing:
            raise ValueError(
                f"every task should have a run of every seed; {task} has none of seed {', '.join(map(str, missing))}"
            )
    values = np.array([[table[task][seed] for task in tasks] for seed in seeds], dtype=np.float64)
    return ScoreMatrix(values, tasks, seeds, budgets[0])


def finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """The values as float64.

    Raises:
        ValueError: no values, rows of different length, or a value that is not finite.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        message = f"{name} should be rows of equal length, as many runs for every task; leave out what is too many"
        raise ValueError(message) from None
    if array.size == 0 or array.ndim == 0:
        raise ValueError(f"{name} should be a list of at least one number")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} should be finite; leave out what is missing")
    return array


def without_rounding(*arrays: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The same arrays, where numbers that differ by no more than rounding (``ROUNDING``, relative) are one number.

    Means of the same returns, added up in another order, differ in their last digits; that is no difference.
    """
    values, places = np.unique(np.concatenate([array.ravel() for array in arrays]), return_inverse=True)
    sizes = np.abs(values)
    # Near zero, rounding is that of the larger numbers that were added up.
    apart = np.diff(values) > np.maximum(ROUNDING * np.maximum(sizes[1:], sizes[:-1]), 1e-13 * sizes.max())
    starts = np.concatenate([[True], apart])
    levelled = values[starts][np.cumsum(starts) - 1][places.ravel()]
    parts = np.split(levelled, np.cumsum([array.size for array in arrays])[:-1])
    return tuple(part.reshape(array.shape) for part, array in zip(parts, arrays, strict=True))


def matrix(name: str, scores: ArrayLike) -> NDArray[np.float64]:
    """The scores as float64 [..., runs, tasks].

    Raises:
        ValueError: fewer than two axes, or as in :func:`finite`.
    """
    array = finite(name, scores)
    if array.ndim < 2:
        raise ValueError(f"{name} should be [runs, tasks], got shape {array.shape}; one task is [[a], [b], ...]")
    return array


def same_tasks(
    first: ArrayLike, second: ArrayLike, names: tuple[str, str], *, paired: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two agents' scores as float64 [..., runs, tasks], if they may be compared.

    Args:
        first: the one's scores.
        second: the other's; the number of runs may differ unless ``paired``.
        names: what to call them in errors.
        paired: row i of one belongs to row i of the other.

    Raises:
        ValueError: tasks or budgets differ, seeds differ though ``paired``, or as in :func:`matrix`.
    """
    one, other = matrix(names[0], first), matrix(names[1], second)
    if isinstance(first, ScoreMatrix) and isinstance(second, ScoreMatrix):
        agree(first, second, names, seeds=paired)
    if one.shape[-1] != other.shape[-1]:
        raise ValueError(f"{names[0]} and {names[1]} should be of the same tasks, got {one.shape} and {other.shape}")
    if paired and one.shape != other.shape:
        raise ValueError(f"paired scores should have one shape, got {one.shape} and {other.shape}")
    return one, other


def agree(first: ScoreMatrix, second: ScoreMatrix, names: tuple[str, str], *, seeds: bool, budget: bool = True) -> None:
    """Refuse two matrices that differ in their tasks, or, where asked, in seeds or budget.

    Raises:
        ValueError: what differs.
    """
    kinds: list[tuple[str, tuple[Any, ...], tuple[Any, ...]]] = [("tasks", first.tasks, second.tasks)]
    if seeds:
        kinds.append(("seeds", first.seeds, second.seeds))
    if budget:
        kinds.append(("budget", (first.budget,), (second.budget,)))
    for kind, ours, theirs in kinds:
        if ours != theirs:
            only = [sorted(set(a) - set(b)) for a, b in ((ours, theirs), (theirs, ours))]
            detail = "; ".join(
                f"only in {name}: {', '.join(map(str, extra))}"
                for name, extra in zip(names, only, strict=True)
                if extra
            )
            raise ValueError(f"{names[0]} and {names[1]} should be of the same {kind}; {detail or 'the order differs'}")
