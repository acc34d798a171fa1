"""Runs on a Ray cluster whose machines share the study's folder and have this package installed.

An actor is one place for a run. It carries runs out like :class:`LocalExecutor`, each in a fresh process that dies with
the actor, so all that is said there holds here.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from stablegrad.errors import UsageError
from stablegrad.packages import load_package
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.training.config import usable_cores

KILLED = -9  # the exit status of a run whose actor, or machine, is gone
ANSWER_SECONDS = 5.0  # Ray itself tries a dead address for minutes
RAY_SECONDS = 30.0  # with the import of Ray


class RayExecutor:
    """Places of a Ray cluster.

    Args:
        threads: cores that a run takes; 0: as many as this machine has.
        address: of the cluster; None: $RAY_ADDRESS, the cluster that runs here, or else one of this machine alone.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, threads: int = 1, address: str | None = None):
        ray: Any = load_package("ray", "init", "--executor ray needs Ray: pip install 'stablegrad[ray]'")
        self._ray = ray
        _check_answers(address)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what fails is said in one line
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster at {address or 'its default address'}: {error}") from error
        cores = threads or usable_cores()
        self.workers: int | None = max(int(ray.cluster_resources().get("CPU", 1)) // cores, 1)
        self._threads = threads
        # A run that dies is the runner's business: it knows of checkpoints.
        self._actor: Any = ray.remote(num_cpus=cores, max_restarts=0, max_task_retries=0)(_Place)
        self._idle: list[Any] = []
        self._running: dict[Any, tuple[Path, Any]] = {}
        self._unplaced: dict[Any, Any] = {}  # what tells that Ray has put an actor somewhere -> the run of that actor

    def start(self, folder: Path) -> None:
        """Start or continue the run in a folder."""
        if self._idle:
            self._carry_out(folder, self._idle.pop())
            return
        actor = self._actor.remote(self._threads)
        placed = actor.__ray_ready__.remote()  # asked first, as an actor answers in order
        self._unplaced[placed] = self._carry_out(folder, actor)

    def _carry_out(self, folder: Path, actor: Any) -> Any:
        run = actor.carry_out.remote(str(folder.absolute()))
        self._running[run] = (folder, actor)
        return run

    def ended(self, timeout: float) -> dict[Path, int]:
        """The runs that have ended since the last call, with their exit status."""
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        codes = {}
        for run in ready:
            folder, actor = self._running.pop(run)
            try:
                codes[folder] = self._ray.get(run)
            except self._ray.exceptions.RayError:
                codes[folder] = KILLED
            else:
                self._use(actor)
        return codes

    def _use(self, actor: Any) -> None:
        """Give a place that has become free to a run that has none.

        Where machines are gone there are fewer places than runs, and what waits for one would wait for ever for the
        cores that an idle actor holds.
        """
        placed, _ = self._ray.wait(list(self._unplaced), num_returns=len(self._unplaced), timeout=0)
        for ready in placed:
            del self._unplaced[ready]
        for ready, run in list(self._unplaced.items()):
            del self._unplaced[ready]
            if run in self._running:
                folder, placeless = self._running.pop(run)
                self._ray.kill(placeless)
                self._carry_out(folder, actor)
                return
        self._idle.append(actor)

    def stop(self) -> None:
        """Kill what still runs."""
        for actor in [*self._idle, *(actor for _, actor in self._running.values())]:
            self._ray.kill(actor)
        self._idle.clear()
        self._running.clear()
        self._unplaced.clear()


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


def _check_answers(address: str | None) -> None:
    """See that a Ray cluster listens at the address that Ray would take.

    Raises:
        UsageError: nothing does, or something else.
    """
    source = ""
    if address in (None, "auto"):
        address = os.environ.get("RAY_ADDRESS")
        source = " ($RAY_ADDRESS)"
        left_by_ray = Path(
            os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray", "ray_current_cluster"
        )
        if not address and left_by_ray.exists():
            address = left_by_ray.read_text(errors="replace").strip()
            source = f" ({left_by_ray}; 'ray stop' clears what a dead cluster left)"
    if address in (None, "", "auto", "local"):
        return  # Ray's own words serve
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal() or not port.isascii():
        raise UsageError(f"no Ray cluster at {address}{source}: an address is HOST:PORT or ray://HOST:PORT")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS) as connection:
            spoken = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {address}{source}: {error}") from error
    if not spoken or not (address.startswith("ray://") or _is_ray(address)):
        raise UsageError(f"what answers at {address}{source} is no Ray cluster")


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side opens HTTP/2, on which all services of Ray rest, with its SETTINGS frame (RFC 9113)."""
    settings = b"\x04"
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + settings + bytes(5))
    connection.settimeout(ANSWER_SECONDS)
    head = b""
    while len(head) < 4 and (more := connection.recv(4 - len(head))):
        head += more
    return head[3:4] == settings


def _is_ray(address: str) -> bool:
    """Whether Ray itself gets an answer there; in a process of its own, as its client waits for minutes."""
    asking = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", asking, address], capture_output=True, timeout=RAY_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0
