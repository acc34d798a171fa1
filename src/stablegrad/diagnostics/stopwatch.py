"""Adds up the time that passes inside, however deep what is timed is nested."""

from __future__ import annotations

import time


class Stopwatch:
    """Runs while one ``with`` block or more are open, those of hooks on autograd's threads among them.

    Attributes:
        seconds: that it has run, of the host's time.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        # Appending and popping are atomic; with a count, threads could get it stuck.
        self._started: list[float] = []

    def __enter__(self) -> None:
        self._started.append(time.perf_counter())

    def __exit__(self, *exception: object) -> None:
        started = self._started.pop()
        if not self._started:
            self.seconds += time.perf_counter() - started
