"""What the machine can do fast."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices faster than float32 ones.

    A CPU does with AMX or with AVX512-BF16; without, torch emulates it many times slower than float32.
    """
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False


def flushes_denormals() -> bool:
    """Whether the calling thread takes denormal numbers, those below a dtype's smallest normal one, for 0."""
    smallest = sys.float_info.min
    return smallest / 2 == 0.0


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Have denormal numbers taken for 0, which a CPU handles ten times slower than others; as before afterwards.

    Processors keep this for each thread. It holds for the calling one and for the threads it starts meanwhile, torch's
    own among them, which keep it; torch's threads that run already stay as they are. So enter this before the first
    parallel operation of a process. Also a decorator.
    """
    before = flushes_denormals()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def available_memory(device: torch.device) -> int | None:
    """Bytes that a new process could have on ``device``; None where that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    limits = [_system_memory(), _container_memory()]
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None


def used_memory() -> int:
    """The most bytes of main memory that this process has had so far."""
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte


def _system_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None  # not Linux
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _container_memory() -> int | None:
    """A container's limit (cgroup v2)."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return None  # none
