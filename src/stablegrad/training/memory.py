"""What a run needs in memory, before any of it is allocated."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch

from stablegrad.agents.pqn import PQNConfig, build_network
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import UsageError
from stablegrad.hardware import available_memory
from stablegrad.optimizers import Kron
from stablegrad.optimizers.catalogue import OPTIMIZERS

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
        listed = ", ".join(f"{name} {_readable(size)}" for name, size in parts.items())
        return f"at least {_readable(self.total)} of memory ({listed})"


def _readable(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def memory_need(config: PQNConfig, spec: EnvironmentSpec, device: torch.device) -> MemoryNeed:
    """What training with ``config`` needs on ``device``; nothing is allocated."""
    with torch.device("meta"):
        parameters = list(build_network(config, spec).parameters())
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    name = config.optimizer.name
    kron = Kron.estimate(parameters, device=device, **asdict(config.optimizer.kron)) if name == "kron" else None
    optimizer = kron.state_bytes + kron.transient_bytes if kron else OPTIMIZERS[name].state_copies * weights
    entry = np.dtype(spec.observation_dtype).itemsize
    rows = (config.num_steps + 1) * config.num_envs
    return MemoryNeed(2 * weights, optimizer, rows * math.prod(spec.observation_shape) * entry)


def check_memory(config: PQNConfig, spec: EnvironmentSpec, device: torch.device) -> None:
    """Refuse a run that cannot fit.

    Raises:
        UsageError: it needs more memory than is free.
    """
    need, free = memory_need(config, spec, device), available_memory(device)
    if free is not None and need.total > free:
        raise UsageError(
            f"this run needs {need}, and {_readable(free)} are free on {device}; "
            "choose a smaller --torso.width or --torso.depth"
        )
