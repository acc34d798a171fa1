"""What a network can still learn: fresh targets on its own inputs, from its weights as they are.

The target-fitting capacity of Lyle et al. (arXiv 2204.09560; arXiv 2303.01486): a copy of the network learns targets
that have nothing to do with its task, beside a fresh network of the same shape with the same optimizer, and a small one
that keeps learning. All see the same inputs, targets and batches. The measure is of the weights *and* of the optimizer
at its rate: one quantity of several, never a verdict alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.probe import evaluation, last_layer
from stablegrad.diagnostics.twin import healthy_twin
from stablegrad.errors import UsageError

MakeOptimizer = Callable[[nn.Module], Optimizer]

#: Inputs to learn from, at most.
ROWS = 1024
STEPS, BATCH = 200, 128
#: For images, of which a step costs a hundred times as much.
IMAGE_STEPS, IMAGE_BATCH = 60, 64
#: The loss is that of the last steps, as a share of all.
LAST = 0.15
TARGETS = 8
#: Times the error of a fresh network above which ability to learn counts as lost, and times that of a small one above
#: which it was never there.
LOST, LACKING = 2.0, 4.0
#: Names of the errors in a history.
REFIT, REFIT_FRESH, REFIT_SMALL = "refit_error", "refit_error_fresh", "refit_error_small"
SMALL_RATE = 1e-3
#: Inputs with more features are projected to this many before targets are computed from them.
PROJECTED = 64


@dataclass(frozen=True)
class Capacity:
    """Mean squared errors of standardised targets at the end of the fit: 1 is that of a constant, 0 a perfect fit.

    Attributes:
        live: of the network, from its weights as they are; infinite where they are not finite or became so.
        fresh: of a network of the same shape with fresh weights.
        small: of a network with two hidden layers and LayerNorm, by Adam at ``SMALL_RATE``.
    """

    live: float
    fresh: float
    small: float

    def figures(self) -> dict[str, float]:
        """For the history: the errors by metric."""
        return {REFIT: self.live, REFIT_FRESH: self.fresh, REFIT_SMALL: self.small}

    @property
    def lost(self) -> float:
        """How many times the error of a fresh network the live one has; about 1: nothing was lost."""
        return self.live / max(self.fresh, 1e-12)

    @property
    def in_words(self) -> str:
        """What the errors say, a sentence without a full stop."""
        errors = f"{self.live:.3g} in fresh targets; a fresh one of its shape {self.fresh:.3g}, a small one"
        errors = f"{errors} {self.small:.3g}"
        if self.lost > LOST:
            return f"the network has lost ability to learn: its error is {errors}"
        if self.live > LACKING * self.small:
            return f"the network learns less than a small one, as a fresh one of its shape does: its error is {errors}"
        return f"the network can still learn: its error is {errors}"


def newest_capacities(history: History) -> dict[str, Capacity]:
    """What was measured last of each network, by its site in the history."""
    errors = [history.series(metric) for metric in (REFIT, REFIT_FRESH, REFIT_SMALL)]
    if not all(errors):
        return {}
    found = {}
    for site in set.intersection(*(set(series.sites) for series in errors)):
        # Several networks may have been measured at different steps.
        newest = [values[~np.isnan(values)][-1:] for values in (series.site(site) for series in errors)]
        if all(map(len, newest)):
            found[site] = Capacity(*(float(value[0]) for value in newest))
    return {site: found[site] for site in errors[0].sites if site in found}


def measure_capacity(
    make_network: Callable[[], nn.Module],
    weights: Mapping[str, Tensor],
    inputs: Tensor,
    make_optimizer: MakeOptimizer,
    *,
    seed: int = 0,
) -> Capacity:
    """Fit fresh targets with a network as it is, with a fresh one of its shape, and with a small one.

    The targets of a row x are sin(2 x W) V, standardised: x are the inputs, standardised by feature (of more than
    ``PROJECTED`` features, random projections of them), W and V are random. Each network gets a new linear readout on
    its features, the input of its last layer, which are divided by their root mean square.

    Args:
        make_network: makes a network of the same shape with fresh weights.
        weights: the state dict of the network as it is; it is copied.
        inputs: [rows, ...] that the network saw in training, of which the first ``ROWS`` are used.
        make_optimizer: the optimizer of a network, at the training's own settings.
        seed: draws weights, targets and batches. No random number of the program's own streams is used.

    Returns:
        the errors.

    Raises:
        UsageError: fewer than 2 inputs, or a network whose last layer reads no row of features a sample.
    """
    if len(inputs) < 2:
        raise UsageError(f"capacity is measured on at least 2 inputs, got {len(inputs)}")
    is_image = inputs.ndim >= 4
    steps, batch = (IMAGE_STEPS, IMAGE_BATCH) if is_image else (STEPS, BATCH)
    inputs = inputs[:ROWS].detach()
    generator = torch.Generator().manual_seed(seed)
    targets = draw_targets(inputs, generator)
    order = torch.randint(len(inputs), (steps, min(batch, len(inputs))), generator=generator).to(inputs.device)
    errors: dict[str, float] = {}
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []), torch.enable_grad():
        for name in ("live", "fresh", "small"):
            torch.manual_seed(seed)
            if name == "small":
                deviation, mean = torch.std_mean(inputs.float(), dim=0, correction=0)
                deviation = torch.where(deviation > 0, deviation, 1.0)
                model = healthy_twin(inputs.shape[1:], TARGETS, mean=mean, deviation=deviation).to(inputs.device)
                optimizer: Optimizer = Adam(model.parameters(), lr=SMALL_RATE)
            else:
                network = make_network().to(inputs.device)
                if name == "live":
                    network.load_state_dict(dict(weights))
                model = _Readout(network, inputs)
                optimizer = make_optimizer(model)
            errors[name] = _fit(model, optimizer, inputs, targets, order)
    return Capacity(**errors)


def draw_targets(inputs: Tensor, generator: torch.Generator, targets: int = TARGETS) -> Tensor:
    """Smooth random functions of inputs [rows, ...]: [rows, targets] float32 with mean 0 and deviation 1."""
    x = _standardised(inputs.flatten(1).double().cpu())
    if x.shape[1] > PROJECTED:
        x = _standardised(x @ torch.randn(x.shape[1], PROJECTED, generator=generator, dtype=torch.float64))
    hidden = torch.randn(x.shape[1], PROJECTED, generator=generator, dtype=torch.float64) / math.sqrt(x.shape[1])
    readout = torch.randn(PROJECTED, targets, generator=generator, dtype=torch.float64)
    return _standardised(torch.sin(2.0 * x @ hidden) @ readout).float().to(inputs.device)


def _standardised(x: Tensor) -> Tensor:
    """Columns of [rows, features] with mean 0 and deviation 1; constant ones are 0."""
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    return (x - mean) / torch.where(deviation > 1e-12, deviation, 1.0)


class _Readout(nn.Module):
    """A network with a new linear readout in place of its last layer's."""

    def __init__(self, network: nn.Module, inputs: Tensor):
        super().__init__()
        self.network = network
        self._features: list[Tensor] = []
        network.eval()
        _, head = last_layer(network, inputs)
        # A plain function on a module that belongs to this measurement alone; what the head returns is not used.
        head.register_forward_pre_hook(self._keep)
        with torch.no_grad():
            features = self._features_of(inputs)
        size = float(features.double().square().mean().sqrt())
        self.scale = 1.0 / size if math.isfinite(size) and size > 0 else 1.0
        self.readout = nn.Linear(features.shape[1], TARGETS, device=features.device)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, ...] to [rows, ``TARGETS``]."""
        return self.readout(self._features_of(x) * self.scale)

    def _keep(self, head: nn.Module, args: tuple[Any, ...]) -> None:
        self._features.append(args[0])

    def _features_of(self, x: Tensor) -> Tensor:
        self._features.clear()
        self.network(x)
        features = self._features[-1] if self._features else None
        self._features.clear()
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(x):
            raise UsageError("capacity cannot be measured: the last layer's input is not one row of features a sample")
        return features.float()


def _fit(model: nn.Module, optimizer: Optimizer, inputs: Tensor, targets: Tensor, order: Tensor) -> float:
    """Train for ``len(order)`` steps; the mean error of the last of them."""
    losses = []
    with evaluation(model):
        for rows in order:
            loss = F.mse_loss(model(inputs[rows]), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    error = float(torch.stack(losses)[-max(int(LAST * len(losses)), 1) :].mean())
    return error if math.isfinite(error) else math.inf
