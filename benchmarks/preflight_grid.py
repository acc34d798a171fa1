"""Does the pre-flight say beforehand what training shows? The digits study, cell by cell.

    python benchmarks/preflight_grid.py [--seeds 1] [--seconds 60]

For every cell of studies/digits.toml in its small form (depth x width x intervention) the network is diagnosed with the
optimizer of its training, and held against the training accuracy that the study reached on reshuffled labels
(benchmarks/results/study_digits_small.json). A network *learns again* where that is at least 0.7.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from scipy.stats import spearmanr

from common import RESULTS, measure
from stablegrad.diagnostics import LEVELS, diagnose
from stablegrad.optimizers import make_optimizer
from stablegrad.studies.study import read_study
from stablegrad.supervised import Classifier, load_data

NAME = "preflight_grid"
FIGURE = "relearning.mean_final_accuracy"
LEARNS = 0.7
STUDY = Path(__file__).parents[1] / "studies" / "digits.toml"


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 1
    """Diagnoses of a cell, seeds 1 to this."""
    seconds: float = 60.0
    """Time of a diagnosis, about."""
    workers: int = 2
    """Diagnoses at once, one thread each."""


def run(cell: str, seed: int, seconds: float) -> dict[str, Any]:
    """One diagnosis: its verdict, and the speed of learning anew over the twin's in the later half of the phases."""
    torch.set_num_threads(1)
    config = next(one.config for one in read_study(STUDY, "small").cells if one.name == cell)
    data = load_data("digits")
    torch.manual_seed(seed)
    network = Classifier(config, data)
    chosen = config.optimizer
    options = asdict(chosen.kron) if chosen.name == "kron" else {}
    report = diagnose(
        network,
        data.train_images[:64],
        optimizer=lambda parameters: make_optimizer(chosen.name, parameters, chosen.initial_learning_rate, **options),
        seed=seed,
        seconds=seconds,
    )
    own, twin = (sum(report.speed[name][len(report.speed[name]) // 2 :]) for name in ("network", "twin"))
    return {"verdict": report.verdict, "speed": own / twin, "notes": report.notes, "shown": report.verdict}


def main() -> None:
    arguments = tyro.cli(Arguments)
    trained: dict[str, list[float]] = {}
    for row in json.loads((RESULTS / "study_digits_small.json").read_text())["runs"]:
        trained.setdefault(row["cell"], []).append(row["figures"][FIGURE])
    accuracy = {cell: sum(values) / len(values) for cell, values in trained.items()}
    seeds = range(1, arguments.seeds + 1)
    jobs = {f"{cell} | seed {seed}": (run, (cell, seed, arguments.seconds)) for cell in accuracy for seed in seeds}
    runs = measure(NAME, f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip(), jobs, arguments.workers)
    pairs = [(runs[f"{cell} | seed {seed}"], accuracy[cell]) for cell in accuracy for seed in seeds]
    for cell in accuracy:
        one = runs[f"{cell} | seed 1"]
        print(
            f"{cell}: trained {accuracy[cell]:.2f}, pre-flight {one['verdict']}, speed {one['speed']:.2f} of the twin's"
        )
    truths = [value for _, value in pairs]
    for what, guesses in (
        ("speed", [one["speed"] for one, _ in pairs]),
        ("verdict", [-LEVELS.index(one["verdict"]) for one, _ in pairs]),
    ):
        if len(set(guesses)) == 1:
            print(f"rank correlation of the {what} with the accuracy: none, as it is the same everywhere")
            continue
        found = spearmanr(guesses, truths)
        print(f"rank correlation of the {what} with the accuracy: {found.statistic:.2f} (p {found.pvalue:.1g})")
    table = Counter((one["verdict"], value >= LEARNS) for one, value in pairs)
    for verdict in LEVELS:
        print(f"{verdict}: {table[verdict, True]} that learn again, {table[verdict, False]} that do not")


if __name__ == "__main__":
    main()
