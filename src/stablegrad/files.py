"""Files of text: read with one line on what is wrong with them, written whole or not at all."""

from __future__ import annotations

import codecs
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from stablegrad.errors import StablegradError


def read_text(path: Path) -> str:
    """The text of a file, without the byte order mark that Windows' editors put in front.

    Raises:
        StablegradError: it is not UTF-8.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise StablegradError(f"'{path}' is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = content.count(b"\n", 0, error.start) + 1
        raise StablegradError(f"'{path}' line {where} is not UTF-8 text; save it as UTF-8") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. What is no number in JSON (NaN, infinities) is null.

    Raises:
        StablegradError: the file cannot be read, or holds something else.
    """
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise StablegradError(f"'{path}' cannot be read as JSON: {reason or error}") from error
    if not isinstance(value, dict):
        raise StablegradError(f"'{path}' should hold a JSON object, found {type(value).__name__}")
    return value


def parse_json(text: str | bytes) -> Any:
    """Like ``json.loads``, with null for NaN, infinities, and numbers that are too large for a float."""
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_representable)


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


def _representable(text: str) -> int | None:
    return int(text) if len(text) <= 300 else None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part (also after a power cut)."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinities are refused: JSON has none."""
    write_atomically(path, json_text(value))


def json_text(value: Any) -> str:
    """What ``write_json`` writes."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that files that were made or renamed in it survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
