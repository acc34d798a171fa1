"""Every activation of a forward pass, modules and functions alike, reduced to one figure a unit while it passes.

Hooks on ``nn.ReLU`` see no ``F.relu(x)``: whole residual blocks go unwatched. A ``TorchFunctionMode`` sees each call of
an activation function, whoever makes it, and each exactly once, as a module calls the same function inside. It is on
only during the forward passes that are watched, and goes off with them however they end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stablegrad.diagnostics import calls, metrics
from stablegrad.diagnostics.guard import Guard
from stablegrad.diagnostics.layers import join
from stablegrad.diagnostics.outputs import tensors_in

# Names of activation functions, looked up in torch, torch.Tensor and torch.nn.functional, in place or not.
_NAMES = (
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu", "mish", "glu"),
    *("softplus", "hardswish", "hardtanh", "hardsigmoid", "softsign", "logsigmoid", "tanh", "sigmoid"),
)
#: The values between which a bounded activation lies.
BOUNDED = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0), "hardtanh": (-1.0, 1.0), "hardsigmoid": (0.0, 1.0),
           "softsign": (-1.0, 1.0)}  # fmt: skip


def _functions() -> dict[Callable[..., Any], str]:
    found: dict[Callable[..., Any], str] = {}
    for name in _NAMES:
        for place in (torch, torch.Tensor, F):
            for spelling in (name, f"{name}_"):
                function = getattr(place, spelling, None)
                if function is not None:
                    found[function] = name
    return found


FUNCTIONS = _functions()
_NODES = {name.replace("_", "") for name in _NAMES} | {"threshold", "prelukernel", "rreluwithnoise"}

#: What makes of three dimensions [batch, units, length], and what [batch, tokens, units].
_CHANNELS_FIRST = {torch.conv1d, torch.conv_transpose1d, F.conv1d, F.conv_transpose1d}
_UNITS_LAST = {F.linear, F.layer_norm, F.embedding, F.multi_head_attention_forward, F.scaled_dot_product_attention}
_UNITS_LAST |= {torch.Tensor.transpose, torch.transpose, torch.Tensor.permute, torch.permute}
_UNITS_LAST.add(torch.Tensor.mT.__get__)  # type: ignore[attr-defined]

#: Dimensions of what a convolution gives for an input without a batch dimension.
_CONVOLUTIONS = {
    getattr(place, name): dimensions
    for place in (torch, F)
    for name, dimensions in {
        "conv1d": 2, "conv2d": 3, "conv3d": 4, "conv_transpose1d": 2, "conv_transpose2d": 3, "conv_transpose3d": 4,
    }.items()
}  # fmt: skip

#: Samples of an activation of which its units are judged at least: a ReLU unit is silent on every second one.
MIN_ROWS = 8

#: Modules that make their activations in one piece.
_CLOSED = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)


@dataclass
class Activation:
    """What was seen of one activation since the watch began.

    Attributes:
        function: its name, such as "relu".
        mean_abs: [units] mean of |h| over samples (and space).
        gradient_mean_abs: [units] mean of \\|dL/dh\\|, up to a constant; None before the backward pass.
        saturated: fraction of values at the ends of a bounded function's range; None for others.
        calls: calls of the function that were seen.
        rows: samples (and places, tokens) of all calls.
    """

    function: str
    mean_abs: Tensor
    gradient_mean_abs: Tensor | None = None
    saturated: Tensor | None = None
    calls: int = 1
    rows: int = 0


@dataclass
class _Pass:
    """A forward pass that is under way: an outermost call, and the calls inside it."""

    watching: bool
    mode: _Mode | None = None
    stack: list[nn.Module] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    #: Of three dimensions the second is that of the units.
    channels_first: bool = False
    #: There is no batch dimension: one row is all.
    unbatched: bool = False
    #: Dimensions of what a convolution gives without one.
    space: int = 0


@dataclass(eq=False)
class ActivationWatch:
    """Watches the forward passes of one network between ``start`` and ``stop``.

    A pass is an outermost call of the network, or of a part of it where a program calls the parts by themselves. Passes
    without gradients (acting, targets) are not of the loss and are left out, unless ``without_gradient``; so are those
    inside a backward pass (activation checkpointing computes anew what was seen), those that ``torch.func`` transforms,
    and those that are traced. Threads have passes of their own.

    Attributes:
        model: the network.
        prefix: goes before the names of its modules.
        without_gradient: watch passes without gradients too.
        inside: watch what is inside; False for a compiled network, of which only input and output are seen.
        on_input: called with the arguments of every pass, and whether it is one of the whole network.
        on_output: called with the output of every pass, whether it is one of the whole network, and whether the pass
            was of a single row without a batch dimension.
        on_unseen: called with what could not be seen, and why.
        guard: runs what is called during the passes.
        paused: whether passes, forward and backward, are none of those that are watched.
        seen: activations by site, in forward order.
        order: names of all modules and activations in the order in which they were first called.
    """

    model: nn.Module
    prefix: str = ""
    without_gradient: bool = False
    inside: bool = True
    on_input: Callable[[tuple[Any, ...], dict[str, Any], bool], None] | None = None
    on_output: Callable[[Any, bool, bool], None] | None = None
    on_unseen: Callable[[str], None] | None = None
    guard: Guard = field(default_factory=Guard)
    paused: bool = False
    seen: dict[str, Activation] = field(default_factory=dict)
    order: dict[str, None] = field(default_factory=dict)
    _names: dict[int, tuple[nn.Module, str]] = field(default_factory=dict)
    _local: threading.local = field(default_factory=threading.local)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _seeing: bool = False

    def start(self) -> None:
        """Watch from the next forward pass on, anew; what was seen of too few rows is added to."""
        self.stop()
        self.seen = {site: one for site, one in self.seen.items() if one.rows < MIN_ROWS}
        self.order = {}
        inside = [f"{name}." for name in self.compiled_parts()]
        self._seeing = self.inside and not inside
        self._names = {
            id(module): (module, join(self.prefix, name))
            for name, module in (self.model.named_modules() if self.inside else [("", self.model)])
            # What is inside a compiled part is compiled away; a scripted one is called by no Python code.
            if not any(f"{name}.".startswith(part) for part in inside)
            and not isinstance(module, torch.jit.ScriptModule)
        }
        self._guarded_enter, self._guarded_end = self.guard.wrap(self._enter), self.guard.wrap(self._end_pass)
        self._guarded_see = self.guard.wrap(self.see)
        calls.watch((module for module, _ in self._names.values()), self)

    @property
    def watched(self) -> set[str]:
        """Names of the modules whose calls the newest watch sees: not those inside compiled and scripted parts."""
        return {name for _, name in self._names.values()}

    def compiled_parts(self) -> list[str]:
        """Modules inside the network that are compiled by themselves."""
        return [name for name, module in self.model.named_modules() if name and is_compiled(module)]

    def closed_parts(self) -> list[str]:
        """Kinds of modules in the network that make their activations in one piece, out of sight."""
        parts = [module for module in self.model.modules() if isinstance(module, _CLOSED)]
        return list(dict.fromkeys(map(_kind, parts)))

    def stop(self) -> None:
        """Watch no longer; ``seen`` stays. A pass that is under way is left when it ends."""
        calls.unwatch(self)

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A module is called; returns whether it belongs to a pass."""
        return bool(self._guarded_enter(module, args, kwargs))

    def leave(self, module: nn.Module, output: Any) -> None:
        """The call has ended, however it did."""
        current: _Pass = self._local.current
        current.stack.pop()
        if not current.stack:
            # Never inside the guard: a mode that stays on would see, and could break, what is none of its business.
            self._local.current = None
            if current.mode is not None:
                current.mode.__exit__(None, None, None)
            if current.watching and output is not None:
                self._guarded_end(module, output, current)

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        name = self._names[id(module)][1]
        current: _Pass | None = getattr(self._local, "current", None)
        if current is None:
            if self.paused or torch._C._current_graph_task_id() != -1 or torch.jit.is_tracing():
                return False
            if torch._C._functorch.peek_interpreter_stack() is not None:
                if self.on_unseen is not None:
                    self.on_unseen("passes inside transforms of torch.func are not seen, nor are their activations")
                return False
            current = _Pass(torch.is_grad_enabled() or self.without_gradient)
            if current.watching:
                if self.on_input is not None:
                    self.on_input(args, kwargs, module is self.model)
                given = [one for one in tensors_in((args, kwargs)) if one.is_floating_point()]
                current.unbatched = bool(given) and given[0].ndim == 1
            self._local.current = current
            if current.watching and self._seeing:
                current.mode = _Mode(self, current)
                current.mode.__enter__()
        current.stack.append(module)
        if current.watching and name:
            self.order.setdefault(name)
        return True

    def _end_pass(self, module: nn.Module, output: Any, current: _Pass) -> None:
        if self.on_output is not None:
            self.on_output(output, module is self.model, current.unbatched)

    def see(self, current: _Pass, function: str, h: Tensor) -> None:
        """Reduce one activation's output."""
        if (h.ndim == 1 and current.unbatched) or h.ndim == current.space:
            h = h.unsqueeze(0)
        elif h.ndim < 2:  # such as a value of each row
            return
        if not 2 <= h.ndim <= 5:
            if self.on_unseen is not None:
                self.on_unseen(f"activations of {h.ndim} dimensions are not seen")
            return
        # Three dimensions are [batch, tokens, units], after a 1-d convolution [batch, units, length].
        units_last = (lambda tensor: tensor.mT) if h.ndim == 3 and current.channels_first else (lambda tensor: tensor)
        module = current.stack[-1]
        owner = self._names[id(module)][1]
        # An activation module is the site itself; a function gets its name, numbered where it is called again.
        is_module = module is not self.model and not any(True for _ in module.children()) and not _has_weights(module)
        base = owner if is_module else join(owner, function)
        current.counts[base] = current.counts.get(base, 0) + 1
        site = base if current.counts[base] == 1 else f"{base}#{current.counts[base]}"
        with torch.no_grad():
            mean_abs = metrics.unit_mean_abs(units_last(h.detach()))
            saturated = metrics.saturated_fraction(h.detach(), *BOUNDED[function]) if function in BOUNDED else None
        with self._lock:
            self.order.setdefault(site)
            activation = self.seen.get(site)
            if activation is None or activation.mean_abs.shape != mean_abs.shape:
                activation = self.seen[site] = Activation(function, mean_abs, saturated=saturated)
            else:
                activation.calls += 1
                activation.mean_abs = activation.mean_abs + (mean_abs - activation.mean_abs) / activation.calls
                if saturated is not None and activation.saturated is not None:
                    activation.saturated = activation.saturated + (saturated - activation.saturated) / activation.calls
            activation.rows += h.numel() // max(len(mean_abs), 1)
        if h.requires_grad:

            def see_gradient(gradient: Tensor, activation: Activation = activation) -> None:
                if self.paused or gradient.is_sparse:
                    return
                mean = metrics.unit_mean_abs(units_last(gradient.detach()))
                with self._lock:
                    known = activation.gradient_mean_abs
                    activation.gradient_mean_abs = mean if known is None else known + mean

            h.register_hook(self.guard.wrap(see_gradient))

    def figures(self) -> dict[str, Tensor]:
        """Fractions of dormant, dead, gradient-dormant units and of saturated values, by ``<metric>/<site>``.

        Of activations that were seen on fewer than ``MIN_ROWS`` samples there are none.
        """
        found: dict[str, Tensor] = {}
        for site, activation in self.seen.items():
            if activation.rows < MIN_ROWS:
                continue
            found[f"dormant/{site}"] = metrics.dormant_fraction(activation.mean_abs)
            found[f"dead/{site}"] = metrics.dead_fraction(activation.mean_abs)
            if activation.gradient_mean_abs is not None:
                found[f"gradient_dormant/{site}"] = metrics.gradient_dormant_fraction(activation.gradient_mean_abs)
            if activation.saturated is not None:
                found[f"saturated/{site}"] = activation.saturated
        return found


class _Mode(TorchFunctionMode):
    def __init__(self, watch: ActivationWatch, current: _Pass):
        super().__init__()
        self.watch, self.current = watch, current

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CHANNELS_FIRST:
            self.current.channels_first = True
        elif func in _UNITS_LAST:
            self.current.channels_first = False
        if func in _CONVOLUTIONS and isinstance(result, Tensor) and result.ndim == _CONVOLUTIONS[func]:
            self.current.unbatched, self.current.space = True, result.ndim
        name = FUNCTIONS.get(func)
        if name is not None and isinstance(result, Tensor) and result.is_floating_point():
            self.watch._guarded_see(self.current, name, result)
        return result


def is_activation_node(name: str) -> bool:
    """Whether a node of autograd's graph, such as "ReluBackward0", is one of an activation function."""
    return name.partition("Backward")[0].lower() in _NODES


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is ``torch.compile``'s wrapper of another or was compiled in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def _has_weights(module: nn.Module) -> bool:
    """PReLU has weights of its own and is an activation all the same."""
    return not isinstance(module, nn.PReLU) and any(True for _ in module.parameters(recurse=False))


def _kind(module: nn.Module) -> str:
    """What a person calls a closed module: the class of torch that it is or is made from."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module"
    return "nn." + next(kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn."))
