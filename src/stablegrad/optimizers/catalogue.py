"""Optimizers by name: Kron, torch's own and some of pytorch_optimizer's, on one scale of learning rates."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from stablegrad.errors import UsageError, unknown_name

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
        sharded: whether it steps parameters that FSDP2 has sharded (DTensor).
        state_copies: tensors as large as the parameters that it keeps at least; Kron's are counted by itself.
    """

    module: str
    attribute: str
    lr_ratio: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    fused: bool = False
    sharded: bool = True
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
    "adabelief": OptimizerEntry("stablegrad.optimizers.third_party", "AdaBelief"),
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
        "stablegrad.optimizers.third_party",
        "ApolloDQN",
        lr_ratio=10.0,
        options={"init_lr": None, "weight_decay_type": "decoupled"},
        sharded=False,
    ),
    "soap": OptimizerEntry("stablegrad.optimizers.third_party", "SOAP", sharded=False),
    "muon": OptimizerEntry("stablegrad.optimizers.muon", "Muon", options={"use_adjusted_lr": True}, state_copies=1),
    "kron": OptimizerEntry("stablegrad.optimizers.kron", "Kron", lr_ratio=KRON_LR_RATIO, sharded=False),
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
    # The parameters are looked at before the optimizer gets them, and may come from a generator.
    groups: list[Any] = [
        {**group, "params": list(group["params"])}
        if isinstance(group, dict) and isinstance(group["params"], Iterator)
        else group
        for group in params
    ]
    if not entry.sharded and (
        shards := [tensor for group in groups for tensor in tensors_of(group) if _is_shard(tensor)]
    ):
        raise UsageError(
            f"optimizer {name} needs whole tensors, got a parameter of shape {tuple(shards[0].shape)} that is sharded "
            f"(FSDP2); those that step it: {', '.join(one for one, other in OPTIMIZERS.items() if other.sharded)}"
        )
    settings = {**entry.options, **options}
    if entry.fused and not {"fused", "foreach"} & settings.keys():
        settings["fused" if _fusible(groups) else "foreach"] = True
    if name == "muon":
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


def tensors_of(group: Any) -> Iterable[Tensor]:
    """The parameters of what may be a parameter, a (name, parameter) pair or a parameter group."""
    if isinstance(group, Tensor):
        return [group]
    if isinstance(group, tuple):
        return [group[1]]
    members = group["params"]
    return [members] if isinstance(members, Tensor) else [tensor for one in members for tensor in tensors_of(one)]


def _fusible(groups: list[Any]) -> bool:
    """Whether torch's fused kernels take all parameters; there is none of SGD for sharded ones."""
    tensors = [tensor for group in groups for tensor in tensors_of(group)]
    return all(
        tensor.is_floating_point() and tensor.device.type in ("cpu", "cuda") and not _is_shard(tensor)
        for tensor in tensors
    )


def _is_shard(tensor: Tensor) -> bool:
    return is_traceable_wrapper_subclass(tensor.data)
