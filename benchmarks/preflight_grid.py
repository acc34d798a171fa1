"""Does the pre-flight say beforehand what training shows? On the agents of the corpus.

    python benchmarks/preflight_grid.py [--cells pqn-lunarlander] [--seconds 60] [--runs 40]

The value network of every setting of the corpus (``benchmarks/diagnosis/corpus.py``; our agents, not the sealed cells),
that is, of an agent, depth, width, variant and rate, is diagnosed before training with the optimizer and the rate of
its training on observations of random policies in its environment, and held against how its runs ended: the area under
the ROC curve of *failed* against *well*. What was diagnosed is not diagnosed again.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # for "benchmarks"

from benchmarks.common import measure
from benchmarks.diagnosis.corpus import CELLS, Run, config_of, random_return, read
from benchmarks.diagnosis.risk import BOOTSTRAPS, FAILED, WELL, area, final_return, reference_of

from stablegrad.diagnostics import LEVELS
from stablegrad.diagnostics.bootstrapping import PHASES, Trajectories
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.environments.random_play import random_play

NAME = "preflight_grid"
SAMPLE_ROWS = 512


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    cells: tuple[str, ...] = ()
    """Cells of the corpus; none: all of our agents that are not sealed."""
    seconds: float = 120.0
    """Time of a diagnosis, about."""
    runs: int = 1000
    """Settings at most, those first that the corpus has first."""
    workers: int = 1
    """Diagnoses at once, one thread each."""


def settings_of(cell: str) -> dict[Run, float]:
    """Settings, as their first runs -> share of the way from random play to the reference, the mean over seeds."""
    records = read([cell])
    if not records:
        return {}
    random, reference = random_return(CELLS[cell].env), reference_of(records)
    ways: dict[Run, list[float]] = {}
    for one in records:
        final = final_return(one)
        setting = Run(cell, one["depth"], one["width"], one["variant"], one["rate"], 1)
        ways.setdefault(setting, []).append(-1.0 if math.isnan(final) else (final - random) / (reference - random))
    return {setting: statistics.fmean(values) for setting, values in ways.items()}


def run(setting: Run, seconds: float) -> dict[str, Any]:
    """One diagnosis: its verdict, and what was measured."""
    torch.set_num_threads(1)
    torch.manual_seed(setting.seed)
    config = config_of(setting)
    networks = config.build_networks()
    name = next(name for name in ("q", "critic", *networks) if name in networks)
    observations, ended = random_play(config.env, PHASES, seed=setting.seed)
    chosen = config.agent.optimizer
    started = time.perf_counter()
    report = diagnose(
        networks[name],
        torch.from_numpy(observations[0].reshape(-1, *observations.shape[3:])[:SAMPLE_ROWS]),
        optimizer=lambda parameters: chosen.build(torch.nn.ParameterList(parameters)),
        seed=setting.seed,
        seconds=seconds,
        trajectories=Trajectories(torch.from_numpy(observations), torch.from_numpy(ended)),
    )
    late = {
        f"{what} of the {who}": statistics.fmean(values[len(values) // 2 :])
        for what, found in (("speed", report.speed), ("value error", report.values))
        for who, values in found.items()
        if values
    }
    return {
        "verdict": report.verdict,
        "seconds": round(time.perf_counter() - started, 1),
        "measured": {name: float(f"{value:.4g}") for name, value in late.items()},
        "rules": sorted({f"{finding.rule}: {finding.level}" for finding in report.findings}),
        "notes": report.notes,
        "shown": f"{report.verdict}, {late}",
    }


def main() -> None:
    arguments = tyro.cli(Arguments)
    ours = [name for name, cell in CELLS.items() if not cell.sealed and not cell.algorithm.startswith("sb3-")]
    ways: dict[str, float] = {}
    jobs = {}
    for cell in arguments.cells or ours:
        for setting, way in settings_of(cell).items():
            if len(jobs) < arguments.runs:
                ways[setting.name] = way
                jobs[setting.name] = (run, (setting, arguments.seconds))
    found = measure(NAME, f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(), jobs, arguments.workers)
    names = list(jobs)
    way = np.array([ways[name] for name in names])
    guesses = {
        "verdict": [float(LEVELS.index(found[name]["verdict"])) for name in names],
        "values": [_missed(found[name]["measured"]) for name in names],
        "labels": [_slow(found[name]["measured"]) for name in names],
    }
    print(f"{len(names)} settings: {(way < FAILED).sum()} failed, {(way >= WELL).sum()} did well")
    for what, values in guesses.items():
        of = area(way, np.array(values))
        generator, everything = np.random.default_rng(0), np.arange(len(names))
        drawn = [of(generator.choice(everything, len(names))) for _ in range(BOOTSTRAPS)]
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        print(f"area under the ROC curve of the {what}: {of(everything):.2f} [{low:.2f}, {high:.2f}]")
    seconds = [found[name]["seconds"] for name in names]
    print(f"a diagnosis takes {statistics.median(seconds):.0f} s in the median, at most {max(seconds):.0f} s")
    for level in LEVELS:
        at = np.array([found[name]["verdict"] == level for name in names])
        counts = [int((at & one).sum()) for one in (way >= WELL, way < FAILED)]
        print(f"{level}: {counts[0]} did well, {counts[1]} failed, {at.sum()} in all")


def _missed(measured: dict[str, float]) -> float:
    """Of the values that the twin learned, the share that the network missed; 0 where none were tried."""
    own, small = (measured.get(f"value error of the {who}", 0.0) for who in ("network", "twin"))
    return (own - small) / max(1.0 - small, 0.05)


def _slow(measured: dict[str, float]) -> float:
    """Speed of learning labels anew, over the twin's, turned round."""
    return -measured["speed of the network"] / max(measured["speed of the twin"], 1e-3)


if __name__ == "__main__":
    main()
