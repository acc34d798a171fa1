"""``package.module:name``, as people type it on the command line: what they meant who typed something near it."""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from stablegrad.errors import UsageError, unknown_name


def nearest_target(text: str, usual: str) -> str | None:
    """The ``package.module:name`` that was meant by a path ("mine.py:make", "nets/mine.py") or dots ("mine.make").

    Only the current directory is looked at, and nothing is run.

    Args:
        text: what was typed.
        usual: what such a function is usually called; where ``text`` names none, the file's nearest to it is taken.

    Returns:
        None where there is no such file, or no function in it.
    """
    path, _, name = text.partition(":")
    dotted = path.removeprefix("./").removesuffix(".py").replace("/", ".")
    candidates = [(dotted, name)]
    if not name and "." in dotted:
        module, _, last = dotted.rpartition(".")
        candidates.append((module, last))
    for module, function in candidates:
        file = Path(*module.split(".")).with_suffix(".py") if module else Path()
        if file.is_file() and all(part.isidentifier() for part in module.split(".")):
            function = function or _function_like(file, usual)
            return f"{module}:{function}" if function.isidentifier() else None
    return None


def import_module(module_name: str, expected: str) -> ModuleType:
    """Import a user's module. The current directory is searched first.

    Args:
        module_name: the module's, with dots.
        expected: what a name should look like, for messages.

    Raises:
        UsageError: there is no such module (names the nearest one beside it). Whatever it raises itself comes through.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != module_name and not module_name.startswith(missing + "."):
            raise  # the module is there, but something that it imports is not
        package = missing.rpartition(".")[0]
        places = list(getattr(sys.modules[package], "__path__", [])) if package else [here]
        siblings = [".".join(filter(None, (package, found.name))) for found in pkgutil.iter_modules(places)]
        if not siblings:
            where = f"package {package!r}" if package else "the current directory or among the installed packages"
            raise UsageError(f"no module {missing!r} in {where}; expected {expected}") from None
        raise unknown_name("module", missing, siblings) from None


def _function_like(file: Path, usual: str) -> str:
    try:
        statements = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [one.name for one in statements if isinstance(one, ast.FunctionDef)]
    names += [one.id for s in statements if isinstance(s, ast.Assign) for one in s.targets if isinstance(one, ast.Name)]
    return next(iter(difflib.get_close_matches(usual, names, n=1, cutoff=0.0)), "")
