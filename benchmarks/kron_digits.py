"""Kron on reshuffled labels: scikit-learn's digits, a 12-layer MLP with LayerNorm, new labels every 40 epochs.

    python benchmarks/kron_digits.py [--widths 128 512] [--seeds 10] [--settings "kron rule=classic" kron ...]

Accuracy is that of training, one number an epoch: its mean over all epochs (how fast labels are learned, again and
again) and its value at the end of each phase. A setting is an optimizer's name with options of its class. Paired
differences are to the first setting, with Student-t 95% intervals over seeds. Every run that has ended is kept in the
results, so the command goes on where it was stopped.
"""

from __future__ import annotations

import ast
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import nn

from common import measure, paired
from stablegrad.networks import MLPTorso
from stablegrad.optimizers import make_optimizer

NAME = "kron_digits"
BLOCKS = 5  # 12 linear layers


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    widths: tuple[int, ...] = (128, 512)
    """Units of a layer."""
    seeds: int = 10
    """Seeds 1 to this."""
    rates: tuple[float, ...] = (1e-4,)
    """Learning rates."""
    settings: tuple[str, ...] = ("kron rule=classic", "kron", "kron block_size=128", "kron block_size=32", "radam")
    """Optimizers with options; the first is what the others are compared with."""
    phases: int = 4
    """Times that labels are learned: the true ones first, then shuffled."""
    epochs: int = 40
    """Epochs of a phase."""
    workers: int = 2
    """Runs at once, one thread each."""


def run(setting: str, width: int, rate: float, seed: int, phases: int, epochs: int) -> dict[str, Any]:
    """One training."""
    from sklearn.datasets import load_digits

    torch.set_num_threads(1)
    digits = load_digits()
    inputs, true = torch.tensor(digits.data, dtype=torch.float32), torch.tensor(digits.target)
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-3)
    torch.manual_seed(seed)
    torso = MLPTorso(inputs.shape[1], depth=BLOCKS, width=width)
    network = nn.Sequential(torso, nn.Linear(torso.out_features, 10))
    name, *changes = setting.split()
    options = {key: _value(value) for key, _, value in (change.partition("=") for change in changes)}
    optimizer = make_optimizer(name, network.parameters(), rate, **options)
    generator = torch.Generator().manual_seed(seed)
    curve, start, labels = [], time.perf_counter(), true
    for phase in range(phases):
        if phase:
            labels = true[torch.randperm(len(true), generator=generator)]
        for _ in range(epochs):
            right = seen = 0
            for rows in torch.randperm(len(true), generator=generator).split(128)[:-1]:
                logits = network(inputs[rows])
                optimizer.zero_grad()
                F.cross_entropy(logits, labels[rows]).backward()
                optimizer.step()
                right, seen = right + (logits.argmax(1) == labels[rows]).sum().item(), seen + len(rows)
            curve.append(right / seen)
    seconds = time.perf_counter() - start
    return {
        "mean_accuracy": statistics.fmean(curve),
        "end_accuracy": curve[epochs - 1 :: epochs],
        "seconds": seconds,
        "shown": f"{statistics.fmean(curve):.3f}, {seconds:.0f} s",
    }


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _keys(arguments: Arguments) -> Iterable[tuple[str, int, float, int]]:
    for seed in range(1, arguments.seeds + 1):
        for width in arguments.widths:
            for rate in arguments.rates:
                for setting in arguments.settings:
                    yield setting, width, rate, seed


def main() -> None:
    arguments = tyro.cli(Arguments)
    phases, epochs = arguments.phases, arguments.epochs

    def name(setting: str, width: int, rate: float, seed: int) -> str:
        return f"{setting} | width {width} | rate {rate:g} | {phases} x {epochs} epochs | seed {seed}"

    jobs = {name(*key): (run, (*key, phases, epochs)) for key in _keys(arguments)}
    runs = measure(NAME, f"python benchmarks/kron_digits.py {' '.join(sys.argv[1:])}".strip(), jobs, arguments.workers)
    for width in arguments.widths:
        for rate in arguments.rates:
            own = {
                setting: [
                    runs[name(setting, width, rate, seed)]["mean_accuracy"] for seed in range(1, arguments.seeds + 1)
                ]
                for setting in arguments.settings
            }
            for setting, accuracies in own.items():
                shown = paired(accuracies, own[arguments.settings[0]])
                print(f"width {width}, rate {rate:g}, {setting}: {shown}")


if __name__ == "__main__":
    main()
