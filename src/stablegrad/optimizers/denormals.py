"""Keeping denormal numbers out of an optimizer.

Floats below the smallest normal one of their dtype (1.2e-38 in float32) lose precision bit by bit, and a CPU may take a
hundred times as long over them. A unit that dies leaves such numbers in a momentum for good: a decay by 0.9 a step gets
there in 800 steps, and rounding keeps it from ever reaching 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from stablegrad.hardware import denormals_flushed, flushes_denormals


@contextmanager
def flushed_on_one_thread() -> Iterator[None]:
    """Have the processor flush denormal numbers, where torch computes on the calling thread alone.

    That costs nothing. Where there are more threads they cannot be reached, and :func:`flush_` does it.
    """
    if torch.get_num_threads() > 1 or torch.compiler.is_compiling():
        yield
    else:
        with denormals_flushed():
            yield


def floor_of_gradients(dtype: torch.dtype) -> float:
    """What counts as 0 in a tensor of any scale: 7e-34 in float32, whose product with 1e-4 is still normal."""
    return torch.finfo(dtype).tiny ** 0.875


def floor_of_updates(dtype: torch.dtype) -> float:
    """What counts as 0 in a tensor of order 1: 1e-19 in float32, below which squares are denormal."""
    return torch.finfo(dtype).tiny ** 0.5


def flush_(tensor: Tensor, floor: float) -> Tensor:
    """Set entries of magnitude ``floor`` and less to 0, in place; all others keep their bits.

    Not where the processor flushes by itself, nor off the CPU: GPUs take denormal numbers at full speed.
    """
    if tensor.device.type != "cpu" or flushes_denormals():
        return tensor
    return torch.hardshrink(tensor, floor, out=tensor)
