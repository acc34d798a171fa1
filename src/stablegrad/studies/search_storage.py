"""Optuna, which only a search needs: its import, and the journal that holds a search's trials."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from stablegrad.errors import StablegradError
from stablegrad.packages import load_package

#: Finished trials without which none is stopped for its return.
FEWEST_TO_COMPARE = 3
RESTORE = "restore it from a copy, or search anew in another --run-dir"


def load_optuna() -> ModuleType:
    """Optuna, which is an extra of this package.

    Raises:
        UsageError: it is not installed.
    """
    optuna = load_package("optuna", "create_study", "a search needs Optuna: pip install 'stablegrad[search]'")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(optuna: ModuleType, journal: Path) -> Any:
    """Optuna's study in a search's folder, which this process has locked.

    Raises:
        StablegradError: the journal is damaged.
    """
    for lock in journal.parent.glob(f"{journal.name}.*"):
        lock.unlink()  # of a process that was killed
    if journal.exists():
        _repair(journal)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    try:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name="search",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=FEWEST_TO_COMPARE),
        )
        trials = study.get_trials(deepcopy=False)
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        # Optuna takes every line at its word.
        raise StablegradError(f"'{journal}' is damaged: {error!r}; {RESTORE}") from error
    for trial in trials:
        if not isinstance(trial.user_attrs.get("source"), str):
            raise StablegradError(f"'{journal}' is damaged: trial {trial.number} has no source; {RESTORE}")
    return study


def _repair(journal: Path) -> None:
    """Cut off what a kill has left of the last line, which would run into the next one.

    Raises:
        StablegradError: another line is damaged, which no kill does; nothing is changed then.
    """
    content = journal.read_bytes()
    *lines, rest = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            whole = isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            raise StablegradError(f"'{journal}' line {number} is damaged; {RESTORE}")
    begun = rest.strip(b"\0")  # a power cut leaves zeros
    if begun and not begun.startswith(b"{"):
        raise StablegradError(f"'{journal}' line {len(lines) + 1} is damaged; {RESTORE}")
    if rest:
        with journal.open("r+b") as file:
            file.truncate(len(content) - len(rest))
