"""Weights that are computed from what an optimizer steps: some of them removed, or with a bounded largest gain.

``layer.weight`` is what a layer multiplies with, and ``layer.parametrizations.weight.original`` what is trained
(``torch.nn.utils.parametrize``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

#: Steps of the power method before the first pass.
FIRST_ITERATIONS = 15
EPSILON = 1e-12


class SpectralNorm(nn.Module):
    r"""Divides a matrix by its largest singular value, estimated as :math:`u^\top W v` (Miyato et al., 1802.05957).

    u and v are buffers. They take one step of the power method in each pass that is trained on: in training mode and
    with gradients. Passes for acting, for targets, in evaluation and in a diagnosis leave them alone; a target network
    gets those of the trained one. Estimated in float32 under autocast, too.

    Args:
        weight: the matrix as it is at first, [rows, columns].
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn_like(weight[:, 0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn_like(weight[0]), dim=0))
        self._iterate(weight, FIRST_ITERATIONS)

    def forward(self, weight: Tensor) -> Tensor:
        """``[rows, columns]`` to the same with a largest singular value of about 1."""
        with nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False):
            if self.training and torch.is_grad_enabled():
                self._iterate(weight, 1)
            # Clones, as the next pass changes them in place while this one may wait for its backward pass.
            largest = torch.dot(self.u.clone(), torch.mv(weight, self.v.clone()))
            return weight / largest.clamp_min(EPSILON)

    @torch.no_grad()
    def _iterate(self, weight: Tensor, steps: int) -> None:
        for _ in range(steps):
            self.u.copy_(F.normalize(torch.mv(weight, self.v), dim=0, eps=EPSILON))
            self.v.copy_(F.normalize(torch.mv(weight.mT, self.u), dim=0, eps=EPSILON))


class Mask(nn.Module):
    """Multiplies weights by a mask that never changes.

    Args:
        mask: bool, of the shape of the weights; False removes one.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights that are left, and exactly 0 elsewhere."""
        return weight * self.mask


def normalize_spectra(network: nn.Module) -> None:
    """Give the weights of all linear layers of ``network`` a largest singular value of 1, now and in training.

    Bjorck et al. (arXiv 2106.01151) do so in all hidden layers; Gogianu et al. (arXiv 2105.05246) find that the last
    one alone does most of it. Where a LayerNorm follows, the outputs stay the same and only the size of steps changes.
    """
    for layer in _linear_layers(network):
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight.detach()))


def prune_at_random(network: nn.Module, sparsity: float) -> None:
    """Remove a fraction of the weights of all linear layers of ``network``, at random and for good.

    One-shot random pruning (Ma et al., arXiv 2506.17204): how many in which layer as of :func:`erdos_renyi_densities`,
    which ones from torch's global generator. Biases stay, and so does the scale of the other weights. Removed weights
    are stored all the same: neither time nor memory is saved.

    Args:
        network: whose layers are changed in place.
        sparsity: fraction of the weights of all layers together, in [0, 1).
    """
    layers = _linear_layers(network)
    densities = erdos_renyi_densities([(layer.out_features, layer.in_features) for layer in layers], sparsity)
    for layer, density in zip(layers, densities, strict=True):
        weight = layer.weight
        mask = torch.ones_like(weight, dtype=torch.bool)
        if not weight.is_meta:
            removed = weight.numel() - round(density * weight.numel())
            mask.view(-1)[torch.randperm(weight.numel())[:removed].to(weight.device)] = False
        with torch.no_grad():
            weight.mul_(mask)
        parametrize.register_parametrization(layer, "weight", Mask(mask))


def erdos_renyi_densities(shapes: Sequence[tuple[int, int]], sparsity: float) -> list[float]:
    """The fraction of its weights that each layer keeps, more of small and narrow ones (Mocanu et al. 2018).

    Proportional to (outputs + inputs) / (outputs * inputs), and at most 1, so that of all layers together a fraction of
    ``1 - sparsity`` is kept.

    Args:
        shapes: (outputs, inputs) of each layer.
        sparsity: in [0, 1).
    """
    sizes = [outputs * inputs for outputs, inputs in shapes]
    sides = [outputs + inputs for outputs, inputs in shapes]
    whole: set[int] = set()
    while True:
        partial = [number for number in range(len(shapes)) if number not in whole]
        kept = (1.0 - sparsity) * sum(sizes) - sum(sizes[number] for number in whole)
        scale = kept / sum(sides[number] for number in partial) if partial else 0.0
        # A layer that should keep more than it has is kept whole, and the others share what is left.
        full = [number for number in partial if scale * sides[number] >= sizes[number]]
        if not full:
            return [1.0 if number in whole else scale * sides[number] / sizes[number] for number in range(len(shapes))]
        whole.update(full)


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]
