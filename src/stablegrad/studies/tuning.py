"""Tuning: every cell of a study tries the same learning rates and options on seeds of its own, and keeps the best.

In the study's file::

    [tune]
    learning_rate_factors = [0.3, 1, 3]    times each cell's own learning rate
    seeds = 2                              of every trial; a number n: 1001 to 1000 + n
    max_grad_norm = [1, 10]                any option with a list of values; all combinations are tried

Pure functions; ``stablegrad.studies.runner.tune_study`` makes the runs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stablegrad.errors import UsageError, unknown_name
from stablegrad.studies.seeds import seed_list

FACTORS = "learning_rate_factors"
RATE = "rate"  # the axis of factors
FIRST_SEED = 1001
MAX_TRIALS = 100
#: Options that say what is learned and for how long, not how: scores of their values cannot be held against each other.
TASK = ("algorithm", "env", "data", "data_limit", "preset", "total_steps", "epochs", "action_repeat")
#: A score is good if it is below the best by at most this fraction of the range of all scores on its task.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Trial:
    """What one trial changes in a cell.

    Attributes:
        values: axis -> value, for people; the axis of factors is "rate", with values such as "x0.3".
        factor: of the cell's learning rates.
        options: value by option.
    """

    values: Mapping[str, str]
    factor: float
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Tuning:
    """What a study tunes.

    Attributes:
        factors: of each cell's own learning rate.
        options: values to try, by option.
        seeds: of every trial; none of them is a seed of the study.
    """

    factors: tuple[float, ...]
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (FIRST_SEED,)

    def trials(self, label: Callable[[Any], str]) -> list[Trial]:
        """All combinations of factors and options.

        Args:
            label: writes a value as a part of a folder's name.
        """
        found = []
        for factor, *values in itertools.product(self.factors, *self.options.values()):
            options = dict(zip(self.options, values, strict=True))
            labels = {name: label(value) for name, value in options.items()}
            found.append(Trial({RATE: f"x{factor:g}", **labels}, factor, options))
        return found


@dataclass(frozen=True)
class TrialScore:
    """What one trial of a cell reached.

    Attributes:
        values: as in :class:`Trial`.
        factor: of the learning rate.
        score: mean over seeds; None where a seed failed or has no score.
        failed: how many of its runs failed.
    """

    values: Mapping[str, str]
    factor: float
    score: float | None
    failed: int = 0


def factor_of(value: str) -> float:
    """The factor that a value of the axis ``RATE`` names: "x0.3"."""
    return float(value.removeprefix("x"))


def is_factor(value: str) -> bool:
    """Whether a value of an axis names a factor, as those of ``RATE`` in a study of trials do."""
    return re.fullmatch(r"x[0-9.e+-]+", value) is not None


def rate_factors(count: int) -> tuple[float, ...]:
    """The ``count`` factors nearest to 1 among ..., 0.03, 0.1, 0.3, 1, 3, 10, 30, ..., in increasing order.

    Of two that are as near, the larger comes first.
    """
    exponents = sorted((-1) ** index * -((index + 1) // 2) for index in range(count))
    return tuple(float(f"{10 ** (exponent / 2):.0e}") for exponent in exponents)


def parse_tuning(value: Any, seeds: Sequence[int], known: Iterable[str]) -> Tuning | None:
    """Read the table ``[tune]`` of a study's file.

    Args:
        value: the table, with the options' full names; None or empty: the study is not tuned.
        seeds: the study's own, of which none may be one of tuning.
        known: all options of its runs, by their full names.

    Raises:
        UsageError: one line on what is wrong in it.
    """
    if not value:
        return None
    options = dict(value)
    own = options.pop("seeds", 1)
    factors = options.pop(FACTORS, [1])
    _check_factors(factors)
    tried = seed_list([FIRST_SEED + index for index in range(own)] if type(own) is int and own > 0 else own, "")
    if shared := sorted(set(tried) & set(seeds)):
        raise UsageError(f"tune: seed {shared[0]} is a seed of the study too; trials need seeds of their own")
    values = {}
    known = set(known)
    for name, tries in options.items():
        if name not in known:
            raise unknown_name("option in [tune]", name, {*known, FACTORS, "seeds"})
        if name in TASK:
            raise UsageError(f"tune: {name!r} says what is learned, not how; make it an axis")
        if not isinstance(tries, list) or not tries or any(tries.count(item) > 1 for item in tries):
            raise UsageError(f"tune: {name} should be a list of distinct values to try, got {tries!r}")
        values[name] = tuple(tries)
    tuning = Tuning(tuple(float(f"{factor:g}") for factor in factors), values, tried)
    count = math.prod([len(factors), *map(len, values.values())])
    if not 2 <= count <= MAX_TRIALS:
        raise UsageError(f"tune: a cell would have {count} trial{'' if count == 1 else 's'}; try 2 to {MAX_TRIALS}")
    return tuning


def _check_factors(factors: Any) -> None:
    if (
        not isinstance(factors, list)
        or not factors
        or not all(type(factor) in (int, float) and 0 < factor < math.inf for factor in factors)
        or len({f"{factor:g}" for factor in factors}) < len(factors)
    ):
        raise UsageError(f"tune: {FACTORS} should be a list of distinct numbers above 0, got {factors!r}")


def best_trial(trials: Sequence[TrialScore]) -> TrialScore | None:
    """The trial with the highest score, of equal ones that with the factor nearest to 1; None if none has a score."""
    scored = [trial for trial in trials if trial.score is not None and math.isfinite(trial.score)]
    return max(scored, key=lambda trial: (trial.score, -abs(math.log(trial.factor))), default=None)


def good_factors(trials: Sequence[TrialScore], span: float) -> tuple[float, float] | None:
    """The range of factors around the best trial's in which scores are good; its other options are the best trial's.

    Args:
        trials: of one cell.
        span: the range of all scores on the cell's task, by which "good" is measured (``TOLERANCE``).

    Returns:
        (lowest, highest) factor; None where no trial has a score.
    """
    best = best_trial(trials)
    if best is None or best.score is None:
        return None
    others = {axis: value for axis, value in best.values.items() if axis != RATE}
    line = sorted((trial for trial in trials if others.items() <= trial.values.items()), key=lambda trial: trial.factor)
    low = high = line.index(best)
    enough = best.score - TOLERANCE * span

    def good(index: int) -> bool:
        return 0 <= index < len(line) and (score := line[index].score) is not None and score >= enough

    while good(low - 1):
        low -= 1
    while good(high + 1):
        high += 1
    return line[low].factor, line[high].factor


def at_an_end(trials: Sequence[TrialScore]) -> bool:
    """Whether the best factor is the lowest or the highest tried, so that a better one may lie beyond."""
    best, factors = best_trial(trials), {trial.factor for trial in trials}
    return best is not None and len(factors) > 1 and best.factor in (min(factors), max(factors))
