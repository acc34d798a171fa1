"""Keeps workers busy with runs, and tries again what was killed.

Nothing is repeated that is finished, and whatever stops a run or this process, its runs go on from their last scheduled
checkpoints. So work that was disturbed ends with the same results as work that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stablegrad.studies.comparison import record_failure, stderr_path
from stablegrad.studies.executors import Executor
from stablegrad.studies.kinds import Config
from stablegrad.studies.processes import POLL_SECONDS, exit_reason, last_metrics
from stablegrad.training.checkpoint import list_checkpoints
from stablegrad.training.config import RunConfig
from stablegrad.training.interruption import stop_signals
from stablegrad.training.run_folder import RunFolder

TRIES = 3  # in a row that brought a run no new checkpoint
CANNOT_RUN = 2  # the exit status of a run that is wrong in itself, so that trying again is in vain
PROGRESS_SECONDS = 1.0


class Work:
    """Runs that wait, that are under way and that are over.

    Args:
        runs: configurations by run folder, in the order in which they start; what is finished is left as it is, what
            has failed is tried again.
        executor: runs the trainings; it is stopped at the end.
        workers: how many runs at once.

    Attributes:
        states: "waiting", "running", "finished" or "failed", by run folder.
    """

    def __init__(self, runs: Mapping[Path, Config], executor: Executor, workers: int):
        self.runs, self.executor, self.workers = runs, executor, workers
        self.states = {path: "finished" if is_finished(RunFolder(path)) else "waiting" for path in runs}
        self._waiting = self.those("waiting")
        self._tries: dict[Path, int] = {}
        self._checkpoints: dict[Path, Path | None] = {}

    def those(self, state: str) -> list[Path]:
        """The folders of the runs in a state."""
        return [path for path, own in self.states.items() if own == state]

    def share_done(self, path: Path) -> float:
        """How much of a run is done, from 0 to 1, as last logged."""
        config, last = self.runs[path], last_metrics(RunFolder(path))
        if last is None:
            return 0.0
        if isinstance(config, RunConfig):
            return min(last["step"] / config.total_steps, 1.0)
        return float(last["train/epoch"] / config.epochs)

    def carry_out(
        self,
        on_progress: Callable[[], None],
        on_ended: Callable[[], None] = lambda: None,
        max_seconds: float | None = None,
    ) -> None:
        """Bring all runs to their end, or as many as there is time for.

        Call it from the main thread: only there can SIGINT and SIGTERM end it cleanly.

        Args:
            on_progress: called about once a second, and at the end.
            on_ended: called when runs have ended.
            max_seconds: when to stop, finished or not.

        Raises:
            KeyboardInterrupt: SIGINT or SIGTERM came; all is in order to go on later.
        """
        started = next_report = time.monotonic()
        with stop_signals() as signals:
            try:
                while (self._waiting or self.those("running")) and not signals:
                    if max_seconds is not None and time.monotonic() - started >= max_seconds:
                        break
                    while self._waiting and len(self.those("running")) < self.workers:
                        self._start(self._waiting.pop(0))
                    if ended := self.executor.ended(POLL_SECONDS):
                        for path, code in ended.items():
                            self._take_in(path, code)
                        on_ended()
                    if time.monotonic() >= next_report:
                        on_progress()
                        next_report = time.monotonic() + PROGRESS_SECONDS
            finally:
                self.executor.stop()
            on_progress()
        if signals:
            raise KeyboardInterrupt

    def _start(self, path: Path) -> None:
        folder = RunFolder(path)
        if not folder.config_path.exists():
            RunFolder.create(path, self.runs[path].to_json())
        newest = _newest_checkpoint(folder)
        if self._checkpoints.get(path) != newest:
            self._tries[path] = 0
        self._checkpoints[path] = newest
        self._tries[path] = self._tries.get(path, 0) + 1
        self.executor.start(path)
        self.states[path] = "running"

    def _take_in(self, path: Path, code: int) -> None:
        folder = RunFolder(path)
        status = (folder.read_summary() or {}).get("status")
        # A run that said itself why it failed would fail again: it continues bit for bit the same.
        in_vain = code == CANNOT_RUN or (code > 0 and status == "failed")
        if status == "finished":
            self.states[path] = "finished"
        elif not in_vain and (self._tries[path] < TRIES or _newest_checkpoint(folder) != self._checkpoints[path]):
            self.states[path] = "waiting"
            self._waiting.insert(0, path)
        else:
            self.states[path] = "failed"
            record_failure(folder, exit_reason(code, stderr_path(folder)))


def is_finished(folder: RunFolder) -> bool:
    """Whether a run has come to its end."""
    return (folder.read_summary() or {}).get("status") == "finished"


def _newest_checkpoint(folder: RunFolder) -> Path | None:
    checkpoints = list_checkpoints(folder.checkpoints_path)
    return checkpoints[-1] if checkpoints else None
