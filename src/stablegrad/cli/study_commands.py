"""``stablegrad study run|resume|show``: many runs, described by one file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError, command, unknown_name
from stablegrad.studies.executors import EXECUTORS, make_executor
from stablegrad.studies.plan import CellPlan, check_cells, makespan, plan_cells, seeds_within
from stablegrad.studies.processes import check_workers, default_workers
from stablegrad.studies.runner import StudyProgress, run_study, summarize_study, unfinished
from stablegrad.studies.study import FORMS, Run, Study, StudyFolder, read_study
from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.terminal import text_console
from stablegrad.text import duration, memory
from stablegrad.training.interruption import Interrupted

SUBJECTS = ("run", "resume", "show")
PLAIN_INTERVAL = 15.0
USAGE = """usage: stablegrad study run FILE [--form small] [--executor local|ray] [--workers N] [--dry-run]
       stablegrad study resume FOLDER [--workers N] [--max-hours H]
       stablegrad study show FOLDER|FILE [--by AXIS ...]

A study is one TOML file: what all its runs share, axes of options, seeds, figures to report (docs/studies.md).

  run     make its runs; the same command goes on where it stopped
  resume  go on with a study in its folder
  show    its figures by cell, whatever state it is in

'stablegrad study run --help' explains every option."""


@dataclass(frozen=True)
class Workplace:
    """Where runs are made, and how long."""

    executor: str = "local"
    """local (processes of this machine) or ray (a Ray cluster that shares the study's folder)."""
    address: str | None = None
    """ray: address of the cluster; default: the one that is running here, else one of this machine alone."""
    workers: int | None = None
    """Runs at once; default: as many as the cores hold."""
    max_hours: float | None = None
    """Hours that may be used, calibration included; seeds for which there is no time are left out, the last first."""
    dry_run: bool = False
    """Only say what it would take: runs, parameters, time and memory."""
    json: bool = False
    """Print the figures as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise unknown_name("executor", self.executor, EXECUTORS)
        if self.address is not None and self.executor != "ray":
            raise UsageError("--address is for --executor ray")
        check_workers(self.workers)
        if self.max_hours is not None and not 0.0 < self.max_hours < float("inf"):
            raise UsageError(f"max-hours must be above 0 and finite, got {self.max_hours}")


@dataclass(frozen=True)
class RunArguments(Workplace):
    """What ``stablegrad study run`` takes."""

    file: tyro.conf.Positional[Path] = tyro.MISSING
    """The study file."""
    form: str = FORMS[0]
    """full, or small: the file's [small] laid over the rest, for two cores."""
    data: str | None = None
    """Data folder of a study of classifiers, instead of the file's."""
    dir: Path | None = None
    """Folder of the study; default: runs/<file's name>, and -small for the small form."""


@dataclass(frozen=True)
class ResumeArguments(Workplace):
    """What ``stablegrad study resume`` takes."""

    dir: tyro.conf.Positional[Path] = tyro.MISSING
    """Folder of the study."""


@dataclass(frozen=True)
class ShowArguments:
    """What ``stablegrad study show`` takes."""

    study: tyro.conf.Positional[Path]
    """Folder of the study, or its file (then the folder is where 'run' puts it)."""
    form: str = FORMS[0]
    """Which form of a file: full or small."""
    by: tuple[str, ...] = ()
    """Axes to show; the figures are averaged over the others. Default: all axes."""
    json: bool = False
    """Print the figures as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    subject, *rest = arguments or [""]
    if subject in ("-h", "--help"):
        print(USAGE)
        return 0
    if subject == "run":
        asked = parse(RunArguments, "study run", rest, "Make the runs of a study; what is finished is not repeated.")
        study = read_study(asked.file, asked.form, asked.data)
        folder = StudyFolder(asked.dir or study.default_directory, study)
        if folder.path.exists():
            folder = StudyFolder.open(folder.directory, study, asked.file)  # this study, or it is refused
        return _carry_out(asked, folder, asked.file)
    if subject == "resume":
        wish = parse(ResumeArguments, "study resume", rest, "Go on with a study: what is finished is not repeated.")
        return _carry_out(wish, StudyFolder.read(wish.dir))
    if subject == "show":
        return _show(parse(ShowArguments, "study show", rest, "Show the figures of a study by cell."))
    if not subject:
        raise UsageError("study what? stablegrad study run FILE, study resume FOLDER, study show FOLDER")
    raise unknown_name("subject of 'study'", subject, SUBJECTS)


def _carry_out(asked: Workplace, folder: StudyFolder, file: Path | None = None) -> int:
    """Make the runs; ``file`` is that of a study whose folder may be new."""
    started = time.monotonic()
    study, left = folder.study, unfinished(folder)
    if asked.dry_run:
        return _plan(asked, study, left)
    # All that can be wrong is found before anything is written; the executor prepares itself meanwhile.
    executor = make_executor(asked.executor, _threads(study), asked.address)
    check_cells(study.cells, here=asked.executor == "local")
    workers = asked.workers or executor.workers or default_workers(_configs(study))
    runs: list[Run] | None = None
    max_seconds = None if asked.max_hours is None else 3600 * asked.max_hours
    if max_seconds is not None:
        plans = _calibrated(study, left, workers, quiet=asked.quiet)
        max_seconds -= time.monotonic() - started
        runs, dropped = seeds_within(left, {name: plan.seconds for name, plan in plans.items()}, workers, max_seconds)
        if dropped:
            seeds = ", ".join(map(str, dropped))
            print(f"no time for seeds {seeds} within {asked.max_hours:g} hours: they are left out", file=sys.stderr)
    if file is not None:
        folder = StudyFolder.open(folder.directory, study, file)
    try:
        with _Progress(quiet=asked.quiet) as progress:
            summary = run_study(
                folder, executor, workers, runs=runs, max_seconds=max_seconds, on_progress=progress.update
            )
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; continue with '{command('study', 'resume', folder.directory)}'") from None
    _print(summary, as_json=asked.json)
    return 1 if summary["failed"] or summary["left"] else 0


def _show(asked: ShowArguments) -> int:
    if asked.study.is_dir():
        folder = StudyFolder.read(asked.study)
    else:
        study = read_study(asked.study, asked.form)
        if not (study.default_directory / "study.json").exists():
            raise UsageError(
                f"'{asked.study}' has not been started in '{study.default_directory}': "
                + command("study", "run", asked.study)
            )
        folder = StudyFolder.read(study.default_directory)
    _print(summarize_study(folder, by=asked.by or None), as_json=asked.json)
    return 0


def _print(summary: dict[str, Any], *, as_json: bool) -> None:
    """A study's figures: a row a cell, then what is missing; or JSON."""
    if as_json:
        print(json.dumps(summary))
        return
    for name in ("title", "claim", "look_at"):
        if name in summary["texts"]:
            print(f"{name.replace('_', ' ')}: {summary['texts'][name]}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for axis in summary["axes"]:
        table.add_column(axis)
    for heading in ("finished", "failed", "left", *summary["report"]):
        table.add_column(heading, justify="right")
    for cell in summary["cells"]:
        counts = (str(cell[name] or "-") for name in ("finished", "failed", "left"))
        figures = (_figure(cell["figures"][name]) for name in summary["report"])
        table.add_row(*cell["values"].values(), *counts, *figures)
    text_console().print(table)
    total = sum(summary[name] for name in ("finished", "failed", "left"))
    print(
        f"\n{summary['finished']} of {total} runs finished, {summary['failed']} failed, {summary['left']} left; "
        f"mean [{summary['confidence']:.0%} interval over seeds]; {summary['directory']}"
    )
    if summary["averaged"]:
        print(f"averaged over {', '.join(summary['averaged'])}, of seeds that are finished in every cell of a row")
    if summary["not_averaged"]:
        print(f"not averaged, as every environment has its own unit: {', '.join(summary['not_averaged'])}")
    counted = [figure["count"] for cell in summary["cells"] for figure in cell["figures"].values()]
    if any(0 < count < FEW_SEEDS for count in counted):
        print(f"some cells have fewer than {FEW_SEEDS} seeds: their figures say little about another seed")
    for failure in summary["failures"][:FEW_SEEDS]:
        print(f"failed: {failure['cell']} seed {failure['seed']}: {failure['error']}")
    if len(summary["failures"]) > FEW_SEEDS:
        print(f"and {len(summary['failures']) - FEW_SEEDS} more; {summary['directory']}/results.json has all")
    if summary["left"]:
        print(f"continue with: {command('study', 'resume', summary['directory'])}")


def _figure(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    digits = 1 if abs(figure["mean"]) >= 100 else 3
    shown = f"{figure['mean']:,.{digits}f}"
    if figure["interval"] is None:
        return shown
    low, high = figure["interval"]
    return f"{shown} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _plan(asked: Workplace, study: Study, runs: list[Run]) -> int:
    """What is left of a study takes."""
    workers = asked.workers or default_workers(_configs(study))
    plans = _calibrated(study, runs, workers, quiet=asked.quiet)
    seconds = {name: plan.seconds for name, plan in plans.items()}
    kept, dropped = runs, list[int]()
    if asked.max_hours is not None:
        kept, dropped = seeds_within(runs, seconds, workers, 3600 * asked.max_hours)
    total = makespan([seconds[run.cell.name] for run in kept], workers)
    at_least = any(plans[run.cell.name].at_least for run in kept)
    peak = max((plan.memory_bytes for plan in plans.values()), default=0) * min(workers, max(len(kept), 1))
    result = {
        "study": study.name,
        "form": study.form,
        "runs": len(study.runs),
        "runs_left": len(kept),
        "cells": [
            {
                "name": plan.cell.name,
                "values": plan.cell.values,
                "parameters": plan.parameters,
                "memory_bytes": plan.memory_bytes,
                "seconds": plan.seconds,
                "at_least": plan.at_least,
            }
            for plan in plans.values()
        ],
        "workers": workers,
        "seconds": total,
        "at_least": at_least,
        "memory_bytes": peak,
        "dropped_seeds": dropped,
    }
    if asked.json:
        print(json.dumps(result))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for axis in study.cells[0].values:
        table.add_column(axis)
    for heading in ("parameters", "memory of a run", "time of a run"):
        table.add_column(heading, justify="right")
    for plan in plans.values():
        time_of_run = ("more than " if plan.at_least else "") + duration(plan.seconds)
        table.add_row(*plan.cell.values.values(), f"{plan.parameters:,}", memory(plan.memory_bytes), time_of_run)
    text_console().print(table)
    print(
        f"\n{len(study.runs)} runs: {len(study.cells)} cells, {len(study.seeds)} seeds; {len(kept)} to make: "
        f"{'more than' if at_least else 'about'} {duration(total)} with {workers} workers on this machine, "
        f"{memory(peak)} of memory; nothing was started"
    )
    if dropped:
        print(f"no time for seeds {', '.join(map(str, dropped))} within {asked.max_hours:g} hours")
    return 0


def _calibrated(study: Study, runs: Sequence[Run], workers: int, *, quiet: bool) -> dict[str, CellPlan]:
    names = {run.cell.name for run in runs}

    def tell(done: int, total: int) -> None:
        if not quiet:
            print(f"calibrating: {done} of {total}", file=sys.stderr, flush=True)

    return plan_cells([cell for cell in study.cells if cell.name in names], workers, tell)


def _configs(study: Study) -> list[Any]:
    return [cell.config for cell in study.cells]


def _threads(study: Study) -> int:
    threads = [cell.config.threads for cell in study.cells]
    return 0 if 0 in threads else max(threads)


@dataclass
class _Progress:
    """How far a study is: a bar on a terminal, a line now and then elsewhere."""

    quiet: bool = False
    _bar: Progress | None = field(default=None, init=False)
    _printed: float = field(default=0.0, init=False)

    def __enter__(self) -> _Progress:
        if not self.quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.fields[finished]} of {task.total:.0f} runs"),
                BarColumn(),
                TextColumn("{task.fields[running]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=text_console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None, finished=0, running="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: StudyProgress) -> None:
        """Show it."""
        failed = f", {now.failed} failed" if now.failed else ""
        running = "; ".join(f"{name} {share:.0%}" for name, share in now.running.items())
        if self._bar is not None:
            finished = f"{now.finished}{failed}"
            self._bar.update(self._task, total=now.total, completed=now.done, finished=finished, running=running)
        elif not self.quiet and time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self._printed = time.monotonic()
            try:
                print(f"{now.finished} of {now.total} runs finished{failed}; {running}", file=sys.stderr, flush=True)
            except OSError:
                self.quiet = True  # nobody reads any more; the study goes on
