"""What a network takes and returns, as tensors: in a tensor, a tuple, a list, a dict, a data class, a distribution."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

#: Structures inside structures that are searched at most.
MAX_DEPTH = 8
#: Parts of a list that are searched at most.
MAX_PARTS = 64


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in what a network takes or returns, in order; of a distribution its parameters."""
    return list(_search(value, MAX_DEPTH))


def first_tensor(output: Any) -> Tensor | None:
    """The first floating-point tensor of two or more dimensions in a network's output, or None.

    Searches tuples, lists, dictionaries, data classes and distributions in order; of other objects, the attributes that
    they store. Properties are not read, as they may run any code.
    """
    return next((one for one in _search(output, MAX_DEPTH) if one.is_floating_point() and one.ndim >= 2), None)


def _search(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for part in value.values():
            yield from _search(part, depth - 1)
    elif depth and isinstance(value, tuple | list):
        for part in islice(value, MAX_PARTS):
            yield from _search(part, depth - 1)
    elif depth and dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _search(getattr(value, field.name, None), depth - 1)
    elif depth and not isinstance(value, nn.Module | Transform | type) and not callable(value):
        kinds = Tensor | Distribution | tuple | list
        for part in getattr(value, "__dict__", {}).values():
            if isinstance(part, kinds):
                yield from _search(part, depth - 1)
