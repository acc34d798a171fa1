"""The monitor: two lines beside anybody's training loop, and nothing to change in it.

    monitor = Monitor(model, optimizer)
    ...train...
    print(monitor.report())

Around every ``every``-th optimizer step it looks at two consecutive updates: gradients before clipping, the change of
the weights, what each activation passes on, the error signal that enters at the output. At a slower cadence it runs the
network on a *probe* batch for ranks and churn. Between these steps it costs a comparison of integers. Figures are
reduced on the device, stacked into one tensor a look, and read when the next look is taken, long after the device has
computed them: a look waits for nothing, only a probing does.

The monitor changes nothing: no random number is drawn from the program's streams, no gradient is touched, and the probe
runs without gradients in evaluation mode.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.activations import ActivationWatch, is_compiled
from stablegrad.diagnostics.arguments import number_of, thresholds_of
from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.interventions import fitting
from stablegrad.diagnostics.layers import find_layers
from stablegrad.diagnostics.outputs import first_tensor
from stablegrad.diagnostics.probe import Probe, evaluation
from stablegrad.diagnostics.report import Report, beside_in_words
from stablegrad.diagnostics.rules import Thresholds, judge
from stablegrad.diagnostics.stopwatch import Stopwatch
from stablegrad.diagnostics.updates import UpdateWatch
from stablegrad.errors import UsageError

#: Values of the gradients of single rows that are held at most: 1 GiB of float32.
MOST_GRADIENTS = 2**28

_monitored: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Monitor]] = weakref.WeakKeyDictionary()


class Monitor:
    """Watches networks in training and judges their health.

    Args:
        model: the network, or several by name, such as ``{"actor": actor, "critic": critic}``. Parameters that they
            share are watched once.
        optimizer: the optimizer that trains it, or several. Each counts its own steps.
        every: optimizer steps between two looks, at least 2. The second step is always looked at too, as the network's
            own beginning is what it is judged by.
        probe: inputs for ranks and churn, [rows, ...], or a function that returns such a batch, for data that move on.
            None: rows of the inputs that the network is trained on.
        probe_every: optimizer steps between two probings, a multiple of ``every``; 0: never.
        grad_scaler: the ``torch.amp.GradScaler`` in use, if there is one: gradients are divided by its scale.
        thresholds: what the rules alarm at.
        on_record: called with (step, figures by ``<metric>/<site>``) for every look, once it is read.

    Attributes:
        history: all figures so far; up to date after :meth:`fetch`.
        notes: what cannot be seen here, and why.
        seconds: of the host's time spent in the monitor: hooks of the passes and gradients that are looked at, copies
            of weights, figures, probings. Not in it is what each call of a function takes longer while it is watched.

    Raises:
        UsageError: a model without parameters or one that has a monitor already, an optimizer that trains none of its
            parameters, a probe on another device or with fewer rows than features.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        every: int = 100,
        probe: Tensor | Callable[[], Tensor] | None = None,
        probe_every: int = 1000,
        grad_scaler: torch.amp.GradScaler | None = None,
        thresholds: Thresholds | None = None,
        on_record: Callable[[int, dict[str, float]], None] | None = None,
    ):
        if every < 2:
            raise UsageError(f"every must be at least 2 steps, as a look takes two; got {every}")
        if probe_every < 0 or probe_every % every:
            raise UsageError(f"probe_every must be 0 or a multiple of every ({every}), got {probe_every}")
        given: object = probe
        if not (given is None or isinstance(given, Tensor) or callable(given)):
            kind = type(given).__name__
            raise UsageError(f"probe must be a tensor of inputs [rows, ...] or a function that returns one, got {kind}")
        if probe is not None and not probe_every:
            raise UsageError("a probe was given and probe_every is 0, so it would never be run; leave one of them out")
        self._models = _named(model)
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if not optimizers or not all(isinstance(one, Optimizer) for one in optimizers):
            raise UsageError("optimizer must be a torch.optim.Optimizer or a list of them")
        if probe is not None and len(self._models) > 1:
            raise UsageError("a probe is for one network; with several, leave it out: their own inputs are used")
        self.every, self.probe_every = every, probe_every
        self.thresholds = thresholds_of(thresholds)
        self.history = History()
        self.notes: list[str] = []
        self._stopwatch = Stopwatch()
        self._on_record = on_record
        self._grad_scaler = grad_scaler
        self._pending: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()
        # Of those, the ones that were there when the last look ended.
        self._due = 0
        self._started = time.perf_counter()

        networks = {name: _unwrapped(network) for name, network in self._models.items()}
        self.layers = find_layers(networks)
        self.history.set_order(self.layers.names)
        self.history.frozen = self.layers.frozen()
        self._networks = [
            _NetworkWatch(name, self._models[name], network, probe, probe_every, self._note, self._stopwatch)
            for name, network in networks.items()
        ]
        self._called: set[str] = set()
        self._updates = self._watch_updates(optimizers)
        for watch in self._networks:
            own = {id(parameter) for parameter in networks[watch.name].parameters()}
            watch.owners = [update for update in self._updates if update.trained & own] or self._updates[:1]
        self._ended: list[_NetworkWatch] = []
        for network in self._models.values():
            _monitored[network] = weakref.ref(self)
        for update in self._updates:
            update.start()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Take all hooks off; the figures stay, and :meth:`report` still works."""
        for update in self._updates:
            update.close()
        for network in self._networks:
            network.stop()
        for model in self._models.values():
            known = _monitored.get(model)
            if known is not None and known() is self:
                del _monitored[model]

    def restart(self, steps: int) -> None:
        """Count steps from ``steps`` and drop what is held for a look under way, after other weights were loaded."""
        for network in self._networks:
            network.stop()
            network.waits_for.clear()
            network.probe.forget()
        for update in self._updates:
            update.restart(steps)

    def log(self, **figures: float | Tensor) -> None:
        """Add figures of the loop itself, above all ``loss`` and ``episode_return``: numbers or tensors of one element.

        Nothing is waited for, but for tensors of another device.
        """
        device = self.layers.parameters[0].device
        # A number is filled in by the device itself; sending it over would wait for all that the device has to do.
        values = [
            value.detach().to(device, torch.float32).reshape(())
            if isinstance(value, Tensor)
            else torch.full((), value, dtype=torch.float32, device=device)
            for value in (number_of(name, value) for name, value in figures.items())
        ]
        self._queue(self.steps, [f"{name}/{NETWORK}" for name in figures], torch.stack(values))

    def measure_curvature(
        self, loss: Callable[[], Tensor], *, samples: int = 8, iterations: int = 16, seed: int = 0
    ) -> dict[str, metrics.Estimate]:
        """Curvature of a loss in all trained parameters: trace of its Hessian and its largest eigenvalue.

        It costs ``samples + iterations`` products with the Hessian, each some three forward and backward passes, so
        it is taken only where it is asked for; the figures join those of the newest step.

        Args:
            loss: computes the loss of one fixed batch, a scalar with its graph; a TD loss with its target fixed.
            samples: random vectors for the trace.
            iterations: of Lanczos' method, for the eigenvalue.
            seed: draws the vectors; no stream of the program is touched.

        Returns:
            "hessian_trace" and "hessian_top", with 95% intervals.
        """
        parameters = [parameter for parameter in self.layers.parameters if parameter.requires_grad]
        generator = torch.Generator(parameters[0].device).manual_seed(seed)
        with self._unwatched():
            found = {
                "hessian_trace": metrics.hessian_trace(loss, parameters, samples, generator),
                "hessian_top": metrics.top_eigenvalue(loss, parameters, iterations, generator),
            }
        self.log(**{name: estimate.value for name, estimate in found.items()})
        return found

    def measure_gradient_ranks(
        self, inputs: Tensor, objective: Callable[..., Tensor], *others: Tensor
    ) -> dict[str, Tensor]:
        """In how many directions the gradients of single rows point; the figures join those of the newest step.

        It costs two forward and backward passes a row, in evaluation mode, and holds a gradient of the network for each
        row: of more than ``MOST_GRADIENTS`` = 2**28 values, 1 GiB, a note says that it was not measured.

        Args:
            inputs: [n, ...] of the network; 64 rows are many.
            objective: called with the network's output for one row, and that row of each of ``others``, all as batches
                of one; returns that row's loss, a scalar, of operations that ``torch.func`` knows.
            others: [n, ...], such as targets.

        Returns:
            "gradient_covariance_rank", of the losses, and "ntk_rank", of the summed outputs, each 0-d in [1, n], 0
            where all gradients are; empty where that takes too much memory.

        Raises:
            UsageError: several networks are watched, there are no rows, or ``others`` are no tensors of as many.
        """
        if len(self._models) > 1:
            raise UsageError("gradient ranks are of one network; attach a monitor to it alone")
        for one in (inputs, *others):
            if not isinstance(one, Tensor):
                raise UsageError(f"gradient ranks take tensors of rows, got {type(one).__name__}")
        rows = [len(one) if one.ndim else 0 for one in (inputs, *others)]
        if not rows[0] or len(set(rows)) > 1:
            raise UsageError(f"gradient ranks take as many rows of all tensors, at least one; got {rows}")
        (model,) = self._models.values()
        network = _unwrapped(model)
        values = len(inputs) * sum(one.numel() for one in network.parameters() if one.requires_grad)
        if values > MOST_GRADIENTS:
            self._note(
                f"no gradient ranks: gradients of {len(inputs)} rows are {values:,} values, above {MOST_GRADIENTS:,}"
            )
            return {}
        with self._unwatched(), evaluation(network):
            losses = metrics.per_sample_gram(network, inputs, objective, *others)
            outputs = metrics.per_sample_gram(network, inputs)
        found = {
            "gradient_covariance_rank": metrics.gradient_covariance_rank(losses),
            "ntk_rank": metrics.ntk_rank(outputs),
        }
        self.log(**found)
        return found

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Passes that are none of the training's: a look that is under way would take them for such."""
        watches: list[ActivationWatch | UpdateWatch] = [*(network.watch for network in self._networks), *self._updates]
        for watch in watches:
            watch.paused = True
        try:
            with self._stopwatch:
                yield
        finally:
            for watch in watches:
                watch.paused = False

    @property
    def seconds(self) -> float:  # noqa: D102  # in the class's own docstring
        return self._stopwatch.seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._stopwatch.seconds = seconds

    @property
    def steps(self) -> int:
        """Optimizer steps seen so far; with several optimizers, of the one that took most."""
        return max(update.steps for update in self._updates)

    def fetch(self) -> History:
        """Everything measured so far; waits for the device if it must."""
        self._read(0)
        return self.history

    def report(self, *, beside: Monitor | History | None = None) -> Report:
        """The verdict on everything measured so far.

        Args:
            beside: a monitor, or what it measured, of a healthy smaller network in the same task: what tells this
                training from that one counts as well. Both are read up to the last step that both have reached.

        Raises:
            UsageError: no optimizer step with gradients was seen, so there is nothing to judge, or no look at the
                training beside it.
        """
        if not (beside is None or isinstance(beside, Monitor | History)):
            raise UsageError(f"beside must be a Monitor or a History, got {type(beside).__name__}")
        history = self.fetch()
        twin = beside.fetch() if isinstance(beside, Monitor) else beside
        # A gradient that was no number from the start has no norm, and was seen all the same.
        if not (history.series("gradient_norm") or history.series("nonfinite")):
            raise UsageError(
                "no gradient was ever seen: the watched optimizer has not taken two steps with gradients of this model "
                "(steps inside a CUDA graph or a compiled region cannot be seen)"
            )
        norms = history.series("gradient_norm")
        for layer in self._never_called():
            if layer in norms.sites and not norms.site(layer).any():
                self._note(f"'{layer}' gets no gradient because no forward pass calls it")
        share = self.seconds / max(time.perf_counter() - self._started, 1e-9)
        cost = {"seconds": self.seconds, "share": share}
        return Report(
            judge(history, self.thresholds, beside=twin),
            history,
            list(self.notes),
            cost,
            self._fitting(),
            thresholds=self.thresholds,
            beside=beside_in_words(twin, self.thresholds),
        )

    def _fitting(self) -> frozenset[str]:
        """Interventions that have something to change on one of the networks."""
        pairs = [(_unwrapped(model), watch.optimizer) for model in self._models.values() for watch in self._updates]
        return fitting(*pairs)

    def _watch_updates(self, optimizers: Sequence[Optimizer]) -> list[UpdateWatch]:
        owned = [{id(parameter) for group in one.param_groups for parameter in group["params"]} for one in optimizers]
        everyones = set().union(*owned)
        known = [id(parameter) for parameter in self.layers.parameters]
        if not everyones.intersection(known):
            raise UsageError("the optimizer trains none of the model's parameters; was the model copied or made anew?")
        watches = []
        for position, (one, own) in enumerate(zip(optimizers, owned, strict=True)):
            # Parameters that no optimizer has are watched with the first: they may get gradients and never move.
            mine = [
                n
                for n, parameter in enumerate(known)
                if parameter in own or (not position and parameter not in everyones)
            ]
            if not mine:
                continue
            watch = UpdateWatch(one, self.layers, mine, self._looks_at, self._grad_scaler, self._stopwatch)
            watch.note = self._note
            watch.before_look = partial(self._before_look, watch)
            watch.before_step = partial(self._before_step, watch)
            watch.after_step = self._after_step
            watches.append(watch)
        return watches

    def _looks_at(self, step: int) -> bool:
        return step == 2 or (step > 0 and step % self.every == 0)

    def _probes_at(self, step: int) -> bool:
        return bool(self.probe_every) and step % self.probe_every == 0

    def _before_look(self, update: UpdateWatch) -> None:
        for network in self._networks:
            if update in network.owners:
                network.wait_for(update)

    def _before_step(self, update: UpdateWatch, step: int) -> None:
        self._ended = [network for network in self._networks if update in network.owners and network.ends_with(update)]
        for network in self._ended:
            network.stop()
            if not network.passes:
                self._note(
                    f"no forward pass of {network.name or 'the network'} was seen before a step: inside a compiled "
                    "function, or where the network is not called as a module, activations are not seen"
                )
            if self._probes_at(step):
                network.probe.before_step()

    def _after_step(self, step: int, layers: list[str], by_layer: dict[str, Tensor]) -> None:
        keys: list[str] = []
        values: list[Tensor] = []
        for metric, figures in by_layer.items():
            keys.extend(f"{metric}/{layer}" for layer in layers)
            values.append(figures)
        scale = self._grad_scaler.get_scale() if self._grad_scaler is not None else 1.0
        for network in self._ended:
            network.looks += 1
            self._called.update([network.name, *network.watch.order])
            others = network.figures(scale, overflows=self._grad_scaler is not None)
            if self._probes_at(step):
                others |= network.probe.after_step()
            keys.extend(others)
            values.extend(value.reshape(1) for value in others.values())
        if step == 2:
            self.history.set_order(self._forward_order())
        device = values[0].device
        self._queue(step, keys, torch.cat([value.to(device, torch.float32) for value in values]))
        # What the loop logged since the last look may be of a moment ago.
        self._read(len(self._pending) - self._due)
        self._due = len(self._pending)

    def _never_called(self) -> list[str]:
        """Layers that no pass which was watched has called; a function may use their weights all the same."""
        # A look at every network is needed; an actor may step less often than its critic, or later.
        if not all(network.watch.inside and network.looks for network in self._networks):
            return []
        watched = set().union(*(network.watch.watched for network in self._networks))
        return [layer for layer in self.layers.names if layer in watched - self._called]

    def _forward_order(self) -> list[str]:
        """Layers and activations in the order of the data's way, then layers that were not called by themselves."""
        called = [site for network in self._networks for site in network.watch.order]
        return list(dict.fromkeys([*called, *self.layers.names]))

    def _queue(self, step: int, keys: list[str], values: Tensor) -> None:
        event = None
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values = host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._pending.append((step, keys, values, event))

    def _read(self, keep: int) -> None:
        """Move figures to the history, but for the newest ``keep``, which the device may still be computing."""
        while len(self._pending) > keep:
            step, keys, values, event = self._pending.popleft()
            self._due = max(self._due - 1, 0)
            if event is not None:
                event.synchronize()
            # A figure that does not exist is NaN, and an update without trouble has no "nonfinite": both stay away.
            figures = {
                key: value
                for key, value in zip(keys, values.tolist(), strict=True)
                if value == value and not (key.startswith("nonfinite/") and value == 0)
            }
            self.history.frozen = self.layers.frozen() + self._never_called()
            self.history.add(step, figures)
            if self._on_record is not None:
                self._on_record(step, figures)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _NetworkWatch:
    """One network: its activations, the error signal at its output, its inputs, its probe.

    Attributes:
        owners: the optimizers that train its parameters. It is watched until the last of those whose looks have begun
            has stepped: an actor's pass may come after the critic's step.
        waits_for: those, and how many looks of others have ended meanwhile.
        passes: forward passes with gradients that were seen since the watch began.
        looks: that have ended.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        module: nn.Module,
        probe: Tensor | Callable[[], Tensor] | None,
        probe_every: int,
        note: Callable[[str], None],
        stopwatch: Stopwatch,
    ):
        self.name, self.site = name, name or NETWORK
        self.stopwatch = stopwatch
        self.probe = Probe(name, module, probe if probe_every else None, note)
        self.probe_every = probe_every
        self.watch = self._watch(module, note)
        self.owners: list[UpdateWatch] = []
        self.waits_for: dict[UpdateWatch, int] = {}
        self.passes = self.looks = 0
        self._ends: list[_End] = []
        self._input: list[Tensor] = []
        # Hooks inside a compiled network are compiled away or break its graph: the wrapper alone is watched.
        if _has_compiled_wrapper(model):
            self.watch = self._watch(model, note, inside=False)
            note("activations inside a compiled network are not seen")
            self.passes = 1
        elif self.watch.compiled_parts():
            note(f"activations of {name or 'a network'} with compiled parts are not seen")
        else:
            for part in self.watch.closed_parts():
                note(f"activations inside {part}{f' of {name}' if name else ''} are not seen")

    def _watch(self, module: nn.Module, note: Callable[[str], None], inside: bool = True) -> ActivationWatch:
        return ActivationWatch(
            module,
            self.name,
            inside=inside,
            on_input=self._see_input,
            on_output=self._see_output,
            on_unseen=note,
            stopwatch=self.stopwatch,
        )

    def start(self) -> None:
        self._ends, self._input = [], []
        self.passes = 0
        self.watch.start()

    def wait_for(self, update: UpdateWatch) -> None:
        """Watch until this optimizer has stepped, too."""
        if not self.waits_for or update in self.waits_for:
            self.start()
        self.waits_for[update] = 0

    def ends_with(self, update: UpdateWatch) -> bool:
        """Whether the look ends with the step that this optimizer is about to take.

        One that lets two looks of others pass has stopped stepping, and is waited for no longer.
        """
        self.waits_for.pop(update, None)
        self.waits_for = {other: passed + 1 for other, passed in self.waits_for.items() if passed < 1}
        return not self.waits_for

    def stop(self) -> None:
        self.watch.stop()

    def figures(self, scale: float, overflows: bool) -> dict[str, Tensor]:
        """What was seen, by key; with ``overflows`` an error that is not finite is of an update that was left out."""
        figures = self.watch.figures()
        if errors := [square for end in self._ends for square in end.errors]:
            error = torch.stack(errors).sum().sqrt() / scale
            figures[f"error_signal/{self.site}"] = (
                torch.where(error.isfinite(), error, torch.nan) if overflows else error
            )
        if self._ends:
            spread, size = torch.stack([end.shape for end in self._ends]).mean(dim=0)
            figures[f"output_spread/{self.site}"], figures[f"output_size/{self.site}"] = spread, size
        if self._input:
            mean, std = torch.stack(self._input).mean(dim=0)
            figures[f"input_mean/{self.site}"], figures[f"input_std/{self.site}"] = mean, std
        return figures

    def _see_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool) -> None:
        self.passes += 1
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
        # Where a program calls the parts of its network by themselves, the output of one part that is the input of
        # another is neither an output of the network nor an input.
        inner = [end for end in self._ends if any(end.tensor() is one for one in tensors)]
        self._ends = [end for end in self._ends if end not in inner]
        if whole and self.probe_every and self.probe.gathers:
            self.probe.gather(args, kwargs)
        if tensors and not inner and tensors[0].numel() > 1 and not tensors[0].is_complex():
            std, mean = torch.std_mean(tensors[0].detach().float(), correction=0)
            # A figure that is NaN counts as absent; inputs that are no numbers should be seen.
            self._input.append(torch.nan_to_num(torch.stack([mean, std]), nan=torch.inf, posinf=torch.inf))

    def _see_output(self, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is None:
            return
        rows = tensor.detach().float().flatten(1)
        shape = torch.stack([rows.std(dim=0, correction=0).mean(), rows.square().mean().sqrt()])
        end = _End(weakref.ref(tensor), shape, [])
        self._ends.append(end)
        if tensor.requires_grad:

            def see(gradient: Tensor) -> None:
                if not self.watch.paused:
                    end.errors.append(gradient.detach().float().square().sum())

            tensor.register_hook(self.stopwatch.timed(see))


@dataclass(eq=False)
class _End:
    """An output of the network: the tensor while it lives, (spread, size), squares of the gradients that entered."""

    tensor: weakref.ref[Tensor]
    shape: Tensor
    errors: list[Tensor]


def _named(model: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    models = {"": model} if isinstance(model, nn.Module) else dict(model) if isinstance(model, Mapping) else {}
    if not models or not all(isinstance(network, nn.Module) for network in models.values()):
        raise UsageError(f"model must be a torch.nn.Module or a dictionary of them by name, got {type(model).__name__}")
    for network in models.values():
        if any(_overlap(network, known) for known, monitor in _monitored.items() if monitor() is not None):
            raise UsageError(
                f"this {type(network).__name__} has a monitor already; close() it before attaching another"
            )
    return models


def _overlap(model: nn.Module, other: nn.Module) -> bool:
    """Whether one is the other, a part of it, or a form of it that was compiled or wrapped."""
    inner, known = _unwrapped(model), _unwrapped(other)
    return any(one is known for one in inner.modules()) or any(one is inner for one in known.modules())


def _has_compiled_wrapper(model: nn.Module) -> bool:
    """Whether the network as a whole is compiled, inside a parallel wrapper or not."""
    while not is_compiled(model) and _unwrapped(model) is not model:
        model = cast(nn.Module, model.module)
    return is_compiled(model)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``'s or a parallel wrapper, whose layers have the names a person knows."""
    for wrapped in ("_orig_mod", "module"):
        inner = getattr(model, wrapped, None)
        if isinstance(inner, nn.Module) and (wrapped == "_orig_mod" or hasattr(model, "device_ids")):
            return _unwrapped(inner)
    return model
