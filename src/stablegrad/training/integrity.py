"""What a finished run's folder holds, recorded against later edits.

``SHA256SUMS`` lists configuration, metrics, summary, TensorBoard's events and every file of the checkpoints;
``sha256sum -c SHA256SUMS`` checks them, too. Reports and videos are made from these and are not listed. Whoever edits a
file can also edit the list: keep its own digest (``record_digest``) elsewhere to notice that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stablegrad.errors import StablegradError, UsageError
from stablegrad.files import json_text, read_text, write_atomically
from stablegrad.training.checkpoint import SUMS, list_checkpoints, recorded_digests
from stablegrad.training.run_folder import RunFolder, what_is_there

FILES = ("config.json", "metrics.jsonl", "summary.json", "interventions.json")
EVENTS = "events.out.tfevents*"


def write_record(folder: RunFolder, summary: Mapping[str, Any]) -> None:
    """Write ``SHA256SUMS`` of a run that ends; what checkpoints have recorded themselves is not hashed again.

    Args:
        folder: the run's, with all but its summary.
        summary: what summary.json will hold. It is written last, so that every finished run has its record.
    """
    digests = {name: _sha256(folder.path / name) for name in _logs(folder.path)}
    digests["summary.json"] = hashlib.sha256(json_text(summary).encode()).hexdigest()
    for checkpoint in list_checkpoints(folder.checkpoints_path):
        for path, digest in recorded_digests(checkpoint).items():
            digests[path.relative_to(folder.path).as_posix()] = digest
    lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
    write_atomically(folder.path / SUMS, "".join(lines))


def record_digest(path: Path) -> str:
    """SHA-256 of a run's record, in hexadecimal: who knows it can tell whether the record was edited."""
    return _sha256(path / SUMS)


def altered_files(path: Path) -> list[str]:
    """What is no longer as it was when the run ended, a line a file; empty where all is.

    Args:
        path: a run folder.

    Raises:
        UsageError: it has no record: no run, one that is not finished, or one of an older version.
        StablegradError: the record cannot be read.
    """
    record = path / SUMS
    if not record.exists():
        if not (path / "config.json").exists():
            raise UsageError(f"'{path}' is no run folder: {what_is_there(path, 'config.json')}")
        raise UsageError(f"'{path}' has no {SUMS}: the run is not finished, or an older version made it")
    recorded: dict[str, str] = {}
    for line in read_text(record).splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != hashlib.sha256().digest_size * 2:
            raise StablegradError(f"'{record}' is damaged: {line[:80]!r} is no line of digest and file")
        recorded[name] = digest
    found = []
    for name, digest in recorded.items():
        file = path / name
        if not file.is_file():
            found.append(f"{name} is gone")
        elif _sha256(file) != digest:
            found.append(f"{name} was edited")
    there = {one.relative_to(path).as_posix() for one in (path / "checkpoints").rglob("*") if one.is_file()}
    return found + [f"{name} was added" for name in sorted({*there, *_logs(path)} - recorded.keys())]


def _logs(path: Path) -> list[str]:
    """The files beside the checkpoints that are recorded, those that there are."""
    return [name for name in FILES if (path / name).exists()] + sorted(one.name for one in path.glob(EVENTS))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
