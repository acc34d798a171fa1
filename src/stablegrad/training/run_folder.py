"""The run folder: one layout for every command, written whole or not at all.

::

    <run>/config.json     all that is needed to run it again
          metrics.jsonl   a JSON object a line: {"step": int, "wall_seconds": float, "<group>/<name>": number}
          checkpoints/    step-<n>/, see stablegrad.training.checkpoint
          summary.json    the final figures
          events.out...   TensorBoard
"""

from __future__ import annotations

import difflib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stablegrad.errors import StablegradError, UsageError, command
from stablegrad.files import parse_json, read_json, write_json

FORMAT = 1
MOST_NAMED = 6  # folders in one message
MOST_LEVELS, MOST_FOLDERS = 4, 1000  # looked through for them: a comparison's runs lie three levels deep
#: What a summary has of each kind, where it has it.
NUMBERS = (
    *("final_return", "final_accuracy", "parameters", "peak_memory_bytes", "wall_seconds"),
    *("env_steps", "updates", "epochs", "steps_per_second"),
)
SHAPES = {"seconds": dict, "health": dict, "evaluation": dict, "relearning": dict, "layers": list}


def what_is_there(path: Path, *files: str) -> str:
    """Says what stands at a path that was taken for a folder with one of ``files``, and which folder was meant.

    Args:
        path: what was given; it may not exist.
        files: any one of them marks a folder of the kind that was expected.
    """

    def holds(folder: Path) -> bool:
        return any((folder / name).is_file() for name in files)

    around = next((parent for parent in path.absolute().parents if holds(parent)), None)
    if around is not None:
        return f"it lies in '{os.path.relpath(around)}', which is one"
    if path.is_file():
        return "it is a file"
    if not path.exists():
        siblings = [str(one) for one in path.parent.glob("*/") if holds(one)] if path.parent.is_dir() else []
        close = difflib.get_close_matches(str(path), siblings, n=1)
        return "there is nothing of that name" + (f"; did you mean '{close[0]}'?" if close else "")
    inside = _folders_inside(path, holds)
    if not inside:
        return f"it has no {' or '.join(files)}"
    more = f" and {len(inside) - MOST_NAMED} more" if len(inside) > MOST_NAMED else ""
    return f"it holds others; name one: {', '.join(map(str, inside[:MOST_NAMED]))}{more}"


def _folders_inside(path: Path, holds: Callable[[Path], bool]) -> list[Path]:
    """Folders below ``path`` of which ``holds`` is true, in the order of their names, but none within another."""
    found, level = [], [path]
    for _ in range(MOST_LEVELS):
        below = [one for folder in level for one in _subfolders(folder)][:MOST_FOLDERS]
        found += [one for one in below if holds(one)]
        level = [one for one in below if not holds(one)]
    return sorted(found)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError:
        return []  # not ours to read


class RunFolder:
    """Reads and writes one run folder."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    @property
    def config_path(self) -> Path:
        """Where the configuration lies."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics lie."""
        return self.path / "metrics.jsonl"

    @property
    def summary_path(self) -> Path:
        """Where the final figures lie."""
        return self.path / "summary.json"

    @property
    def interventions_path(self) -> Path:
        """interventions.json, there after a rollback only."""
        return self.path / "interventions.json"

    @property
    def checkpoints_path(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @classmethod
    def create(cls, path: Path | str, config: Mapping[str, Any]) -> RunFolder:
        """Make the folder and write its config.json.

        Args:
            path: a folder that does not exist yet or is empty.
            config: the JSON form of the run's configuration.

        Raises:
            UsageError: the folder holds another run, is not empty, or cannot be written.
        """
        # Imported here, as whoever reads a run needs nothing of what trains one.
        from stablegrad.training.config import provenance

        folder = cls(path)
        try:
            if folder.config_path.exists():
                raise UsageError(
                    f"run folder '{folder.path}' already holds a run; continue it with "
                    f"'{command('resume', folder.path)}' or name another --run-dir"
                )
            # What a kill in the middle of this function left behind is nobody's.
            leftovers = {*folder.path.glob(".config.json.*")} if folder.path.exists() else set()
            if folder.path.exists() and set(folder.path.iterdir()) - leftovers:
                raise UsageError(f"run folder '{folder.path}' is not empty; name a new or an empty --run-dir")
            for leftover in leftovers:
                leftover.unlink()
            folder.path.mkdir(parents=True, exist_ok=True)
            write_json(folder.config_path, {"format": FORMAT, **config, "provenance": provenance()})
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot write run folder '{folder.path}': {reason}; name another --run-dir") from error
        return folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep a second process from training the same run; the lock falls with the process.

        Raises:
            UsageError: another process holds it.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"run '{self.path}' is being trained by another process") from error
            yield

    def read_config(self) -> dict[str, Any]:
        """The content of config.json.

        Raises:
            UsageError: there is no run here.
            StablegradError: the file is not readable as JSON or of another format.
        """
        try:
            found = self.config_path.exists()
        except OSError as error:
            raise UsageError(f"cannot read run folder '{self.path}': {error.strerror}") from error
        if not found:
            raise UsageError(f"'{self.path}' is no run folder: {what_is_there(self.path, 'config.json')}")
        config = read_json(self.config_path)
        if config.get("format") != FORMAT:
            raise StablegradError(
                f"'{self.config_path}' has format {config.get('format')!r}, this version of stablegrad reads {FORMAT}"
            )
        return config

    def read_interventions(self) -> list[dict[str, Any]]:
        """What was changed in the running agent after it had collapsed, in order."""
        if not self.interventions_path.exists():
            return []
        found = read_json(self.interventions_path).get("interventions")
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise StablegradError(f"'{self.interventions_path}' should hold a list of interventions")
        return found

    def read_summary(self) -> dict[str, Any] | None:
        """The content of summary.json; None where the run has not ended.

        Raises:
            StablegradError: the file cannot be read, or what should be a number or an object there is none.
        """
        if not self.summary_path.exists():
            return None
        summary = read_json(self.summary_path)
        numbers = {name: summary.get(name) for name in NUMBERS}
        for part in ("seconds", "relearning"):
            if isinstance(summary.get(part), dict):
                numbers |= {f"{part}.{name}": value for name, value in summary[part].items()}
        for name, value in numbers.items():
            if value is not None and type(value) not in (int, float):
                raise StablegradError(f"'{self.summary_path}': {name} should be a number, found {value!r}")
        for name, kind in SHAPES.items():
            if summary.get(name) is not None and not isinstance(summary[name], kind):
                what = "an object" if kind is dict else "a list"
                raise StablegradError(f"'{self.summary_path}': {name} should be {what}, found {summary[name]!r}")
        if not all(isinstance(layer, str) for layer in summary.get("layers") or []):
            raise StablegradError(f"'{self.summary_path}': layers should be names, found {summary['layers']!r}")
        return summary

    def read_metrics(self) -> list[dict[str, float]]:
        """All complete lines of metrics.jsonl, in order; a line cut by a kill is left out.

        Raises:
            StablegradError: a line is none of metrics (with its number).
        """
        if not self.metrics_path.exists():
            return []
        try:
            content = self.metrics_path.read_bytes()
        except OSError as error:
            raise StablegradError(f"cannot read '{self.metrics_path}': {error.strerror}") from error
        rows = []
        # What follows the last newline is nothing, or a line that a kill has cut.
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                rows.append(metrics_row(line))
            except ValueError as error:
                raise StablegradError(f"'{self.metrics_path}' line {number} is not JSON of metrics: {error}") from error
        return rows


def metrics_row(line: bytes) -> dict[str, float]:
    """A line of metrics.jsonl; a number that is null is left out, as if it had not been measured.

    Raises:
        ValueError: it is no JSON object of numbers with a step.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__} instead of an object")
    row = {name: value for name, value in row.items() if value is not None}
    for name, value in row.items():
        if type(value) not in (int, float):
            raise ValueError(f"{name} should be a number, found {value!r}")
    if "step" not in row:
        raise ValueError("it has no step")
    return row
