"""What a run writes down as it goes: metrics.jsonl, TensorBoard and, where asked, Weights & Biases."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from stablegrad.errors import StablegradError
from stablegrad.training.run_folder import RunFolder


class MetricsWriter:
    """Appends a line a log interval.

    Args:
        folder: the run.
        resume_at: (bytes, step): cut metrics.jsonl back to these bytes, and hide TensorBoard's points after ``step``,
            so that a resumed run writes each point once; None: a new run.
        wandb_project: Weights & Biases project to log to as well.
        config: the run's configuration, shown by Weights & Biases.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        resume_at: tuple[int, int] | None = None,
        wandb_project: str | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self._wandb = _start_wandb(wandb_project, folder, config) if wandb_project else None
        self._file = folder.metrics_path.open("ab")
        self._file.truncate(resume_at[0] if resume_at else 0)
        self._file.seek(0, os.SEEK_END)
        self._tensorboard = _TensorBoardWriter(folder.path, resume_at[1] + 1 if resume_at else None)

    def write(self, step: int, wall_seconds: float, values: Mapping[str, float]) -> None:
        """Write one line. Values that are not finite are left out: JSON has no NaN, and the guard reports them."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        line = {"step": step, "wall_seconds": round(wall_seconds, 3), **finite}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self._tensorboard.write(step, finite)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def position(self) -> int:
        """Bytes of metrics.jsonl so far, all of them on the disk when this returns."""
        os.fsync(self._file.fileno())
        self._tensorboard.flush()
        return self._file.tell()

    def close(self) -> None:
        """Finish all files."""
        self._file.close()
        self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


class _TensorBoardWriter:
    """TensorBoard's event file, written in the calling thread.

    torch's SummaryWriter writes in a thread of its own, where a full disk becomes a traceback that nobody can catch.
    """

    def __init__(self, directory: Path, purge_step: int | None):
        seconds, rest = divmod(max(time.time_ns(), _after_event_files(directory)), 10**9)
        self._file = (directory / f"events.out.tfevents.{seconds:010d}.stablegrad.{rest:09d}").open("wb")
        self._records = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if purge_step is not None:
            # Points of this run from here on that an earlier process wrote are void.
            self._add(Event(wall_time=time.time(), step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def flush(self) -> None:
        self._records.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


def _after_event_files(directory: Path) -> int:
    """Nanoseconds since 1970 from which on a new event file is read after those in ``directory``.

    TensorBoard reads files in the order of their names, which hold the time; the clock may have been set back since.
    """
    found = (re.match(r"events\.out\.tfevents\.(\d{10})\.", path.name) for path in directory.iterdir())
    return max(((int(match[1]) + 1) * 10**9 for match in found if match), default=0)


def _start_wandb(project: str, folder: RunFolder, config: Mapping[str, Any] | None) -> Any:
    import wandb

    try:
        return wandb.init(
            project=project,
            # One run there for one run here, over all resumes: named after the folder, known by its configuration file.
            id=hashlib.sha256(str(folder.path.absolute()).encode() + folder.config_path.read_bytes()).hexdigest()[:16],
            name="/".join(folder.path.absolute().parts[-2:]),
            config=dict(config or {}),
            dir=str(folder.path),
            resume="allow",
        )
    except wandb.Error as error:
        raise StablegradError(f"Weights & Biases did not start: {error}") from error
