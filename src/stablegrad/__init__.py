"""Make big deep-RL networks learn: diagnose, stabilise, train, prove (arXiv 2506.15544)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stablegrad.diagnostics import Monitor, Report, Thresholds, diagnose

__version__ = "0.1.0"
__all__ = ["Monitor", "Report", "Thresholds", "__version__", "diagnose"]

#: Imported when they are first asked for: ``import stablegrad`` loads no torch.
_LAZY = dict.fromkeys(("Monitor", "Report", "Thresholds", "diagnose"), "stablegrad.diagnostics")


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
