"""Progress for people: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL = 10.0


class TrainingProgress:
    """Shows steps done, steps/s, time left and the current return of one run.

    Args:
        total_steps: steps of the whole run.
        completed: steps done before this process started.
        quiet: show nothing.
    """

    def __init__(self, total_steps: int, completed: int = 0, *, quiet: bool = False):
        self.total_steps = total_steps
        self._first = completed
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._plain = not quiet and not sys.stderr.isatty()
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
                BarColumn(),
                TextColumn("{task.fields[rate]:,.0f} steps/s  return {task.fields[episode_return]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total_steps, completed=completed, rate=0.0, episode_return="-")
            self._bar.start()

    def update(self, step: int, episode_return: float | None) -> None:
        """Show that ``step`` steps are done; ``episode_return`` is None before the first finished episode."""
        now = time.monotonic()
        rate = (step - self._first) / max(now - self._started, 1e-9)
        shown = "-" if episode_return is None else f"{episode_return:,.1f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=min(step, self.total_steps), rate=rate, episode_return=shown)
        elif self._plain and (now - self._printed >= PLAIN_INTERVAL or step >= self.total_steps):
            self._printed = now
            left = max(self.total_steps - step, 0) / max(rate, 1e-9)
            line = f"{step:,}/{self.total_steps:,} steps  {rate:,.0f} steps/s  return {shown}  {left:,.0f} s left"
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                self._plain = False  # nobody reads any more; the training goes on

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
