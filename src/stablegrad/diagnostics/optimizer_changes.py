"""Changes of what trains a network: learning rates, gradients and steps; made in place, as of ``changes``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.errors import UsageError

RATE_FACTOR = 10.0
MAX_NORM = 1.0
#: Change of a weight matrix in one step, over its norm, to which steps are cut: some times a healthy early step.
MAX_STEP = 0.02
#: Root mean square that weights and biases are taken to have at least where steps are cut, so that zeros can move.
LEAST_WEIGHT, LEAST_BIAS = 1e-2, 1e-1
#: Times the rate that a schedule starts from above which ``steady_rate`` takes a rise for a leap.
RATE_CEILING = 2.0
#: ``eps`` of an optimizer above which it may outweigh gradients.
LARGEST_EPS = 1e-3
#: Part of the weights that decay may take in one step, and the one that it is brought to; coupled decay by its factor.
LARGEST_DECAY, USUAL_DECAY = 5e-3, 1e-5
LARGEST_PENALTY, USUAL_PENALTY = 0.05, 1e-4


class CannotApply(UsageError):
    """A change that this network or optimizer does not allow to be made by itself."""


def lower_learning_rate(model: nn.Module, optimizer: Optimizer, factor: float = 1 / RATE_FACTOR) -> Optimizer:
    """A tenth of the learning rate, or another part of it."""
    return _scale_rate(optimizer, factor)


def raise_learning_rate(model: nn.Module, optimizer: Optimizer, factor: float = RATE_FACTOR) -> Optimizer:
    """Ten times the learning rate, or another multiple of it."""
    return _scale_rate(optimizer, factor)


def clip_gradients(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Clip the norm of all gradients together to 1 before every step."""
    optimizer.register_step_pre_hook(_clip)
    return optimizer


def _clip(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], MAX_NORM)


def reset_optimizer_state(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Forget moments and preconditioners, which are built up anew; an ``eps`` that outweighs gradients becomes 1e-8."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        if group.get("eps", 0.0) > LARGEST_EPS:
            group["eps"] = 1e-8
    return optimizer


def limit_updates(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """No step changes a parameter by more than 2% of its norm; the direction stays."""
    before: dict[int, Tensor] = {}

    @torch.no_grad()
    def keep(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        before.update((id(one), one.detach().clone()) for one in _parameters(optimizer))

    @torch.no_grad()
    def cut(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for one in _parameters(optimizer):
            old = before.pop(id(one), None)
            if old is None:
                continue
            least = LEAST_WEIGHT if one.ndim >= 2 else LEAST_BIAS
            limit = MAX_STEP * old.norm().clamp_min(least * math.sqrt(one.numel()))
            one.copy_(old + (one - old) * (limit / (one - old).norm().clamp_min(1e-30)).clamp_max(1.0))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(cut)
    return optimizer


def steady_rate(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """A learning rate that no schedule takes down again, nor far above its first one: leaps are left out."""
    first = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    # What a schedule has taken away already comes back.
    highest = {place: one for place, one in enumerate(first) if float(optimizer.param_groups[place]["lr"]) < one}

    def hold(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for place, group in enumerate(optimizer.param_groups[: len(first)]):
            rate = float(group["lr"])
            if not first[place] or rate <= RATE_CEILING * first[place]:
                highest[place] = max(highest.get(place, 0.0), rate)
            held = highest.get(place, first[place])
            if held != rate:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(held)
                else:
                    group["lr"] = held

    optimizer.register_step_pre_hook(hold)
    return optimizer


def clear_gradients(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Gradients are dropped after every step."""
    optimizer.register_step_post_hook(_clear)
    return optimizer


def _clear(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for one in _parameters(optimizer):
        one.grad = None


def decays_strongly(optimizer: Optimizer) -> bool:
    """Whether weight decay takes a good part of the weights in every step."""
    return any(_decay(optimizer, group)[0] > _decay(optimizer, group)[1] for group in optimizer.param_groups)


def weaker_decay(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """A usual weight decay where it takes a good part of the weights in every step."""
    if not decays_strongly(optimizer):
        raise CannotApply("weaker_decay: weight decay is of a usual strength, or there is none")
    for group in optimizer.param_groups:
        strength, largest, usual = _decay(optimizer, group)
        if strength > largest:
            group["weight_decay"] *= usual / strength
    return optimizer


def _decay(optimizer: Optimizer, group: dict[str, Any]) -> tuple[float, float, float]:
    """(strength of a group's decay, the largest, a usual one): part of the weights a step, or factor of a penalty."""
    strength = float(group.get("weight_decay", 0.0))
    if type(optimizer).__name__ in ("AdamW", "Kron") or group.get("decoupled_weight_decay", False):
        # By the rate that schedules start from, as a warm-up begins at next to none.
        rate = group.get("initial_lr", group.get("lr"))
        return strength * float(math.nan if rate is None else rate), LARGEST_DECAY, USUAL_DECAY
    return strength, LARGEST_PENALTY, USUAL_PENALTY


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def _scale_rate(optimizer: Optimizer, factor: float) -> Optimizer:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(factor)
        else:
            group["lr"] *= factor
        # Schedulers of torch compute the rate from this one.
        if "initial_lr" in group:
            group["initial_lr"] = group["initial_lr"] * factor
    return optimizer
