"""What one process of a run has to work with: its device, threads, place among the ranks, and clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stablegrad.training.config import resolve_device, usable_cores
from stablegrad.training.distributed import Ranks
from stablegrad.training.timing import PartTimer
from stablegrad.training.tuning import keep_freed_memory


@dataclass(frozen=True)
class Resources:
    """Device, threads, ranks and timer of one process."""

    ranks: Ranks
    device: torch.device
    threads: int
    timer: PartTimer

    @classmethod
    def claim(cls, device: str, threads: int, parts: Sequence[str]) -> Resources:
        """Resolve the device, and set torch's threads and the allocator for training.

        Args:
            device: its name, as in the run's configuration.
            threads: of torch; 0: one per core that this process may use.
            parts: of the run that are timed.

        Raises:
            UsageError: no such device on this machine.
        """
        ranks = Ranks()
        found = ranks.device(resolve_device(device))
        threads = threads or max(usable_cores() // ranks.local_size, 1)
        torch.set_num_threads(threads)
        if found.type == "cpu":
            keep_freed_memory()
        return cls(ranks, found, threads, PartTimer(found, parts))
