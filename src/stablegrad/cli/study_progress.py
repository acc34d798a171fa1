"""How far the runs of a study are, on standard error."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stablegrad.studies.runner import StudyProgress
from stablegrad.terminal import text_console

PLAIN_INTERVAL = 15.0  # seconds


@dataclass
class StudyProgressBar:
    """How far a study is: a bar on a terminal, a line now and then elsewhere."""

    noun: str
    quiet: bool = False
    _bar: Progress | None = field(default=None, init=False)
    _printed: float = field(default=0.0, init=False)

    def __enter__(self) -> StudyProgressBar:
        if not self.quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn(f"{{task.fields[finished]}} of {{task.total:.0f}} {self.noun}"),
                BarColumn(),
                TextColumn("{task.fields[running]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=text_console(stderr=True),
            )
            self._task = self._bar.add_task("", total=None, finished=0, running="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, now: StudyProgress) -> None:
        """Show it."""
        failed = f", {now.failed} failed" if now.failed else ""
        running = "; ".join(f"{name} {share:.0%}" for name, share in now.running.items())
        if self._bar is not None:
            finished = f"{now.finished}{failed}"
            self._bar.update(self._task, total=now.total, completed=now.done, finished=finished, running=running)
        elif not self.quiet and time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self._printed = time.monotonic()
            try:
                print(
                    f"{now.finished} of {now.total} {self.noun} finished{failed}; {running}",
                    file=sys.stderr,
                    flush=True,
                )
            except OSError:
                self.quiet = True  # nobody reads any more; the study goes on
