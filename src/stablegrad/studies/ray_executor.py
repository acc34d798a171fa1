"""Runs on a Ray cluster whose machines share the study's folder and have this package installed.

An actor is one place for a run. It carries runs out like :class:`LocalExecutor`, each in a fresh process that dies with
the actor, so all that is said there holds here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stablegrad.errors import UsageError
from stablegrad.studies.executors import LocalExecutor
from stablegrad.training.config import usable_cores

KILLED = -9  # the exit status of a run whose actor, or machine, is gone


class RayExecutor:
    """Places of a Ray cluster.

    Args:
        threads: cores that a run takes; 0: as many as this machine has.
        address: of the cluster; None: $RAY_ADDRESS, the cluster that runs here, or else one of this machine alone.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, threads: int = 1, address: str | None = None):
        try:
            import ray
        except ImportError as error:
            raise UsageError("--executor ray needs Ray: pip install 'stablegrad[ray]'") from error
        self._ray: Any = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", ignore_reinit_error=True)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster at {address or 'its default address'}: {error}") from error
        cores = threads or usable_cores()
        self.workers: int | None = max(int(ray.cluster_resources().get("CPU", 1)) // cores, 1)
        self._threads = threads
        # A run that dies is the runner's business: it knows of checkpoints.
        self._actor: Any = ray.remote(num_cpus=cores, max_restarts=0, max_task_retries=0)(_Place)
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Path, Any]] = {}

    def start(self, folder: Path) -> None:
        """Start or continue the run in a folder."""
        actor = self._idle.pop() if self._idle else self._actor.remote(self._threads)
        self._running[actor.carry_out.remote(str(folder.absolute()))] = (folder, actor)

    def ended(self, timeout: float) -> dict[Path, int]:
        """The runs that have ended since the last call, with their exit status."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        codes = {}
        for reference in ready:
            folder, actor = self._running.pop(reference)
            try:
                codes[folder] = self._ray.get(reference)
                self._idle.append(actor)
            except self._ray.exceptions.RayError:
                codes[folder] = KILLED
        return codes

    def stop(self) -> None:
        """Kill what still runs."""
        for actor in [*self._idle, *(actor for _, actor in self._running.values())]:
            self._ray.kill(actor)
        self._idle.clear()
        self._running.clear()


class _Place:
    """One run at a time, on whatever machine Ray has put it."""

    def __init__(self, threads: int):
        self._executor = LocalExecutor(threads)

    def carry_out(self, path: str) -> int:
        """The exit status of the run in a folder."""
        folder = Path(path)
        self._executor.start(folder)
        while True:
            ended = self._executor.ended(timeout=3600.0)
            if ended:
                return ended[folder]
