"""What a run needs in memory at its peak, before any of it is allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from stablegrad.agents.catalogue import find_algorithm
from stablegrad.agents.contract import AgentConfig
from stablegrad.agents.off_policy import OffPolicyConfig
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
        experience: the rollout or the replay buffer, in the host's memory where it is a replay buffer.
        checkpoint: copies of weights and state while a checkpoint is written; 0 on a GPU, which holds none of them.
        program: Python and the libraries; 0 on a GPU.
    """

    network: int
    optimizer: int
    experience: int
    checkpoint: int = 0
    program: int = 0

    @property
    def total(self) -> int:
        """What is there between two steps, without which nothing can be trained."""
        return self.network + self.optimizer + self.experience

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
            "experience": self.experience,
            "writing a checkpoint": self.checkpoint,
        }

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {memory(size)}" for name, size in self.parts.items() if size)
        return f"about {memory(self.peak)} of memory at its peak ({listed})"


def memory_need(
    algorithm: str, config: AgentConfig, spec: EnvironmentSpec, device: torch.device | None = None
) -> MemoryNeed:
    """What training with ``config`` needs on ``device`` (the CPU); nothing is allocated."""
    entry = find_algorithm(algorithm)
    with torch.device("meta"):
        networks = entry.build_networks(config, spec)
    parameters = {name: list(network.parameters()) for name, network in networks.items()}
    weights = sum(map(_bytes, parameters.values()))
    optimizer = sum(optimizer_bytes(own, config.optimizer_of(name)) for name, own in parameters.items())
    on_gpu = device is not None and device.type == "cuda"
    return MemoryNeed(
        network=2 * weights,
        optimizer=optimizer,
        experience=entry.experience_bytes(config, spec),
        # Serialised weights beside the optimizer's state as a clone, as bytes, and as the bytes of the file.
        checkpoint=0 if on_gpu else weights + 3 * optimizer,
        program=0 if on_gpu else used_memory() + PROGRAM_GROWTH,
    )


def optimizer_bytes(parameters: Sequence[nn.Parameter], config: OptimizerConfig) -> int:
    """What an optimizer keeps, and takes in passing, for parameters that may lie on the meta device."""
    first_weights = _bytes(parameters) if config.l2_init else 0
    if config.name == "kron":
        options = config.kron
        kron = Kron.estimate(parameters, rule=options.rule, block_size=options.block_size, precision=options.precision)
        return kron.state_bytes + kron.transient_bytes + first_weights
    return OPTIMIZERS[config.name].state_copies * _bytes(parameters) + first_weights


def _bytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)


def check_memory(algorithm: str, config: AgentConfig, spec: EnvironmentSpec, device: torch.device) -> None:
    """Refuse a run that cannot fit: whose parts that stay are more than what is free.

    Raises:
        UsageError: it needs more memory than is free.
    """
    need = memory_need(algorithm, config, spec, device)
    staying = {name: need.parts[name] for name in ("weights and gradients", "optimizer", "experience")}
    if isinstance(config, OffPolicyConfig) and device.type != "cpu":
        # A replay buffer stays in the host's memory.
        replay = {"experience": staying.pop("experience")}
        _require(replay, torch.device("cpu"), "--buffer-size")
    larger = "--buffer-size" if isinstance(config, OffPolicyConfig) else "--num-envs or --num-steps"
    mostly_experience = staying.get("experience", 0) > sum(staying.values()) / 2
    _require(staying, device, larger if mostly_experience else "--torso.width or --torso.depth")


def _require(parts: Mapping[str, int], device: torch.device, smaller: str) -> None:
    needed, free = sum(parts.values()), available_memory(device)
    if free is not None and needed > free:
        listed = ", ".join(f"{name} {memory(size)}" for name, size in parts.items())
        raise UsageError(
            f"this run needs at least {memory(needed)} of memory ({listed}), and {memory(free)} are free on {device}; "
            f"choose a smaller {smaller}"
        )
