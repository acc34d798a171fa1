"""Runs the monitor's code inside somebody's training: counts its time and lets none of its errors out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

from stablegrad.diagnostics.stopwatch import Stopwatch


class Guard:
    """Wraps every function that PyTorch calls for the monitor.

    After the first error the wrapped functions do nothing any more.

    Args:
        on_error: called once, with the first error; None: errors are raised.

    Attributes:
        stopwatch: runs while a wrapped function does.
        broken: whether there was an error.
    """

    def __init__(self, on_error: Callable[[Exception], None] | None = None):
        self.on_error = on_error
        self.stopwatch = Stopwatch()
        self.broken = False
        self._lock = threading.Lock()

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed and guarded; returns None after an error and while ``torch.compile`` traces."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.broken or torch.compiler.is_compiling():
                return None
            try:
                with self.stopwatch:
                    return function(*args, **kwargs)
            except Exception as error:
                if self.on_error is None:
                    raise
                with self._lock:
                    first, self.broken = not self.broken, True
                if first:
                    self.on_error(error)
                return None

        return guarded
