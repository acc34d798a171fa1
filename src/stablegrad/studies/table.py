"""A study's runs as a table, and the numbers that are made of it: means over cells, differences, score matrices.

A row is a run. Seeds are the independent repetitions: whatever is averaged over cells is averaged seed by seed first,
of seeds that have a number in every one of the cells, so that no cell weighs less and an interval is of seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np

from stablegrad.environments.atari_scores import ALE_57
from stablegrad.errors import StablegradError, UsageError, unknown_name
from stablegrad.studies.bootstrap import improvement_interval, paired_bootstrap, stratified_bootstrap
from stablegrad.studies.comparison import read_failure
from stablegrad.studies.kinds import HUMAN_NORMALIZED, RELEARN, SCORES, Config, figure_of, kind_of, known_figures
from stablegrad.studies.scores import Score, ScoreMatrix, score_matrix
from stablegrad.studies.statistics import mean_interval, paired_difference
from stablegrad.studies.study import SIZES, Run, Study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.training.config import RunConfig

STATUSES = ("finished", "failed", "left")
CONFIDENCE = 0.95
REPLICATES = 2000  # a page has hundreds of intervals; their ends are stable to a few percent of their length
OPTIMIZER_SECONDS = "seconds.optimizer"
GRADIENT = "gradients/norm"
#: Beginnings of figures in units of the environment's own: their mean over environments says nothing.
TASK_UNITS = ("final_return", "evaluation.mean_return", "train/return", "loss/", "values/")
#: The same of an Atari game in units that all games share.
RETURNS = {
    "final_return": HUMAN_NORMALIZED,
    "evaluation.mean_return": "evaluation.human_normalized_score",
}
SPEED = {"agent": "steps_per_second", RELEARN: "speed/images_per_second"}
COST = ("wall_seconds", "parameters", "peak_memory_bytes", OPTIMIZER_SECONDS)


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        cell: name of its cell.
        values: what each axis says, for people.
        seed: its seed.
        status: "finished", "failed", or "left": not started, or not at its end.
        error: why it failed.
        figures: name -> number; None where there is none, as of every run that is not finished.
        task: environment of an agent, data of a classifier.
        budget: environment steps of an agent, epochs of a classifier.
    """

    cell: str
    values: Mapping[str, str]
    seed: int
    status: str
    error: str | None
    figures: Mapping[str, float | None]
    task: str
    budget: int

    @property
    def name(self) -> str:
        """Names its folder."""
        return f"{self.cell}-seed{self.seed}"


@dataclass(frozen=True)
class Estimate:
    """A number over seeds.

    Attributes:
        value: None where no seed has a number in every cell.
        interval: lower and upper end; None with fewer than two seeds.
        seeds: how many it is of.
    """

    value: float | None
    interval: tuple[float, float] | None
    seeds: int

    @property
    def sign(self) -> int:
        """Of a difference: 1 or -1 where the interval leaves 0 out, else 0; without an interval nothing is known."""
        if self.interval is None:
            return 0
        low, high = self.interval
        return 1 if low > 0 else -1 if high < 0 else 0

    @property
    def equal(self) -> bool:
        """Of a difference: whether there is none at any of several seeds."""
        return self.interval == (0.0, 0.0)


NOTHING = Estimate(None, None, 0)


def read_row(folder: StudyFolder, run: Run, figures: Iterable[str]) -> Row:
    """One run of a study in whatever state it is; one whose files cannot be read is a failure."""
    run_folder, error = folder.run_folder(run), None
    finished, found = False, dict[str, float | None]()
    try:
        summary = run_folder.read_summary() or {}
        if summary.get("status") == "finished":
            found = {name: figure_of(run.config, run_folder, summary, name) for name in figures}
            finished = True
    except StablegradError as unreadable:
        error = str(unreadable)
    if not finished and error is None:
        error = read_failure(run_folder)
    return Row(
        cell=run.cell.name,
        values=run.cell.values,
        seed=run.seed,
        status="finished" if finished else "left" if error is None else "failed",
        error=error,
        figures={name: found.get(name) for name in figures},
        task=task_of(run.config),
        budget=run.config.total_steps if isinstance(run.config, RunConfig) else run.config.epochs,
    )


def task_of(config: Config) -> str:
    """What is learned: the environment or the data."""
    return config.env if isinstance(config, RunConfig) else config.data


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Numbers of runs that are finished, failed and left."""
    found = [row.status for row in rows]
    return {status: found.count(status) for status in STATUSES}


def by_seed(rows: Sequence[Row], figure: str, *, logarithmic: bool = False) -> dict[int, float]:
    """The mean over cells of every seed that has a number in all of them; ``logarithmic``: the geometric mean.

    A geometric mean counts numbers that are not above 0 as missing.
    """
    values: dict[int, dict[str, float]] = {}
    for row in rows:
        value = row.figures.get(figure)
        if value is not None and math.isfinite(value) and (value > 0 or not logarithmic):
            values.setdefault(row.seed, {})[row.cell] = math.log(value) if logarithmic else value
    cells = {row.cell for row in rows}
    means = {seed: fmean(own.values()) for seed, own in sorted(values.items()) if own.keys() == cells}
    return {seed: math.exp(mean) if logarithmic else mean for seed, mean in means.items()}


def average(rows: Sequence[Row], figure: str, *, logarithmic: bool = False, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over cells and seeds with Student's interval over seeds; ``logarithmic``: both of the logarithm."""
    values = list(by_seed(rows, figure, logarithmic=logarithmic).values())
    if not values:
        return NOTHING
    found = mean_interval(np.log(values) if logarithmic else values, confidence)
    ends = [found.mean, *(found.interval or ())]
    mean, *interval = (float(np.exp(end) if logarithmic else end) for end in ends)
    return Estimate(mean, (interval[0], interval[1]) if interval else None, found.count)


def scores(rows: Iterable[Row], figure: str) -> list[Score]:
    """The finished runs that have this figure as scores: task, seed, budget, value.

    Rows of several cells of one task give several scores of one seed; ``score_matrix`` refuses them.
    """
    return [
        Score(row.task, row.seed, row.budget, value) for row in rows if (value := row.figures.get(figure)) is not None
    ]


def task_matrix(rows: Sequence[Row], figure: str) -> ScoreMatrix | None:
    """Scores [seeds, tasks], the mean over cells where a task has several; None without a seed that all tasks have.

    Raises:
        ValueError: the runs have different budgets.
    """
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    values = {task: by_seed(own, figure) for task, own in tasks.items()}
    seeds = set.intersection(*(set(own) for own in values.values())) if values else set()
    if not seeds:
        return None
    budgets = {row.task: row.budget for row in rows}
    if len({row.budget for row in rows}) > 1:
        raise ValueError(f"scores should be of one budget, got {sorted({row.budget for row in rows})}")
    return score_matrix(Score(task, seed, budgets[task], own[seed]) for task, own in values.items() for seed in seeds)


def estimate(rows: Sequence[Row], figure: str, confidence: float = CONFIDENCE) -> Estimate:
    """Of one task the mean with Student's interval; of several the interquartile mean with a bootstrap interval."""
    if len({row.task for row in rows}) < 2:
        return average(rows, figure, confidence=confidence)
    matrix = task_matrix(rows, figure)
    if matrix is None:
        return NOTHING
    found = stratified_bootstrap(matrix, replicates=REPLICATES, confidence=confidence)
    return _estimate(found.estimate, found.interval, found.count)


def difference(first: Sequence[Row], second: Sequence[Row], figure: str, confidence: float = CONFIDENCE) -> Estimate:
    """Second minus first, of the same seeds: paired. Of several tasks the difference of interquartile means.

    Raises:
        ValueError: several tasks, and they or the budgets differ.
    """
    if len({row.task for row in (*first, *second)}) < 2:
        ours, theirs = by_seed(first, figure), by_seed(second, figure)
        shared = sorted(ours.keys() & theirs.keys())
        if not shared:
            return NOTHING
        found = paired_difference([ours[seed] for seed in shared], [theirs[seed] for seed in shared], confidence)
        return _estimate(found.mean, found.interval, found.count)
    matrices = _paired_matrices(first, second, figure)
    if matrices is None:
        return NOTHING
    gain = paired_bootstrap(*matrices, replicates=REPLICATES, confidence=confidence)
    return _estimate(gain.estimate, gain.interval, gain.count)


def ratio(first: Sequence[Row], second: Sequence[Row], figure: str, confidence: float = CONFIDENCE) -> Estimate:
    """Second by first, of the same seeds: geometric mean with Student's interval of their logarithms."""
    ours, theirs = (by_seed(rows, figure, logarithmic=True) for rows in (first, second))
    logs = [math.log(theirs[seed] / ours[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not logs:
        return NOTHING
    found = mean_interval(logs, confidence)
    return _estimate(np.exp(found.mean), None if found.interval is None else np.exp(found.interval), found.count)


def improvement_probability(
    first: Sequence[Row], second: Sequence[Row], figure: str, confidence: float = CONFIDENCE
) -> Estimate:
    """How often a run of the second is better than one of the first, over tasks; see ``improvement_interval``.

    Raises:
        ValueError: tasks or budgets differ.
    """
    matrices = _paired_matrices(first, second, figure)
    if matrices is None:
        return NOTHING
    found = improvement_interval(matrices[1], matrices[0], replicates=REPLICATES, confidence=confidence)
    return _estimate(found.estimate, found.interval, found.count)


def _paired_matrices(
    first: Sequence[Row], second: Sequence[Row], figure: str
) -> tuple[ScoreMatrix, ScoreMatrix] | None:
    """The two score matrices, of the seeds that both have."""
    one, other = task_matrix(first, figure), task_matrix(second, figure)
    if one is None or other is None:
        return None
    shared = set(one.seeds) & set(other.seeds)
    one = task_matrix([row for row in first if row.seed in shared], figure)
    other = task_matrix([row for row in second if row.seed in shared], figure)
    return None if one is None or other is None else (one, other)


def _estimate(value: Any, interval: Any, seeds: int) -> Estimate:
    ends = None if interval is None else (float(interval[0]), float(interval[1]))
    return Estimate(float(value), ends, seeds)


@dataclass(frozen=True)
class Table:
    """All runs of a study, and what its axes are.

    Attributes:
        kind: "agent" or "relearn".
        rows: a run each, in the order of the study.
        axes: axis -> its values, in the order of the file, sizes from small to large.
        score: the figure that says what is better; None where the study reports none.
        shown: the score, or else the first figure that the study reports.
    """

    kind: str
    rows: tuple[Row, ...] = field(repr=False)
    axes: Mapping[str, tuple[str, ...]]
    score: str | None
    shown: str

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Environments or data sets, in the order of the study."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    @cached_property
    def task_axis(self) -> str | None:
        """The axis that says which task it is; None where there is one task."""
        if len(self.tasks) < 2:
            return None
        return next(
            axis
            for axis in self.axes
            if len({(row.values[axis], row.task) for row in self.rows}) == len(self.axes[axis])
        )

    @cached_property
    def seeds(self) -> int:
        """How many seeds the study has."""
        return len({row.seed for row in self.rows})

    @property
    def comparable(self) -> bool:
        """Whether the scores of different tasks may be averaged: they have one unit and one budget."""
        one_unit = not self.shown.startswith(TASK_UNITS)
        return len(self.tasks) < 2 or (one_unit and len({row.budget for row in self.rows}) == 1)

    @cached_property
    def sizes(self) -> tuple[str, ...]:
        """Axes of the network's size that have more than one value."""
        return tuple(axis for axis in SIZES if len(self.axes.get(axis, ())) > 1)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """All other axes with more than one value, but that of tasks."""
        return tuple(
            axis
            for axis, values in self.axes.items()
            if len(values) > 1 and axis not in SIZES and axis != self.task_axis
        )

    def parts(self) -> list[tuple[str, tuple[Row, ...]]]:
        """Rows whose scores may be averaged, with a name where there are several: a part a task, or one of all."""
        if self.comparable:
            return [("", self.rows)]
        return [(task, tuple(row for row in self.rows if row.task == task)) for task in self.tasks]

    def groups(self, rows: Sequence[Row], axes: Sequence[str]) -> dict[tuple[str, ...], list[Row]]:
        """The rows by their values on some axes, in the order of the axes' values; groups without rows are left out."""
        found: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            found.setdefault(tuple(row.values[axis] for axis in axes), []).append(row)
        rank = [{value: place for place, value in enumerate(self.axes[axis])} for axis in axes]
        return dict(sorted(found.items(), key=lambda item: [r[v] for r, v in zip(rank, item[0], strict=True)]))

    def label(self, axes: Sequence[str], values: Sequence[str]) -> str:
        """What a group is called: the axis is named where its value says little by itself."""
        words = [
            f"{axis.split('.')[-1]} {value}" if axis in SIZES or _bare(value) else value
            for axis, value in zip(axes, values, strict=True)
        ]
        joint = " + " if set(axes) <= set(self.settings) else ", "  # settings are listed with commas
        return joint.join(words) or "all runs"


def _bare(value: str) -> bool:
    """Whether a value is a number or a truth value."""
    try:
        float(value)
    except ValueError:
        return value in ("true", "false", "null")
    return True


def read_table(folder: StudyFolder) -> Table:
    """Read all runs of a study with the figures that its report is made of."""
    study = folder.study
    config = study.cells[0].config
    kind = kind_of(config.algorithm)
    score = score_of(study, SCORES[kind])
    figures = dict.fromkeys([*study.report, *([score] if score else []), GRADIENT, *COST, SPEED[kind]])
    rows = tuple(read_row(folder, run, figures) for run in study.runs)
    axes = {}
    for axis in study.cells[0].values:
        values = tuple(dict.fromkeys(cell.values[axis] for cell in study.cells))
        axes[axis] = tuple(sorted(values, key=SIZES[axis])) if axis in SIZES else values
    return Table(kind, rows, axes, score, score or study.report[0])


def score_of(study: Study, scores: Iterable[str]) -> str | None:
    """The first figure a study reports that is one of ``scores``; of several Atari games, their returns normalised."""
    tasks = {task_of(cell.config) for cell in study.cells}
    score = next((name for name in study.report if name in scores), None)
    if score in RETURNS and len(tasks) > 1 and all(task.removesuffix("-v5") in ALE_57 for task in tasks):
        return RETURNS[score]
    return score


def study_scores(folder: StudyFolder, figure: str, where: Mapping[str, str] | None = None) -> list[Score]:
    """One figure of a study's finished runs as scores, for the statistics of many tasks.

    The task is the environment or the data; the budget is environment steps of an agent, epochs of a classifier.

    Args:
        folder: the study's folder; runs without the figure are left out.
        figure: one of ``stablegrad.studies.kinds.FIGURES``.
        where: axis -> value: which runs. Name a value of every axis but that of the tasks: ``score_matrix`` refuses the
            rest as two scores of one run.

    Raises:
        UsageError: an unknown figure, axis or value.
    """
    study = folder.study
    known = known_figures(study.cells[0].config.algorithm)
    if figure not in known:
        raise unknown_name("figure of a study", figure, known)
    wanted = dict(where or {})
    check_axes(study.cells[0].values, wanted)
    for axis, value in wanted.items():
        values = {cell.values[axis] for cell in study.cells}
        if value not in values:
            raise unknown_name(f"value of axis {axis!r}", value, values)
    runs = [run for run in study.runs if wanted.items() <= run.cell.values.items()]
    return scores((read_row(folder, run, [figure]) for run in runs), figure)


def check_axes(known: Iterable[str], asked: Iterable[str]) -> None:
    """Raise UsageError for an axis that a study does not have, or that is named twice."""
    known, asked = list(known), list(asked)
    for axis in asked:
        if axis not in known:
            if not known:
                raise UsageError(f"unknown axis {axis!r}: this study has none")
            raise unknown_name("axis of this study", axis, known)
    twice = [axis for axis in dict.fromkeys(asked) if asked.count(axis) > 1]
    if twice:
        raise UsageError(f"axis {twice[0]!r} is named twice")
