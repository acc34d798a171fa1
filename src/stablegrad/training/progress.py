"""Progress for people: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_INTERVAL = 10.0


class TrainingProgress:
    """Shows steps done, steps/s, time left and how well one run is doing.

    Args:
        total_steps: steps of the whole run.
        completed: steps done before this process started.
        quiet: show nothing.
        figure: what tells how well it is doing.
        digits: decimals of that figure.
    """

    def __init__(
        self, total_steps: int, completed: int = 0, *, quiet: bool = False, figure: str = "return", digits: int = 1
    ):
        self.total_steps = total_steps
        self.figure = figure
        self.digits = digits
        self._first = completed
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._plain = not quiet and not sys.stderr.isatty()
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
                BarColumn(),
                TextColumn("{task.fields[rate]:,.0f} steps/s  " + figure + " {task.fields[value]}"),
                TimeElapsedColumn(),
                TextColumn("elapsed "),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total_steps, completed=completed, rate=0.0, value="-")
            self._bar.start()

    def update(self, step: int, value: float | None) -> None:
        """Show that ``step`` steps are done; ``value`` is None while there is no figure yet."""
        now = time.monotonic()
        rate = (step - self._first) / max(now - self._started, 1e-9)
        shown = "-" if value is None else f"{value:,.{self.digits}f}"
        if self._bar is not None:
            self._bar.update(self._task, completed=min(step, self.total_steps), rate=rate, value=shown)
        elif self._plain and (now - self._printed >= PLAIN_INTERVAL or step >= self.total_steps):
            self._printed = now
            left = (self.total_steps - step) / max(rate, 1e-9)
            time_left = f"{left:,.0f} s left" if left > 0 else f"done in {now - self._started:,.0f} s"
            done = f"{step:,}/{self.total_steps:,} steps  {rate:,.0f} steps/s"
            line = f"{done}  {self.figure} {shown}  {time_left}"
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                self._plain = False  # nobody reads any more; the training goes on

    def say(self, message: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(message, highlight=False, markup=False)
        elif self._plain:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
