"""Runs a comparison, seed by seed; what was finished is never repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablegrad.files import write_json
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.executors import Executor
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.processes import check_workers, default_workers, last_metrics, locked
from stablegrad.studies.summary import summarize
from stablegrad.studies.work import Work
from stablegrad.training.run_folder import RunFolder

if TYPE_CHECKING:
    from stablegrad.training.config import RunConfig


@dataclass(frozen=True)
class RunProgress:
    """How far one run is.

    Attributes:
        setting: name of the setting.
        seed: its seed.
        step: environment steps done, as last logged.
        total_steps: environment steps asked for.
        mean_return: mean return of the last episodes; None before any has ended.
        state: "waiting", "running", "finished" or "failed".
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
    executor: Executor | None = None,
    workers: int | None = None,
    on_progress: Callable[[list[RunProgress]], None] | None = None,
    command: Sequence[str] | None = None,
    tuning: Sequence[str] = (),
) -> ComparisonResult:
    """Train two settings on the same seeds, in parallel processes, and sum up what came of it.

    Runs start in the order of the seeds, the two settings of a seed after one another, so that with two workers the
    partners of a pair share the machine and their times can be compared. Called again with the same folder it
    continues: finished runs stay as they are, all others go on from their last scheduled checkpoint.

    Call it from the main thread: only there can SIGINT and SIGTERM end it cleanly.

    Args:
        directory: the comparison folder, see :mod:`stablegrad.studies.comparison`.
        configs: the two settings by name, first the one to compare against.
        seeds: distinct seeds; each replaces the seed of both configurations.
        executor: runs the trainings; None: this machine.
        workers: how many runs at once; None: as many as the executor or the cores hold, given the threads of a run.
        on_progress: called about once a second with the state of every run, in the order of the seeds.
        command: the command line that asked for this, shown in the report.
        tuning: sentences on how the settings were tuned, shown in the verdict.

    Raises:
        UsageError: the settings, the seeds, the workers or the folder will not do.
        KeyboardInterrupt: SIGINT or SIGTERM came; all is in order for the comparison to be continued.
    """
    check_workers(workers)
    comparison = Comparison.open(directory, configs, seeds, command, tuning)
    runs = {
        comparison.run_folder(setting, seed).path: (setting, dataclasses.replace(configs[setting], seed=seed))
        for seed in comparison.seeds
        for setting in comparison.settings
    }
    with locked(comparison.directory, "comparison"):
        threads = [config.threads for config in configs.values()]
        executor = executor or LocalExecutor(0 if 0 in threads else max(threads))  # 0: one a core
        workers = workers or executor.workers or default_workers(configs.values())
        work = Work({path: config for path, (_, config) in runs.items()}, executor, workers)

        def tell() -> None:
            if on_progress is not None:
                on_progress([_progress(path, *run, work.states[path]) for path, run in runs.items()])

        work.carry_out(tell)
    summary = summarize(directory)
    write_json(comparison.summary_path, summary)
    return ComparisonResult(comparison.directory, summary)


def _progress(path: Path, setting: str, config: RunConfig, state: str) -> RunProgress:
    last = last_metrics(RunFolder(path)) or {"step": 0}
    return RunProgress(setting, config.seed, int(last["step"]), config.total_steps, last.get("train/return"), state)
