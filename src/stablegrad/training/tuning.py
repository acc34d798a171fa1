"""Settings of the process that change speed and nothing else."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step instead of handing it back to the system (Linux; else nothing).

    A step on the CPU frees and takes again the same tens of megabytes of activations. By default glibc maps each large
    one anew, and the page faults take several percent of an update of the Nature CNN.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library, as musl's, which has no such setting
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
