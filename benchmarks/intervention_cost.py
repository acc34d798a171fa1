"""What interventions cost: time of a training step and memory, with the change over without it, the two in turns.

    python benchmarks/intervention_cost.py [--steps 200]

Forward, backward and Adam on random labels: an MLP of 6 x 256 on vectors at batch 128, and the Nature CNN on images
at batch 32. Factors of time are medians over steps; memory is weights, gradients and what the optimizer holds. What
stands in ``stablegrad.diagnostics.interventions`` is the geometric mean over the networks. Kron is measured in
``stablegrad bench optimizers``.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from common import save
from stablegrad.diagnostics.interventions import INTERVENTIONS, CannotApply
from stablegrad.diagnostics.trial import training_bytes

NAMES = ("layer_norm", "multi_skip", "residual", "activation", "clip_gradients", "normalise_inputs", "slower_targets")
ROUNDS = 8


@dataclass(frozen=True)
class Arguments:
    """What the benchmark takes."""

    steps: int = 200
    """Steps of the MLP; the CNN takes a quarter of them."""
    threads: int = 2
    """Threads of torch."""


def mlp() -> nn.Module:
    sizes = [64] + [256] * 6
    hidden = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(256, 8))


def nature() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 8),
    )  # fmt: skip


NETWORKS = {"mlp": (mlp, (128, 64), 1), "nature": (nature, (32, 4, 84, 84), 4)}


def step(model: nn.Module, optimizer: Optimizer, inputs: Tensor) -> float:
    """Seconds of one training step."""
    started = time.perf_counter()
    # New labels at every step, or the loss would vanish.
    loss = F.cross_entropy(model(inputs), torch.randint(8, (len(inputs),)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def apply(name: str, model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Make the change; a slow copy of the network, which takes a person elsewhere, stands on the optimizer here."""
    if name != "slower_targets":
        return INTERVENTIONS[name].apply(model, optimizer)
    optimizer.slow = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def follow(stepped: Optimizer, args: Any, kwargs: Any) -> None:
        torch._foreach_lerp_(stepped.slow, list(model.parameters()), 0.005)

    optimizer.register_step_post_hook(follow)
    return optimizer


def measure(network: str, intervention: str, steps: int) -> dict[str, Any] | None:
    """Factors of time and memory; None where it has nothing to change.

    Which of the two is made first, and which goes first, changes from round to round and from step to step: what comes
    first gets other places in memory, the second finds its inputs in the cache.
    """
    make, shape, slower = NETWORKS[network]
    inputs = torch.randn(shape)
    ratios, milliseconds, sizes = [], [], [0, 0]
    for round_number in range(ROUNDS):
        pair: list[tuple[nn.Module, Optimizer]] = [(nn.Identity(), SGD([torch.zeros(1)]))] * 2
        for which in (0, 1) if round_number % 2 else (1, 0):
            model = make()
            optimizer: Optimizer = Adam(model.parameters())
            if which:
                try:
                    optimizer = apply(intervention, model, optimizer)
                except CannotApply:
                    return None
            pair[which] = (model, optimizer)
        for model, optimizer in pair * 3:
            step(model, optimizer, inputs)
        for number in range(steps // slower // ROUNDS):
            taken = {which: step(*pair[which], inputs) for which in ((0, 1) if number % 2 else (1, 0))}
            ratios.append(taken[1] / taken[0])
            milliseconds.append(taken[0] * 1e3)
        sizes = [training_bytes(model, optimizer) for model, optimizer in pair]
    return {
        "step_time": statistics.median(ratios),
        "step_ms": statistics.median(milliseconds),
        "memory": sizes[1] / sizes[0],
    }


def main() -> None:
    arguments = tyro.cli(Arguments)
    torch.set_num_threads(arguments.threads)
    # Gradients of units that die become numbers too small to be fast: that is no cost of the change.
    torch.set_flush_denormal(True)
    result: dict[str, Any] = {}
    for name in NAMES:
        parts = {network: measure(network, name, arguments.steps) for network in NETWORKS}
        there = {network: part for network, part in parts.items() if part is not None}
        means = {
            figure: math.exp(statistics.fmean(math.log(part[figure]) for part in there.values()))
            for figure in ("step_time", "memory")
        }
        result[name] = {**means, "networks": there}
        shown = ", ".join(f"{network} x {part['step_time']:.2f}" for network, part in there.items())
        print(f"{name}: step x {means['step_time']:.2f}, memory x {means['memory']:.2f} ({shown})", flush=True)
    command = f"python benchmarks/intervention_cost.py {' '.join(sys.argv[1:])}".strip()
    save("intervention_cost", command, {"threads": arguments.threads, "interventions": result})


if __name__ == "__main__":
    main()
