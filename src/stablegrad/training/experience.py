"""The part of a checkpoint that is too large to write anew each time: rings of rows that are only appended to.

::

    checkpoints/experience/rows-<start>-<end>-<sha256>.bin     rows that were new at one checkpoint
    checkpoints/step-<n>/state.json                            "experience": which files, and how far the rings were

A file holds a line of JSON, {"arrays": ..., "starts": ..., "ends": ...}, and then bytes: array by array, ring by ring,
the rows from start to end. Files never change. What a checkpoint lists is on the disk before the checkpoint is, and
goes after the last checkpoint that lists it, so a kill at any moment costs no checkpoint a file. A file's name has the
beginning of its SHA-256 sum: the same rows written again after a return to an older checkpoint are another file.

Bytes go from the rings to the file and back in slices, without a copy in between.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stablegrad.errors import CheckpointError
from stablegrad.files import sync_folder

EXPERIENCE = "experience"
SLICE_BYTES = 4 * 2**20
_UNFINISHED = ".rows"

Manifest = dict[str, Any]
"""What a checkpoint says of its experience, as JSON: "arrays" (dtype and shape by name), "totals", "state", and "files"
(name, starts, ends, bytes and sha256 of each, oldest first)."""


class Rings(Protocol):
    """One or more rings of rows that never change until they are overwritten, such as ``agents.replay.Replay``."""

    manifest: Manifest | None
    """What is on the disk of these rows; None to begin with. Only saving and loading set it."""

    @property
    def totals(self) -> Sequence[int]:
        """Rows ever written of each ring; row i lies at ``i % rows`` of it."""
        ...

    def arrays(self) -> Mapping[str, Tensor]:
        """The storage itself: contiguous tensors [rings, rows, ...] on the CPU."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is not in the arrays, as JSON; a few numbers a ring."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state whose rows the arrays hold already."""
        ...


def save_experience(directory: Path, rings: Rings) -> Manifest:
    """Write the rows that no file holds yet; return what a checkpoint has to keep.

    Args:
        directory: the folder of the files, made where there is none.
        rings: what to save.
    """
    directory.mkdir(exist_ok=True)
    arrays, totals = _described(rings), list(rings.totals)
    oldest = _oldest(arrays, totals)
    files = _files_to_keep(directory, rings.manifest, totals, oldest)
    starts = [max(pair) for pair in zip(oldest, files[-1]["ends"] if files else oldest, strict=True)]
    if starts != totals:
        files.append(_write_rows(directory, rings, starts, totals))
    rings.manifest = {"arrays": arrays, "totals": totals, "state": rings.state_dict(), "files": files}
    return rings.manifest


def load_experience(directory: Path, manifest: Manifest, rings: Rings) -> None:
    """Read what ``save_experience`` wrote, checking every byte of it.

    Args:
        directory: the folder of the files.
        manifest: what the checkpoint kept.
        rings: of the same arrays; whatever they hold is overwritten, also where an error ends the loading.

    Raises:
        CheckpointError: the arrays have other shapes or dtypes, or a file is missing, truncated or edited; it is named.
    """
    own = _described(rings)
    for name in sorted(own.keys() | manifest["arrays"].keys()):
        saved, expected = manifest["arrays"].get(name), own.get(name)
        if saved != expected:
            raise CheckpointError(
                f"the experience in '{directory}' is of another configuration: its array '{name}' is "
                f"{_in_words(saved)}, the configured one is {_in_words(expected)}"
            )
    rings.manifest = None
    oldest = _oldest(own, manifest["totals"])
    for file in manifest["files"]:
        _read_rows(directory / file["name"], file, rings.arrays(), oldest)
    rings.load_state_dict(manifest["state"])
    rings.manifest = manifest


def remove_unlisted(directory: Path, manifests: Iterable[Manifest]) -> None:
    """Remove the files of rows that none of the manifests lists, and what a kill left unfinished."""
    listed = {file["name"] for manifest in manifests for file in manifest["files"]}
    for path in [*directory.glob("rows-*.bin"), directory / _UNFINISHED]:
        if path.name not in listed:
            path.unlink(missing_ok=True)


def _described(rings: Rings) -> dict[str, Any]:
    return {
        name: {"dtype": str(array.dtype).removeprefix("torch."), "shape": list(array.shape)}
        for name, array in rings.arrays().items()
    }


def _in_words(array: Mapping[str, Any] | None) -> str:
    return "missing" if array is None else f"{array['dtype']} {array['shape']}"


def _oldest(arrays: Mapping[str, Any], totals: Sequence[int]) -> list[int]:
    """The oldest row of each ring that is not overwritten."""
    rows = next(iter(arrays.values()))["shape"][1]
    return [max(total - rows, 0) for total in totals]


def _files_to_keep(
    directory: Path, manifest: Manifest | None, totals: list[int], oldest: list[int]
) -> list[dict[str, Any]]:
    """Files that hold rows which are still in the rings; none where they are not all in this folder."""
    if manifest is None or any(saved > now for saved, now in zip(manifest["totals"], totals, strict=True)):
        return []
    files = [
        file for file in manifest["files"] if any(end > first for end, first in zip(file["ends"], oldest, strict=True))
    ]
    for file in files:
        path = directory / file["name"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return []
    return files


def _write_rows(directory: Path, rings: Rings, starts: list[int], ends: list[int]) -> dict[str, Any]:
    header = json.dumps({"arrays": _described(rings), "starts": starts, "ends": ends}).encode() + b"\n"
    slices = (
        data
        for array in rings.arrays().values()
        for ring, start, end in zip(array, starts, ends, strict=True)
        for data in _slices(ring, start, end)
    )
    digest, size = hashlib.sha256(), 0
    unfinished = directory / _UNFINISHED
    try:
        with unfinished.open("wb") as file:
            for data in chain([memoryview(header)], slices):
                size += file.write(data)
                digest.update(data)
            file.flush()
            os.fsync(file.fileno())
        sha256 = digest.hexdigest()
        name = f"rows-{sum(starts)}-{sum(ends)}-{sha256[:8]}.bin"
        unfinished.replace(directory / name)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_folder(directory)
    return {"name": name, "starts": starts, "ends": ends, "bytes": size, "sha256": sha256}


def _read_rows(path: Path, expected: Mapping[str, Any], arrays: Mapping[str, Tensor], oldest: Sequence[int]) -> None:
    damaged = f"checkpoint file '{path}' is damaged: it was truncated or edited, its checksum differs"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            digest.update(file.readline(SLICE_BYTES))
            for array in arrays.values():
                for ring, start, end, first in zip(array, expected["starts"], expected["ends"], oldest, strict=True):
                    kept = min(max(start, first), end)
                    lost = (kept - start) * ring[0].nbytes
                    for data in chain(_scratch(lost), _slices(ring, kept, end)):
                        digest.update(data[: file.readinto(data)])
            if file.read(1) or digest.hexdigest() != expected["sha256"]:
                raise CheckpointError(damaged)
    except OSError as error:
        raise CheckpointError(f"checkpoint file '{path}' cannot be read: {error.strerror}") from error


def _slices(ring: Tensor, start: int, end: int) -> Iterator[memoryview]:
    """The bytes of some rows of a ring, as views of a few MiB."""
    rows = len(ring)
    while start < end:
        # Up to the end of the ring, where the next row is its first.
        stop = min(end, start + rows - start % rows)
        data = ring[start % rows :][: stop - start].flatten().view(torch.uint8).numpy().data
        for position in range(0, len(data), SLICE_BYTES):
            yield data[position : position + SLICE_BYTES]
        start = stop


def _scratch(size: int) -> Iterator[memoryview]:
    """Views of one buffer, ``size`` bytes together: for what is read and not kept."""
    buffer = memoryview(bytearray(min(size, SLICE_BYTES)))
    while size > 0:
        yield buffer[:size]
        size -= len(buffer)
