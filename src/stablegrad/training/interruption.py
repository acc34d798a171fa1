"""A clean stop: SIGINT and SIGTERM ask for one, and what was asked obeys where it can lose nothing."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from stablegrad.errors import StablegradError

#: A stop that reaches a whole group of processes comes twice to a child: from the system and from its parent.
SAME_REQUEST_SECONDS = 1.0


class Interrupted(StablegradError):
    """The run was asked to stop (SIGINT, SIGTERM) and did, after writing a checkpoint."""

    exit_code = 130


@contextmanager
def stop_signals(*, second_ends: bool = False) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them.

    Only the main thread may set handlers: in another one nothing is collected, and whatever handlers there are stay.

    Args:
        second_ends: a second signal, a second or more after the first, raises KeyboardInterrupt wherever the program
            is.

    Yields:
        the signals' numbers, in the order in which they came.
    """
    received: list[int] = []
    first = math.inf
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def receive(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        received.append(number)
        first = min(first, now := time.monotonic())
        if second_ends and now - first >= SAME_REQUEST_SECONDS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            # None: set by what is not Python.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
