"""pytorch_optimizer's optimizers, with copies and pickles that work.

torch copies an optimizer's groups, defaults and state; what these keep beside them, such as ``maximize``, gets lost.
"""

from __future__ import annotations

from typing import Any

import pytorch_optimizer
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
    """As of pytorch_optimizer."""
