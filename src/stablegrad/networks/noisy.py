"""Linear layers with learned noise, by which a network explores instead of by random actions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NoisyLinear(nn.Linear):
    r"""A linear layer with factorised noise on its weights (Fortunato et al. 2018, arXiv 1706.10295, eqs. 9-11).

    .. math:: y = (W + \Sigma \odot f(\epsilon_{out}) f(\epsilon_{in})^\top)\, x + b + \sigma \odot f(\epsilon_{out}),
              \qquad f(x) = \operatorname{sgn}(x) \sqrt{|x|}

    The noise is an outer product: one number an input and one an output. ``weight`` and ``bias`` are the means, so that
    without noise (``noise`` is None) this is the linear layer of its means.

    Args:
        in_features: size of the input.
        out_features: size of the output.
        sigma: sigma_0; every :math:`\sigma` starts at sigma_0 / sqrt(in_features).
        bias: whether there are b and its :math:`\sigma`.

    Attributes:
        noise: (f(eps_in), f(eps_out)), [in_features] and [out_features]; set by :func:`noise` for as long as it lasts.
    """

    def __init__(self, in_features: int, out_features: int, sigma: float = 0.5, bias: bool = True):
        super().__init__(in_features, out_features, bias)
        start = sigma / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full_like(self.weight, start))
        self.bias_sigma = nn.Parameter(torch.full_like(self.bias, start)) if bias else None
        self.noise: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``."""
        if self.noise is None:
            return super().forward(x)
        inputs, outputs = self.noise
        # Adding the noise to the weights is faster than a second product with them.
        weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(outputs, inputs))
        bias = None if self.bias_sigma is None else torch.addcmul(self.bias, self.bias_sigma, outputs)
        return F.linear(x, weight, bias)


def make_noisy(network: nn.Module, sigma: float) -> None:
    """Replace every linear layer inside a network by a noisy one with its weights and bias as means, in place.

    The means keep the initialisation of the network's layers (orthogonal here) instead of the paper's uniform one, so
    that a torso differs from one without noise by the noise alone.

    Args:
        network: a module; convolutions and norms stay as they are.
        sigma: see ``NoisyLinear``.
    """
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                noisy = NoisyLinear(child.in_features, child.out_features, sigma, bias=child.bias is not None)
                noisy.weight, noisy.bias = child.weight, child.bias
                setattr(parent, name, noisy)


@contextmanager
def noise(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """One draw of noise in all noisy layers of a network, for the passes inside; outside there is none.

    Args:
        network: any module; without noisy layers nothing is drawn.
        generator: on the network's device, the only source of randomness.
    """
    layers = [module for module in network.modules() if isinstance(module, NoisyLinear)]
    sizes = [size for layer in layers for size in (layer.in_features, layer.out_features)]
    if layers:
        draws = torch.randn(sum(sizes), generator=generator, device=generator.device)
        factors = (draws.sign() * draws.abs().sqrt()).split(sizes)
        for layer, inputs, outputs in zip(layers, factors[::2], factors[1::2], strict=True):
            layer.noise = (inputs, outputs)
    try:
        yield
    finally:
        for layer in layers:
            layer.noise = None
