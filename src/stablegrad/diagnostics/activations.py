"""Every activation of a forward pass, modules and functions alike, reduced to one figure a unit while it passes.

Hooks on ``nn.ReLU`` see no ``F.relu(x)``: whole residual blocks go unwatched. A ``TorchFunctionMode`` sees each call of
an activation function, whoever makes it, and each exactly once, as a module calls the same function inside. It is on
only during the forward passes that are watched; at all other times nothing is registered anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.layers import join
from stablegrad.diagnostics.stopwatch import Stopwatch

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

#: What makes of three dimensions [batch, units, length], and what [batch, tokens, units].
_CHANNELS_FIRST = {torch.conv1d, torch.conv_transpose1d, F.conv1d, F.conv_transpose1d}
_UNITS_LAST = {F.linear, F.layer_norm, F.embedding, F.multi_head_attention_forward, F.scaled_dot_product_attention}
_UNITS_LAST |= {torch.Tensor.transpose, torch.transpose, torch.Tensor.permute, torch.permute}
_UNITS_LAST.add(torch.Tensor.mT.__get__)  # type: ignore[attr-defined]

#: Modules that make their activations in one piece.
_CLOSED = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)


@dataclass
class Activation:
    """What was seen of one activation since the watch began.

    Attributes:
        function: its name, such as "relu".
        mean_abs: [units] mean of |h| over samples (and space).
        gradient_mean_abs: [units] mean of \\|dL/dh\\|, up to a constant; None before the backward pass.
        saturated: share of values at the ends of a bounded function's range; None for others.
        calls: forward passes seen.
    """

    function: str
    mean_abs: Tensor
    gradient_mean_abs: Tensor | None = None
    saturated: Tensor | None = None
    calls: int = 1


@dataclass
class ActivationWatch:
    """Watches the forward passes of one network between ``start`` and ``stop``.

    A pass is an outermost call of the network, or of a part of it where a program calls the parts by themselves. Passes
    without gradients (acting, targets) are not of the loss and are left out, unless ``without_gradient``.

    Attributes:
        model: the network.
        prefix: goes before the names of its modules.
        without_gradient: watch passes without gradients too.
        inside: watch what is inside; False for a compiled network, of which only input and output are seen.
        on_input: called with the arguments of every pass, and whether it is one of the whole network.
        on_output: called with the output of every pass.
        on_unseen: called with what could not be seen, and why.
        stopwatch: runs while this is at work during the passes.
        paused: whether passes, forward and backward, are none of those that are watched.
        seen: activations by site, in forward order.
        order: names of all modules and activations in the order in which they were first called.
    """

    model: nn.Module
    prefix: str = ""
    without_gradient: bool = False
    inside: bool = True
    on_input: Callable[[tuple[Any, ...], dict[str, Any], bool], None] | None = None
    on_output: Callable[[Any], None] | None = None
    on_unseen: Callable[[str], None] | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    paused: bool = False
    seen: dict[str, Activation] = field(default_factory=dict)
    order: dict[str, None] = field(default_factory=dict)
    _hooks: list[RemovableHandle] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)
    _stack: list[nn.Module] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)
    _mode: _Mode | None = None
    _watching: bool = False
    _seeing: bool = False
    _channels_first: bool = False

    def start(self) -> None:
        """Watch from the next forward pass on, anew."""
        self.stop()
        self.seen, self.order = {}, {}
        self._names = {}
        enter, leave = self.stopwatch.timed(self._enter), self.stopwatch.timed(self._leave)
        inside = [f"{name}." for name in self.compiled_parts()]
        self._seeing = self.inside and not inside
        for name, module in self.model.named_modules() if self.inside else [("", self.model)]:
            # Hooks inside a compiled part are compiled away or break its graph; a scripted one takes none.
            if any(f"{name}.".startswith(part) for part in inside) or isinstance(module, torch.jit.ScriptModule):
                continue
            self._names[id(module)] = join(self.prefix, name)
            self._hooks.append(module.register_forward_pre_hook(_Hook(enter), with_kwargs=True))
            self._hooks.append(module.register_forward_hook(_Hook(leave), always_call=True))

    @property
    def watched(self) -> set[str]:
        """Names of the modules whose calls the newest watch sees: not those inside compiled and scripted parts."""
        return set(self._names.values())

    def compiled_parts(self) -> list[str]:
        """Modules inside the network that are compiled by themselves."""
        return [name for name, module in self.model.named_modules() if name and is_compiled(module)]

    def closed_parts(self) -> list[str]:
        """Kinds of modules in the network that make their activations in one piece, out of sight."""
        parts = [module for module in self.model.modules() if isinstance(module, _CLOSED)]
        return list(dict.fromkeys(map(_kind, parts)))

    def stop(self) -> None:
        """Watch no longer; ``seen`` stays."""
        self._end_pass()
        self._stack = []
        for handle in self._hooks:
            handle.remove()
        self._hooks = []

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or self.paused:
            return
        if not self._stack:
            self._watching = torch.is_grad_enabled() or self.without_gradient
            if self._watching:
                self._counts = {}
                if self.on_input is not None:
                    self.on_input(args, kwargs, module is self.model)
                self._channels_first = False
                if self._seeing:
                    self._mode = _Mode(self)
                    self._mode.__enter__()
        self._stack.append(module)
        if self._watching and self._names[id(module)]:
            self.order.setdefault(self._names[id(module)])

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or not self._stack or self._stack[-1] is not module:
            return
        self._stack.pop()
        if self._stack:
            return
        if self._watching and self.on_output is not None and output is not None:
            self.on_output(output)
        self._end_pass()

    def _end_pass(self) -> None:
        self._watching = False
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def see(self, function: str, h: Tensor) -> None:
        """Reduce one activation's output."""
        if not 2 <= h.ndim <= 5:
            if self.on_unseen is not None:
                self.on_unseen(f"activations of {h.ndim} dimensions are not seen")
            return
        # Three dimensions are [batch, tokens, units], after a 1-d convolution [batch, units, length].
        units_last = (lambda tensor: tensor.mT) if h.ndim == 3 and self._channels_first else (lambda tensor: tensor)
        module = self._stack[-1]
        owner = self._names[id(module)]
        # An activation module is the site itself; a function gets its name, numbered where it is called again.
        is_module = module is not self.model and not any(True for _ in module.children()) and not _has_weights(module)
        base = owner if is_module else join(owner, function)
        self._counts[base] = self._counts.get(base, 0) + 1
        site = base if self._counts[base] == 1 else f"{base}#{self._counts[base]}"
        self.order.setdefault(site)
        with torch.no_grad():
            mean_abs = metrics.unit_mean_abs(units_last(h.detach()))
            saturated = metrics.saturated_fraction(h.detach(), *BOUNDED[function]) if function in BOUNDED else None
        activation = self.seen.get(site)
        if activation is None or activation.mean_abs.shape != mean_abs.shape:
            activation = self.seen[site] = Activation(function, mean_abs, saturated=saturated)
        else:
            activation.calls += 1
            activation.mean_abs = activation.mean_abs + (mean_abs - activation.mean_abs) / activation.calls
            if saturated is not None and activation.saturated is not None:
                activation.saturated = activation.saturated + (saturated - activation.saturated) / activation.calls
        if h.requires_grad:

            def see_gradient(gradient: Tensor, activation: Activation = activation) -> None:
                if self.paused:
                    return
                mean = metrics.unit_mean_abs(units_last(gradient.detach()))
                known = activation.gradient_mean_abs
                activation.gradient_mean_abs = mean if known is None else known + mean

            h.register_hook(self.stopwatch.timed(see_gradient))

    def figures(self) -> dict[str, Tensor]:
        """Share of dormant, dead, gradient-dormant units and of saturated values, by ``<metric>/<site>``."""
        found: dict[str, Tensor] = {}
        for site, activation in self.seen.items():
            found[f"dormant/{site}"] = metrics.dormant_fraction(activation.mean_abs)
            found[f"dead/{site}"] = metrics.dead_fraction(activation.mean_abs)
            if activation.gradient_mean_abs is not None:
                found[f"gradient_dormant/{site}"] = metrics.gradient_dormant_fraction(activation.gradient_mean_abs)
            if activation.saturated is not None:
                found[f"saturated/{site}"] = activation.saturated
        return found


class _Mode(TorchFunctionMode):
    def __init__(self, watch: ActivationWatch):
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _CHANNELS_FIRST:
            self.watch._channels_first = True
        elif func in _UNITS_LAST:
            self.watch._channels_first = False
        name = FUNCTIONS.get(func)
        if name is not None and isinstance(result, Tensor) and result.is_floating_point() and result.ndim >= 2:
            with self.watch.stopwatch:
                self.watch.see(name, result)
        return result


class _Hook:
    """A hook that stays behind when its module is copied or pickled, as target networks and checkpoints are."""

    def __init__(self, function: Callable[..., None]):
        self.function = function

    def __call__(self, *arguments: Any) -> None:
        self.function(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> tuple[Any, ...]:
        return _give_nothing, ()


def _nothing(*arguments: Any) -> None:
    """What a copied hook does."""


def _give_nothing() -> Callable[..., None]:
    return _nothing


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
