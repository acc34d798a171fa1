"""Optimizers by name: Kron, torch's own and some of pytorch_optimizer's, on one scale of learning rates."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stablegrad.errors import UsageError, unknown_name
from stablegrad.optimizers.partition import matrix_shape

# Kron's learning rate over Adam's. arXiv 2506.15544 divides by 3; in a sweep over small and deep networks Adam's own
# rate was the best of a third, one and three times it (docs/benchmarks.md).
KRON_LR_RATIO = 1.0

# RMSProp grafting of pytorch_optimizer's LayerWiseGrafting, by value so that naming it does not import the package.
GRAFT_RMSPROP = 3


@dataclass(frozen=True)
class OptimizerEntry:
    """One line of the catalogue.

    Attributes:
        module: where the class is; imported on use, as pytorch_optimizer takes seconds to load.
        attribute: the class.
        lr_ratio: its learning rate over the one at which Adam trains the same network.
        options: what differs here from the class's own defaults.
        fused: whether the class has a fused implementation.
        state_copies: tensors as large as the parameters that it keeps at least; Kron's are counted by itself.
    """

    module: str
    attribute: str
    lr_ratio: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    fused: bool = False
    state_copies: int = 2

    def load(self) -> Callable[..., torch.optim.Optimizer]:
        """The optimizer class."""
        return getattr(importlib.import_module(self.module), self.attribute)


# Apollo is the quasi-Newton method of Ma (arXiv 2009.13586), which pytorch_optimizer calls ApolloDQN; its APOLLO is
# another method, a low-rank AdamW. Its rate rises over the first 500 steps, from a thousandth. Shampoo is the blocked
# form with RMSProp grafting (Anil et al., arXiv 2002.09018): grafting and an averaging momentum put its step on Adam's
# scale, and no inverse root is larger than a block. Muon's steps are scaled to Adam's (Liu et al., arXiv 2502.16982).
OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adam": OptimizerEntry("torch.optim", "Adam", fused=True),
    "adamw": OptimizerEntry("torch.optim", "AdamW", fused=True),
    "radam": OptimizerEntry("torch.optim", "RAdam", options={"foreach": True}),
    "sgd": OptimizerEntry("torch.optim", "SGD", lr_ratio=40.0, fused=True, state_copies=0),
    "rmsprop": OptimizerEntry("torch.optim", "RMSprop", options={"foreach": True}, state_copies=1),
    "adabelief": OptimizerEntry("pytorch_optimizer", "AdaBelief"),
    "shampoo": OptimizerEntry(
        "stablegrad.optimizers.shampoo",
        "Shampoo",
        options={
            "graft_type": GRAFT_RMSPROP,
            "moving_average_for_momentum": True,
            "decoupled_weight_decay": True,
            "preconditioning_compute_steps": 50,
            "block_size": 256,
        },
        state_copies=3,
    ),
    "apollo": OptimizerEntry(
        "pytorch_optimizer", "ApolloDQN", lr_ratio=10.0, options={"init_lr": None, "weight_decay_type": "decoupled"}
    ),
    "soap": OptimizerEntry("pytorch_optimizer", "SOAP"),
    "muon": OptimizerEntry("pytorch_optimizer", "Muon", options={"use_adjusted_lr": True}, state_copies=1),
    "kron": OptimizerEntry("stablegrad.optimizers.kron", "Kron", lr_ratio=KRON_LR_RATIO),
}


def default_learning_rate(name: str, adam_lr: float) -> float:
    """The learning rate to start from with optimizer ``name`` where Adam would use ``adam_lr``.

    Raises:
        UsageError: there is no such optimizer.
    """
    return adam_lr * _entry(name).lr_ratio


def make_optimizer(
    name: str, params: ParamsT, lr: float | Tensor, *, weight_decay: float = 0.0, **options: Any
) -> torch.optim.Optimizer:
    """Build an optimizer by name.

    Args:
        name: one of :data:`OPTIMIZERS`.
        params: parameters, named parameters or parameter groups.
        lr: learning rate of that optimizer; see :func:`default_learning_rate`.
        weight_decay: decoupled where the optimizer offers it, else an L2 penalty (adam, radam, sgd, rmsprop).
        **options: passed to the optimizer, over the catalogue's own settings.

    Raises:
        UsageError: there is no such optimizer, it has no such option, or refuses its value.
    """
    entry = _entry(name)
    optimizer = entry.load()
    known = [option for option in inspect.signature(optimizer).parameters if option not in ("params", "lr", "kwargs")]
    for option in options:
        if option not in known:
            raise unknown_name(f"option of optimizer {name}", option, known)
    for argument, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not 0 <= value < float("inf"):
            raise UsageError(f"optimizer {name}: {argument} must be at least 0, got {value}")
    groups: list[Any] = list(params)
    settings = {**entry.options, **options}
    if entry.fused and not {"fused", "foreach"} & settings.keys():
        settings["fused" if _fusible(groups) else "foreach"] = True
    if name == "muon":
        groups = _muon_groups(groups)
        settings = {"adamw_lr": lr, "adamw_wd": weight_decay, **settings}
    try:
        return optimizer(groups, lr=lr, weight_decay=weight_decay, **settings)
    except UsageError:
        raise
    except Exception as error:  # each library has its own exceptions for an argument that it refuses
        raise UsageError(f"optimizer {name}: {error}") from error


def _entry(name: str) -> OptimizerEntry:
    if name not in OPTIMIZERS:
        raise unknown_name("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def _tensors(group: Any) -> Iterable[Tensor]:
    """The parameters of what may be a parameter, a (name, parameter) pair or a parameter group."""
    if isinstance(group, Tensor):
        return [group]
    if isinstance(group, tuple):
        return [group[1]]
    members = group["params"]
    return [members] if isinstance(members, Tensor) else [tensor for one in members for tensor in _tensors(one)]


def _fusible(groups: list[Any]) -> bool:
    """Whether torch's fused kernels take all parameters."""
    tensors = [tensor for group in groups for tensor in _tensors(group)]
    return all(tensor.is_floating_point() and tensor.device.type in ("cpu", "cuda") for tensor in tensors)


def _muon_groups(groups: list[Any]) -> list[dict[str, Any]]:
    """Split parameters for Muon: matrices and convolutions to Muon, everything else to the AdamW that it carries.

    A parameter group that already says ``use_muon`` stays as it is. Muon's authors also leave the first and the last
    layer to AdamW; from the parameters alone those cannot be told, so give groups with ``use_muon`` for that.
    """
    result: list[dict[str, Any]] = []
    loose = [group for group in groups if not isinstance(group, dict)]
    for group in [{"params": loose}] if loose else groups:
        if "use_muon" in group:
            result.append(dict(group))
            continue
        members = list(_tensors(group))
        matrices = [tensor for tensor in members if tensor.dim() >= 2 and min(matrix_shape(tensor.shape)) > 1]
        kept = {id(tensor) for tensor in matrices}
        others = [tensor for tensor in members if id(tensor) not in kept]
        result += [
            {**group, "params": part, "use_muon": use_muon}
            for part, use_muon in ((matrices, True), (others, False))
            if part
        ]
    return result
