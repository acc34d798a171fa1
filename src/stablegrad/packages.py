"""Packages that only some commands need: whether they are installed, and one line where they are not."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from stablegrad.errors import UsageError


def is_installed(name: str) -> bool:
    """Whether a package can be imported. A folder of its name in the working directory is no package."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def load_package(name: str, attribute: str, advice: str) -> ModuleType:
    """Import an optional package.

    Args:
        name: the module to import.
        attribute: something that it has: Python also imports a folder or a file that has the package's name.
        advice: what needs the package, and how to install it.

    Raises:
        UsageError: the package is not installed, or cannot be imported.
    """
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise UsageError(advice) from error
    except Exception as error:
        raise UsageError(f"{advice}; importing {name!r} raised {type(error).__name__}") from error
    if not hasattr(package, attribute):
        place = getattr(package, "__file__", None) or next(iter(package.__path__))
        raise UsageError(f"{advice} ('{place}' only has its name)")
    return package
