"""``package.module:name``, as people type it on the command line: what they meant who typed something near it."""

from __future__ import annotations

import ast
import difflib
from pathlib import Path


def nearest_target(text: str, usual: str) -> str | None:
    """The ``package.module:name`` that was meant by a path ("dqn.py:make", "agents/dqn.py") or dots ("dqn.make").

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


def _function_like(file: Path, usual: str) -> str:
    try:
        statements = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return ""
    names = [one.name for one in statements if isinstance(one, ast.FunctionDef)]
    return next(iter(difflib.get_close_matches(usual, names, n=1, cutoff=0.0)), "")
