"""Optuna, which only a search needs: its import, and the journal that holds a search's trials."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from stablegrad.packages import load_package

#: Finished trials without which none is stopped for its return.
FEWEST_TO_COMPARE = 3


def load_optuna() -> ModuleType:
    """Optuna, which is an extra of this package.

    Raises:
        UsageError: it is not installed.
    """
    optuna = load_package("optuna", "create_study", "a search needs Optuna: pip install 'stablegrad[search]'")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_study(optuna: ModuleType, journal: Path) -> Any:
    """Optuna's study in a search's folder, which this process has locked."""
    for lock in journal.parent.glob(f"{journal.name}.*"):
        lock.unlink()  # of a process that was killed
    if journal.exists():
        # A line that a kill has cut would run into the next one.
        whole = journal.read_bytes()
        if not whole.endswith(b"\n"):
            with journal.open("r+b") as file:
                file.truncate(whole.rfind(b"\n") + 1)
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name="search",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FEWEST_TO_COMPARE),
    )
