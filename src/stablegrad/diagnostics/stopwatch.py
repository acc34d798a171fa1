"""Adds up the time that passes inside, however deep what is timed is nested."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


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

    def timed(self, function: Callable[P, R]) -> Callable[P, R]:
        """The function, with the watch running while it does; a clock has no place in a graph that is compiled."""

        def inside(*args: P.args, **kwargs: P.kwargs) -> R:
            if torch.compiler.is_compiling():
                return function(*args, **kwargs)
            with self:
                return function(*args, **kwargs)

        return inside
