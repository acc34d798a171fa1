"""How far a trial of prescriptions is: a line now and then on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from stablegrad.studies import RunProgress
from stablegrad.text import duration

SECONDS_BETWEEN_LINES = 15.0


class TrialProgress:
    """Says which prescription is tried, how far its trainings are, and how long the whole trial will still take.

    Args:
        names: the prescriptions that are tried, in their order.
        trainings: of the whole trial; those without a change are shared.
        clock: seconds.
    """

    def __init__(self, names: Sequence[str], trainings: int, clock: Callable[[], float] = time.monotonic):
        self.names = list(names)
        self.trainings = trainings
        self._clock = clock
        self._started = clock()
        self._said = -SECONDS_BETWEEN_LINES
        self._parts: dict[tuple[str, int], float] = {}
        self._parts_before: float | None = None

    def update(self, name: str, runs: Sequence[RunProgress]) -> None:
        """Show the state of the trainings with and without one prescription."""
        self._parts |= {(run.setting, run.seed): min(run.step / run.total_steps, 1.0) for run in runs}
        parts = sum(self._parts.values())
        if self._parts_before is None:
            self._parts_before = parts  # of a trial that was stopped and goes on
        now = self._clock()
        if now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        place = f"{self.names.index(name) + 1} of {len(self.names)}"
        finished = sum(run.state == "finished" for run in runs)
        running = [f"{run.step:,}" for run in runs if run.state == "running"]
        steps = f", at step {' and '.join(running)} of {runs[0].total_steps:,}" if running else ""
        done = parts - self._parts_before
        left = (now - self._started) / done * max(self.trainings - parts, 0) if done > 0.05 else None
        say(
            f"{name} ({place}): {finished} of {len(runs)} trainings done{steps}"
            + ("" if left is None else f"; about {duration(left)} left of the trial")
        )


def say_pairs(done: int, pairs: int, seconds: float) -> None:
    """Say that so many pairs of a network's trial are done, after so many seconds."""
    left = f"; about {duration(seconds / done * (pairs - done))} left" if 0 < done < pairs else ""
    say(f"{done} of {pairs} pairs of trainings done{left}")


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)
