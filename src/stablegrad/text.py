"""Numbers, durations and sizes as people read them."""

from __future__ import annotations

import math

#: What stands in place of a value that does not exist.
MISSING = "–"


def number(value: float | None, signed: bool = False) -> str:
    """A number with three significant digits, or all that stand before the point, and separated thousands."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    digits = 0 if size >= 100 or value == int(value) else 1 if size >= 10 else 2
    if size < 0.1:
        return f"{value:{'+' if signed else ''}.2g}"
    return f"{value:{'+' if signed else ''},.{digits}f}"


def percent(fraction: float | None, digits: int = 0) -> str:
    """A fraction in percent: 0.25 is 25%."""
    return MISSING if fraction is None else f"{fraction:.{digits}%}"


def power(exponent: int) -> str:
    """A power of ten with a superscript: 10⁻³."""
    superscripts = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "10" + str(exponent).translate(superscripts)


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that fit: 45.0 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def memory(size: float | None) -> str:
    """Bytes in MiB or GiB."""
    if size is None:
        return MISSING
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
