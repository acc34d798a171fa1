"""Runs as processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from stablegrad.errors import StablegradError, UsageError
from stablegrad.run_server import start_run_server, without_main
from stablegrad.studies.comparison import stderr_path
from stablegrad.studies.kinds import resume_run
from stablegrad.studies.processes import LOCK_SECONDS, POLL_SECONDS, die_with_parent
from stablegrad.training.run_folder import RunFolder


class LocalExecutor:
    """Processes of this machine.

    They are forked from a server that has imported everything once, so a run starts in some hundredths of a second, and
    each is a fresh process: a run that is killed takes nobody with it. They are killed when this process dies, however
    it dies: a run that goes on without its study would be in the way when the study is continued.

    Args:
        threads: what numerical libraries of a run may take; 0: one a core.
    """

    workers: int | None = None

    def __init__(self, threads: int = 1):
        self._processes: dict[Path, BaseProcess] = {}
        self._context = start_run_server(threads)

    def start(self, folder: Path) -> None:
        """Start or continue the run in a folder."""
        process = self._context.Process(target=carry_out, args=(str(folder.absolute()),), name=folder.name)
        with without_main():
            process.start()
        self._processes[folder] = process

    def ended(self, timeout: float) -> dict[Path, int]:
        """The runs that have ended since the last call, with their exit status."""
        if not self._processes:
            time.sleep(timeout)
            return {}
        wait([process.sentinel for process in self._processes.values()], timeout)
        codes = {}
        for folder, process in list(self._processes.items()):
            if process.exitcode is not None:
                codes[folder] = process.exitcode
                process.close()
                del self._processes[folder]
        return codes

    def pids(self) -> dict[Path, int]:
        """Process numbers of what runs."""
        return {folder: process.pid for folder, process in self._processes.items() if process.pid is not None}

    def kill(self, folder: Path) -> None:
        """Kill the run in a folder, of which ``ended`` then tells nothing; nothing to do where it has ended."""
        process = self._processes.pop(folder, None)
        if process is not None:
            process.kill()
            process.join()
            process.close()

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.join()
            process.close()
        self._processes.clear()


def carry_out(path: str) -> None:
    """What the process of a run does; its last words go to stderr.log, its exit status is that of the command."""
    die_with_parent(os.getppid(), signal.SIGKILL)  # the server
    threading.Thread(target=_die_with_study, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()  # Ctrl-C reaches the study alone, not also its runs from the terminal
    folder = RunFolder(path)
    with stderr_path(folder).open("wb") as stderr, Path(os.devnull).open("wb") as nowhere:
        os.dup2(stderr.fileno(), 2)
        os.dup2(nowhere.fileno(), 1)
    try:
        _wait_until_free(folder)
        resume_run(folder.path)
    except StablegradError as error:
        print(f"stablegrad: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _die_with_study() -> None:
    study = multiprocessing.parent_process()
    if study is not None:
        study.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_until_free(folder: RunFolder) -> None:
    """A process of the same run that was killed a moment ago may still be on its way out."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with folder.lock():
                return
        except UsageError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
