"""``stablegrad study run|resume|show``: many runs, described by one file."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.table import Table

from stablegrad.cli.arguments import parse
from stablegrad.cli.help import asks_for_help
from stablegrad.cli.study_progress import StudyProgressBar
from stablegrad.errors import UsageError, command, unknown_name
from stablegrad.studies.executors import EXECUTORS, Executor, make_executor
from stablegrad.studies.plan import CellPlan, check_cells, makespan, plan_cells, seeds_within
from stablegrad.studies.processes import check_workers, default_workers
from stablegrad.studies.runner import run_study, summarize_study, tune_study, unfinished
from stablegrad.studies.study import FORMS, Run, Study, read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.summary import FEW_SEEDS
from stablegrad.terminal import text_console
from stablegrad.text import duration, memory
from stablegrad.training.interruption import Interrupted

SUBJECTS = ("run", "resume", "show")
USAGE = """usage: stablegrad study run FILE [--form small] [--executor local|ray] [--workers N] [--dry-run]
       stablegrad study resume FOLDER [--workers N] [--max-hours H]
       stablegrad study show FOLDER|FILE [--by AXIS ...]

A study is one TOML file: what all its runs share, axes of options, seeds, figures to report (docs/studies.md).

  run     make its runs; the same command goes on where it stopped
  resume  go on with a study in its folder
  show    its figures by cell, whatever state it is in

'stablegrad study run --help' explains the options."""


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
    if asks_for_help([subject]):
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
        return _show_plan(asked, folder, left)
    # All that can be wrong is found before anything is written; the executor prepares itself meanwhile.
    executor = _executor(asked, study)
    here = asked.executor == "local"
    check_cells(study.cells, here=here)
    if folder.to_be_tuned:
        check_cells(folder.trials.study.cells, here=here)
    workers = asked.workers or executor.workers or default_workers(_configs(study))
    runs: list[Run] | None = None
    max_seconds = None if asked.max_hours is None else 3600 * asked.max_hours
    if max_seconds is not None:
        plans = _calibrated([*left, *_trials_left(folder)], workers, quiet=asked.quiet)
        max_seconds -= time.monotonic() - started
        runs, dropped = _within(folder, left, plans, workers, max_seconds)
        if dropped:
            seeds = ", ".join(map(str, dropped))
            print(f"no time for seeds {seeds} within {asked.max_hours:g} hours: they are left out", file=sys.stderr)
    if file is not None:
        folder = StudyFolder.open(folder.directory, study, file)
    deadline = None if max_seconds is None else time.monotonic() + max_seconds

    def seconds_left() -> float | None:
        return None if deadline is None else max(deadline - time.monotonic(), 0.0)

    try:
        if folder.to_be_tuned:
            with StudyProgressBar("trials", quiet=asked.quiet) as progress:
                folder = tune_study(folder, executor, workers, max_seconds=seconds_left(), on_progress=progress.update)
            if folder.to_be_tuned:
                print("time was up before all trials were made", file=sys.stderr)
                runs = []
            elif runs is not None:
                names = {run.name for run in runs}
                runs = [run for run in folder.study.runs if run.name in names]
            executor = _executor(asked, study)
        with StudyProgressBar("runs", quiet=asked.quiet) as progress:
            summary = run_study(
                folder, executor, workers, runs=runs, max_seconds=seconds_left(), on_progress=progress.update
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
    tuned = any(cell["tuned_to"] for cell in summary["cells"])
    if tuned:
        table.add_column("tuned to")
    for heading in ("finished", "failed", "left", *summary["report"]):
        table.add_column(heading, justify="right")
    for cell in summary["cells"]:
        counts = (str(cell[name] or "-") for name in ("finished", "failed", "left"))
        figures = (_figure(cell["figures"][name]) for name in summary["report"])
        table.add_row(*cell["values"].values(), *([cell["tuned_to"]] if tuned else []), *counts, *figures)
    text_console().print(table)
    total = sum(summary[name] for name in ("finished", "failed", "left"))
    print(
        f"\n{summary['finished']} of {total} runs finished, {summary['failed']} failed, {summary['left']} left; "
        f"mean [{summary['confidence']:.0%} interval over seeds]; {summary['directory']}"
    )
    for sentence in summary["tuning"]:
        print(sentence)
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
    elif summary["finished"]:
        print(f"next: {command('report', summary['directory'])}")


def _figure(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "-"
    digits = 1 if abs(figure["mean"]) >= 100 else 3
    shown = f"{figure['mean']:,.{digits}f}"
    if figure["interval"] is None:
        return shown
    low, high = figure["interval"]
    return f"{shown} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _trials_left(folder: StudyFolder) -> list[Run]:
    """The trials that come before the study's own runs."""
    return unfinished(folder.trials) if folder.to_be_tuned else []


def _trial_seconds(folder: StudyFolder, plans: Mapping[str, CellPlan], workers: int) -> float:
    return makespan([plans[run.cell.name].seconds for run in _trials_left(folder)], workers)


def _within(
    folder: StudyFolder, runs: Sequence[Run], plans: Mapping[str, CellPlan], workers: int, max_seconds: float
) -> tuple[list[Run], list[int]]:
    """The runs for which there is time once the trials are made, and the seeds that are dropped."""
    trials = _trial_seconds(folder, plans, workers)
    if trials and trials >= max_seconds:
        raise UsageError(
            f"the trials alone take about {trials / 3600:.2g} hours with {workers} workers, and there are "
            f"{max(max_seconds, 0) / 3600:.2g}; raise --max-hours or --workers, or choose --form small"
        )
    return seeds_within(runs, {name: plan.seconds for name, plan in plans.items()}, workers, max_seconds - trials)


def _show_plan(asked: Workplace, folder: StudyFolder, runs: list[Run]) -> int:
    """Print what is left of a study takes."""
    study, trials = folder.study, _trials_left(folder)
    workers = asked.workers or default_workers(_configs(study))
    plans = _calibrated([*runs, *trials], workers, quiet=asked.quiet)
    kept, dropped = runs, list[int]()
    if asked.max_hours is not None:
        kept, dropped = _within(folder, runs, plans, workers, 3600 * asked.max_hours)
    total = makespan([plans[run.cell.name].seconds for run in kept], workers)
    total += _trial_seconds(folder, plans, workers)
    at_least = any(plans[run.cell.name].at_least for run in [*kept, *trials])
    peak = max((plan.memory_bytes for plan in plans.values()), default=0) * min(workers, max(len(kept), 1))
    own = {run.cell.name for run in runs}
    result = {
        "study": study.name,
        "form": study.form,
        "runs": len(study.runs),
        "runs_left": len(kept),
        "trials_left": len(trials),
        "cells": [
            {
                "name": plan.cell.name,
                "values": plan.cell.values,
                "parameters": plan.parameters,
                "memory_bytes": plan.memory_bytes,
                "seconds": plan.seconds,
                "at_least": plan.at_least,
            }
            for name, plan in plans.items()
            if name in own
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
    for name, plan in plans.items():
        if name not in own:
            continue
        time_of_run = ("more than " if plan.at_least else "") + duration(plan.seconds)
        table.add_row(*plan.cell.values.values(), f"{plan.parameters:,}", memory(plan.memory_bytes), time_of_run)
    text_console().print(table)
    print(
        f"\n{len(study.runs)} runs: {len(study.cells)} cells, {len(study.seeds)} seeds; {len(kept)} to make"
        f"{f' after {len(trials)} trials' if trials else ''}: "
        f"{'more than' if at_least else 'about'} {duration(total)} with {workers} workers on this machine, "
        f"{memory(peak)} of memory; nothing was started"
    )
    if dropped:
        print(f"no time for seeds {', '.join(map(str, dropped))} within {asked.max_hours:g} hours")
    return 0


def _calibrated(runs: Sequence[Run], workers: int, *, quiet: bool) -> dict[str, CellPlan]:
    def tell(done: int, total: int) -> None:
        if not quiet:
            print(f"calibrating: {done} of {total}", file=sys.stderr, flush=True)

    return plan_cells(list({run.cell.name: run.cell for run in runs}.values()), workers, tell)


def _executor(asked: Workplace, study: Study) -> Executor:
    return make_executor(asked.executor, _threads(study), asked.address)


def _configs(study: Study) -> list[Any]:
    return [cell.config for cell in study.cells]


def _threads(study: Study) -> int:
    threads = [cell.config.threads for cell in study.cells]
    return 0 if 0 in threads else max(threads)
