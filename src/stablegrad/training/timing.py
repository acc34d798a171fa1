"""Where the time goes: seconds by part, on the host or on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

PARTS = ("environment", "act", "update", "optimizer", "diagnostics")


class PartTimer:
    """Adds up the seconds of named parts of a loop.

    On a CUDA device "optimizer" is timed by events in the stream, which cost no wait and are read when ``seconds`` is.
    "update" waits for the device at its end, once a rollout, as acting would have to anyway; so no part's work is
    counted in another. "update" contains "optimizer" while it is being measured; ``seconds`` takes it out.
    """

    def __init__(self, device: torch.device, parts: Sequence[str] = PARTS):
        self.device = device
        self.total = dict.fromkeys(parts, 0.0)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def part(self, name: str) -> _Part:
        """Time the body of a ``with`` as ``name``."""
        return _Part(self, name)

    @contextmanager
    def timing(self, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
        """Time every step of the optimizers through their hooks, without touching the agent's code.

        What other hooks that are registered in the body do around a step is not counted as the optimizer's time.
        """
        cuda, begun = self.device.type == "cuda", list[Any]()

        def before(*_: object) -> None:
            begun.append(_event() if cuda else time.perf_counter())

        def after(*_: object) -> None:
            if cuda:
                self._events.append((begun.pop(), _event()))
            else:
                self.total["optimizer"] += time.perf_counter() - begun.pop()

        # Hooks run in the order in which they were registered.
        for optimizer in optimizers:
            optimizer.register_step_post_hook(after)
        yield
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(before)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Count seconds that passed in the part ``source`` as those of ``target``."""
        self.total[source] -= seconds
        self.total[target] += seconds

    def seconds(self) -> dict[str, float]:
        """Seconds of every part so far; waits for the device if it is a CUDA one."""
        if self._events:
            torch.cuda.synchronize(self.device)
            for begin, end in self._events:
                self.total["optimizer"] += begin.elapsed_time(end) / 1000.0
            self._events.clear()
        return {**self.total, "update": max(self.total["update"] - self.total["optimizer"], 0.0)}


class _Part:
    """The body of a ``with``. A class, as a generator takes three times as long, several times a step."""

    __slots__ = ("name", "started", "timer")

    def __init__(self, timer: PartTimer, name: str):
        self.timer, self.name = timer, name

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.name == "update" and self.timer.device.type == "cuda":
            torch.cuda.synchronize(self.timer.device)
        self.timer.total[self.name] += time.perf_counter() - self.started


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
