"""Gradients to updates: Kron, and the field's other optimizers by name."""

from stablegrad.optimizers.catalogue import OPTIMIZERS, default_learning_rate, make_optimizer
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.optimizers.gradients import clip_gradient_norm_
from stablegrad.optimizers.kron import Kron

__all__ = [
    "OPTIMIZERS",
    "Kron",
    "OptimizerConfig",
    "clip_gradient_norm_",
    "default_learning_rate",
    "make_optimizer",
]
