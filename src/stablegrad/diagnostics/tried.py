"""What was seen to help: how often a change restored deep agents that had failed.

``tried.json`` is written by ``python -m benchmarks.diagnosis.risk --write`` from pairs in the corpus of real trainings:
a deep plain network that failed, and the same agent, environment, size and seed with one change. It restored it where
it closed at least half of the gap to a shallow network of the same agent at its best rate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

#: Fewer pairs say nothing.
FEWEST = 5


@dataclass(frozen=True)
class Tried:
    """One change in agents that had failed.

    Attributes:
        restored: how many it restored.
        of: in how many it was tried.
    """

    restored: int
    of: int

    @property
    def share(self) -> float:
        """The share that it restores, with Laplace's correction for few."""
        return (self.restored + 1) / (self.of + 2)

    @property
    def in_words(self) -> str:
        """The count, a sentence without a full stop."""
        return f"it restored {self.restored} of {self.of} deep agents that had failed"


def tried(name: str) -> Tried | None:
    """What is known of an intervention, by its name; None where it was tried in fewer than ``FEWEST``."""
    found = _all().get(name)
    return found if found is not None and found.of >= FEWEST else None


@cache
def _all() -> dict[str, Tried]:
    path = resources.files("stablegrad.diagnostics").joinpath("tried.json")
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: Tried(**counts) for name, counts in found.items()}
