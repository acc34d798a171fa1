"""What a network returns, as one tensor: the first one in a tensor, a tuple, a list, a dict or a data class."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor of two or more dimensions in a network's output, or None.

    Searches tuples, lists, dictionaries and data classes in order; a distribution is asked for its logits or mean.
    """
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.ndim >= 2 else None
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, tuple | list):
        parts = list(output)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in dataclasses.fields(output)]
    else:
        parts = [getattr(output, "logits", None), getattr(output, "mean", None)]
        parts = [part for part in parts if isinstance(part, Tensor)]
    for part in parts:
        found = first_tensor(part)
        if found is not None:
            return found
    return None
