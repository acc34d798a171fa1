"""Where the time goes: seconds by part, on the host or on the device's own clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the body as ``name``."""
        cuda = self.device.type == "cuda"
        if cuda and name == "optimizer":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            started = time.perf_counter()
            yield
            if cuda and name == "update":
                torch.cuda.synchronize(self.device)
            self.total[name] += time.perf_counter() - started

    @contextmanager
    def timing(self, optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
        """Time every step of the optimizers through their hooks, without touching the agent's code.

        What other hooks that are registered in the body do around a step is not counted as the optimizer's time.
        """
        running: list = []

        def before(*_: object) -> None:
            running.append(self.part("optimizer"))
            running[-1].__enter__()

        def after(*_: object) -> None:
            running.pop().__exit__(None, None, None)

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
            for name, begin, end in self._events:
                self.total[name] += begin.elapsed_time(end) / 1000.0
            self._events.clear()
        return {**self.total, "update": max(self.total["update"] - self.total["optimizer"], 0.0)}
