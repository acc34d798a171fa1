"""Watches calls of modules, and always sees them end.

Forward hooks do not: PyTorch runs none after a KeyboardInterrupt, so what a hook switched on would stay on. While
somebody watches, ``nn.Module.__call__`` is replaced, as ``torch.fx`` replaces it to trace; the last watch puts it back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn


class Watcher(Protocol):
    """What is told of calls."""

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A call begins; returns whether to tell of its end."""

    def leave(self, module: nn.Module, output: Any) -> None:
        """The call has ended; ``output`` is None if it raised."""


_lock = threading.Lock()
_watchers: dict[int, list[weakref.ref[Watcher]]] = {}
_original: Callable[..., Any] = nn.Module.__call__


def watch(modules: Iterable[nn.Module], watcher: Watcher) -> None:
    """Tell ``watcher`` of calls of these modules, which it must keep alive until :func:`unwatch`."""
    global _original
    reference = weakref.ref(watcher)
    with _lock:
        for module in modules:
            _watchers[id(module)] = [*_watchers.get(id(module), ()), reference]
        if _watchers and nn.Module.__call__ is not _call:
            _original = nn.Module.__call__
            nn.Module.__call__ = _call  # type: ignore[method-assign]


def unwatch(watcher: Watcher) -> None:
    """Tell ``watcher`` of no more calls; of calls that are under way it is still told the end."""
    with _lock:
        for key, references in list(_watchers.items()):
            left = [one for one in references if one() is not None and one() is not watcher]
            if left:
                _watchers[key] = left
            else:
                del _watchers[key]
        # Whoever replaced it meanwhile calls this one, which passes calls through.
        if not _watchers and nn.Module.__call__ is _call:
            nn.Module.__call__ = _original  # type: ignore[method-assign]


def _call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if torch.compiler.is_compiling() or id(self) not in _watchers:
        return _original(self, *args, **kwargs)
    watchers = [reference() for reference in _watchers.get(id(self), ())]
    told = [one for one in watchers if one is not None and one.enter(self, args, kwargs)]
    output = None
    try:
        output = _original(self, *args, **kwargs)
        return output
    finally:
        for one in reversed(told):
            one.leave(self, output)
