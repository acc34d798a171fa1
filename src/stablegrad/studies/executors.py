"""Executors by name. An executor runs each training in its own process and reports only its exit status.

It is three calls: start a run, ask which have ended, stop. The results of a run are in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from stablegrad.errors import unknown_name
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.ray_executor import RayExecutor

EXECUTORS = ("local", "ray")


class Executor(Protocol):
    """Runs trainings side by side.

    Attributes:
        workers: how many it has room for; None: that of this machine.
    """

    workers: int | None

    def start(self, folder: Path) -> None:
        """Start or continue the run in a folder."""

    def ended(self, timeout: float) -> Mapping[Path, int]:
        """The runs that have ended since the last call, with their exit status (negative: the signal that killed it).

        Waits until there is one, at most ``timeout`` seconds.
        """

    def stop(self) -> None:
        """Kill what still runs. Runs continue from their last scheduled checkpoints, so nothing but time is lost."""


def make_executor(name: str, threads: int = 1, address: str | None = None) -> Executor:
    """An executor by name.

    Args:
        name: one of ``EXECUTORS``.
        threads: what numerical libraries of a run may take; 0: one a core.
        address: of a Ray cluster.

    Raises:
        UsageError: there is no such executor, Ray is not installed, or no cluster at the address.
    """
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return RayExecutor(threads, address) if name == "ray" else LocalExecutor(threads)
