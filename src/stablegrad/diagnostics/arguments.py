"""What people give to a monitor and a pre-flight, checked: one line that says what was expected."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from stablegrad.diagnostics.rules import Thresholds
from stablegrad.errors import UsageError


def optimizers_of(given: object) -> list[Optimizer]:
    """One optimizer, or several, as a list.

    Raises:
        UsageError: it is something else, or there is none.
    """
    found = [given] if isinstance(given, Optimizer) else list(given) if isinstance(given, Iterable) else [given]
    optimizers = [one for one in found if isinstance(one, Optimizer)]
    if not optimizers or len(optimizers) < len(found):
        wrong = next((one for one in found if not isinstance(one, Optimizer)), None)
        got = "none" if not found else "None" if wrong is None else type(wrong).__name__
        raise UsageError(
            "optimizer must be the torch.optim.Optimizer that trains the model, such as "
            f"torch.optim.Adam(model.parameters()), or a list of them; got {got}"
        )
    return optimizers


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
