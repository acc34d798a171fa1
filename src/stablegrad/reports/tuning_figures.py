"""Of a study that was tuned: scores by learning rate, and the table of what was found."""

from __future__ import annotations

from collections.abc import Sequence

from stablegrad.reports.charts import Line, LineChart, Panel, colour_of, dash_of
from stablegrad.reports.study_figures import MOST_PANELS, figure_title
from stablegrad.studies.study import Study
from stablegrad.studies.table import Table
from stablegrad.studies.tuning import TOLERANCE, TrialScore
from stablegrad.studies.tuning_verdict import TunedCell, good_range, rates_in_words, tuned_cells, tuned_to
from stablegrad.text import MISSING, number, percent


def tuning_chart(study: Study, table: Table) -> LineChart | None:
    """Score against the factor of the learning rate, a line a setting; None where one rate was tried."""
    cells = tuned_cells(study)
    if study.tuning is None or not cells or len(study.tuning.factors) < 2:
        return None
    settings = list(dict.fromkeys(_label(table, table.settings, cell) for cell in cells))
    panels: dict[str, list[Line]] = {}
    for cell in cells:
        points = _best_by_factor(cell.trials)
        if not points:
            continue
        index = settings.index(_label(table, table.settings, cell))
        panels.setdefault(_place(table, cell), []).append(
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
    count = len(study.tuning.seeds)
    return LineChart(
        "tuning",
        "What tuning found: score against learning rate",
        "How to read it: a point is the mean over the seeds of tuning, of the best other options where some were "
        "tried; a flat line hardly depends on the rate, a peak needs it tuned.",
        f"Tuned on {count} seed{'' if count == 1 else 's'}; the study's own runs have other ones.",
        [Panel(title, lines) for title, lines in panels.items()][:MOST_PANELS],
        "factor of each setting's own learning rate (log scale)",
        figure_title(table.shown),
        log_x=True,
        shared_y=table.comparable,
    )


def tuning_rows(study: Study, table: Table) -> list[list[str]]:
    """What was found: place, setting, best trial, learning rate, score, range of good rates, failed runs."""
    return [
        [
            _place(table, cell),
            _label(table, table.settings, cell),
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


def _place(table: Table, cell: TunedCell) -> str:
    task = cell.task if len(table.tasks) > 1 else ""
    size = _label(table, table.sizes, cell) if table.sizes else ""
    return ", ".join(part for part in (task, size) if part)


def _label(table: Table, axes: Sequence[str], cell: TunedCell) -> str:
    return table.label(axes, [cell.values[axis] for axis in axes])


def _best_by_factor(trials: Sequence[TrialScore]) -> dict[float, float]:
    best: dict[float, float] = {}
    for trial in sorted(trials, key=lambda trial: trial.factor):
        if trial.score is not None:
            best[trial.factor] = max(trial.score, best.get(trial.factor, trial.score))
    return best
