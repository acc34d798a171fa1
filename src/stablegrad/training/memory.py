"""What a run needs in memory, before any of it is allocated."""

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
from stablegrad.hardware import available_memory
from stablegrad.optimizers import Kron
from stablegrad.optimizers.catalogue import OPTIMIZERS
from stablegrad.optimizers.config import OptimizerConfig

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of the parts of a run whose size is known beforehand; activations and the environments come on top.

    Attributes:
        network: weights and gradients.
        optimizer: its state.
        rollout: observations of one rollout.
    """

    network: int
    optimizer: int
    rollout: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.network + self.optimizer + self.rollout

    def __str__(self) -> str:
        parts = {"weights and gradients": self.network, "optimizer": self.optimizer, "rollout": self.rollout}
        listed = ", ".join(f"{name} {readable(size)}" for name, size in parts.items())
        return f"at least {readable(self.total)} of memory ({listed})"


def readable(size: int) -> str:
    """Bytes for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def memory_need(config: PQNConfig, spec: EnvironmentSpec) -> MemoryNeed:
    """What training with ``config`` needs; nothing is allocated."""
    with torch.device("meta"):
        parameters = list(build_network(config, spec).parameters())
    weights = _bytes(parameters)
    optimizer = optimizer_bytes(parameters, config.optimizer)
    entry = np.dtype(spec.observation_dtype).itemsize
    rows = (config.num_steps + 1) * config.num_envs
    return MemoryNeed(2 * weights, optimizer, rows * math.prod(spec.observation_shape) * entry)


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
    """Refuse a run that cannot fit.

    Raises:
        UsageError: it needs more memory than is free.
    """
    need, free = memory_need(config, spec), available_memory(device)
    if free is not None and need.total > free:
        raise UsageError(
            f"this run needs {need}, and {readable(free)} are free on {device}; "
            "choose a smaller --torso.width or --torso.depth"
        )
