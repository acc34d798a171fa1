"""The server from which the processes of runs are forked: it imports once what each would take seconds to import."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from types import ModuleType

PRELOADED = ("stablegrad.studies.local_executor", "torch._dynamo", "envpool", "sklearn.datasets")


def start_run_server(threads: int) -> ForkServerContext:
    """Start it where it does not run yet, and do not wait for its imports.

    Args:
        threads: what numerical libraries of a run may take; 0: one a core. A server that runs keeps what it has.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    # The libraries read these once, when the server imports them.
    before = dict(os.environ)
    os.environ.update(thread_limits(threads))
    try:
        with without_main():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


@contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not import the program which starts them.

    Runs name all that they need, and a script that trains without ``if __name__ == "__main__"`` would run again in each
    of its processes.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that the numerical libraries read once, at their start; none for 0, one a core."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}
