"""What a study will take: parameters, memory and time, from a short calibration, and the seeds that a budget holds.

A calibration starts runs of the study as they are, side by side as in the study, and stops them after a few seconds. Of
many cells that differ in size alone only the smallest and the largest are tried.
"""

from __future__ import annotations

import heapq
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stablegrad.errors import UsageError
from stablegrad.hardware import available_memory
from stablegrad.studies.kinds import Needs, calibration, needs
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.study import Cell, Run
from stablegrad.text import memory
from stablegrad.training.config import RunConfig, resolve_device
from stablegrad.training.run_folder import RunFolder

LOOK_SECONDS = 3.0  # of a run's steps, once they have begun
LONGEST_SECONDS = 60.0  # of a run that takes its time
MOST_CELLS = 24  # that are all tried
POLL_SECONDS = 0.05
#: Options that change what is learned, not what it costs.
FREE = {
    *("seed", "preset", "env"),
    *("learning_rate", "adam_learning_rate", "adam_eps", "weight_decay", "l2", "schedule", "weight_clip"),
    "max_grad_norm",
    *("reshuffle_every", "reshuffle_at"),
}
SIZES = {"depth", "width"}


@dataclass(frozen=True)
class CellPlan:
    """What a run of one cell takes.

    Attributes:
        cell: which.
        parameters: of its network.
        memory_bytes: the most that its process had in the calibration (Linux), else what is known beforehand.
        seconds: of a run on this machine, with as many others beside it as there are workers.
        at_least: whether ``seconds`` is only a lower bound: the calibration saw no steps end.
    """

    cell: Cell
    parameters: int
    memory_bytes: int
    seconds: float
    at_least: bool


@dataclass(frozen=True)
class _Measured:
    """A calibrated run: seconds before its steps begin and of a step, and its peak memory."""

    start: float
    step: float
    at_least: bool
    memory_bytes: int | None


def plan_cells(
    cells: Sequence[Cell], workers: int, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, CellPlan]:
    """What the runs of each cell take, by the cell's name.

    Args:
        cells: the cells to plan.
        workers: how many runs at once.
        on_progress: called with the number of calibrated cells and how many there are to calibrate.

    Raises:
        UsageError: a cell that cannot be run on this machine.
    """
    need = check_cells(cells)
    keys = {cell.name: _cost_key(cell) for cell in cells}
    tried = _to_try(cells, keys, need)
    measured = _calibrate(tried, need, workers, on_progress)
    by_key = {keys[cell.name]: (need[cell.name], measured[cell.name]) for cell in tried}
    plans = {}
    for cell in cells:
        own = by_key.get(keys[cell.name])
        one = own[1] if own else _between(cell, keys, need, by_key)
        memory = need[cell.name].memory_bytes if one.memory_bytes is None else one.memory_bytes
        seconds = one.start + one.step * need[cell.name].steps
        plans[cell.name] = CellPlan(cell, need[cell.name].parameters, memory, seconds, one.at_least)
    return plans


def check_cells(cells: Iterable[Cell], *, here: bool = True) -> dict[str, Needs]:
    """What each cell needs, by its name.

    Args:
        cells: the cells.
        here: whether they run on this machine, whose memory must hold them.

    Raises:
        UsageError: the first that cannot be run, with its name.
    """
    need = {}
    for cell in cells:
        try:
            found = need[cell.name] = needs(cell.config)
            free = available_memory(resolve_device(cell.config.device)) if here else None
            if free is not None and found.memory_bytes > free:
                raise UsageError(f"a run needs {memory(found.memory_bytes)} of memory, and {memory(free)} are free")
        except UsageError as error:
            raise UsageError(f"{error}, in {cell.name}" if cell.values else str(error)) from error
    return need


def seeds_within(
    runs: Sequence[Run], seconds: Mapping[str, float], workers: int, max_seconds: float
) -> tuple[list[Run], list[int]]:
    """As many whole seeds, from the first, as fit into a budget; the grid stays whole.

    Args:
        runs: what is left to do, seed by seed.
        seconds: of a run, by the name of its cell.
        workers: how many runs at once.
        max_seconds: the budget.

    Returns:
        (the runs that fit, the seeds that were dropped).

    Raises:
        UsageError: not even one seed fits.
    """
    seeds = list(dict.fromkeys(run.seed for run in runs))
    for count in range(len(seeds), 0, -1):
        kept = [run for run in runs if run.seed in seeds[:count]]
        if makespan([seconds[run.cell.name] for run in kept], workers) <= max_seconds:
            return kept, seeds[count:]
    if not runs:
        return [], []
    one = makespan([seconds[run.cell.name] for run in runs if run.seed == seeds[0]], workers)
    raise UsageError(
        f"one seed of every cell takes about {one / 3600:.2g} hours with {workers} workers, and there are "
        f"{max(max_seconds, 0) / 3600:.2g}; raise --max-hours or --workers, or choose --form small"
    )


def makespan(seconds: Iterable[float], workers: int) -> float:
    """When the last of these runs ends, each started in this order as soon as a worker is free."""
    free = [0.0] * workers
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _cost_key(cell: Cell, without: Iterable[str] = ()) -> str:
    """The same for cells whose runs take the same time; ``without`` names further options that do not count."""
    config = cell.config
    value = _without(config.to_json(), {*FREE, *without})
    if isinstance(config, RunConfig):
        # Atari games take alike: what they show has one shape. Other environments are what their names say.
        spec = config.spec
        value["env"] = spec.engine if spec.atari_game else config.env
    return json.dumps(value, sort_keys=True)


def _without(value: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {
        name: _without(item, names) if isinstance(item, Mapping) else item
        for name, item in value.items()
        if name not in names
    }


def _to_try(cells: Sequence[Cell], keys: Mapping[str, str], need: Mapping[str, Needs]) -> list[Cell]:
    """A cell of every cost, or where these are many, the smallest and largest of those that differ in size alone."""
    distinct = list({keys[cell.name]: cell for cell in cells}.values())
    if len(distinct) <= MOST_CELLS:
        return distinct
    groups: dict[str, list[Cell]] = {}
    for cell in distinct:
        groups.setdefault(_cost_key(cell, SIZES), []).append(cell)
    ends = [sorted(group, key=lambda cell: need[cell.name].parameters) for group in groups.values()]
    return list({cell.name: cell for group in ends for cell in (group[0], group[-1])}.values())


def _between(
    cell: Cell, keys: Mapping[str, str], need: Mapping[str, Needs], by_key: Mapping[str, tuple[Needs, _Measured]]
) -> _Measured:
    """What a cell takes that was not tried: linear in its parameters, between those of its kind that were."""
    kind = _cost_key(cell, SIZES)
    ends = sorted(
        (
            (known.parameters, one)
            for key, (known, one) in by_key.items()
            if json.dumps(_without(json.loads(key), SIZES), sort_keys=True) == kind
        ),
        key=lambda end: end[0],
    )
    at = [parameters for parameters, _ in ends]

    def interpolated(values: Iterable[float]) -> float:
        return float(np.interp(need[cell.name].parameters, at, list(values)))

    memory = [one.memory_bytes for _, one in ends if one.memory_bytes is not None]
    return _Measured(
        interpolated(one.start for _, one in ends),
        interpolated(one.step for _, one in ends),
        any(one.at_least for _, one in ends),
        round(interpolated(memory)) if len(memory) == len(ends) else None,
    )


def _calibrate(
    cells: Sequence[Cell], need: Mapping[str, Needs], workers: int, on_progress: Callable[[int, int], None] | None
) -> dict[str, _Measured]:
    """Run every cell for a few seconds, ``workers`` at once."""
    measured: dict[str, _Measured] = {}
    waiting, running = list(cells), dict[str, _Trial]()
    with tempfile.TemporaryDirectory(prefix="stablegrad-calibration-") as scratch:
        # The first process waits for the server to import everything; that is no run's time.
        threads = max((cell.config.threads for cell in cells), default=1)
        numbers = itertools.count()
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    cell = waiting.pop(0)
                    running[cell.name] = _Trial(cell, Path(scratch) / str(next(numbers)), threads)
                time.sleep(POLL_SECONDS)
                for name, trial in list(running.items()):
                    result = trial.look(need[name])
                    if result is not None:
                        measured[name] = result
                        running.pop(name).executor.stop()
                        if on_progress is not None:
                            on_progress(len(measured), len(cells))
        finally:
            for trial in running.values():
                trial.executor.stop()
    return measured


class _Trial:
    """One run that is looked at for a few seconds."""

    def __init__(self, cell: Cell, path: Path, threads: int):
        self.config = calibration(cell.config)
        self.name = cell.name
        self.folder = RunFolder.create(path, self.config.to_json())
        self.executor = LocalExecutor(threads)
        self.executor.start(path)
        self.pid = self.executor.pids()[path]
        self.started = time.monotonic()
        self.first_line: float | None = None
        self.memory_bytes: int | None = None

    def look(self, need: Needs) -> _Measured | None:
        """What the run takes, once that can be told."""
        elapsed = time.monotonic() - self.started
        self.memory_bytes = _peak_memory(self.pid) or self.memory_bytes
        lines = self.folder.read_metrics()
        if lines and self.first_line is None:
            self.first_line = elapsed
        ended = bool(self.executor.ended(0.0))
        if ended and not lines:
            raise UsageError(f"{self.name} cannot be calibrated: {self._last_words()}")
        enough = self.first_line is not None and elapsed - self.first_line >= LOOK_SECONDS and len(lines) > 2
        if not (enough or ended or elapsed >= LONGEST_SECONDS):
            return None
        if not lines:
            return _Measured(0.0, elapsed / self._steps_a_line(need), True, self.memory_bytes)
        # The second half: whatever is done once at the start is over by then.
        middle, last = (lines[len(lines) // 2 - 1] if len(lines) > 1 else {"step": 0, "wall_seconds": 0.0}), lines[-1]
        step = (last["wall_seconds"] - middle["wall_seconds"]) / (last["step"] - middle["step"])
        assert self.first_line is not None
        return _Measured(max(self.first_line - step * lines[0]["step"], 0.0), step, False, self.memory_bytes)

    def _steps_a_line(self, need: Needs) -> int:
        if isinstance(self.config, RunConfig):
            return min(self.config.agent.num_envs * self.config.agent.horizon, need.steps)
        return needs(self.config).steps // self.config.epochs

    def _last_words(self) -> str:
        lines = (self.folder.path / "stderr.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it ended at once").removeprefix("stablegrad: ")


def _peak_memory(pid: int) -> int | None:
    """The most memory that a process has had so far; None where that cannot be told."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None  # not Linux, or it has ended
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
