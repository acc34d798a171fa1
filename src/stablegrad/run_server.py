"""The server from which the processes of runs are forked: it imports once what each would take seconds to import."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

PRELOADED = ("__main__", "stablegrad.studies.local_executor", "torch._dynamo", "sklearn.datasets")


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
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def thread_limits(threads: int) -> dict[str, str]:
    """Environment variables that the numerical libraries read once, at their start; none for 0, one a core."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads)) if threads else {}
