"""pytorch_optimizer's optimizers, with copies and pickles that work.

torch copies an optimizer's groups, defaults and state; what these keep beside them, such as ``maximize``, gets lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor
from torch.optim import Optimizer


class Whole(Optimizer):
    """An optimizer whose copies and pickles have its settings as well: its public attributes that are no functions."""

    def __getstate__(self) -> dict[str, Any]:
        own = {name: value for name, value in vars(self).items() if not name.startswith("_") and not callable(value)}
        return {**own, **super().__getstate__()}


class AdaBelief(Whole, pytorch_optimizer.AdaBelief):
    """As of pytorch_optimizer."""


class ApolloDQN(Whole, pytorch_optimizer.ApolloDQN):
    """As of pytorch_optimizer."""


class SOAP(Whole, pytorch_optimizer.SOAP):
    """As of pytorch_optimizer, with a state that goes on bit for bit after it was saved.

    Its bases are transposed in memory, as QR makes them, and a file keeps them in order; products of the two round
    differently on some processors.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns the closure's loss."""
        loss = super().step(closure)
        for state in self.state.values():
            for name, value in state.items():
                if isinstance(value, list):
                    state[name] = [one.contiguous() if isinstance(one, Tensor) else one for one in value]
                elif isinstance(value, Tensor) and value.layout == torch.strided:
                    state[name] = value.contiguous()
        return loss
