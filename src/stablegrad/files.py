"""Files of text that others wrote: UTF-8, with or without a byte order mark, or one line on what they are instead.

And what makes our own files last: ``sync_folder``.
"""

from __future__ import annotations

import codecs
import json
import math
import os
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


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk, so that files that were made or renamed in it survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
