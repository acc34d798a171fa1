"""Errors for people: one line that says what was wrong, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from typing import NoReturn, TypeVar


class StablegradError(Exception):
    """Something went wrong at run time; the command prints the message and exits with ``exit_code``."""

    exit_code = 1


class UsageError(StablegradError, ValueError):
    """The request itself cannot be carried out: an unknown name, a value out of range, a contradiction."""

    exit_code = 2


class EnvironmentFault(StablegradError):
    """An environment broke its contract: it raised, or returned a number that is not finite."""


class CheckpointError(StablegradError):
    """A checkpoint is missing, truncated, edited, or belongs to another network."""


class TrainingDiverged(StablegradError):
    """A gradient or a loss stopped being finite."""


Value = TypeVar("Value")


class Catalogue(dict[str, Value]):
    """A dictionary by name; one that it does not hold raises :func:`unknown_name`.

    Args:
        kind: what a name stands for.
        entries: (name, value).
    """

    def __init__(self, kind: str, entries: Iterable[tuple[str, Value]]):
        super().__init__(entries)
        self._kind = kind

    def __missing__(self, name: object) -> NoReturn:
        raise unknown_name(self._kind, name, self)


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> UsageError:
    """Build the error for a name that is none of ``choices``.

    Names the closest choice; where there is none and the list is short, names them all.

    Args:
        kind: what the name stands for, as the person would call it ("environment", "torso").
        name: the name that was given.
        choices: all valid names.
    """
    choices = sorted(choices)
    lowered = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    message = f"unknown {kind} {str(name)!r}"
    if close:
        message += f"; did you mean {lowered[close[0]]!r}?"
    if 0 < len(choices) <= 12:
        message += f" (valid: {', '.join(choices)})"
    return UsageError(message)


def command(*words: object) -> str:
    """A command of this package as one types it: what holds spaces or signs of the shell is quoted."""
    return shlex.join(["stablegrad", *map(str, words)])
