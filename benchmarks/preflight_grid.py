"""Does the pre-flight say beforehand what training shows? Two studies of depth and intervention, cell by cell.

    python benchmarks/preflight_grid.py [--study digits lunarlander] [--seeds 1] [--seconds 60]

For every cell of studies/digits.toml (small form) and studies/lunarlander.toml the network is diagnosed with the
optimizer of its training, and held against what the study's runs reached (benchmarks/results/study_*.json): training
accuracy on reshuffled labels, of which 0.7 is *learning again*, and return, of which 0 is *learning*, halfway between
a random agent (-190) and a good landing (200).
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr
from torch import Tensor, nn

from common import RESULTS, measure
from stablegrad.diagnostics import LEVELS, diagnose
from stablegrad.environments import environment_spec, make_vector_env
from stablegrad.optimizers import OptimizerConfig
from stablegrad.studies.study import read_study
from stablegrad.supervised import Classifier, SupervisedConfig, load_data
from stablegrad.training.config import RunConfig

NAME = "preflight_grid"
STUDIES = Path(__file__).parents[1] / "studies"
SAMPLE_ROWS = 64
RANDOM_STEPS = 30  # of the agent from which inputs are taken


@dataclass(frozen=True)
class Truth:
    """A study, and what its runs are judged by."""

    form: str
    results: str
    figure: str
    learns: float


TRUTHS = {
    "digits": Truth("small", "study_digits_small.json", "relearning.mean_final_accuracy", 0.7),
    "lunarlander": Truth("full", "study_lunarlander.json", "final_return", 0.0),
}


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    study: tuple[Literal["digits", "lunarlander"], ...] = ("digits", "lunarlander")
    """Whose cells."""
    seeds: int = 1
    """Diagnoses of a cell, seeds 1 to this."""
    seconds: float = 60.0
    """Time of a diagnosis, about."""
    workers: int = 2
    """Diagnoses at once, one thread each."""


def classifier(config: SupervisedConfig) -> tuple[nn.Module, Tensor, OptimizerConfig]:
    """Network, inputs and optimizer of a run of the digits study."""
    data = load_data(config.data)
    return Classifier(config, data), data.train_images[:SAMPLE_ROWS], config.optimizer


def agent(config: RunConfig) -> tuple[nn.Module, Tensor, OptimizerConfig]:
    """Network, inputs (of a random agent) and optimizer of a run of PQN."""
    spec, actions = environment_spec(config.env), np.random.default_rng(0)
    environment = make_vector_env(config.env, SAMPLE_ROWS, seeds=range(SAMPLE_ROWS))
    environment.reset()
    for _ in range(RANDOM_STEPS):
        result = environment.step(actions.integers(spec.action_space.n, size=SAMPLE_ROWS))
    environment.close()
    return config.build_networks()["q"], torch.as_tensor(result.observation), config.agent.optimizer


MAKERS: dict[str, Callable[[Any], tuple[nn.Module, Tensor, OptimizerConfig]]] = {
    "digits": classifier,
    "lunarlander": agent,
}


def run(study: str, cell: str, seed: int, seconds: float) -> dict[str, Any]:
    """One diagnosis: its verdict, and how fast networks learned in the later half of the phases."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    cells = read_study(STUDIES / f"{study}.toml", TRUTHS[study].form).cells
    network, sample, chosen = MAKERS[study](next(one.config for one in cells if one.name == cell))
    report = diagnose(
        network,
        sample,
        optimizer=lambda parameters: chosen.build(nn.ParameterList(parameters)),
        seed=seed,
        seconds=seconds,
    )
    late = {name: statistics.fmean(speeds[len(speeds) // 2 :]) for name, speeds in report.speed.items()}
    return {
        "verdict": report.verdict,
        "speed": late,
        "rules": sorted({finding.rule for finding in report.findings}),
        "notes": report.notes,
        "shown": f"{report.verdict}, {', '.join(f'{name} {speed:.2f}' for name, speed in late.items())}",
    }


def main() -> None:
    arguments = tyro.cli(Arguments)
    seeds = range(1, arguments.seeds + 1)
    trained: dict[str, dict[str, float]] = {}
    for study in arguments.study:
        scores: dict[str, list[float]] = {}
        for row in json.loads((RESULTS / TRUTHS[study].results).read_text())["runs"]:
            if row["status"] == "finished":
                scores.setdefault(row["cell"], []).append(row["figures"][TRUTHS[study].figure])
        trained[study] = {cell: statistics.fmean(values) for cell, values in scores.items()}
    jobs = {
        f"{study} | {cell} | seed {seed}": (run, (study, cell, seed, arguments.seconds))
        for study, cells in trained.items()
        for cell in cells
        for seed in seeds
    }
    runs = measure(NAME, f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(), jobs, arguments.workers)
    for study, cells in trained.items():
        print(f"\n{study}: what training reached, and what the pre-flight said")
        pairs = [(runs[f"{study} | {cell} | seed {seed}"], score) for cell, score in cells.items() for seed in seeds]
        for cell, score in cells.items():
            print(f"{cell}: {score:.2f}; {runs[f'{study} | {cell} | seed 1']['shown']}")
        for what, guesses in (
            ("speed", [one["speed"]["network"] for one, _ in pairs]),
            ("verdict", [-LEVELS.index(one["verdict"]) for one, _ in pairs]),
        ):
            if len(set(guesses)) == 1:
                print(f"rank correlation of the {what}: none, as it is the same everywhere")
                continue
            found = spearmanr(guesses, [score for _, score in pairs])
            print(f"rank correlation of the {what} with what training reached: {found.statistic:.2f}")
        table = Counter((one["verdict"], score >= TRUTHS[study].learns) for one, score in pairs)
        for verdict in LEVELS:
            print(f"{verdict}: {table[verdict, True]} that learn, {table[verdict, False]} that do not")


if __name__ == "__main__":
    main()
