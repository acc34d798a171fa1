"""What people give to a monitor and a pre-flight, checked: one line that says what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

from stablegrad.diagnostics.rules import Thresholds
from stablegrad.errors import UsageError


def thresholds_of(given: object) -> Thresholds:
    """Thresholds; the defaults for None.

    Raises:
        UsageError: it is something else.
    """
    if given is not None and not isinstance(given, Thresholds):
        raise UsageError(f"thresholds must be Thresholds(name=value, ...), got {type(given).__name__}")
    return given or Thresholds()


def number_of(name: str, value: object) -> float | Tensor:
    """A number, or a tensor of one element.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(value, Tensor):
        if value.numel() == 1 and not value.is_complex():
            return value
        raise UsageError(f"{name} must be a number or a tensor of one element, got a tensor of {tuple(value.shape)}")
    try:
        return float(torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{name} must be a number or a tensor of one element, got {value!r:.80}") from None
