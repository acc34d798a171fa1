"""SIGReg and resets of units, as agents of both kinds have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.agents.contract import RESETS, AgentConfig, AverageGradients, averaged
from stablegrad.agents.resets import activity, dormant, gradient_size, renew_
from stablegrad.agents.sigreg import random_directions, sigreg
from stablegrad.networks.units import Units, heads, hidden_units


class Plasticity:
    """What a configuration asks for beside the loss: a term on features, and units that begin anew.

    An agent makes the passes of its losses inside ``watch``, adds the term by ``penalized`` before the backward pass,
    and calls ``reset`` after the optimizer's step. It holds nothing that a checkpoint needs: random numbers follow from
    the seed and the number of the update, and so are the same in all processes that train one agent.

    Args:
        config: the agent's.
        networks: by name.
        optimizers: by the same names.
        device: of the networks.
        seed: of the agent's initial weights.
        average_gradients: as of ``MakeAgent``.

    Raises:
        UsageError: a network has no features or units that are known.
    """

    def __init__(
        self,
        config: AgentConfig,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        *,
        device: torch.device,
        seed: int,
        average_gradients: AverageGradients | None = None,
    ):
        self._config, self._optimizers, self._device, self._seed = config, optimizers, device, seed
        self._average_gradients = average_gradients
        self._places = {name: place for place, name in enumerate(networks)}
        self._heads = {name: heads(network) for name, network in networks.items()} if config.sigreg else {}
        resets = config.reset != "none"
        self._units = {name: hidden_units(network) for name, network in networks.items()} if resets else {}
        self._unknown = torch.tensor(torch.nan, device=device)
        self._features: dict[str, dict[int, Tensor]] = {}
        self._activity: dict[str, dict[int, Tensor]] = {}

    @contextmanager
    def watch(self, precision: AbstractContextManager[Any], update: int) -> Iterator[None]:
        """Passes of a loss, from which features and activations are kept; of several passes those of the last.

        Passes without gradients are let through. Hooks are there only inside, so that nothing else, such as the
        objectives that curvature is measured of, is seen, and copies of networks have none.

        Args:
            precision: a context in which the passes are made.
            update: number of the update under way, from 1.
        """
        handles = []
        if torch.is_grad_enabled():
            for name, modules in self._heads.items():
                for number, head in enumerate(modules):
                    handles.append(head.register_forward_pre_hook(partial(self._keep_features, name, number)))
            if self._config.reset == "redo" and self._is_due(update):
                for name, layers in self._units.items():
                    for number, units in enumerate(layers):
                        see = partial(self._keep_activity, name, number, units)
                        handles.append(units.activation.register_forward_hook(see))
        try:
            with precision:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def penalized(
        self, loss: Tensor, names: Iterable[str], update: int, weight: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A loss with SIGReg's term of the networks that it trains.

        Args:
            loss: 0-d.
            names: of the networks.
            update: number of the update under way, from 1.
            weight: [batch] 1 for rows that count and 0 for others; None: all count.

        Returns:
            the loss with the term, and ``loss/sigreg`` before it is weighted (``loss/sigreg_<network>`` of several
            networks), a sum over the torsos of a network.
        """
        metrics: dict[str, Tensor] = {}
        for name in names if self._heads else ():
            features, generator = self._features.pop(name), self._generator(name, update, 0)
            terms = [sigreg(one, random_directions(one.shape[1], generator), weight) for one in features.values()]
            term = torch.stack(terms).sum()
            loss = loss + self._config.sigreg * term
            metrics[self._named("loss/sigreg", name)] = term.detach()
        return loss, metrics

    def reset(self, names: Iterable[str], update: int, weight: Tensor | None = None) -> dict[str, Tensor]:
        """Let units of networks begin anew, where it is time.

        Args:
            names: of the networks, whose optimizers have just stepped.
            update: number of the update under way, from 1.
            weight: as of ``penalized``.

        Returns:
            ``values/reset_fraction`` (``values/reset_fraction_<network>``), the share of hidden units that began anew;
            NaN where it was not time.
        """
        metrics: dict[str, Tensor] = {}
        threshold = self._config.reset_threshold
        for name in names if self._units else ():
            fraction = self._unknown
            if self._is_due(update):
                tau = RESETS[self._config.reset] if threshold is None else threshold
                chosen = [dormant(size, tau) for size in self._sizes(name, weight)]
                if weight is not None:
                    # Where no row counts, nothing speaks and nothing has a gradient.
                    some = averaged(weight.sum(), self._average_gradients) > 0
                    chosen = [rows & some for rows in chosen]
                renew_(self._units[name], chosen, self._optimizers[name], self._generator(name, update, 1))
                fraction = torch.cat(chosen).float().mean()
            metrics[self._named("values/reset_fraction", name)] = fraction
        return metrics

    def forget(self) -> None:
        """Drop what was kept of passes that no step followed, with their graphs."""
        self._features.clear()
        self._activity.clear()

    def _sizes(self, name: str, weight: Tensor | None) -> list[Tensor]:
        """[units] by which the units of each layer are judged."""
        layers = self._units[name]
        if self._config.reset == "regrama":
            return [gradient_size(units) for units in layers]
        kept = self._activity.pop(name)
        rows = torch.cat([kept[number] for number in range(len(layers))], dim=1)
        total = rows.sum(dim=0) if weight is None else weight.to(rows.dtype) @ rows
        return list(averaged(total, self._average_gradients).split([units.count for units in layers]))

    def _is_due(self, update: int) -> bool:
        return update % self._config.reset_every == 0

    def _named(self, metric: str, network: str) -> str:
        return metric if len(self._places) == 1 else f"{metric}_{network}"

    def _generator(self, network: str, update: int, purpose: int) -> torch.Generator:
        sequence = np.random.SeedSequence((self._seed, update, self._places[network], purpose))
        return torch.Generator(self._device).manual_seed(int(sequence.generate_state(1)[0]))

    def _keep_features(self, name: str, number: int, head: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._features.setdefault(name, {})[number] = args[0]

    def _keep_activity(
        self, name: str, number: int, units: Units, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
    ) -> None:
        self._activity.setdefault(name, {})[number] = activity(units, output)


def make_plasticity(
    config: AgentConfig,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    **options: Any,
) -> Plasticity | None:
    """What a configuration asks for; None where it asks for nothing. Arguments as of ``Plasticity``."""
    if not config.sigreg and config.reset == "none":
        return None
    return Plasticity(config, networks, optimizers, **options)
