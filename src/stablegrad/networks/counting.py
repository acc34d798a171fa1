"""How big a network will be, before a byte of it is allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def parameter_count(build: Callable[[], nn.Module] | nn.Module) -> int:
    """Number of trainable and frozen parameters, each shared one counted once.

    Args:
        build: a module, or a function without arguments that makes one. The function is called on the meta device, so
            ``parameter_count(lambda: MLPTorso(3136, "xlarge", "xlarge"))`` needs no memory.
    """
    if not isinstance(build, nn.Module):
        with torch.device("meta"):
            build = build()
    return sum(parameter.numel() for parameter in build.parameters())
