"""Of a study that was tuned: scores by learning rate, and the table of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stablegrad.reports.charts import Line, LineChart, Panel, colour_of, dash_of
from stablegrad.reports.study_figures import MOST_PANELS, figure_title
from stablegrad.studies.study import Study
from stablegrad.studies.table import Table, average
from stablegrad.studies.tuning import RATE, TOLERANCE, TrialScore, factor_of, is_factor
from stablegrad.studies.tuning_verdict import good_range, rates_in_words, tuned_cells, tuned_to
from stablegrad.text import MISSING, number, percent


def tuning_chart(study: Study, table: Table) -> LineChart | None:
    """Score against the factor of the learning rate, a line a setting; None where not several rates were tried.

    Args:
        study: one that is tuned, or the trials of one.
        table: its runs.
    """
    tried = [(cell.values, cell.task, cell.trials) for cell in tuned_cells(study)] or _trials_of(table)
    axes = [axis for axis in table.settings if axis != RATE]
    settings = list(dict.fromkeys(_label(table, axes, values) for values, _, _ in tried))
    panels: dict[str, list[Line]] = {}
    for values, task, trials in tried:
        points = _best_by_factor(trials)
        if len(points) < 2:
            continue
        index = settings.index(_label(table, axes, values))
        panels.setdefault(_place(table, values, task), []).append(
            Line(
                settings[index],
                colour_of(index),
                list(points),
                list(points.values()),
                mode="both",
                dash=dash_of(index),
                labels=[f"x{factor:g}" for factor in points],
            )
        )
    if not panels:
        return None
    count = len(study.seeds if study.tuning is None else study.tuning.seeds)
    return LineChart(
        "tuning",
        "What tuning found: score against learning rate",
        "How to read it: a point is the mean over the seeds of tuning, of the best other options where some were "
        "tried; a flat line hardly depends on the rate, a peak needs it tuned.",
        f"Tuned on {count} seed{'' if count == 1 else 's'}"
        + ("." if study.tuning is None else "; the study's own runs have other ones."),
        [Panel(title, lines) for title, lines in panels.items()][:MOST_PANELS],
        "factor of each setting's own learning rate (log scale)",
        figure_title(table.shown),
        log_x=True,
        shared_y=table.comparable,
    )


def _trials_of(table: Table) -> list[tuple[dict[str, str], str, tuple[TrialScore, ...]]]:
    """Of a study of trials what was tried for each setting: the values of its other axes, its task and the scores."""
    if RATE not in table.axes or table.score is None or not all(map(is_factor, table.axes[RATE])):
        return []
    others = [axis for axis in table.axes if axis != RATE]
    found = []
    for labels, rows in table.groups(table.rows, others).items():
        scores = tuple(
            TrialScore({RATE: rate}, factor_of(rate), average(own, table.score).value)
            for (rate,), own in table.groups(rows, [RATE]).items()
        )
        found.append((dict(zip(others, labels, strict=True)), rows[0].task, scores))
    return found


def tuning_rows(study: Study, table: Table) -> list[list[str]]:
    """What was found: place, setting, best trial, learning rate, score, range of good rates, failed runs."""
    return [
        [
            _place(table, cell.values, cell.task),
            _label(table, table.settings, cell.values),
            tuned_to(cell) + (" (at an end)" if cell.at_an_end else ""),
            rates_in_words(cell),
            number(cell.best.score) if cell.best is not None else MISSING,
            good_range(cell) or MISSING,
            str(cell.failed or MISSING),
        ]
        for cell in tuned_cells(study)
    ]


#: What "good" means in the table, for its caption.
GOOD = f"within {percent(TOLERANCE)} of the best, of the range of all trials on its task"


def _place(table: Table, values: Mapping[str, str], task: str) -> str:
    where = [task] if len(table.tasks) > 1 else []
    return ", ".join([*where, *([_label(table, table.sizes, values)] if table.sizes else [])])


def _label(table: Table, axes: Sequence[str], values: Mapping[str, str]) -> str:
    return table.label(axes, [values[axis] for axis in axes])


def _best_by_factor(trials: Sequence[TrialScore]) -> dict[float, float]:
    best: dict[float, float] = {}
    for trial in sorted(trials, key=lambda trial: trial.factor):
        if trial.score is not None:
            best[trial.factor] = max(trial.score, best.get(trial.factor, trial.score))
    return best
