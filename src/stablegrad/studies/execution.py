"""Runs a comparison: child processes side by side, seed by seed, that stop and continue together.

A run is ``python -m stablegrad resume <run folder>`` in a process of its own: a run that fails takes nobody with it,
and what was finished is never repeated.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablegrad.files import write_json
from stablegrad.run_server import thread_limits
from stablegrad.studies.comparison import Comparison, record_failure, stderr_path
from stablegrad.studies.processes import (
    INTERRUPTED,
    POLL_SECONDS,
    check_workers,
    default_workers,
    die_with_parent,
    exit_reason,
    last_metrics,
    locked,
)
from stablegrad.studies.summary import summarize
from stablegrad.training.interruption import stop_signals
from stablegrad.training.run_folder import RunFolder

if TYPE_CHECKING:
    from stablegrad.training.config import RunConfig

PROGRESS_SECONDS = 1.0
GRACE_SECONDS = 120.0  # for the last checkpoint of a run that was told to stop


@dataclass(frozen=True)
class RunProgress:
    """How far one run is.

    Attributes:
        setting: name of the setting.
        seed: its seed.
        step: environment steps done, as last logged.
        total_steps: environment steps asked for.
        mean_return: mean return of the last episodes; None before any has ended.
        state: "waiting", "running", "finished", "failed" or "stopped".
    """

    setting: str
    seed: int
    step: int
    total_steps: int
    mean_return: float | None
    state: str


@dataclass(frozen=True)
class ComparisonResult:
    """What :func:`run_comparison` leaves behind.

    Attributes:
        directory: the comparison folder.
        summary: content of comparison_summary.json.
    """

    directory: Path
    summary: dict[str, Any] = field(repr=False)

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The failed runs: setting, seed, error."""
        return [run for run in self.summary["left_out"] if run["status"] == "failed"]


def run_comparison(
    directory: Path | str,
    configs: Mapping[str, RunConfig],
    seeds: Sequence[int],
    *,
    workers: int | None = None,
    on_progress: Callable[[list[RunProgress]], None] | None = None,
    command: Sequence[str] | None = None,
) -> ComparisonResult:
    """Train two settings on the same seeds, in parallel processes, and sum up what came of it.

    Runs start in the order of the seeds, the two settings of a seed after one another, so that with two workers the
    partners of a pair share the machine and their times can be compared. Called again with the same folder it
    continues: finished runs stay as they are, all others go on from their last checkpoint.

    Children get SIGTERM when this process dies, however it dies (Linux). Call it from the main thread: only there can
    it pass SIGINT and SIGTERM on to the children.

    Args:
        directory: the comparison folder, see :mod:`stablegrad.studies.comparison`.
        configs: the two settings by name, first the one to compare against.
        seeds: distinct seeds; each replaces the seed of both configurations.
        workers: how many runs at once; None: as many as the cores hold, given the threads of a run.
        on_progress: called about once a second with the state of every run, in the order of the seeds.
        command: the command line that asked for this, shown in the report.

    Raises:
        UsageError: the settings, the seeds, the workers or the folder will not do.
        KeyboardInterrupt: SIGINT or SIGTERM came; the children have written their checkpoints and are gone.
    """
    check_workers(workers)
    comparison = Comparison.open(directory, configs, seeds, command)
    with locked(comparison.directory, "comparison") as lock, stop_signals() as signals:
        runs = [
            _Run(comparison, dataclasses.replace(configs[setting], seed=seed), setting, lock)
            for seed in comparison.seeds
            for setting in comparison.settings
        ]
        try:
            _run_all(runs, workers or default_workers(configs.values()), signals, on_progress)
        finally:
            _stop(runs, signals)
        if signals:
            raise KeyboardInterrupt
    summary = summarize(directory)
    write_json(comparison.summary_path, summary)
    return ComparisonResult(comparison.directory, summary)


def child_command(folder: Path) -> list[str]:
    """The command that starts or continues the run in ``folder``."""
    return [sys.executable, "-m", "stablegrad", "resume", str(folder), "--quiet"]


class _Run:
    """One run of the comparison and, while it runs, its child process."""

    def __init__(self, comparison: Comparison, config: RunConfig, setting: str, lock: int):
        self.folder = comparison.run_folder(setting, config.seed)
        self.config = config
        self.setting = setting
        self.lock = lock
        self.process: subprocess.Popen[bytes] | None = None
        self.told_to_stop = False
        self.state = "finished" if self._has_finished() else "waiting"

    def start(self) -> None:
        if not self.folder.config_path.exists():
            RunFolder.create(self.folder.path, self.config.to_json())
        with stderr_path(self.folder).open("wb") as stderr:
            self.process = subprocess.Popen(
                child_command(self.folder.path),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env={**os.environ, **thread_limits(self.config.threads)},
                start_new_session=True,  # Ctrl-C reaches the children once, from here, not also from the terminal
                pass_fds=(self.lock,),  # the folder stays locked until the last child is gone
                preexec_fn=partial(die_with_parent, os.getpid(), signal.SIGTERM),
            )
        self.state = "running"

    def poll(self) -> None:
        """Look whether the child has ended, and note how."""
        if self.process is None or self.process.poll() is None:
            return
        code, self.process = self.process.returncode, None
        if self._has_finished():
            self.state = "finished"
        elif code == INTERRUPTED or (
            self.told_to_stop and code in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL)
        ):
            self.state = "stopped"
        else:
            self.state = "failed"
            record_failure(self.folder, exit_reason(code, stderr_path(self.folder)))

    def send(self, number: int) -> None:
        self.told_to_stop = True
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def progress(self) -> RunProgress:
        last = last_metrics(self.folder) or {"step": 0}
        return RunProgress(
            self.setting,
            self.config.seed,
            int(last["step"]),
            self.config.total_steps,
            last.get("train/return"),
            self.state,
        )

    def _has_finished(self) -> bool:
        return (self.folder.read_summary() or {}).get("status") == "finished"


def _run_all(
    runs: list[_Run], workers: int, signals: list[int], on_progress: Callable[[list[RunProgress]], None] | None
) -> None:
    """Keep ``workers`` children busy until all runs have ended or a signal comes."""
    next_report = time.monotonic()
    while not signals:
        for run in runs:
            run.poll()
        waiting = [run for run in runs if run.state == "waiting"]
        free = workers - sum(run.state == "running" for run in runs)
        for run in waiting[: max(free, 0)]:
            run.start()
        over = all(run.state not in ("waiting", "running") for run in runs)
        if on_progress is not None and (over or time.monotonic() >= next_report):
            on_progress([run.progress() for run in runs])
            next_report = time.monotonic() + PROGRESS_SECONDS
        if over:
            return
        time.sleep(POLL_SECONDS)


def _stop(runs: list[_Run], signals: list[int]) -> None:
    """Tell all children to stop, wait for their checkpoints; a second signal, or no patience left, kills them."""
    running = [run for run in runs if run.process is not None]
    for run in running:
        run.send(signals[0] if signals else signal.SIGTERM)
    told, deadline, killed = len(signals), time.monotonic() + GRACE_SECONDS, False
    while any(run.process is not None for run in running):
        for run in running:
            run.poll()
        if not killed and (len(signals) > told or time.monotonic() > deadline):
            killed = True
            for run in running:
                run.send(signal.SIGKILL)
        time.sleep(POLL_SECONDS / 10)
