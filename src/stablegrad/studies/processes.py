"""What running many runs at once takes from the system: locks, signals, ends of processes, and how far a run is."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stablegrad.errors import StablegradError, UsageError
from stablegrad.training.config import usable_cores
from stablegrad.training.run_folder import RunFolder, metrics_row

if TYPE_CHECKING:
    from stablegrad.supervised import SupervisedConfig
    from stablegrad.training.config import RunConfig

POLL_SECONDS = 0.2
LOCK_SECONDS = 10.0
INTERRUPTED = 130
MAX_WORKERS = 10_000
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: between fork and exec little is allowed


def default_workers(configs: Iterable[RunConfig | SupervisedConfig]) -> int:
    """How many runs fill this machine: usable cores by threads of a run (0 threads: all cores), at least one."""
    cores = usable_cores()
    return max(1, cores // max(config.threads or cores for config in configs))


def check_workers(workers: int | None) -> None:
    """Raise UsageError for a number of runs at once that no machine has room for; None: the default."""
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise UsageError(f"workers must be at least 1 and at most {MAX_WORKERS:,}, got {workers}")


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: the folder, which exists.
        what: what lies in it ("comparison"), for the message.

    Raises:
        UsageError: another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(
                        f"another process is running the {what} in '{folder}'; wait for its end, or name another folder"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield


def die_with_parent(parent: int, number: int) -> None:
    """Ask the kernel (Linux) to send this process a signal when its parent dies; it ends at once if that is over."""
    if LIBC is None:
        return
    LIBC.prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(INTERRUPTED)


def exit_reason(code: int, stderr: Path) -> str:
    """Why a run's process ended, in one line.

    Args:
        code: its exit status, negative where a signal killed it.
        stderr: what it wrote to standard error.
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (often: out of memory)" if -code == signal.SIGKILL else "")
    if code == 0:
        return "it ended without a finished summary.json"
    lines = [line.strip() for line in stderr.read_text(errors="replace").splitlines()] if stderr.exists() else []
    last = next((line for line in reversed(lines) if line), "")
    return last.removeprefix("stablegrad: ") or f"exit status {code}, nothing on standard error"


def last_metrics(folder: RunFolder, tail: int = 1 << 16) -> dict[str, Any] | None:
    """The last complete line of a run's metrics, read from the end of the file: it may be long; None: there is none."""
    try:
        with folder.metrics_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - tail))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StablegradError(f"cannot read '{folder.metrics_path}': {error.strerror}") from error
    for line in reversed(lines):
        try:
            return metrics_row(line)
        except ValueError:
            continue  # the first line of the tail may be cut
    return None
