"""Verdicts of the pre-flight on networks of which we know from trainings whether they keep learning.

    python benchmarks/preflight.py [--seeds 2] [--only "plain 12 x 256, tanh"]

Vectors of 8 numbers and 4 outputs (LunarLander's), images of 4 x 84 x 84 bytes and 6 outputs; weights drawn with each
seed. Results in benchmarks/results/preflight.json; the command goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from common import RESULTS, save
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.networks import (
    DenseNetTorso,
    EncoderConfig,
    MLPTorso,
    MultiSkipTorso,
    QNetwork,
    ResidualTorso,
    TorsoConfig,
)

NAME = "preflight"
VECTOR = (8,)
IMAGE = (4, 84, 84)


def plain(layers: int, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
    """Linear layers as torch makes them, without norm."""
    sizes = [VECTOR[0]] + [width] * layers
    hidden = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, 4))


def torso(kind: type[nn.Module], width: int, depth: int, **options: Any) -> nn.Module:
    """One of our torsos with a head."""
    return nn.Sequential(kind(VECTOR[0], width, depth, **options), nn.Linear(width, 4))


class NatureDQN(nn.Module):
    """The network of Mnih et al. (2015), as torch initialises it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Bytes to six values."""
        return self.layers(x / 255.0)


def pixels(kind: str, depth: int, width: int = 512) -> nn.Module:
    """PQN's network for Atari."""
    return QNetwork(
        IMAGE, 6, encoder=EncoderConfig(), torso=TorsoConfig(kind=kind, depth=depth, width=width), is_image=True
    )


#: name -> (network, whether trainings say that it keeps learning; None: not known)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool | None]] = {
    "plain 2 x 64, tanh": (lambda: plain(2, 64, nn.Tanh), True),
    "plain 2 x 256, relu": (lambda: plain(2, 256, nn.ReLU), True),
    "plain 4 x 256, relu": (lambda: plain(4, 256, nn.ReLU), True),
    "plain 6 x 256, relu": (lambda: plain(6, 256, nn.ReLU), None),
    "plain 8 x 256, relu": (lambda: plain(8, 256, nn.ReLU), None),
    "plain 12 x 256, relu": (lambda: plain(12, 256, nn.ReLU), False),
    "plain 12 x 256, tanh": (lambda: plain(12, 256, nn.Tanh), False),
    "layer norm 4 x 256": (lambda: torso(MLPTorso, 256, 1), True),
    "layer norm 8 x 256": (lambda: torso(MLPTorso, 256, 3), None),
    "layer norm 12 x 256": (lambda: torso(MLPTorso, 256, 5), False),
    "layer norm 22 x 128": (lambda: torso(MLPTorso, 128, 10), False),
    "residual 5 x 256": (lambda: torso(ResidualTorso, 256, 5), None),
    "densenet 5 x 128": (lambda: torso(DenseNetTorso, 128, 5), None),
    "multi-skip 1 x 256": (lambda: torso(MultiSkipTorso, 256, 1), True),
    "multi-skip 5 x 256": (lambda: torso(MultiSkipTorso, 256, 5), True),
    "multi-skip 10 x 128": (lambda: torso(MultiSkipTorso, 128, 10), True),
    "images, Nature CNN of DQN": (NatureDQN, True),
    "images, PQN small": (lambda: pixels("mlp", 1), True),
    "images, PQN layer norm 12 x 512": (lambda: pixels("mlp", 5), None),
    "images, PQN multi-skip 5 x 512": (lambda: pixels("multi_skip", 5), True),
}


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    seeds: int = 2
    """Seeds 1 to this."""
    only: tuple[str, ...] = ()
    """Networks; none: all."""
    seconds: float = 90.0
    """Time of a diagnosis, about."""
    threads: int = 2
    """Threads of torch."""


def run(name: str, seed: int, seconds: float) -> dict[str, Any]:
    """One diagnosis."""
    torch.manual_seed(seed)
    make, learns = NETWORKS[name]
    sample = torch.zeros(2, *IMAGE, dtype=torch.uint8) if name.startswith("images") else torch.zeros(2, *VECTOR)
    started = time.perf_counter()
    report = diagnose(make(), sample, seed=seed, seconds=seconds)
    return {
        "verdict": report.verdict,
        "learns": learns,
        "rules": sorted({f"{finding.rule}: {finding.level}" for finding in report.findings}),
        "prescriptions": [prescription.name for prescription in report.prescriptions],
        "speed": report.speed,
        "fit": report.relearning,
        "task": report.task,
        "notes": report.notes,
        "seconds": time.perf_counter() - started,
    }


def late(values: Sequence[float]) -> float:
    """Mean of the later half."""
    half = values[len(values) // 2 :]
    return sum(half) / len(half)


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"{NAME}.json"
    runs: dict[str, dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else {}
    command = f"python benchmarks/{NAME}.py {' '.join(sys.argv[1:])}".strip()
    for name in arguments.only or NETWORKS:
        for seed in range(1, arguments.seeds + 1):
            key = f"{name} | seed {seed}"
            if key not in runs:
                runs[key] = run(name, seed, arguments.seconds)
                save(NAME, command, {"runs": dict(sorted(runs.items()))})
            one = runs[key]
            speeds = ", ".join(f"{who} {values[0]:.2f} -> {late(values):.2f}" for who, values in one["speed"].items())
            print(f"{key}: {one['verdict']} ({one['seconds']:.0f} s; {speeds}; {', '.join(one['rules'])})", flush=True)


if __name__ == "__main__":
    main()
