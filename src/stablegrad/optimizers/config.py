"""An optimizer by name, from settings that can be written to JSON and given on the command line."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from stablegrad.errors import UsageError, unknown_name
from stablegrad.optimizers.catalogue import OPTIMIZERS, default_learning_rate, make_optimizer


@dataclass(frozen=True)
class OptimizerConfig:
    """What turns gradients into updates."""

    name: str = "radam"
    """adam, adamw, radam, sgd, rmsprop, adabelief, shampoo, apollo, soap, muon or kron."""
    learning_rate: float | None = None
    """The rate itself; None: adam_learning_rate times the optimizer's ratio to Adam (docs/optimizers.md)."""
    adam_learning_rate: float = 2.5e-4
    """The rate at which Adam would train this agent, from which the other optimizers' rates follow."""
    weight_decay: float = 0.0
    """Decoupled where the optimizer knows it, else an L2 penalty."""
    anneal: bool = False
    """Let the rate fall linearly to 0 over the run."""

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise unknown_name("optimizer", self.name, OPTIMIZERS)
        for option in ("learning_rate", "adam_learning_rate"):
            value = getattr(self, option)
            if value is not None and not 0.0 < value < float("inf"):
                raise UsageError(f"optimizer {option.replace('_', '-')} must be above 0, got {value}")
        if not 0.0 <= self.weight_decay < float("inf"):
            raise UsageError(f"optimizer weight-decay must be at least 0, got {self.weight_decay}")

    @property
    def initial_learning_rate(self) -> float:
        """The rate of the first update."""
        if self.learning_rate is not None:
            return self.learning_rate
        return default_learning_rate(self.name, self.adam_learning_rate)

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over all parameters of ``network``."""
        return make_optimizer(
            self.name, network.parameters(), self.initial_learning_rate, weight_decay=self.weight_decay
        )

    def set_learning_rate(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rate for a run of which the share ``progress``, in [0, 1], is done; nothing to do without anneal."""
        if self.anneal:
            for group in optimizer.param_groups:
                group["lr"] = self.initial_learning_rate * max(1.0 - progress, 0.0)
