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
runs without gradients in evaluation mode. Nor does it end a training: an error inside it becomes a note, after which it
watches no longer.
"""

from __future__ import annotations

import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.activations import MIN_ROWS, ActivationWatch, is_activation_node, is_compiled
from stablegrad.diagnostics.arguments import number_of, thresholds_of
from stablegrad.diagnostics.capacity import Capacity, measure_capacity
from stablegrad.diagnostics.graph import node_key, upstream
from stablegrad.diagnostics.guard import Guard
from stablegrad.diagnostics.history import NETWORK, History
from stablegrad.diagnostics.interventions import fitting
from stablegrad.diagnostics.layers import find_layers
from stablegrad.diagnostics.outputs import tensors_in
from stablegrad.diagnostics.probe import CHURN, Probe, ProbeSource, evaluation
from stablegrad.diagnostics.report import Report, beside_in_words
from stablegrad.diagnostics.rules import Thresholds, judge, logged_outcome
from stablegrad.diagnostics.updates import UpdateWatch
from stablegrad.errors import UsageError, unknown_name

#: Values of the gradients of single rows that are held at most: 1 GiB of float32.
MOST_GRADIENTS = 2**28

_monitored: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Monitor]] = weakref.WeakKeyDictionary()


class Monitor:
    """Watches networks in training and judges their health.

    Args:
        model: the network, or several by name, such as ``{"actor": actor, "critic": critic}``. Parameters that they
            share are watched once.
        optimizer: the optimizer that trains it, or several. Each counts its own steps. Of a wrapper that has no hooks,
            such as Accelerate's, the optimizer inside is watched.
        every: optimizer steps between two looks, at least 2. The second step is always looked at too, as the network's
            own beginning is what it is judged by.
        probe: inputs for ranks and churn, [rows, ...], or a function that returns such a batch, for data that move on;
            of several networks, each by its name. None, or a name that is left out: rows of the inputs that the
            network is trained on.
        probe_every: optimizer steps between two probings, a multiple of ``every``; 0: never.
        churn: what one update changes in the outputs, for all networks or by name: "argmax", the best of several values
            or logits; "expected_argmax", the best mean of distributions over rising atoms, logits [rows, values,
            atoms]; "action", [rows, size] of a deterministic policy; "gaussian" or "tanh_gaussian", the mean action of
            a policy that returns means and log standard deviations, [rows, 2 * size]; None, nothing. A name that is
            left out has "argmax".
        grad_scaler: the ``torch.amp.GradScaler`` in use, if there is one: gradients are divided by its scale.
        thresholds: what the rules alarm at.
        on_record: called with (step, figures by ``<metric>/<site>``) for every look, once it is read.

    Attributes:
        history: all figures so far; up to date after :meth:`fetch`.
        looks: that have ended so far, of all optimizers.
        notes: what cannot be seen here, and why.
        guard: runs everything that is called during the training.
        seconds: of the host's time spent in the monitor: hooks of the passes and gradients that are looked at, copies
            of weights, figures, probings. Not in it is what each call of a function takes longer while it is watched.

    Raises:
        UsageError: a model without parameters, with lazy ones that have no shape yet, or one that has a monitor
            already, an optimizer that trains none of its parameters, a probe on another device or with fewer rows than
            features.
    """

    def __init__(
        self,
        model: nn.Module | Mapping[str, nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        every: int = 100,
        probe: ProbeSource | Mapping[str, ProbeSource] = None,
        probe_every: int = 1000,
        churn: str | Mapping[str, str | None] | None = "argmax",
        grad_scaler: torch.amp.GradScaler | None = None,
        thresholds: Thresholds | None = None,
        on_record: Callable[[int, dict[str, float]], None] | None = None,
    ):
        if every < 2:
            raise UsageError(f"every must be at least 2 steps, as a look takes two; got {every}")
        if probe_every < 0 or probe_every % every:
            raise UsageError(f"probe_every must be 0 or a multiple of every ({every}), got {probe_every}")
        if probe is not None and not probe_every:
            raise UsageError("a probe was given and probe_every is 0, so it would never be run; leave one of them out")
        self._models = _named(model)
        optimizers = _optimizers(optimizer)
        probes = _probes(probe, self._models)
        churns = _churns(churn, self._models)
        self.every, self.probe_every = every, probe_every
        self.thresholds = thresholds_of(thresholds)
        self.history = History()
        self.notes: list[str] = []
        self.looks = 0
        self.guard = Guard(self._give_up)
        self._on_record = on_record
        self._grad_scaler = grad_scaler
        self._pending: deque[tuple[int, list[str], Tensor, torch.cuda.Event | None]] = deque()
        # Of those, the ones that were there when the last look ended.
        self._due = 0
        self._started = time.perf_counter()

        networks = {name: _unwrapped(network) for name, network in self._models.items()}
        self._optimizers = optimizers
        self._signature = self._current_signature()
        self.layers = find_layers(networks)
        self._note_sharded()
        self.history.set_order(self.layers.names)
        self.history.frozen = self.layers.frozen()
        self._networks = [
            _NetworkWatch(
                name,
                self._models[name],
                network,
                Probe(name, network, probes.get(name), self._note, churns.get(name, "argmax")),
                probe_every,
                self._note,
                self.guard,
            )
            for name, network in networks.items()
        ]
        self._called: set[str] = set()
        self._updates = self._watch_updates()
        self._find_owners()
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
            if any(update.stepping for update in self._updates):
                # An optimizer's hooks cannot be taken off while one of them runs; the next pass takes them off.
                network.on_next_pass(self.close)
        for model in self._models.values():
            known = _monitored.get(model)
            if known is not None and known() is self:
                del _monitored[model]

    def _give_up(self, error: Exception) -> None:
        """Stop watching after an error of the monitor's own; the training goes on."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = (str(error).splitlines() or [""])[0]
        self._note(
            f"the monitor stopped after step {self.steps:,}, and nothing later is seen: {type(error).__name__}: "
            f"{reason} ({frame.name}, line {frame.lineno} of {frame.filename.rsplit('/', 1)[-1]}); please report it"
        )
        self._pending.clear()
        self.close()

    def restart(self, steps: int) -> None:
        """Count steps from ``steps`` and drop what is held for a look under way, after other weights were loaded."""
        for network in self._networks:
            network.stop()
            network.waits_for.clear()
            network.watch.seen = {}
            network.probe.forget()
        for update in self._updates:
            update.restart(steps)

    def log(self, **figures: float | Tensor) -> None:
        """Add figures of the loop itself, above all ``loss`` and ``episode_return``: numbers or tensors of one element.

        Nothing is waited for, but for tensors of another device.
        """
        self._log(NETWORK, figures)

    def _log(self, site: str, figures: Mapping[str, float | Tensor]) -> None:
        device = self.layers.parameters[0].device
        # A number is filled in by the device itself; sending it over would wait for all that the device has to do.
        values = [
            value.detach().to(device, torch.float32).reshape(())
            if isinstance(value, Tensor)
            else torch.full((), value, dtype=torch.float32, device=device)
            for value in (number_of(name, value) for name, value in figures.items())
        ]
        self._queue(self.steps, [f"{name}/{site}" for name in figures], torch.stack(values))

    def measure_curvature(
        self,
        loss: Callable[[], Tensor],
        *,
        network: str | None = None,
        samples: int = 8,
        iterations: int = 16,
        seed: int = 0,
    ) -> dict[str, metrics.Estimate]:
        """Curvature of a loss in the trained parameters: trace of its Hessian and its largest eigenvalue.

        It costs ``samples + iterations`` products with the Hessian, each some three forward and backward passes, so
        it is taken only where it is asked for; the figures join those of the newest step.

        Args:
            loss: computes the loss of one fixed batch, a scalar with its graph; a TD loss with its target fixed.
            network: name of the network in whose parameters alone it is measured; None: in those of all.
            samples: random vectors for the trace.
            iterations: of Lanczos' method, for the eigenvalue.
            seed: draws the vectors; no stream of the program is touched.

        Returns:
            "hessian_trace" and "hessian_top", with 95% intervals.

        Raises:
            UsageError: no network has that name.
        """
        own = None if network is None else {id(parameter) for parameter in self._model(network).parameters()}
        parameters = [
            parameter
            for parameter in self.layers.parameters
            if parameter.requires_grad and (own is None or id(parameter) in own)
        ]
        generator = torch.Generator(parameters[0].device).manual_seed(seed)
        with self._unwatched():
            found = {
                "hessian_trace": metrics.hessian_trace(loss, parameters, samples, generator),
                "hessian_top": metrics.top_eigenvalue(loss, parameters, iterations, generator),
            }
        self._log(network or NETWORK, {name: estimate.value for name, estimate in found.items()})
        return found

    def measure_gradient_ranks(
        self, inputs: Tensor, objective: Callable[..., Tensor], *others: Tensor, network: str | None = None
    ) -> dict[str, Tensor]:
        """In how many directions the gradients of single rows point; the figures join those of the newest step.

        It costs two forward and backward passes a row, in evaluation mode, and holds a gradient of the network for each
        row: of more than ``MOST_GRADIENTS`` = 2**28 values, 1 GiB, a note says that it was not measured.

        Args:
            inputs: [n, ...] of the network; 64 rows are many.
            objective: called with the network's output for one row, and that row of each of ``others``, all as batches
                of one; returns that row's loss, a scalar, of operations that ``torch.func`` knows.
            others: [n, ...], such as targets.
            network: name of the network, where several are watched.

        Returns:
            "gradient_covariance_rank", of the losses, and "ntk_rank", of the summed outputs, each 0-d in [1, n], 0
            where all gradients are; empty where that takes too much memory.

        Raises:
            UsageError: several networks are watched and none of them is named, there are no rows, or ``others`` are no
                tensors of as many.
        """
        if network is None and len(self._models) > 1:
            raise UsageError(f"gradient ranks are of one network; name it: network= one of {', '.join(self._models)}")
        for one in (inputs, *others):
            if not isinstance(one, Tensor):
                raise UsageError(f"gradient ranks take tensors of rows, got {type(one).__name__}")
        rows = [len(one) if one.ndim else 0 for one in (inputs, *others)]
        if not rows[0] or len(set(rows)) > 1:
            raise UsageError(f"gradient ranks take as many rows of all tensors, at least one; got {rows}")
        model = _unwrapped(next(iter(self._models.values())) if network is None else self._model(network))
        values = len(inputs) * sum(one.numel() for one in model.parameters() if one.requires_grad)
        if values > MOST_GRADIENTS:
            of = f" of {network}" if network else ""
            self._note(
                f"no gradient ranks{of}: gradients of {len(inputs)} rows are {values:,} values, above "
                f"{MOST_GRADIENTS:,}"
            )
            return {}
        with self._unwatched(), evaluation(model):
            losses = metrics.per_sample_gram(model, inputs, objective, *others)
            outputs = metrics.per_sample_gram(model, inputs, _summed)
        found = {
            "gradient_covariance_rank": metrics.gradient_covariance_rank(losses),
            "ntk_rank": metrics.ntk_rank(outputs),
        }
        self._log(network or NETWORK, found)
        return found

    def measure_capacity(
        self,
        make_network: Callable[[], nn.Module],
        inputs: Tensor,
        make_optimizer: Callable[[nn.Module], Optimizer],
        *,
        network: str | None = None,
        seed: int = 0,
    ) -> Capacity:
        """What a network can still learn, beside a fresh one; the figures join those of the newest step.

        A copy of the network fits fresh targets (:func:`measure_capacity`): 200 steps each of the copy, a fresh network
        and a small one, seconds in all. The training is left alone.

        Args:
            make_network: makes a network of the same shape with fresh weights.
            inputs: [rows, ...] that the network saw in training; some 1,000 rows.
            make_optimizer: called with a network; makes its optimizer, at the training's own settings.
            network: name of the network, where several are watched.
            seed: draws targets, weights and batches; no stream of the program is touched.

        Returns:
            The errors of the three.

        Raises:
            UsageError: several networks are watched and none of them is named, or see :func:`measure_capacity`.
        """
        if network is None and len(self._models) > 1:
            raise UsageError(f"capacity is of one network; name it: network= one of {', '.join(self._models)}")
        model = _unwrapped(next(iter(self._models.values())) if network is None else self._model(network))
        with self._unwatched():
            found = measure_capacity(make_network, model.state_dict(), inputs, make_optimizer, seed=seed)
        self._log(network or NETWORK, found.figures())
        return found

    def _model(self, name: str) -> nn.Module:
        if name not in self._models:
            raise unknown_name("network", name, self._models)
        return self._models[name]

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """Passes that are none of the training's: a look that is under way would take them for such."""
        watches: list[ActivationWatch | UpdateWatch] = [*(network.watch for network in self._networks), *self._updates]
        for watch in watches:
            watch.paused = True
        try:
            with self.guard.stopwatch:
                yield
        finally:
            for watch in watches:
                watch.paused = False

    @property
    def seconds(self) -> float:  # noqa: D102  # in the class's own docstring
        return self.guard.stopwatch.seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self.guard.stopwatch.seconds = seconds

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
            if self.guard.broken:
                raise UsageError(self.notes[-1])
            raise UsageError(
                "no gradient was ever seen: the watched optimizer has not taken two steps with gradients of this model "
                "(steps inside a CUDA graph or a compiled region cannot be seen)"
            )
        norms = history.series("gradient_norm")
        for layer in self._never_called():
            if layer in norms.sites and not norms.site(layer).any():
                self._note(f"'{layer}' gets no gradient, as no forward pass before the watched steps calls it")
        share = self.seconds / max(time.perf_counter() - self._started, 1e-9)
        cost = {"seconds": self.seconds, "share": share}
        outcome = logged_outcome(history)
        return Report(
            judge(history, self.thresholds, beside=twin, outcome=outcome),
            history,
            list(self.notes),
            cost,
            self._fitting(),
            thresholds=self.thresholds,
            beside=beside_in_words(twin, self.thresholds),
            # Without returns it may be no agent at all.
            outcome=outcome if len(outcome.returns) else None,
        )

    def _fitting(self) -> frozenset[str]:
        """Interventions that have something to change on one of the networks."""
        pairs = [(_unwrapped(model), watch.optimizer) for model in self._models.values() for watch in self._updates]
        return fitting(*pairs)

    def _numbers_of(self, optimizers: Sequence[Optimizer]) -> list[list[int]]:
        """Which parameters are watched with each optimizer, as numbers of ``layers.parameters``."""
        owned = [{id(parameter) for group in one.param_groups for parameter in group["params"]} for one in optimizers]
        everyones = set().union(*owned)
        known = [id(parameter) for parameter in self.layers.parameters]
        # Parameters that no optimizer has are watched with the first: they may get gradients and never move.
        return [
            [n for n, one in enumerate(known) if one in own or (not position and one not in everyones)]
            for position, own in enumerate(owned)
        ]

    def _watch_updates(self) -> list[UpdateWatch]:
        trained = {id(one) for each in self._optimizers for group in each.param_groups for one in group["params"]}
        if not trained.intersection(map(id, self.layers.parameters)):
            raise UsageError("the optimizer trains none of the model's parameters; was the model copied or made anew?")
        watches = []
        for one, mine in zip(self._optimizers, self._numbers_of(self._optimizers), strict=True):
            if not mine:
                continue
            watch = UpdateWatch(one, self.layers, mine, self._looks_at, self._grad_scaler, self.guard)
            watch.note = self._note
            watch.refresh = self._refresh
            watch.before_look = partial(self._before_look, watch)
            watch.before_step = partial(self._before_step, watch)
            watch.after_step = self._after_step
            watches.append(watch)
        return watches

    def _find_owners(self) -> None:
        for watch in self._networks:
            own = {id(parameter) for parameter in watch.module.parameters()}
            watch.owners = [update for update in self._updates if update.trained & own] or self._updates[:1]

    def _current_signature(self) -> tuple[int, ...]:
        """Identities of all parameters that the networks and the optimizers hold."""
        networks = [id(one) for model in self._models.values() for one in model.parameters()]
        groups = [id(one) for each in self._optimizers for group in each.param_groups for one in group["params"]]
        return (*networks, *groups)

    def _refresh(self) -> None:
        """Find the layers anew where parameters were replaced, added or given to an optimizer since the last look."""
        signature = self._current_signature()
        if signature == self._signature:
            return
        self._signature = signature
        self._note(f"parameters were replaced or added around step {self.steps:,}; layers are watched as they are now")
        self.layers = find_layers({watch.name: watch.module for watch in self._networks})
        watched = [update.optimizer for update in self._updates]
        for update, mine in zip(self._updates, self._numbers_of(watched), strict=True):
            if mine:
                update.assign(self.layers, mine)
        self._find_owners()
        self.history.set_order(self._forward_order())

    def _note_sharded(self) -> None:
        if any(hasattr(one, "to_local") for one in self.layers.parameters):
            self._note("parameters are sharded; norms of weights, gradients and updates are of this process's shards")

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
            network.note_unseen()
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
        errors = self._layer_errors(layers, scale)
        keys.extend(errors)
        values.extend(value.reshape(1) for value in errors.values())
        if step == 2:
            self.history.set_order(self._forward_order())
        device = values[0].device
        self.looks += 1
        self._queue(step, keys, torch.cat([value.to(device, torch.float32) for value in values]))
        # What the loop logged since the last look may be of a moment ago.
        self._read(len(self._pending) - self._due)
        self._due = len(self._pending)

    def _layer_errors(self, layers: Sequence[str], scale: float) -> dict[str, Tensor]:
        """The error signal of the outputs that depend on each layer, where that is not simply the network's.

        A policy's layers get nothing of the error of the value function beside it.
        """
        ends = [(network, *error) for network in self._ended for error in network.errors()]
        if len(self._networks) == 1 and all(parameters is None for _, _, parameters in ends):
            return {}
        own = {network: {id(one) for one in network.module.parameters()} for network in self._ended}
        reached = [own[network] if parameters is None else parameters for network, _, parameters in ends]
        of_layer: dict[str, set[int]] = {name: set() for name in layers}
        for number, parameter in zip(self.layers.layer_of, self.layers.parameters, strict=True):
            if number >= 0 and self.layers.names[number] in of_layer:
                of_layer[self.layers.names[number]].add(id(parameter))
        sums: dict[tuple[int, ...], Tensor] = {}
        found: dict[str, Tensor] = {}
        for layer, parameters in of_layer.items():
            numbers = tuple(n for n, one in enumerate(reached) if one & parameters)
            if numbers:
                if numbers not in sums:
                    sums[numbers] = torch.stack([ends[n][1] for n in numbers]).sum().sqrt() / scale
                found[f"layer_error/{layer}"] = sums[numbers]
        return found

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
                try:
                    self._on_record(step, figures)
                except Exception as error:  # noqa: BLE001  # it is the caller's, and the training goes on
                    self._on_record = None
                    self._note(f"on_record failed and is not called again: {type(error).__name__}: {error}")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class _NetworkWatch:
    """One network: its activations, the error signal at its outputs, its inputs, its probe.

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
        probe: Probe,
        probe_every: int,
        note: Callable[[str], None],
        guard: Guard,
    ):
        self.name, self.site, self.module = name, name or NETWORK, module
        self.guard, self.note = guard, note
        self.probe, self.probe_every = probe, probe_every
        self.watch = self._watch(module, note)
        self.owners: list[UpdateWatch] = []
        self.waits_for: dict[UpdateWatch, int] = {}
        self.passes = self.looks = 0
        self._ends: list[_End] = []
        self._by_node: dict[tuple[str, int], _End] = {}
        self._unseen_functions = False
        self._without_output = False
        self._input: list[Tensor] = []
        # What is inside a compiled network is compiled away: the wrapper alone is watched.
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
            guard=self.guard,
        )

    def start(self) -> None:
        self._ends, self._by_node, self._input = [], {}, []
        self._unseen_functions = self._without_output = False
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

    def on_next_pass(self, do: Callable[[], None]) -> None:
        """Call a function once, before the next pass of the network."""

        def once(*arguments: Any) -> None:
            handle.remove()
            do()

        handle = self.module.register_forward_pre_hook(once)

    def note_unseen(self) -> None:
        """Say what this look could not see."""
        who = self.name or "the network"
        if not self.passes:
            self.note(
                f"no forward pass of {who} was seen before a step: inside a compiled function, or where the network is "
                "not called as a module, activations are not seen"
            )
        if self._unseen_functions:
            self.note(
                f"activations between layers of {who} are not seen, as its layers are called one by one and not the "
                "network as a whole: call the network itself, or use modules such as nn.ReLU"
            )
        if self._without_output:
            self.note(f"outputs and errors of {who} are not seen: it returns no floating-point tensor of rows")
        if any(one.rows < MIN_ROWS for one in self.watch.seen.values()):
            self.note(
                f"activations of {who} are judged over several looks, as one look sees fewer than {MIN_ROWS} rows"
            )

    def figures(self, scale: float, overflows: bool) -> dict[str, Tensor]:
        """What was seen, by key; with ``overflows`` an error that is not finite is of an update that was left out."""
        figures = self.watch.figures()
        if errors := [square for end in self._ends for square in end.errors]:
            error = torch.stack(errors).sum().sqrt() / scale
            figures[f"error_signal/{self.site}"] = (
                torch.where(error.isfinite(), error, torch.nan) if overflows else error
            )
        if shapes := [end.shape for end in self._ends if end.shape is not None]:
            spread, size = torch.stack(shapes).nanmean(dim=0)
            figures[f"output_spread/{self.site}"], figures[f"output_size/{self.site}"] = spread, size
        if self._input:
            mean, std = torch.stack(self._input).mean(dim=0)
            figures[f"input_mean/{self.site}"], figures[f"input_std/{self.site}"] = mean, std
        return figures

    def errors(self) -> list[tuple[Tensor, set[int] | None]]:
        """(squared norm, ids of the parameters it depends on or None for all) of every output that had an error."""
        return [(torch.stack(end.errors).sum(), end.parameters) for end in self._ends if end.errors]

    def _see_input(self, args: tuple[Any, ...], kwargs: dict[str, Any], whole: bool) -> None:
        self.passes += 1
        tensors = tensors_in((args, kwargs))
        # Where a program calls the parts of its network by themselves, what the next part is computed from is neither
        # an output of the network nor an input.
        inner = [] if whole else self._ends_before(tensors)
        for end in inner:
            end.inner = not end.whole
        self._ends = [end for end in self._ends if not end.inner]
        if whole and self.probe_every and self.probe.gathers:
            self.probe.gather(args, kwargs)
        # Integers name things; those of 8 bits are images.
        values = [one for one in tensors if one.is_floating_point() or one.dtype == torch.uint8]
        if values and not inner and values[0].numel() > 1 and values[0].layout == torch.strided:
            std, mean = torch.std_mean(values[0].detach().float(), correction=0)
            # A figure that is NaN counts as absent; inputs that are no numbers should be seen.
            self._input.append(torch.nan_to_num(torch.stack([mean, std]), nan=torch.inf, posinf=torch.inf))

    def _ends_before(self, tensors: Sequence[Tensor]) -> list[_End]:
        """Outputs of earlier passes that these tensors were computed from."""
        found: list[_End] = []
        for tensor in tensors:
            if self._by_node and tensor.grad_fn is not None:
                before = upstream(tensor, self._by_node)
                found += [self._by_node[key] for key in before.reached]
                self._unseen_functions |= bool(before.reached) and any(map(is_activation_node, before.functions))
        return found

    def _see_output(self, output: Any, whole: bool, unbatched: bool) -> None:
        # A row without a batch dimension may have a value without any; else that is a loss.
        fewest = 0 if unbatched else 1
        tensors = [
            one
            for one in tensors_in(output)
            if one.is_floating_point() and one.ndim >= fewest and one.layout == torch.strided
        ]
        if not tensors:
            self._without_output = True
            return
        pairs = [(one, _End(whole)) for one in tensors]
        if not whole or len(tensors) > 1:
            self._trace(pairs)
        # An output that others were computed from, such as features beside values, is inside the network.
        pairs = [(tensor, end) for tensor, end in pairs if not end.inner]
        tensor, end = next(((tensor, end) for tensor, end in pairs if tensor.ndim >= 2), pairs[0])
        end.shape = _shape(tensor, unbatched)
        for tensor, end in pairs:
            if tensor.grad_fn is not None:
                tensor.register_hook(self.guard.wrap(partial(self._see_error, end)))
        self._ends += [end for _, end in pairs]

    def _trace(self, pairs: Sequence[tuple[Tensor, _End]]) -> None:
        """Find out which parameters outputs depend on, and which of them others were computed from."""
        keys = [node_key(tensor) for tensor, _ in pairs]
        here = {key: end for key, (_, end) in zip(keys, pairs, strict=True) if key is not None}
        before: list[tuple[_End, list[_End]]] = []
        for key, (tensor, end) in zip(keys, pairs, strict=True):
            known = {**self._by_node, **{other: one for other, one in here.items() if other != key}}
            found = upstream(tensor, known)
            end.parameters = found.parameters if found.whole else None
            before.append((end, [known[reached] for reached in found.reached]))
        for _, others in before:
            for other in others:
                # Parts called earlier are judged when their outputs are passed on.
                other.inner |= any(other is end for _, end in pairs)
        # One output may be computed from another that is computed from a third.
        for _ in pairs:
            for end, others in before:
                for other in others:
                    missing = end.parameters is None or other.parameters is None
                    end.parameters = None if missing else end.parameters | other.parameters  # type: ignore[operator]
        self._by_node |= here

    def _see_error(self, end: _End, gradient: Tensor) -> None:
        if not self.watch.paused:
            end.errors.append(gradient.detach().float().square().sum())


@dataclass(eq=False)
class _End:
    """An output of the network, or of a part of it that was called by itself.

    Attributes:
        whole: whether the network itself was called.
        parameters: ids of those that it depends on; None: of all.
        shape: (spread over rows, size), where it is the first output.
        errors: squared norms of the gradients that entered.
        inner: whether other outputs were computed from it.
    """

    whole: bool
    parameters: set[int] | None = None
    shape: Tensor | None = None
    errors: list[Tensor] = field(default_factory=list)
    inner: bool = False


def _shape(output: Tensor, unbatched: bool) -> Tensor:
    """[2] spread over rows and root mean square of an output; of a single row there is no spread."""
    output = output.detach().float()
    rows = output.reshape(1, -1) if unbatched and output.ndim < 2 else output.reshape(len(output), -1)
    spread = rows.std(dim=0, correction=0).mean() if len(rows) > 1 else rows.new_full((), torch.nan)
    return torch.stack([spread, rows.square().mean().sqrt()])


def _summed(output: Any) -> Tensor:
    """Of a tensor its sum; of several, as an actor-critic returns them, the sum of all of theirs."""
    return sum((one.sum() for one in tensors_in(output) if one.is_floating_point()), torch.zeros(()))


def _optimizers(given: Any) -> list[Optimizer]:
    """The optimizers of a list or a single one; of wrappers without hooks, those inside.

    Raises:
        UsageError: something is no optimizer.
    """
    found = []
    for one in given if isinstance(given, list | tuple) else [given]:
        inner = one
        while not (isinstance(inner, Optimizer) and hasattr(inner, "_optimizer_step_pre_hooks")):
            inner = getattr(inner, "optimizer", None)
            if inner is None:
                kind = type(one).__name__
                raise UsageError(
                    f"optimizer must be a torch.optim.Optimizer or a list of them, got {kind}"
                    + ("; pass the optimizer that it wraps" if isinstance(one, Optimizer) else "")
                )
        found.append(inner)
    if not found:
        raise UsageError("optimizer must be a torch.optim.Optimizer or a list of them, got an empty list")
    return found


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


def _probes(probe: ProbeSource | Mapping[str, ProbeSource], names: Collection[str]) -> dict[str, ProbeSource]:
    """Where the probe of each network comes from, by name."""
    if probe is None:
        return {}
    if not isinstance(probe, Mapping):
        if len(names) > 1:
            raise UsageError(
                "one probe was given for several networks; give a dictionary of them by name, or leave it out: their "
                "own inputs are used"
            )
        probe = dict.fromkeys(names, probe)
    for name, source in probe.items():
        if name not in names:
            raise unknown_name("network", name, names)
        given: object = source
        if not (given is None or isinstance(given, Tensor) or callable(given)):
            kind = type(given).__name__
            raise UsageError(f"probe must be a tensor of inputs [rows, ...] or a function that returns one, got {kind}")
    return dict(probe)


def _churns(churn: str | Mapping[str, str | None] | None, names: Collection[str]) -> dict[str, str | None]:
    """The kind of churn of each network, by name."""
    churns: dict[str, str | None] = dict(churn) if isinstance(churn, Mapping) else dict.fromkeys(names, churn)
    for name, kind in churns.items():
        if name not in names:
            raise unknown_name("network", name, names)
        if kind is not None and kind not in CHURN:
            raise unknown_name("churn", kind, CHURN)
    return churns


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
