"""Options of nested configurations by dotted name, such as "torso.norm", and as words of a command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names: {"torso": {"depth": 3}} becomes {"torso.depth": 3}."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            flat.update(flatten(item, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = item
    return flat


def option_words(name: str, value: Any) -> list[str]:
    """One option as it is typed: ("torso.norm", "layer") becomes ["--torso.norm", "layer"]."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        head, dot, last = option.rpartition(".")
        return [f"--{head}{dot}{'' if value else 'no-'}{last}"]
    return [f"--{option}", str(value)]
