"""What the network does with a fixed batch: rank of its features, churn and drift of its outputs.

What churn is depends on the outputs (``CHURN``): of values and logits the best one, of distributions of values the one
with the best mean, of a continuous policy its action, or its mean action where it returns the means and log standard
deviations of a Gaussian, [rows, 2 * size].

The probe runs without gradients, in evaluation mode, and leaves the network as it was. Features are the input of the
last layer with weights (the head), the field's place to measure the rank of a representation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from stablegrad.diagnostics import metrics
from stablegrad.diagnostics.activations import ActivationWatch
from stablegrad.diagnostics.history import NETWORK
from stablegrad.diagnostics.layers import join, layer_name
from stablegrad.diagnostics.outputs import first_tensor
from stablegrad.errors import UsageError

#: Units whose rank is measured at most: of wider layers this many, evenly spread. An SVD of all of them would cost more
#: than the training it watches.
MAX_UNITS = 512
#: Rows of a probe that is gathered from the training's own inputs, at most, and their memory.
MAX_ROWS = 1024
MAX_BYTES = 2**27
CHUNK = 256
#: By kind of output: the metric's name, and the change of outputs by one update.
CHURN = {
    "argmax": ("churn", metrics.policy_churn),
    "expected_argmax": ("churn", metrics.policy_churn),
    "action": ("action_churn", metrics.action_churn),
    "gaussian": ("action_churn", metrics.gaussian_churn),
    "tanh_gaussian": ("action_churn", metrics.tanh_gaussian_churn),
}
#: A batch, a function that returns one, or None for rows of the inputs that a network is trained on.
ProbeSource: TypeAlias = Tensor | Callable[[], Tensor] | None


class Probe:
    """Measures one network on one batch.

    Args:
        name: the network's name, "" for a single one.
        model: the network.
        source: the batch, a function that returns one, or None to gather rows with :meth:`gather`.
        note: called with what could not be measured and why.
        churn: a key of ``CHURN``; None: outputs have no churn, such as one value each.

    Raises:
        UsageError: the batch lies on another device than the network, or has fewer rows than features to be ranked.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        source: ProbeSource,
        note: Callable[[str], None],
        churn: str | None = "argmax",
    ):
        self.name, self.model, self.source, self.note, self.churn = name, model, source, note, churn
        self.batch = source if isinstance(source, Tensor) else None
        self._rows: list[Tensor] = []
        self._impossible = False
        self._head: nn.Module | None = None
        self._head_name = ""
        self._outputs: Tensor | None = None
        self._before: tuple[Tensor | None, Tensor, tuple[Tensor, Tensor] | None] | None = None
        if self.batch is not None:
            self._check(self.batch)
            try:
                self._find_head(self.batch)
                features, _ = self._run(self.batch)
            except Exception as error:
                reason = (str(error).splitlines() or [""])[0]
                shape = list(self.batch.shape)
                raise UsageError(f"the model does not take the probe, a tensor of shape {shape}: {reason}") from error
            if features is not None:
                metrics.check_samples(len(features), min(features.shape[1], MAX_UNITS))

    @property
    def gathers(self) -> bool:
        """Whether it still wants rows of the training's inputs."""
        return self.source is None and not self._impossible

    def gather(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep rows of a training input, the newest last."""
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor) or not args[0].ndim:
            self._impossible = True
            self.note(
                f"no ranks and no churn{self._of()}: it takes more than one tensor; pass probe=, a batch or a function"
            )
            return
        batch = args[0].detach()
        if batch.ndim == 1:
            # A row without a batch dimension.
            batch = batch.unsqueeze(0)
        bytes_a_row = batch[0].numel() * batch.element_size()
        limit = min(MAX_ROWS, max(MAX_BYTES // max(bytes_a_row, 1), 1))
        self._rows.append(batch[:limit].clone())
        while len(self._rows) > 1 and sum(map(len, self._rows[1:])) >= limit:
            self._rows.pop(0)

    def forget(self) -> None:
        """Drop the rows that are held and what the network made of them; a batch that was given stays."""
        if not isinstance(self.source, Tensor):
            self.batch = None
        self._rows, self._outputs, self._before = [], None, None

    def before_step(self) -> None:
        """Run the batch before an update; without a batch (yet), or where the network does not take it, do nothing."""
        if self.source is None and self._rows and self.batch is None:
            self.batch = torch.cat(self._rows)[-MAX_ROWS:]
            self._rows = []
        elif callable(self.source) and self.batch is None and not self._impossible:
            self.batch = self._take()
        if self.batch is not None and not self._impossible:
            self._try(self._run_before)

    def after_step(self) -> dict[str, Tensor]:
        """Run it again after the update; the figures by key."""
        if self._before is None or self.batch is None:
            return {}
        figures = self._try(self._run_after)
        if not self._impossible and not isinstance(self.source, Tensor):
            # Data move on: the next probing takes new rows, and drift is measured from what they give now.
            self._renew()
        return figures or {}

    def _try(self, look: Callable[[], dict[str, Tensor] | None]) -> dict[str, Tensor] | None:
        """Nothing ends a training: some networks take no other rows than those of a training step, of one graph say."""
        try:
            return look()
        except Exception as error:  # noqa: BLE001  # whatever somebody's network raises
            self._impossible = True
            self.forget()
            advice = "; pass probe=, a batch or a function" if self.source is None else ""
            self.note(
                f"no ranks and no churn{self._of()}: it does not take the probe's rows ({_first_line(error)}){advice}"
            )
            return None

    def _run_before(self) -> None:
        assert self.batch is not None
        if self._head is None:
            self._find_head(self.batch)
        features, outputs = self._run(self.batch)
        if outputs is None:
            self._impossible = True
            self.note(f"no ranks and no churn{self._of()}: its output holds no tensor of [rows, values]")
            return
        if self.churn in ("gaussian", "tanh_gaussian") and outputs.shape[1] % 2:
            self.note(
                f"no churn{self._of()}: a {self.churn} policy has [rows, 2 * size] outputs, it has {outputs.shape[1]}"
            )
            self.churn = None
        elif self.churn in ("argmax", "expected_argmax") and outputs.shape[1] < 2:
            self.churn = None  # the only value is always the best
        self._before = (features, outputs, self._head_weights())
        if features is None:
            self.note(f"no ranks{self._of()}: the input of its last layer is not one row of features a sample")

    def _run_after(self) -> dict[str, Tensor]:
        assert self._before is not None and self.batch is not None
        features, outputs, old_head = self._before
        self._before = None
        new_features, new_outputs = self._run(self.batch)
        site = self.name or NETWORK
        figures: dict[str, Tensor] = {}
        if new_features is not None:
            figures |= self._ranks(new_features, site)
        if new_outputs is not None and self.churn is not None:
            metric, churn = CHURN[self.churn]
            figures[f"{metric}/{site}"] = churn(outputs, new_outputs)
            head = self._head_weights()
            if features is not None and new_features is not None and old_head is not None and head is not None:
                crossed = self._finished(_apply(old_head, new_features)), self._finished(_apply(head, features))
                if crossed[0].shape == outputs.shape:
                    split = metrics.churn_split(outputs, crossed[0], crossed[1], new_outputs, churn)
                    figures[f"{metric}_encoder/{site}"], figures[f"{metric}_head/{site}"] = split[1], split[2]
        if new_outputs is not None:
            if self._outputs is not None and self._outputs.shape == new_outputs.shape:
                figures[f"target_drift/{site}"] = metrics.target_drift(self._outputs, new_outputs)
            self._outputs = new_outputs
            if len(new_outputs) > 1:
                figures[f"output_std/{site}"] = new_outputs.std(dim=0).mean()
        return figures

    def _read(self, outputs: Tensor) -> Tensor:
        """Outputs as [rows, values]: of distributions, [rows, values, atoms], their means."""
        if self.churn == "expected_argmax" and outputs.ndim == 3:
            outputs = metrics.expected_atoms(outputs)
        return outputs.flatten(1)

    def _finished(self, head_outputs: Tensor) -> Tensor:
        """What the network makes of other outputs of its head, [rows, ...], such as their tanh.

        Values and logits are what the head returns.
        """
        if self.churn == "argmax":
            return head_outputs
        assert self._head is not None and self.batch is not None
        finished: list[Tensor] = []
        with evaluation(self.model), torch.no_grad():
            for rows, given in zip(self.batch.split(CHUNK), head_outputs.split(CHUNK), strict=True):
                hook = self._head.register_forward_hook(lambda _, __, output, given=given: given.to(output.dtype))
                try:
                    output = first_tensor(self.model(rows))
                finally:
                    hook.remove()
                assert output is not None
                finished.append(self._read(output.float()))
        return torch.cat(finished)

    def _take(self) -> Tensor | None:
        """A batch from the function that was given; None, and a note, where it fails."""
        assert callable(self.source)
        try:
            batch = self.source()
            self._check(batch)
        except Exception as error:  # noqa: BLE001  # it is the caller's, and the training goes on
            self._impossible = True
            self.note(f"no ranks and no churn{self._of()}: the probe's function failed: {_first_line(error)}")
            return None
        return batch.detach()

    def _renew(self) -> None:
        batch = torch.cat(self._rows)[-MAX_ROWS:] if self._rows else None
        if callable(self.source):
            batch = self._take()
        if batch is not None:
            self.batch, self._rows = batch, []
            self._try(self._run_renewed)

    def _run_renewed(self) -> None:
        assert self.batch is not None
        self._outputs = self._run(self.batch)[1]

    def _ranks(self, features: Tensor, site: str) -> dict[str, Tensor]:
        width = features.shape[1]
        if width > MAX_UNITS:
            keep = torch.linspace(0, width - 1, MAX_UNITS, device=features.device).long()
            features = features[:, keep]
            self.note(f"ranks{self._of()} are of {MAX_UNITS} of its {width} features")
        samples, width = features.shape
        if samples < width:
            self.note(f"no ranks{self._of()}: {samples} probe rows are fewer than its {width} features")
            return {}
        sigma = metrics.singular_values(features)
        return {
            f"srank/{site}": metrics.srank(sigma),
            f"effective_rank/{site}": metrics.effective_rank(sigma),
            f"feature_rank/{site}": metrics.feature_rank(sigma, samples),
            f"feature_count/{site}": torch.tensor(float(width), device=features.device),
        }

    def _check(self, batch: Any) -> None:
        if not isinstance(batch, Tensor):
            raise UsageError(f"the probe's function gave no tensor but {type(batch).__name__}")
        device = next(self.model.parameters()).device
        if batch.device != device:
            raise UsageError(f"the probe batch is on {batch.device}, the model on {device}; move one to the other")

    def _of(self) -> str:
        return f" of {self.name}" if self.name else ""

    def _find_head(self, batch: Tensor) -> None:
        self._head_name, self._head = last_layer(self.model, batch, self.name)

    def _head_weights(self) -> tuple[Tensor, Tensor] | None:
        """(weight, bias) of a linear head, as they are now; None for another kind of head."""
        head = self._head
        if not isinstance(head, nn.Linear):
            return None
        # Some parametrizations change when a weight is read in training mode.
        with evaluation(self.model), torch.no_grad():
            weight = head.weight.float().clone()
        return weight, weight.new_zeros(len(weight)) if head.bias is None else head.bias.detach().float().clone()

    def _run(self, batch: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(features, outputs), [rows, features] and [rows, values] float32, or None where there is no such thing."""
        assert self._head is not None
        features: list[Tensor] = []
        outputs: list[Tensor] = []
        # Of a head that is called several times in a pass, the last call counts.
        seen: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda module, args: seen.append(args[0]) if args else None)
        try:
            with evaluation(self.model), torch.no_grad():
                for rows in batch.split(CHUNK):
                    output = first_tensor(self.model(rows))
                    if seen and isinstance(seen[-1], Tensor) and seen[-1].ndim == 2 and len(seen[-1]) == len(rows):
                        features.append(seen[-1].detach().float())
                    seen.clear()
                    if output is not None and len(output) == len(rows):
                        outputs.append(self._read(output.detach().float()))
        finally:
            hook.remove()
        rows = len(batch)
        return (
            torch.cat(features) if sum(map(len, features)) == rows else None,
            torch.cat(outputs) if sum(map(len, outputs)) == rows else None,
        )


def last_layer(model: nn.Module, batch: Tensor, name: str = "") -> tuple[str, nn.Module]:
    """The last layer with a weight matrix that the forward pass of a batch calls, with its name below ``name``."""
    watch = ActivationWatch(model, name, without_gradient=True)
    with evaluation(model), torch.no_grad():
        watch.start()
        try:
            model(batch[:2])
        finally:
            watch.stop()
    modules = {join(name, path): module for path, module in model.named_modules()}
    layers = [
        path
        for path in watch.order
        if path in modules and any(parameter.ndim >= 2 for parameter in modules[path].parameters(recurse=False))
    ]
    head = layer_name(layers[-1]) if layers else name
    return head, modules.get(head, model)


def _apply(head: tuple[Tensor, Tensor], features: Tensor) -> Tensor:
    weight, bias = head
    return features @ weight.T + bias


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and random numbers of its own, and everything back as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module in training:
            module.training = True
