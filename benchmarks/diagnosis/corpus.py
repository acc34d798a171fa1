"""Real trainings of agents, of many sizes and settings: what the diagnosis is held against.

    python -m benchmarks.diagnosis.corpus [--cells pqn-cartpole] [--minutes 60]

A cell is an agent in an environment with a budget. In each, a shallow network is trained at three learning rates, which
gives the reference, and deeper and wider ones with the settings of ``VARIANTS``. What each run logged, its returns and
what its networks could still learn at half of the budget and at its end is kept in ``benchmarks/results/corpus``, a
file a cell, four digits a number. A run that is there is not trained again, so a collection that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import tyro
from benchmarks.diagnosis.corpus_sb3 import train_sb3

from stablegrad.environments.references import references
from stablegrad.training.config import RunConfig, default_run
from stablegrad.training.health import DiagnosisConfig
from stablegrad.training.interaction import train
from stablegrad.training.interruption import Interrupted
from stablegrad.training.run_folder import RunFolder

FOLDER = Path(__file__).parents[1] / "results" / "corpus"
LINES, DIGITS = 40, 4
#: What is logged in between looks.
LOGGED = ("train/return", "refit_error")
#: Blocks of two layers: plain stacks have 4, 12 and 22.
SHALLOW, DEEP, DEEPEST = 1, 5, 10
WIDTH, WIDE = 64, 256
RATES = (0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Cell:
    """An agent in an environment.

    Attributes:
        algorithm: its name in the catalogue, or "sb3-ppo", "sb3-dqn" for Stable-Baselines3's.
        env: the environment.
        steps: environment steps of every run.
        updates: optimizer steps that these come to, about.
        changes: to the defaults, as in a setting.
        sealed: not to be looked at before the diagnosis is settled.
    """

    algorithm: str
    env: str
    steps: int
    updates: int
    changes: Mapping[str, str | float] = dataclasses.field(default_factory=dict)
    sealed: bool = False


_DQN = {
    "batch_size": 64, "buffer_size": 50_000, "learning_starts": 1_000, "gradient_steps": 1, "target_every": 200,
    "exploration_fraction": 0.3, "optimizer.adam_learning_rate": 5e-4,
}  # fmt: skip
_PQN = {
    "num_envs": 16, "num_steps": 32, "num_minibatches": 4, "num_epochs": 4, "exploration_fraction": 0.5,
    "optimizer.adam_learning_rate": 1e-3,
}  # fmt: skip
_PPO = {"num_envs": 16, "num_steps": 64, "num_minibatches": 4, "num_epochs": 6, "optimizer.adam_learning_rate": 1e-3}
_SB3_PPO = {"n_steps": 512, "batch_size": 128, "learning_rate": 1e-3}
_SB3_DQN = {
    "learning_rate": 5e-4, "batch_size": 64, "buffer_size": 50_000, "learning_starts": 1_000, "train_freq": 4,
    "target_update_interval": 200, "exploration_fraction": 0.3,
}  # fmt: skip
CELLS = {
    "pqn-cartpole": Cell("pqn", "CartPole-v1", 60_000, 1875, _PQN),
    "ppo-cartpole": Cell("ppo", "CartPole-v1", 60_000, 1400, _PPO),
    "dqn-cartpole": Cell("dqn", "CartPole-v1", 20_000, 4750, _DQN),
    "sb3-ppo-cartpole": Cell("sb3-ppo", "CartPole-v1", 30_000, 2360, _SB3_PPO),
    "sb3-dqn-cartpole": Cell("sb3-dqn", "CartPole-v1", 20_000, 4750, _SB3_DQN),
    "pqn-lunarlander": Cell("pqn", "LunarLander-v3", 100_000, 3125, _PQN),
    "ppo-acrobot": Cell("ppo", "Acrobot-v1", 80_000, 1900, _PPO),
    "ppo-pendulum": Cell("ppo", "InvertedPendulum-v4", 60_000, 1400, _PPO),
    "dqn-acrobot": Cell("dqn", "Acrobot-v1", 30_000, 3600, {**_DQN, "train_every": 8}),
    # Sealed: two environments and one agent.
    "ppo-double-pendulum": Cell("ppo", "InvertedDoublePendulum-v4", 80_000, 1900, _PPO, sealed=True),
    "pqn-mountain-car": Cell("pqn", "MountainCar-v0", 100_000, 3125, _PQN, sealed=True),
    "sac-pendulum": Cell("sac", "InvertedPendulum-v4", 6_000, 5000, {"learning_starts": 1_000}, sealed=True),
}
#: Settings of a deep network, as changes to the plain one.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_norm": {"torso.norm": "none"},
    "layer_norm": {"torso.norm": "layer"},
    "residual": {"torso.kind": "residual", "torso.norm": "layer"},
    "multi_skip": {"torso.kind": "multi_skip", "torso.norm": "layer"},
    "kron": {"optimizer.name": "kron"},
    "stable": {"torso.kind": "multi_skip", "torso.norm": "layer", "optimizer.name": "kron"},
    "norm_bounded": {"torso.norm": "layer", "optimizer.name": "adam", "optimizer.project_rows": "first"},
}
#: Those that Stable-Baselines3 has nothing of.
OURS = ("norm_bounded",)


@dataclass(frozen=True)
class Run:
    """One training of a cell."""

    cell: str
    depth: int
    width: int
    variant: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return " ".join(map(str, dataclasses.astuple(self)))


def runs_of(name: str) -> Iterator[Run]:
    """All runs of a cell, those that tell most first."""
    variants = [one for one in VARIANTS if _differs(name, one)]
    for seed in (1, 2):
        for rate in RATES:
            yield Run(name, SHALLOW, WIDTH, "plain", rate, seed)
        for variant in variants:
            yield Run(name, DEEPEST, WIDTH, variant, 1.0, seed)
        # Plain and stable at rates of their own: what scaling does to each at its best.
        for variant in ("plain", "stable"):
            for rate in (RATES[0], RATES[2]):
                yield Run(name, DEEPEST, WIDTH, variant, rate, seed)
        if seed == 1:
            for variant in variants:
                yield Run(name, DEEP, WIDTH, variant, 1.0, seed)
            for depth, variant in ((SHALLOW, "plain"), (DEEP, "plain"), (DEEP, "stable")):
                yield Run(name, depth, WIDE, variant, 1.0, seed)


def _differs(name: str, variant: str) -> bool:
    """Whether a setting changes anything in a cell: some agents have LayerNorm by default, others have none."""
    if name.startswith("sb3"):
        return variant not in OURS and variant != "no_norm"
    runs = [Run(name, DEEP, WIDTH, one, 1.0, 1) for one in ("plain", variant)]
    return variant == "plain" or config_of(runs[0]).agent != config_of(runs[1]).agent


def collect(run: Run) -> dict[str, Any]:
    """Train; what is kept of it."""
    cell, started = CELLS[run.cell], time.perf_counter()
    if cell.algorithm.startswith("sb3-"):
        rows = thinned(train_sb3(cell, VARIANTS[run.variant], run.depth, run.width, run.rate, run.seed))
    else:
        rows = _rows(run, cell)
    kept = [{key: _short(value) for key, value in row.items() if isinstance(value, int | float)} for row in rows]
    return {**dataclasses.asdict(run), "seconds": round(time.perf_counter() - started, 1), "rows": kept}


def config_of(run: Run) -> RunConfig:
    """A run of one of our agents."""
    cell = CELLS[run.cell]
    changes = {**cell.changes, "torso.depth": run.depth, "torso.width": run.width, **VARIANTS[run.variant]}
    base = default_run(cell.algorithm, cell.env, "baseline" + "".join(f"+{k}={v}" for k, v in changes.items()))
    agent = dataclasses.replace(
        base.agent,
        optimizer=dataclasses.replace(
            base.agent.optimizer, adam_learning_rate=run.rate * base.agent.optimizer.adam_learning_rate
        ),
    )
    look = max(cell.updates // 100, 2)
    diagnosis = DiagnosisConfig(look, 2 * look, capacity_every=int(0.48 * cell.updates))
    return dataclasses.replace(
        base, agent=agent, total_steps=cell.steps, seed=run.seed, threads=1, diagnosis=diagnosis,
        log_every=cell.steps // LINES, checkpoint_every=cell.steps,
    )  # fmt: skip


def _rows(run: Run, cell: Cell) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        train(config_of(run), path, quiet=True)
        return RunFolder(path).read_metrics()


def thinned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most ``LINES`` of a history's rows: the newest look of each stretch, with all that was logged in it."""
    step, merged = max(-(-len(rows) // LINES), 1), []
    for end in range(len(rows), 0, -step):
        stretch = rows[max(end - step, 0) : end]
        logged = {key: value for row in stretch for key, value in row.items() if key.startswith(LOGGED)}
        looks = [row for row in stretch if any(key.startswith("update_ratio/") for key in row)]
        merged.append({**(looks or stretch)[-1], **logged})
    return merged[::-1]


def _short(value: float) -> float | str:
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def read(cells: Sequence[str]) -> list[dict[str, Any]]:
    """What is kept of the runs of some cells; those that were not collected are left out."""
    found = []
    for name in cells:
        path = FOLDER / f"{name}.jsonl.gz"
        if path.exists():
            with gzip.open(path, "rt") as file:
                found += [json.loads(line) for line in file]
    return found


def keep(cell: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all runs of a cell."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = FOLDER / f"{cell}.jsonl.gz.partial"
    # No time of writing in the file: the same runs are the same bytes.
    with partial.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write("".join(json.dumps(one) + "\n" for one in records).encode())
    partial.replace(FOLDER / f"{cell}.jsonl.gz")


def random_return(env: str) -> float:
    """Of random play, as far as it is known; else that of tasks that pay one reward a step until they fail."""
    known = references("train/return", {env})
    return known.random if known is not None and known.random is not None else RANDOM[env]


#: ``python benchmarks/random_returns.py`` measures tasks with discrete actions; these, 200 episodes of gymnasium's.
RANDOM = {"InvertedPendulum-v4": 6.1, "InvertedDoublePendulum-v4": 54.0}


@dataclass(frozen=True)
class Arguments:
    """What the collection takes."""

    cells: tuple[str, ...] = ()
    """Names of cells; none: all that are not sealed."""
    minutes: float = math.inf
    """Start no further run after so many minutes."""


def main() -> None:
    arguments, started = tyro.cli(Arguments), time.perf_counter()
    cells = arguments.cells or tuple(name for name, cell in CELLS.items() if not cell.sealed)
    if unknown := [name for name in cells if name not in CELLS]:
        sys.exit(f"no cell {unknown[0]!r}; there are: {', '.join(CELLS)}")
    # In turns, so that a collection that is stopped has runs of all cells.
    for runs in zip_longest(*map(runs_of, cells)):
        for run in filter(None, runs):
            if time.perf_counter() - started > 60 * arguments.minutes:
                return
            records = read([run.cell])
            if run not in [_run_of(one) for one in records]:
                try:
                    records.append(collect(run))
                except Interrupted:
                    sys.exit(f"{run.name}: stopped; it is trained the next time")
                keep(run.cell, records)
                returns = [row["train/return"] for row in records[-1]["rows"] if "train/return" in row]
                print(f"{run.name}: {returns[-1] if returns else math.nan:.1f}, {records[-1]['seconds']} s", flush=True)


def _run_of(record: Mapping[str, Any]) -> Run:
    return Run(*(record[field.name] for field in dataclasses.fields(Run)))


if __name__ == "__main__":
    main()
