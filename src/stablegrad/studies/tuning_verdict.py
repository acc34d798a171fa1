"""What tuning found, cell by cell and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from stablegrad.studies.kinds import Config
from stablegrad.studies.study import Study
from stablegrad.studies.table import task_of
from stablegrad.studies.tuning import TrialScore, at_an_end, best_trial, good_factors
from stablegrad.text import number
from stablegrad.training.config import RunConfig

MANY = 6


@dataclass(frozen=True)
class TunedCell:
    """What tuning found for one cell.

    Attributes:
        name: the cell's.
        values: what the study's axes say.
        task: environment or data.
        best: the best trial; None where no trial has a score.
        rates: learning rates of the cell as it is tuned; those of critic and actor where they differ.
        good: lowest and highest factor around the best whose score is good, see ``good_factors``.
        at_an_end: whether the best factor is the lowest or the highest tried.
        failed: runs of the trials that failed.
        trials: all of them.
    """

    name: str
    values: dict[str, str]
    task: str
    best: TrialScore | None
    rates: tuple[float, ...]
    good: tuple[float, float] | None
    at_an_end: bool
    failed: int
    trials: tuple[TrialScore, ...]


def tuned_cells(study: Study) -> list[TunedCell]:
    """Every cell of a tuned study; none of a study that is not tuned, or not yet."""
    if study.tuned is None:
        return []
    scores: dict[str, list[float]] = {}
    for cell in study.cells:
        known = [trial.score for trial in study.tuned[cell.name] if trial.score is not None]
        scores.setdefault(task_of(cell.config), []).extend(known)
    found = []
    for cell in study.cells:
        trials, task = study.tuned[cell.name], task_of(cell.config)
        span = max(scores[task]) - min(scores[task]) if scores[task] else 0.0
        found.append(
            TunedCell(
                name=cell.name,
                values=cell.values,
                task=task,
                best=best_trial(trials),
                rates=_rates(cell.config),
                good=good_factors(trials, span),
                at_an_end=at_an_end(trials),
                failed=sum(trial.failed for trial in trials),
                trials=tuple(trials),
            )
        )
    return found


def tuning_in_words(study: Study, noun: str = "cell") -> list[str]:
    """How a study is tuned and what is to be borne in mind of that; nothing of a study that is not.

    Args:
        study: tuned, to be tuned, or neither.
        noun: what its cells are called.
    """
    tuning, cells = study.tuning, tuned_cells(study)
    if tuning is None:
        return []
    factors = ", ".join(f"x{factor:g}" for factor in tuning.factors)
    tried = [f"{len(tuning.factors)} learning rates ({factors})"] if len(tuning.factors) > 1 else []
    tried += [f"{len(values)} values of {name}" for name, values in tuning.options.items()]
    seeds = f"seed{'' if len(tuning.seeds) == 1 else 's'} {', '.join(map(str, tuning.seeds))}"
    how = f"{' by '.join(tried)} on {seeds}"
    if not cells:
        return [f"Every {noun} first tries {how}; the trials are not finished."]
    sentences = [f"Every {noun} was tuned: it tried {how}, and runs with what scored best there."]
    names = partial(_names, noun=noun, total=len(cells))
    ends = [cell.name for cell in cells if cell.at_an_end]
    if ends:
        sentences.append(
            f"The best rate is the lowest or the highest of those tried for {names(ends)}: a better one may lie beyond."
        )
    silent = [cell.name for cell in cells if cell.best is None]
    if silent:
        sentences.append(f"No trial of {names(silent)} was finished at every seed: its options are untuned.")
    return sentences


def tuned_to(cell: TunedCell) -> str:
    """What a cell is tuned to, in a few words: "x3", "x1, max_grad_norm 1"."""
    if cell.best is None:
        return "untuned"
    first, *others = cell.best.values.items()
    return ", ".join([first[1], *(f"{axis} {value}" for axis, value in others)])


def good_range(cell: TunedCell) -> str:
    """The range of good factors in words: "x0.3 to x3"."""
    if cell.good is None:
        return ""
    low, high = cell.good
    return f"x{low:g}" if low == high else f"x{low:g} to x{high:g}"


def rates_in_words(cell: TunedCell) -> str:
    """The learning rates of a tuned cell, before any schedule."""
    return " and ".join(map(number, cell.rates))


def _rates(config: Config) -> tuple[float, ...]:
    if not isinstance(config, RunConfig):
        return (config.optimizer.initial_learning_rate,)
    rates = [config.agent.optimizer_of(network).initial_learning_rate for network in ("critic", "actor")]
    return tuple(dict.fromkeys(rates))


def _names(names: Sequence[str], noun: str, total: int) -> str:
    if len(names) == total and total > 1:
        return f"every {noun}"
    shown = names if len(names) <= MANY else names[:MANY]
    return ", ".join(shown) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")
