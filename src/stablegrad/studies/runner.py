"""Carries a study out: keeps the workers busy, tries again what was killed, and writes results.json.

Nothing is repeated that is finished, and whatever stops a run or this process, its runs go on from their last scheduled
checkpoints. So a study that was disturbed ends with the same results as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stablegrad.files import write_json
from stablegrad.studies.comparison import record_failure, stderr_path
from stablegrad.studies.executors import Executor
from stablegrad.studies.processes import POLL_SECONDS, check_workers, exit_reason, last_metrics, locked
from stablegrad.studies.study import Run, StudyFolder
from stablegrad.studies.table import (
    NOTHING,
    TASK_UNITS,
    Estimate,
    Row,
    average,
    check_axes,
    counts,
    read_row,
)
from stablegrad.training.checkpoint import list_checkpoints
from stablegrad.training.config import RunConfig
from stablegrad.training.interruption import stop_signals
from stablegrad.training.run_folder import RunFolder

FORMAT = 1
TRIES = 3  # in a row that brought a run no new checkpoint
CANNOT_RUN = 2  # the exit status of a run that is wrong in itself, so that trying again is in vain
PROGRESS_SECONDS = 1.0


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
    started = time.monotonic()
    with locked(folder.directory, "study"), stop_signals() as signals:
        work = _Work(folder, executor, workers, folder.study.runs if runs is None else list(runs))
        next_report = started
        try:
            while work.open and not signals:
                if max_seconds is not None and time.monotonic() - started >= max_seconds:
                    break
                work.go_on()
                if on_progress is not None and time.monotonic() >= next_report:
                    on_progress(work.progress())
                    next_report = time.monotonic() + PROGRESS_SECONDS
        finally:
            executor.stop()
            summary = summarize_study(folder)
            write_json(folder.results_path, results(folder))
        if on_progress is not None:
            on_progress(work.progress())
        if signals:
            raise KeyboardInterrupt
    return summary


@dataclass
class _Work:
    """Runs that wait and runs that are under way."""

    folder: StudyFolder
    executor: Executor
    workers: int
    runs: list[Run]
    waiting: list[Run] = field(init=False)
    running: dict[Path, Run] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)
    finished: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        left = {run.name for run in unfinished(self.folder)}
        self.waiting = [run for run in self.runs if run.name in left]
        self.finished = len(self.runs) - len(self.waiting)
        self.checkpoints: dict[str, Path | None] = {}

    @property
    def open(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.waiting or self.running)

    def go_on(self) -> None:
        """Start what there is room for, and take in what has ended."""
        while self.waiting and len(self.running) < self.workers:
            self._start(self.waiting.pop(0))
        ended = self.executor.ended(POLL_SECONDS)
        for path, code in ended.items():
            self._take_in(self.running.pop(path), code)
        if ended:
            write_json(self.folder.results_path, results(self.folder))

    def _start(self, run: Run) -> None:
        run_folder = self.folder.run_folder(run)
        if not run_folder.config_path.exists():
            RunFolder.create(run_folder.path, run.config.to_json())
        newest = _newest_checkpoint(run_folder)
        if self.checkpoints.get(run.name) != newest:
            self.tries[run.name] = 0
        self.checkpoints[run.name] = newest
        self.tries[run.name] = self.tries.get(run.name, 0) + 1
        self.executor.start(run_folder.path)
        self.running[run_folder.path] = run

    def _take_in(self, run: Run, code: int) -> None:
        run_folder = self.folder.run_folder(run)
        if _is_finished(run_folder):
            self.finished += 1
        elif code != CANNOT_RUN and (
            self.tries[run.name] < TRIES or _newest_checkpoint(run_folder) != self.checkpoints[run.name]
        ):
            self.waiting.insert(0, run)
        else:
            self.failed += 1
            record_failure(run_folder, exit_reason(code, stderr_path(run_folder)))

    def progress(self) -> StudyProgress:
        """How far the study is."""
        running = {run.name: _share_done(run, RunFolder(path)) for path, run in self.running.items()}
        return StudyProgress(len(self.runs), self.finished, self.failed, running)


def unfinished(folder: StudyFolder) -> list[Run]:
    """The runs that are left to do, those that failed included, in the order of the study."""
    return [run for run in folder.study.runs if not _is_finished(folder.run_folder(run))]


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
        ``study``, ``form``, ``directory``, ``texts``, ``axes`` (those shown), ``averaged`` (the others), ``seeds``,
        ``report``, ``not_averaged`` (figures in units of the environment, which have no mean over environments),
        ``confidence``; ``finished``, ``failed`` and ``left`` (numbers of runs); ``cells``: of each ``name``,
        ``values``, the same three numbers, and ``figures``: name -> ``mean``, ``interval``, ``count``; ``failures``:
        cell, seed and error.

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
    cells = []
    for labels, own in groups.items():
        values = dict(zip(shown, labels, strict=True))
        cells.append(
            {
                "name": "_".join(f"{axis}={label}" for axis, label in values.items()) or "all",
                "values": values,
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


def _is_finished(folder: RunFolder) -> bool:
    return (folder.read_summary() or {}).get("status") == "finished"


def _newest_checkpoint(folder: RunFolder) -> Path | None:
    checkpoints = list_checkpoints(folder.checkpoints_path)
    return checkpoints[-1] if checkpoints else None


def _share_done(run: Run, folder: RunFolder) -> float:
    config, last = run.config, last_metrics(folder)
    if last is None:
        return 0.0
    if isinstance(config, RunConfig):
        return min(last["step"] / config.total_steps, 1.0)
    return float(last["train/epoch"] / config.epochs)
