"""Runs a study, and writes results.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from stablegrad.errors import UsageError
from stablegrad.files import write_json
from stablegrad.studies.comparison import differences
from stablegrad.studies.executors import Executor
from stablegrad.studies.kinds import SCORES, kind_of
from stablegrad.studies.processes import check_workers, locked
from stablegrad.studies.study import Cell, Run, Study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.table import (
    NOTHING,
    TASK_UNITS,
    Estimate,
    Row,
    average,
    check_axes,
    counts,
    read_row,
    score_of,
)
from stablegrad.studies.tuning import RATE, TrialScore, best_trial, factor_of
from stablegrad.studies.tuning_verdict import tuned_cells, tuned_to, tuning_in_words
from stablegrad.studies.work import Work, is_finished

FORMAT = 1


@dataclass(frozen=True)
class StudyProgress:
    """How far a study is.

    Attributes:
        total: all its runs.
        finished: how many are.
        failed: how many failed.
        running: names of those that run, with the share of them that is done.
    """

    total: int
    finished: int
    failed: int
    running: Mapping[str, float]

    @property
    def done(self) -> float:
        """Runs that are over, with shares of those that run."""
        return self.finished + self.failed + sum(self.running.values())


def run_study(
    folder: StudyFolder,
    executor: Executor,
    workers: int,
    *,
    runs: Sequence[Run] | None = None,
    max_seconds: float | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> dict[str, Any]:
    """Bring all runs of a study to their end, or as many as there is time for.

    Call it from the main thread: only there can SIGINT and SIGTERM end it cleanly.

    Args:
        folder: the study's folder.
        executor: carries out the runs; it is stopped at the end.
        workers: how many runs at once.
        runs: those to care for; None: all. What is finished among them is left as it is, what has failed tried again.
        max_seconds: when to stop, finished or not.
        on_progress: called about once a second.

    Returns:
        The study's figures, see :func:`summarize_study`.

    Raises:
        UsageError: no worker, or another process runs this study.
        KeyboardInterrupt: SIGINT or SIGTERM came; all is in order for the study to be continued.
    """
    check_workers(workers)
    chosen = {folder.run_folder(run).path: run for run in (folder.study.runs if runs is None else runs)}
    with locked(folder.directory, "study"):
        work = Work({path: run.config for path, run in chosen.items()}, executor, workers)

        def tell() -> None:
            if on_progress is not None:
                running = {chosen[path].name: work.share_done(path) for path in work.those("running")}
                finished, failed = len(work.those("finished")), len(work.those("failed"))
                on_progress(StudyProgress(len(chosen), finished, failed, running))

        def write() -> None:
            write_json(folder.results_path, results(folder))

        try:
            work.carry_out(tell, write, max_seconds)
        finally:
            summary = summarize_study(folder)
            write()
    return summary


def tune_study(
    folder: StudyFolder,
    executor: Executor,
    workers: int,
    *,
    max_seconds: float | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> StudyFolder:
    """Make the trials of a study that is tuned; every cell then has the options of its best trial.

    A cell of which no trial has a score keeps its options. Called again, it goes on where it stopped.

    Args:
        folder: of a study with ``tuning``.
        executor: as in :func:`run_study`, as are ``workers``, ``max_seconds`` and ``on_progress``.

    Returns:
        The folder with the tuned study, which is written to study.json if that exists; ``folder`` itself where time
        was up before all trials were made.

    Raises:
        UsageError: no worker, another process makes these trials, or the folder holds other ones.
        KeyboardInterrupt: SIGINT or SIGTERM came; all is in order to go on.
    """
    trials = folder.trials
    if trials.path.exists():
        there = StudyFolder.read(trials.directory).study
        asked, found = ({cell.name: cell.config.to_json() for cell in study.cells} for study in (trials.study, there))
        if changed := differences(asked, found):
            raise UsageError(f"'{trials.directory}' holds other trials: {'; '.join(changed)}. Name another folder")
    else:
        trials.write()
    run_study(trials, executor, workers, max_seconds=max_seconds, on_progress=on_progress)
    score = score_of(folder.study, SCORES[kind_of(folder.study.cells[0].config.algorithm)])
    assert score is not None  # read_study makes sure
    rows = [read_row(trials, run, [score]) for run in trials.study.runs]
    if counts(rows)["left"]:
        return folder
    tuned = StudyFolder(folder.directory, _tuned(folder.study, trials.study, rows, score))
    if folder.path.exists():
        tuned.write()
    return tuned


def _tuned(study: Study, trials: Study, rows: Sequence[Row], score: str) -> Study:
    """The study with the options of each cell's best trial."""
    by_trial: dict[str, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row.cell, []).append(row)
    axes = list(study.cells[0].values)
    by_cell: dict[tuple[str, ...], list[Cell]] = {}
    for trial in trials.cells:
        by_cell.setdefault(tuple(trial.values[axis] for axis in axes), []).append(trial)
    cells, tuned = [], {}
    for cell in study.cells:
        found = by_cell[tuple(cell.values.values())]
        results = [_trial_score(trial, axes, by_trial[trial.name], score) for trial in found]
        best = best_trial(results)
        config = cell.config if best is None else found[results.index(best)].config
        cells.append(dataclasses.replace(cell, config=dataclasses.replace(config, seed=cell.config.seed)))
        tuned[cell.name] = tuple(results)
    return dataclasses.replace(study, cells=tuple(cells), tuned=tuned)


def _trial_score(trial: Cell, axes: Sequence[str], rows: Sequence[Row], score: str) -> TrialScore:
    values = {axis: value for axis, value in trial.values.items() if axis not in axes}
    scores = [row.figures[score] for row in rows]
    known = [value for value in scores if value is not None]
    return TrialScore(
        values,
        factor_of(values[RATE]),
        fmean(known) if len(known) == len(scores) else None,
        counts(rows)["failed"],
    )


def unfinished(folder: StudyFolder) -> list[Run]:
    """The runs that are left to do, those that failed included, in the order of the study."""
    return [run for run in folder.study.runs if not is_finished(folder.run_folder(run))]


def results(folder: StudyFolder) -> dict[str, Any]:
    """A row a run, in the order of the study: the content of results.json.

    Returns:
        ``study``, ``form``, and ``runs``: of each ``cell``, ``values``, ``seed``, ``status`` ("finished", "failed", or
        "left": not started, or not at its end), ``error`` (why it failed) and ``figures`` (None where there is none).
    """
    study = folder.study
    return {
        "format": FORMAT,
        "study": study.name,
        "form": study.form,
        "runs": [
            {
                "cell": row.cell,
                "values": row.values,
                "seed": row.seed,
                "status": row.status,
                "error": row.error,
                "figures": dict(row.figures),
            }
            for row in _rows(folder)
        ],
    }


def summarize_study(folder: StudyFolder, confidence: float = 0.95, by: Sequence[str] | None = None) -> dict[str, Any]:
    """The figures of a study by cell, as JSON values.

    Args:
        folder: the study's folder; its runs may be in any state.
        confidence: of the intervals, Student's t over seeds.
        by: axes to show; over the others figures are averaged, seed by seed, of seeds that are finished in every cell.
            None: all axes.

    Returns:
        ``study``, ``form``, ``directory``, ``texts``, ``tuning`` (sentences), ``axes`` (those shown), ``averaged`` (the
        others), ``seeds``, ``report``, ``not_averaged`` (figures in units of the environment, which have no mean over
        environments), ``confidence``; ``finished``, ``failed`` and ``left`` (numbers of runs); ``cells``: of each
        ``name``, ``values``, ``tuned_to`` (words; None of a study that is not tuned), the same three numbers, and
        ``figures``: name -> ``mean``, ``interval``, ``count``; ``failures``: cell, seed and error.

    Raises:
        UsageError: ``by`` names an axis that the study does not have, or one twice.
    """
    study, rows = folder.study, _rows(folder)
    axes = list(study.cells[0].values)
    if by is not None:
        check_axes(axes, by)
    shown = axes if by is None else list(by)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.values[axis] for axis in shown), []).append(row)
    mixed = any(len({row.task for row in own}) > 1 for own in groups.values())
    not_averaged = [name for name in study.report if mixed and name.startswith(TASK_UNITS)]
    # Over other axes there is no one trial that was best.
    tuned = {tuple(cell.values.values()): tuned_to(cell) for cell in tuned_cells(study)} if shown == axes else {}
    cells = []
    for labels, own in groups.items():
        values = dict(zip(shown, labels, strict=True))
        cells.append(
            {
                "name": "_".join(f"{axis}={label}" for axis, label in values.items()) or "all",
                "values": values,
                "tuned_to": tuned.get(labels),
                **counts(own),
                "figures": {
                    name: _as_json(NOTHING if name in not_averaged else average(own, name, confidence=confidence))
                    for name in study.report
                },
            }
        )
    return {
        "study": study.name,
        "form": study.form,
        "directory": str(folder.directory),
        "texts": study.texts,
        "tuning": tuning_in_words(study),
        "axes": shown,
        "averaged": [axis for axis in axes if axis not in shown],
        "seeds": list(study.seeds),
        "report": list(study.report),
        "not_averaged": not_averaged,
        "confidence": confidence,
        **counts(rows),
        "cells": cells,
        "failures": [
            {"cell": row.cell, "seed": row.seed, "error": row.error} for row in rows if row.status == "failed"
        ],
    }


def _rows(folder: StudyFolder) -> list[Row]:
    return [read_row(folder, run, folder.study.report) for run in folder.study.runs]


def _as_json(found: Estimate) -> dict[str, Any]:
    interval = None if found.interval is None else list(found.interval)
    return {"mean": found.value, "interval": interval, "count": found.seeds}
