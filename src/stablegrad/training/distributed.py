"""Several processes that train one run, started by torchrun: all that knows of ranks.

Every process (*rank*) holds the whole agent and an equal share of the run's environments. Each cuts its own share of a
rollout into minibatches and averages every gradient with the others before it is clipped, so all take the same
optimizer steps, and their weights stay equal bit for bit. Rank 0 alone writes the run folder, shows progress and
evaluates. A process that torchrun did not start is rank 0 of 1, for which nothing in here does anything.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stablegrad.agents.contract import AgentConfig
from stablegrad.errors import StablegradError, UsageError

T = TypeVar("T")
Config = TypeVar("Config", bound=AgentConfig)

#: How long a rank waits for the others; longest are the first environments and a checkpoint of rank 0.
TIMEOUT = timedelta(minutes=10)
VARIABLES = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class RankLost(StablegradError):
    """Another process of the run has ended, or cannot be reached."""


class Ranks:
    """The processes of one run, as seen by one of them.

    Attributes:
        size: how many there are.
        rank: number of this one, from 0.
        local_rank: its number on this machine.
        local_size: how many run on this machine.

    Raises:
        UsageError: WORLD_SIZE is set, but not the other variables that torchrun sets.
    """

    def __init__(self) -> None:
        self.size = max(_variable("WORLD_SIZE", 1), 1)
        self.rank = self.local_rank = 0
        self.local_size = 1
        self._joined = False
        if self.size > 1:
            missing = [name for name in VARIABLES if name not in os.environ]
            if missing:
                raise UsageError(
                    f"WORLD_SIZE is {self.size} without {', '.join(missing)}; start several processes with torchrun, "
                    "or unset WORLD_SIZE"
                )
            self.rank, self.local_rank, self.local_size = (_variable(name, 0) for name in VARIABLES[:3])

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, config: Config) -> Config:
        """The agent of one process: the run's, with its share of the environments.

        Raises:
            UsageError: the environments, or a share of a rollout, cannot be divided.
        """
        if self.size == 1:
            return config
        num_envs, rest = divmod(config.num_envs, self.size)
        if rest:
            raise UsageError(
                f"num-envs {config.num_envs} cannot be shared out equally among {self.size} processes; "
                f"try {max(round(config.num_envs / self.size), 1) * self.size}"
            )
        try:
            return dataclasses.replace(config, num_envs=num_envs)
        except UsageError as error:
            raise UsageError(f"in each of {self.size} processes, {error}") from None

    def device(self, device: torch.device) -> torch.device:
        """The device of this process, where the run asks for ``device``: a GPU for each process.

        Raises:
            UsageError: one GPU is asked for by its number, or there are fewer than processes.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        if str(device) != "cuda":
            raise UsageError(f"each of {self.size} processes needs a GPU of its own; ask for cuda, not {device}")
        if self.local_size > torch.cuda.device_count():
            raise UsageError(
                f"torchrun started {self.local_size} processes on this machine, and torch sees "
                f"{torch.cuda.device_count()} CUDA devices; start one for each"
            )
        return torch.device("cuda", self.local_rank)

    @contextmanager
    def joined(self, device: torch.device) -> Iterator[None]:
        """Meet the other processes for as long as the body, or until ``leave``.

        Raises:
            RankLost: they do not come.
        """
        if self.size > 1:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            with _lost_ranks(f"rank {self.rank} did not meet the other {self.size - 1} processes of the run"):
                # Gradients go from GPU to GPU; counts, which are pickled, between the hosts.
                dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
            self._joined = True
        yield
        # Not after an error: whoever notices that this process is gone should find its message told (first_to_tell).
        self.leave()

    def leave(self) -> None:
        """Go on alone: what follows needs no other process."""
        if self._joined:
            self._joined = False
            dist.destroy_process_group()

    def gather(self, value: T) -> list[T]:
        """What every process gave, by rank; all must call it. One that is alone gets its own value.

        Raises:
            RankLost: a process has ended.
        """
        if not self._joined:
            return [value]
        values: list[T] = [value] * self.size
        with _lost_ranks():
            dist.all_gather_object(values, value)
        return values

    def require_agreement(self, value: object, what: str) -> None:
        """Stop where the processes differ in ``value``; all must call it.

        Raises:
            StablegradError: they do; it says in ``what``.
        """
        values = self.gather(value)
        other = next((rank for rank, theirs in enumerate(values) if theirs != values[0]), None)
        if other is not None:
            raise StablegradError(f"the processes of this run differ (rank {other} from rank 0) in {what}")

    def average_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients by their means over all processes, the same bits in each; all must call it.

        One message for all of them: gradients of these networks are many and small.

        Args:
            parameters: parameters that all have a gradient of one dtype.

        Raises:
            RankLost: a process has ended.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        with _lost_ranks():
            dist.all_reduce(flat)
        flat /= self.size
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])


def checksums(parameters: Sequence[Tensor]) -> list[int]:
    """A number for each float32 parameter that follows from its bits alone, in whatever order they are added up."""
    return torch.stack([parameter.detach().view(torch.int32).sum() for parameter in parameters]).tolist()


def refuse_torchrun(command: str) -> None:
    """Say that a command is one process's work.

    Raises:
        UsageError: torchrun started several.
    """
    if _variable("WORLD_SIZE", 1) > 1:
        raise UsageError(f"torchrun is for 'train' and 'resume'; start '{command}' without it")


def first_to_tell() -> bool:
    """Whether this process should say why the run ended: of those that torchrun started, only the first that asks."""
    if "RANK" not in os.environ:
        return True
    try:
        store = dist.TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(seconds=5)
        )
        return store.add(f"stablegrad/told/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '')}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return True  # the store went down with rank 0 (another launcher than torchrun): twice is better than never


def _variable(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UsageError(f"environment variable {name} should be a number, got {value!r}")
    return int(value)


@contextmanager
def _lost_ranks(message: str = "another process of this run ended or cannot be reached") -> Iterator[None]:
    """torch.distributed's errors as one line."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise RankLost(f"{message}; 'stablegrad resume' under torchrun continues from the last checkpoint") from error
