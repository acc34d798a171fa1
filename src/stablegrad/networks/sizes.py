"""Network sizes by name (arXiv 2506.15544, appendix on architectures) or by number."""

from __future__ import annotations

from stablegrad.errors import UsageError, unknown_name

#: Residual blocks of two linear layers each; the plain MLP of the same size has 2 * blocks + 2 linear layers.
DEPTHS = {"small": 1, "medium": 3, "large": 5, "xlarge": 10}
#: Units of every hidden layer.
WIDTHS = {"small": 512, "medium": 1536, "large": 2560, "xlarge": 5120}


def resolve_depth(depth: int | str) -> int:
    """Number of blocks for a name or a number; 0 is allowed (projection and output layer only)."""
    return _resolve("depth", depth, DEPTHS, minimum=0, maximum=1000)


def resolve_width(width: int | str) -> int:
    """Units of a hidden layer for a name or a number."""
    return _resolve("width", width, WIDTHS, minimum=1, maximum=1_000_000)


def _resolve(kind: str, value: int | str, names: dict[str, int], minimum: int, maximum: int) -> int:
    if isinstance(value, str):
        if value in names:
            return names[value]
        if not value.lstrip("-").isdecimal():
            raise unknown_name(f"torso {kind}", value, names)
        value = int(value[:20])  # longer is too large all the same
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise UsageError(f"torso {kind} must be at least {minimum} or one of {', '.join(names)}, got {value!r}")
    if value > maximum:
        raise UsageError(f"torso {kind} must be at most {maximum:,}, got {value}")
    return value
