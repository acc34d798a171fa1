"""What a run needs in memory at its peak, before any of it is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stablegrad.agents.pqn import PQNConfig, build_network
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import UsageError
from stablegrad.hardware import available_memory, used_memory
from stablegrad.optimizers import Kron
from stablegrad.optimizers.catalogue import OPTIMIZERS
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.text import memory

#: What the process grows by, whatever it trains: environments, autograd, code that is loaded when it is first used.
PROGRAM_GROWTH = 200 * 2**20


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of the parts of a run; activations, which only large minibatches of images make many, come on top.

    Attributes:
        network: weights and gradients.
        optimizer: its state.
        rollout: observations of one rollout.
        checkpoint: copies of weights and state while a checkpoint is written; 0 on a GPU, which holds none of them.
        program: Python and the libraries; 0 on a GPU.
    """

    network: int
    optimizer: int
    rollout: int
    checkpoint: int = 0
    program: int = 0

    @property
    def total(self) -> int:
        """What is there between two steps, without which nothing can be trained."""
        return self.network + self.optimizer + self.rollout

    @property
    def peak(self) -> int:
        """About the most that the run has at once."""
        return self.program + self.total + self.checkpoint

    @property
    def parts(self) -> dict[str, int]:
        """The parts by their names for people."""
        return {
            "program": self.program,
            "weights and gradients": self.network,
            "optimizer": self.optimizer,
            "rollout": self.rollout,
            "writing a checkpoint": self.checkpoint,
        }

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {memory(size)}" for name, size in self.parts.items() if size)
        return f"about {memory(self.peak)} of memory at its peak ({listed})"


def memory_need(config: PQNConfig, spec: EnvironmentSpec, device: torch.device | None = None) -> MemoryNeed:
    """What training with ``config`` needs on ``device`` (the CPU); nothing is allocated."""
    with torch.device("meta"):
        parameters = list(build_network(config, spec).parameters())
    weights = _bytes(parameters)
    optimizer = optimizer_bytes(parameters, config.optimizer)
    entry = np.dtype(spec.observation_dtype).itemsize
    rows = (config.num_steps + 1) * config.num_envs
    on_gpu = device is not None and device.type == "cuda"
    return MemoryNeed(
        network=2 * weights,
        optimizer=optimizer,
        rollout=rows * math.prod(spec.observation_shape) * entry,
        # Serialised weights beside the optimizer's state as a clone, as bytes, and as the bytes of the file.
        checkpoint=0 if on_gpu else weights + 3 * optimizer,
        program=0 if on_gpu else used_memory() + PROGRAM_GROWTH,
    )


def optimizer_bytes(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> int:
    """What an optimizer keeps, and takes in passing, for parameters that may lie on the meta device."""
    if config.name == "kron":
        options = config.kron
        kron = Kron.estimate(parameters, rule=options.rule, block_size=options.block_size, precision=options.precision)
        return kron.state_bytes + kron.transient_bytes
    return OPTIMIZERS[config.name].state_copies * _bytes(parameters)


def _bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def check_memory(config: PQNConfig, spec: EnvironmentSpec, device: torch.device) -> None:
    """Refuse a run that cannot fit: whose parts that stay are more than what is free.

    Raises:
        UsageError: it needs more memory than is free.
    """
    need, free = memory_need(config, spec, device), available_memory(device)
    if free is not None and need.total > free:
        staying = {name: need.parts[name] for name in ("weights and gradients", "optimizer", "rollout")}
        listed = ", ".join(f"{name} {memory(size)}" for name, size in staying.items())
        smaller = "--num-envs or --num-steps" if need.rollout > need.total / 2 else "--torso.width or --torso.depth"
        raise UsageError(
            f"this run needs at least {memory(need.total)} of memory ({listed}), and {memory(free)} are free on "
            f"{device}; choose a smaller {smaller}"
        )
