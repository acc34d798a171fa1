"""What a search is asked to do, and the folder in which it lies.

::

    <dir>/search.json              what was asked for; diagnosis, time spent, winner and result as far as they are known
          trials.log               Optuna's journal: every trial, its values and its end
          trials/<number>/seed-<s> run folders
          confirmation/            a comparison of the baseline with the best trial
          confirmation-prescription/   of the best prescription with the best trial, where these are two
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stablegrad.diagnostics.rules import Finding
from stablegrad.errors import StablegradError, UsageError, command
from stablegrad.files import read_json, write_json
from stablegrad.studies.comparison import differences
from stablegrad.studies.search_space import fresh_seeds
from stablegrad.studies.seeds import MAX_SEEDS
from stablegrad.training.config import RunConfig
from stablegrad.training.run_folder import RunFolder

FORMAT = 1
FEWEST_TRIALS, MAX_TRIALS = 2, 10_000
SAVE_SECONDS = 10.0
#: Runs are planned to take this much longer than those that were measured: settings differ in what a step costs.
MARGIN = 1.15
RESULT = ("trials", "words", "spent", "command", "confirmation", "confirmation_prescription")  # what is shown of it
CONFIRMATION, CONFIRMATION_PRESCRIPTION = "confirmation", "confirmation-prescription"


@dataclass(frozen=True)
class SearchPlan:
    """What a search is asked to do.

    Attributes:
        base: the baseline; the size of its network is the budget of all settings. Its seed does not matter.
        seeds: of every trial, whose value is the mean over them.
        confirm_seeds: how many fresh seeds the confirmation has.
        trials: settings to try, the baseline among them; None: as many as there is time for.
        max_hours: hours that all may take, the confirmation included; None: no limit.
    """

    base: RunConfig
    seeds: tuple[int, ...] = (1,)
    confirm_seeds: int = 5
    trials: int | None = None
    max_hours: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.max_hours is None:
            raise UsageError("say how long to search: --trials N, --max-hours H, or both")
        if self.trials is not None and not FEWEST_TRIALS <= self.trials <= MAX_TRIALS:
            raise UsageError(
                f"trials must be at least {FEWEST_TRIALS}, the baseline and another, and at most {MAX_TRIALS:,}; "
                f"got {self.trials}"
            )
        if self.max_hours is not None and not 0.0 < self.max_hours < math.inf:
            raise UsageError(f"max-hours must be above 0 and finite, got {self.max_hours}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"seeds should be distinct integers of at least 0, got {list(self.seeds)}")
        if not 2 <= self.confirm_seeds <= MAX_SEEDS:
            raise UsageError(
                f"confirm-seeds must be at least 2, as one pair tells nothing, and at most {MAX_SEEDS:,}; "
                f"got {self.confirm_seeds}"
            )
        diagnosis = self.base.diagnosis
        if not diagnosis.look_every or diagnosis.on_collapse != "continue":
            raise UsageError("a search needs the diagnosis and stops trials itself: leave look-every and on-collapse")

    @property
    def limit(self) -> float:
        """Seconds that all may take."""
        return math.inf if self.max_hours is None else 3600 * self.max_hours

    @property
    def fresh(self) -> tuple[int, ...]:
        """The seeds of the confirmation."""
        return fresh_seeds(self.seeds, self.confirm_seeds)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        base = {name: value for name, value in self.base.to_json().items() if name != "seed"}
        return dict(json.loads(json.dumps({**dataclasses.asdict(self), "base": base})))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SearchPlan:
        """Read ``to_json()``."""
        return cls(**{**value, "base": RunConfig.from_json(value["base"]), "seeds": tuple(value["seeds"])})


class SearchFolder:
    """Reads and writes the folder of one search.

    Attributes:
        directory: where it lies.
        plan: what was asked for.
        state: what is known so far: ``diagnosis``, ``seconds_of_run`` (of the baseline), ``spent`` (seconds),
            ``winner`` (number of a trial) and ``result``.
    """

    def __init__(self, directory: Path | str, plan: SearchPlan, state: dict[str, Any] | None = None):
        self.directory = Path(directory)
        self.plan = plan
        spent = {"seconds": 0.0, "confirmation_seconds": 0.0}
        empty: dict[str, Any] = {
            "diagnosis": None,
            "seconds_of_run": None,
            "spent": spent,
            "winner": None,
            "result": None,
        }
        self.state: dict[str, Any] = state or empty

    @property
    def begun(self) -> bool:
        """Whether anything was found out yet; a search that was refused for its hours has not begun."""
        return self.state["diagnosis"] is not None

    @property
    def path(self) -> Path:
        """Where search.json lies."""
        return self.directory / "search.json"

    @property
    def journal(self) -> Path:
        """Where Optuna's journal lies."""
        return self.directory / "trials.log"

    def run_folder(self, number: int, seed: int) -> RunFolder:
        """The folder of one of a trial's runs, whether it exists or not."""
        return RunFolder(self.directory / "trials" / f"{number:03d}" / f"seed-{seed}")

    def save(self) -> None:
        """Write search.json."""
        write_json(self.path, {"format": FORMAT, "plan": self.plan.to_json(), **self.state})

    @classmethod
    def open(cls, directory: Path | str, plan: SearchPlan) -> SearchFolder:
        """Make the folder of a search, or return to it; one that has not begun makes way for another.

        Raises:
            UsageError: the folder holds another search (with what differs) or something else, or cannot be written.
        """
        folder = cls(directory, plan)
        try:
            if folder.path.exists():
                found = cls.read(directory)
                changed = differences(plan.to_json(), found.plan.to_json())
                if changed and found.begun:
                    raise UsageError(
                        f"'{directory}' already holds another search; it differs in {'; '.join(changed)}. Name another "
                        f"--run-dir, or go on with that one: " + command("search", "--resume", directory)
                    )
                if not changed:
                    return found
            ours = (".lock", "search.json", ".search.json.", "trials.log")  # of a search that has not begun
            if folder.directory.exists() and any(
                not entry.name.startswith(ours) for entry in folder.directory.iterdir()
            ):
                raise UsageError(f"folder '{directory}' is not empty and holds no search; name a new or an empty one")
            folder.directory.mkdir(parents=True, exist_ok=True)
            folder.save()
        except OSError as error:
            raise UsageError(f"cannot write search folder '{directory}': {error.strerror or error}") from error
        return folder

    @classmethod
    def read(cls, directory: Path | str) -> SearchFolder:
        """The search that a folder holds.

        Raises:
            UsageError: there is none.
            StablegradError: search.json cannot be read.
        """
        path = Path(directory) / "search.json"
        if not path.exists():
            raise UsageError(f"'{directory}' is no search folder: it has no search.json")
        try:
            content = read_json(path)
            if content.pop("format") != FORMAT:
                raise StablegradError(f"'{path}' has another format than this version of stablegrad reads, {FORMAT}")
            plan = SearchPlan.from_json(content.pop("plan"))
            folder = cls(directory, plan, content)
            folder._check_state()
        except StablegradError as error:
            raise StablegradError(f"'{path}' cannot be read as a search: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StablegradError(f"'{path}' cannot be read as a search: {error!r}") from error
        return folder

    def _check_state(self) -> None:
        """Raise for a state that no search has written."""
        state, kinds = self.state, {"seconds_of_run": (int, float), "winner": (int,), "result": (dict,)}
        for name, kind in kinds.items():
            if state[name] is not None and type(state[name]) not in kind:
                raise ValueError(f"{name} should not be {state[name]!r}")
        for name in RESULT if state["result"] is not None else ():
            _ = state["result"][name]
        for name in ("seconds", "confirmation_seconds"):
            if type(state["spent"][name]) not in (int, float):
                raise ValueError(f"spent.{name} should be a number, got {state['spent'][name]!r}")
        if state["diagnosis"] is not None:
            for found in ("preflight", "run"):
                for one in state["diagnosis"][found] or []:
                    Finding.from_dict(one)


class Clock:
    """Seconds that a search has taken, in all processes that worked on it; kept in search.json."""

    def __init__(self, folder: SearchFolder):
        self.folder = folder
        self._before = float(folder.state["spent"]["seconds"])
        self._started = self._saved = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        """Write all that is known to search.json."""
        self.folder.state["spent"]["seconds"] = round(self.spent, 1)
        self.folder.save()
        self._saved = time.monotonic()

    def save_now_and_then(self) -> None:
        """Save where the last time was a while ago: what a kill makes forgotten is as short."""
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()
