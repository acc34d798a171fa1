"""Metrics of updates between two lines of the log: kept on the device, fetched once, checked and reduced."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from stablegrad.agents.contract import shown_names
from stablegrad.diagnostics.layers import find_layers, layer_name
from stablegrad.errors import TrainingDiverged

LOSS, GRADIENT, PARAMETERS, UPDATES = "loss/", "gradients/", "parameter_norms/", "updates/"


class UpdateMetrics:
    """Collects what ``learn`` returns, see ``stablegrad.agents.contract.Agent``.

    Args:
        networks: what is trained, by name.

    Attributes:
        layers: names of all layers in forward order.
    """

    def __init__(self, networks: Mapping[str, nn.Module]):
        self._networks = dict(networks)
        shown = shown_names(networks)
        self._layers = {
            name: find_layers({prefix: network})
            for name, (prefix, network) in zip(networks, shown.items(), strict=True)
        }
        self.layers = [layer for layers in self._layers.values() for layer in layers.names]
        self._collected: dict[str, list[Tensor]] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Keep the metrics of some updates; nothing is waited for."""
        for name, values in metrics.items():
            self._collected.setdefault(name, []).append(values)

    def stacked(self) -> dict[str, Tensor]:
        """All that was collected, on the device."""
        return {name: torch.cat(values) for name, values in self._collected.items()}

    def take(self) -> dict[str, Tensor]:
        """All that was collected, on the host, and start over."""
        taken = {name: values.cpu() for name, values in self.stacked().items()}
        self._collected = {}
        return taken

    def check_finite(self, taken: Mapping[str, Tensor], updates: int, when: str, advice: str) -> None:
        """Stop a run whose losses or gradients are not finite any more, and say where it began.

        Args:
            taken: from ``take``.
            updates: updates of the run so far.
            when: for the message, such as "by step 1,000".
            advice: for the message, which checkpoint is good.

        Raises:
            TrainingDiverged: a loss or a gradient is not finite.
        """
        broken = [found for name in self._networks if (found := self._first_broken(name, taken, updates)) is not None]
        if broken:
            update, origin = min(broken, key=lambda found: found[0])
            raise TrainingDiverged(
                f"training diverged {when}, in update {update:,}: {origin}; {advice}; "
                "try a lower --optimizer.learning-rate"
            )
        for key, values in taken.items():
            if key.startswith(LOSS) and not values.isfinite().all():
                raise TrainingDiverged(
                    f"training diverged {when}: {key} is not finite; {advice}; try a lower --optimizer.learning-rate"
                )

    def _first_broken(self, network: str, taken: Mapping[str, Tensor], updates: int) -> tuple[int, str] | None:
        """The first update with a norm of a network's gradient or a loss that is not finite, and the origin in words.

        Of a network that only some updates change, those are looked at, with the losses that only they have.
        """
        norms = taken.get(GRADIENT + network)
        if norms is None:
            return None
        losses = {key: values for key, values in taken.items() if key.startswith(LOSS) and len(values) == len(norms)}
        bad = ~norms.isfinite()
        for values in losses.values():
            bad |= ~values.isfinite()
        if not bad.any():
            return None
        row = int(bad.nonzero()[0])
        numbers = taken.get(UPDATES + network, torch.arange(updates - len(norms) + 1, updates + 1))
        loss = next((one[row] for one in losses.values() if not one[row].isfinite()), None)
        if loss is None and losses:
            loss = next(iter(losses.values()))[row]
        origin = self._origin(network, taken[PARAMETERS + network], row, math.nan if loss is None else loss.item())
        return int(numbers[row]), origin

    def _origin(self, network: str, norms: Tensor, row: int, loss: float) -> str:
        """Where trouble began: with a finite loss in the backward pass, which runs from the last layer to the first.

        That is the last bad layer in forward order. With a bad loss every gradient is bad; it came through the head,
        from a target or an activation, unless weights went bad before.
        """
        prefix = f"{network}." if len(self._networks) > 1 else ""
        names = [prefix + name for name, _ in self._networks[network].named_parameters()]
        broken = [name for name, norm in zip(names, norms[row].tolist(), strict=True) if not math.isfinite(norm)]
        origin = ""
        if not math.isfinite(loss) and row > 0 and norms[row - 1].isfinite().all():
            largest = names[int(norms[row - 1].argmax())]
            origin = f"; the update before, the largest gradient was that of '{largest}'"
        layer = layer_name(broken[-1].rpartition(".")[0]) if broken else "the global norm"
        return f"the gradient of layer '{layer}' is not finite (loss {loss:.4g}{origin})"

    def reduce(self, taken: Mapping[str, Tensor]) -> dict[str, float]:
        """One number per metric: means; the smallest of ``values/min``, the largest of ``values/max``.

        Means are over the updates that a metric has: of a network that every second one changes, over those.

        ``gradients/norm`` is over all networks, from their mean norms; where there are several,
        ``gradients/<network>`` are those of each. ``gradient_norm/<layer>`` are per layer.
        """
        values: dict[str, float] = {}
        for name, one in taken.items():
            if name == "values/min":
                values[name] = one.min().item()
            elif name == "values/max":
                values[name] = one.max().item()
            elif not name.startswith((GRADIENT, PARAMETERS, UPDATES)):
                values[name] = one.nanmean().item() if one.isnan().any() else one.mean().item()
        norms = {name: taken[GRADIENT + name].mean() for name in self._networks if GRADIENT + name in taken}
        if norms:
            values["gradients/norm"] = torch.stack(list(norms.values())).norm().item()
        if len(self._networks) > 1:
            values |= {GRADIENT + name: norm.item() for name, norm in norms.items()}
        return values | dict(self._layer_norms(taken))

    def _layer_norms(self, taken: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
        for name, layers in self._layers.items():
            if PARAMETERS + name in taken:
                norms = norms_by_layer(taken[PARAMETERS + name], torch.tensor(layers.layer_of), len(layers.names))
                for layer, norm in zip(layers.names, norms.mean(dim=0).tolist(), strict=True):
                    yield f"gradient_norm/{layer}", norm


def norms_by_layer(norms: Tensor, layer_of_parameter: Tensor, num_layers: int) -> Tensor:
    """Norms of layers, [updates, layers], from those of their parameters, [updates, parameters]."""
    inside = layer_of_parameter >= 0
    squares = torch.zeros(len(norms), num_layers)
    squares.index_add_(1, layer_of_parameter[inside], norms[:, inside].float().square())
    return squares.sqrt()
