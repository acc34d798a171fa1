"""Two consecutive updates of one optimizer, layer by layer.

Norms are of the gradients as they were accumulated, before any clipping: they are taken by hooks that fire when a
parameter's gradient is complete (the last time it fires before the step counts, which is right with gradient
accumulation). The hooks are there for the two steps of a look only.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.guard import Guard
from stablegrad.diagnostics.layers import Layers, plain
from stablegrad.optimizers import Kron


class UpdateWatch:
    """Watches one optimizer; calls back around the steps that are looked at.

    Args:
        optimizer: whose steps are watched.
        layers: of all networks of the monitor.
        numbers: which of ``layers.parameters`` to watch: the optimizer's, and those that no optimizer has.
        looks_at: whether a step, counted from 1, is the second of a look.
        grad_scaler: divides its scale out.
        guard: runs what is called during training; at steps that are not looked at its time is not counted.

    The owner sets ``refresh`` (called before parameters are watched: they may have been replaced), ``before_look``
    (called when the step that is looked at begins, before its forward pass), ``before_step`` and ``after_step`` (around
    the optimizer's step, the latter with the figures of the look).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        layers: Layers,
        numbers: list[int],
        looks_at: Callable[[int], bool],
        grad_scaler: torch.amp.GradScaler | None,
        guard: Guard,
    ):
        self.optimizer = optimizer
        self.looks_at = looks_at
        self.grad_scaler = grad_scaler
        self.guard = guard
        self.assign(layers, numbers)
        # Of the weights before the first step of all, which is not looked at: a rate far too high replaces them.
        self._first_gain: Tensor | None = None
        self.steps = 0
        self.paused = False
        self._left_out = False
        self.refresh: Callable[[], None] = lambda: None
        self.before_look: Callable[[], None] = lambda: None
        self.before_step: Callable[[int], None] = lambda step: None
        self.after_step: Callable[[int, list[str], dict[str, Tensor]], None] = lambda step, names, figures: None
        self.note: Callable[[str], None] = lambda note: None
        self._accumulated: dict[int, Tensor] = {}
        #: Of one parameter: its layer, and the least norm of its gradient before the passes that add to it.
        self._leftover: tuple[int, Tensor] | None = None
        self._gradient_hooks: list[RemovableHandle] = []
        self._first: _Gradients | None = None
        self._second: _Gradients | None = None
        self._weights: list[Tensor] = []
        self._before_update_guarded = guard.wrap(self._before_update)
        #: Running in a hook of the optimizer, which cannot be taken off meanwhile.
        self.stepping = False
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def assign(self, layers: Layers, numbers: list[int]) -> None:
        """Watch these parameters, after others were or at first."""
        self.layers = layers
        self.parameters = [layers.parameters[number] for number in numbers]
        self.layer_of = [layers.layer_of[number] for number in numbers]
        self._counts = [layers.outputs[number] for number in numbers]
        self.trained = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        self._place()

    def _place(self) -> None:
        """Put what is counted once where the parameters are; networks may be moved after their monitor was made."""
        self._sent: dict[tuple[int, ...], Tensor] = {}
        sizes, outputs = [0.0] * len(self.layers.names), [0.0] * len(self.layers.names)
        for layer, parameter, count in zip(self.layer_of, self.parameters, self._counts, strict=True):
            if layer >= 0:
                sizes[layer] += plain(parameter).numel()
                outputs[layer] += count
        multiplied = [layer if count else -1 for layer, count in zip(self.layer_of, self._counts, strict=True)]
        device = self.parameters[0].device
        #: The layer of every parameter, -1 for one of none; the same for matrices that multiply inputs, -1 for others.
        self._layer_of, self._multiplied = (
            torch.tensor(self.layer_of, device=device),
            torch.tensor(multiplied, device=device),
        )
        #: Weights of each layer, and its outputs.
        self._sizes, self._outputs = torch.tensor(sizes, device=device), torch.tensor(outputs, device=device)

    def start(self, leftover: bool = True) -> None:
        """Get ready for the step that comes."""
        coming = self.steps + 1
        if self.looks_at(coming) or self.looks_at(coming + 1):
            self.guard.wrap(self._attach)(self.looks_at(coming), leftover)

    def _attach(self, second: bool, leftover: bool) -> None:
        self.refresh()
        self._accumulated = {}
        accumulate = self.guard.wrap(self._accumulate)
        self._gradient_hooks = [
            parameter.register_post_accumulate_grad_hook(accumulate)
            for parameter in self.parameters
            if parameter.requires_grad and parameter.is_leaf
        ]
        if second:
            self._leftover = None
            # One parameter tells of all; it must have a gradient at the end of the step before.
            first = next((n for n, one in enumerate(self.parameters) if self._may_keep(n, one)), None)
            if first is not None and leftover:
                see = self.guard.wrap(partial(self._see_leftover, first))
                self._gradient_hooks.append(self.parameters[first].register_hook(see))
            self.before_look()

    def close(self) -> None:
        """Take all hooks off; those of the optimizer stay if one of them is running (``stepping``)."""
        self.forget()
        if not self.stepping:
            for handle in self._hooks:
                handle.remove()
            self._hooks = []

    def forget(self) -> None:
        """Drop what is held for a look that is under way."""
        for handle in self._gradient_hooks:
            handle.remove()
        self._gradient_hooks = []
        self._first = self._second = None
        self._weights = []

    def restart(self, steps: int) -> None:
        """Count from ``steps``, and know of nothing before: neither of rates nor of a gradient that is there."""
        self.forget()
        self.steps = steps
        self.start(leftover=False)

    def _may_keep(self, number: int, parameter: Tensor) -> bool:
        # What the optimizer does not have it does not clear: that is another fault.
        if id(parameter) not in self.trained:
            return False
        there = parameter.requires_grad and parameter.is_leaf and parameter.grad is not None
        return there and self.layer_of[number] >= 0

    def _see_leftover(self, number: int, gradient: Tensor) -> None:
        """Called before a gradient is added to what is there.

        Another loss may add to a gradient that its own optimizer clears before it uses it, as an actor's loss does in
        the critic. So a gradient is left over only if it was there before *every* pass until the step.
        """
        if not self.paused:
            left = self.parameters[number].grad
            norm = torch.zeros((), device=gradient.device) if left is None else _norm(left)
            if self._leftover is not None:
                norm = torch.minimum(norm, self._leftover[1])
            self._leftover = (self.layer_of[number], norm)

    def _accumulate(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._accumulated[id(parameter)] = _norm(parameter.grad)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Before a step, or, where that takes a closure, after the closure's first pass, which makes the gradients."""
        if torch.compiler.is_compiling() or not (self.looks_at(self.steps + 1) or self.looks_at(self.steps + 2)):
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self.stepping = True
            try:
                self._before_update_guarded()
            finally:
                self.stepping = False
            return None
        done = False

        def watched() -> Any:
            nonlocal done
            loss = closure()
            if not done:
                done = True
                self._before_update_guarded()
            return loss

        if "closure" in kwargs:
            return args, kwargs | {"closure": watched}
        return (args[0], watched, *args[2:]), kwargs

    @torch.no_grad()
    def _before_update(self) -> None:
        step = self.steps + 1
        first, second = self.looks_at(step + 1), self.looks_at(step)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            self.note("a step was captured into a CUDA graph; what the graph repeats is not seen")
            return
        self._left_out = _leaves_out(self.optimizer)
        if self._left_out:
            return
        if self.grad_scaler is None and _is_asked_by_a_scaler():
            self.note(
                "norms of gradients and errors are as a GradScaler scaled them, too large by its scale; "
                "pass grad_scaler= to the monitor"
            )
        if self._layer_of.device != self.parameters[0].device:
            self._place()
        if step == 1:
            norms = metrics.layer_norms([plain(one) for one in self.parameters], self._multiplied, len(self._sizes))
            self._first_gain = metrics.weight_gain(norms, self._outputs)
        for handle in self._gradient_hooks:
            handle.remove()
        self._gradient_hooks = []
        gradients = self._gradients(keep=first)
        if second:
            self._second = gradients
            self._weights = [plain(parameter).clone() for parameter in self.parameters]
            self.before_step(step)
        else:
            self._first = gradients

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.guard.broken or torch.compiler.is_compiling():
            return
        self.stepping = True
        try:
            self._end_step()
        finally:
            self.stepping = False

    @torch.no_grad()
    def _end_step(self) -> None:
        if self._left_out:
            # Of what was seen until now nothing comes: the look begins anew with the passes that follow.
            self._left_out = False
            if self.looks_at(self.steps + 1):
                self.guard.wrap(self.before_look)()
            return
        self.steps += 1
        if self._second is not None:
            self.guard.wrap(self._end_look)()
        self.start()

    def _end_look(self) -> None:
        assert self._second is not None
        self.after_step(self.steps, *self._figures(self._second))
        self._first = self._second = None
        self._weights = []

    def _gradients(self, keep: bool) -> _Gradients:
        """The gradients of the step that is about to be taken; zeros where there is none."""
        scale = self.grad_scaler.get_scale() if self.grad_scaler is not None else 1.0
        values, norms, present = [], [], []
        for parameter in self.parameters:
            # A gradient that was left from before a layer was frozen is none.
            there = parameter.grad is not None and parameter.requires_grad
            gradient = plain(parameter.grad) if there else torch.zeros_like(plain(parameter))  # type: ignore[arg-type]
            accumulated = self._accumulated.get(id(parameter))
            values.append(gradient.clone() if keep else gradient)
            norms.append(torch.linalg.vector_norm(gradient) if accumulated is None else accumulated / scale)
            present.append(there)
        if any(present) and not self._accumulated:
            self.note("gradients came without a backward pass that could be seen; their norms may be after clipping")
        self._accumulated = {}
        return _Gradients(values, [norm.to(norms[0].device, torch.float32) for norm in norms], present)

    def _figures(self, second: _Gradients) -> tuple[list[str], dict[str, Tensor]]:
        layer_of, count = self._layer_of, len(self.layers.names)
        changes = torch._foreach_sub([plain(parameter) for parameter in self.parameters], self._weights)
        # The norm of a layer is that of its parameters' norms.
        gradient_norm = metrics.layer_norms(second.norms, layer_of, count)
        weight_norm = metrics.layer_norms(self._weights, layer_of, count)
        rates = self._by_layer([_rate_of(group) for group in self.optimizer.param_groups])
        figures = {
            "gradient_norm": gradient_norm,
            "nonfinite": (~gradient_norm.isfinite()).float(),
            "weight_norm": weight_norm,
            "update_ratio": metrics.update_ratio(metrics.layer_norms(changes, layer_of, count), weight_norm),
            "effective_learning_rate": metrics.effective_learning_rate(rates, weight_norm),
        }
        if self._normalises():
            change = metrics.layer_norms(changes, layer_of, count)
            figures["normalised_step"] = metrics.normalised_step(change, rates, self._sizes)
        if self._first is not None:
            first = self._first
            stepped = [metrics.layer_norms(one.values, layer_of, count) for one in (first, second)]
            cosine = metrics.cosine(
                stepped[0], stepped[1], metrics.layer_dots(first.values, second.values, layer_of, count)
            )
            before = metrics.layer_norms(first.norms, layer_of, count)
            figures["gradient_cosine"] = cosine
            figures["gradient_snr"] = metrics.signal_to_noise(before, gradient_norm, cosine * before * gradient_norm)
        if self._first_gain is not None:
            figures["weight_gain"], self._first_gain = self._first_gain, None
        if self._leftover is not None:
            layer, norm = self._leftover
            figures["leftover_gradient"] = torch.full_like(gradient_norm, torch.nan)
            figures["leftover_gradient"][layer] = norm
        # A layer outside this optimizer, and without a gradient (a target network), has no figures at all.
        seen = {
            layer
            for layer, parameter, there in zip(self.layer_of, self.parameters, second.present, strict=True)
            if layer >= 0 and (there or (id(parameter) in self.trained and parameter.requires_grad))
        }
        rows = self._numbers(tuple(sorted(seen)))
        names = [self.layers.names[layer] for layer in sorted(seen)]
        return names, {name: values[rows] for name, values in figures.items()}

    def _numbers(self, numbers: tuple[int, ...]) -> Tensor:
        """Numbers on the parameters' device; they are the same at every look and sent there once."""
        if numbers not in self._sent:
            self._sent[numbers] = torch.tensor(numbers, dtype=torch.int64, device=self._layer_of.device)
        return self._sent[numbers]

    def _normalises(self) -> bool:
        """Whether steps are of the size of the learning rate: divided by a mean of squared gradients, or whitened."""
        if isinstance(self.optimizer, Kron):
            return True
        states = (self.optimizer.state.get(parameter, {}) for parameter in self.parameters)
        return any("exp_avg_sq" in state or "square_avg" in state for state in states)

    def _by_layer(self, of_groups: Sequence[float | Tensor]) -> Tensor:
        """[layers] what the group of a layer's first parameter has; NaN outside the optimizer."""
        device = self.parameters[0].device
        groups = self.optimizer.param_groups
        group_of = {id(parameter): number for number, group in enumerate(groups) for parameter in group["params"]}
        places = [-1] * len(self.layers.names)
        for parameter, layer in zip(self.parameters, self.layer_of, strict=True):
            if layer >= 0 and places[layer] < 0:
                places[layer] = group_of.get(id(parameter), -1)
        place = self._numbers(tuple(places))
        # A number is filled in by the device itself; sending it over would wait for all that the device has to do.
        values = torch.stack(
            [
                one.detach().to(device, torch.float32)
                if isinstance(one, Tensor)
                else torch.full((), one, device=device)
                for one in of_groups
            ]
        )
        return torch.where(place >= 0, values[place.clamp(min=0)], torch.nan)


class _Gradients:
    """Gradients of one step: as handed to the optimizer, their norms before clipping, and which there were."""

    def __init__(self, values: list[Tensor], norms: list[Tensor], present: list[bool]):
        self.values = values
        self.norms = norms
        self.present = present


def _norm(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(plain(gradient)).float()


def _rate_of(group: dict[str, Any]) -> float | Tensor:
    """The learning rate of a group; NaN where it has none that is a single number, as that of Adafactor may be None."""
    rate = group.get("lr")
    if isinstance(rate, Tensor):
        return rate.reshape(()) if rate.numel() == 1 else math.nan
    return float(rate) if isinstance(rate, Real) else math.nan


def _leaves_out(optimizer: Optimizer) -> bool:
    """Whether a fused optimizer is about to leave its update out, as its GradScaler found gradients that overflowed.

    Optimizers that are not fused are not asked for such a step at all. It waits for the device, as the scaler does.
    """
    found: Tensor | None = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _is_asked_by_a_scaler() -> bool:
    """Whether the step that is about to be taken is a GradScaler's, by who is calling.

    Nothing else tells of it where the optimizer is not fused: gradients are divided before the step, as by clipping.
    """
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is torch.amp.GradScaler.step.__code__:
            return bool(frame.f_locals["self"].is_enabled())
    return False
