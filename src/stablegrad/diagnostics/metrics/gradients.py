"""Gradients and updates, layer by layer: how long they are, where they point, how much of them is noise.

Nothing here makes the host wait for the device. NaN says that there is no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor


@torch.no_grad()
def layer_norms(tensors: Sequence[Tensor], layer_of: Tensor, num_layers: int) -> Tensor:
    r"""L2 norm of each layer, :math:`\sqrt{\sum_{p \in l} \lVert x_p \rVert^2}`.

    Squares too small for the dtype count as zero: in float32 that is a gradient whose entries are below 1e-22.

    Args:
        tensors: one a parameter (gradients, weights, updates), any shapes, on one device; at least one.
        layer_of: [len(tensors)] int64, the layer of each, -1 for those to leave out.
        num_layers: layers to report; every entry of ``layer_of`` is smaller.

    Returns:
        [num_layers] in [0, inf], float32, or float64 if a tensor is; 0 for a layer without parameters.
    """
    norms = torch.stack(torch._foreach_norm(list(tensors), 2, dtype=_dtype(tensors)))
    return _sum_by_layer(norms.square(), layer_of, num_layers).sqrt()


@torch.no_grad()
def layer_dots(a: Sequence[Tensor], b: Sequence[Tensor], layer_of: Tensor, num_layers: int) -> Tensor:
    r"""Inner product of each layer, :math:`\sum_{p \in l} \langle a_p, b_p \rangle`.

    Args:
        a: one tensor a parameter, as in :func:`layer_norms`.
        b: the same number of tensors, of the same shapes.
        layer_of: [len(a)] int64, the layer of each, -1 for those to leave out.
        num_layers: layers to report.

    Returns:
        [num_layers], float32, or float64 if a tensor is; 0 for a layer without parameters.
    """
    dtype = _dtype([*a, *b])
    dots = [torch.dot(x.flatten().to(dtype), y.flatten().to(dtype)) for x, y in zip(a, b, strict=True)]
    return _sum_by_layer(torch.stack(dots), layer_of, num_layers)


@torch.no_grad()
def cosine(norm_a: Tensor, norm_b: Tensor, dot: Tensor) -> Tensor:
    r"""Cosine of the angle between two vectors, :math:`\langle a, b \rangle / (\lVert a \rVert \lVert b \rVert)`.

    Args:
        norm_a: norms, any shape.
        norm_b: norms of the partners.
        dot: inner products.

    Returns:
        in [-1, 1], of the arguments' shape; NaN where a norm is zero or infinite, or both so small that their product
        is less than the dtype can hold.
    """
    product = norm_a * norm_b
    there = (product >= torch.finfo(product.dtype).tiny) & product.isfinite()
    return torch.where(there, (dot / product).clamp(-1.0, 1.0), torch.nan)


@torch.no_grad()
def signal_to_noise(norm_a: Tensor, norm_b: Tensor, dot: Tensor) -> Tensor:
    r"""Signal-to-noise ratio of two minibatch gradients, :math:`\frac{g_1 \cdot g_2}{\lVert g_1 - g_2 \rVert^2 / 2}`.

    Of two independent gradients :math:`g_i = \mu + \varepsilon_i` the numerator is an unbiased estimate of
    :math:`\lVert \mu \rVert^2`, and the denominator one of :math:`\operatorname{tr} \Sigma`, the variance of one
    minibatch's gradient: McCandlish et al. (2018, arXiv 1812.06162, appendix A.1) with the two minibatches as the small
    batches and both together as the big one. The ratio, the batch size over their noise scale, is not itself unbiased.
    It is **negative** where the gradients point apart, which noise alone does half the time.
    Gradients of consecutive updates are taken at two points, so what the step changed in the true gradient counts as
    noise here.

    Args:
        norm_a: norms of the one gradient, any shape.
        norm_b: norms of the other.
        dot: their inner products.

    Returns:
        in [-1/2, inf), of the arguments' shape; NaN where the gradients are equal up to rounding (or both zero):
        there is no noise to compare with.
    """
    power = norm_a.square() + norm_b.square()
    noise = power / 2 - dot
    # The difference of two rounded numbers knows no more than this.
    there = (noise > 4 * torch.finfo(noise.dtype).eps * power) & power.isfinite()
    return torch.where(there, dot / noise, torch.nan)


@torch.no_grad()
def update_ratio(update_norm: Tensor, weight_norm: Tensor) -> Tensor:
    r"""Length of an update relative to the weights it changes, :math:`\lVert \Delta w \rVert / \lVert w \rVert`.

    Args:
        update_norm: norms of the change that one step made, any shape.
        weight_norm: norms of the weights before it.

    Returns:
        in [0, inf], of the arguments' shape; NaN where the weights are zero.
    """
    return torch.where(weight_norm > 0, update_norm / weight_norm, torch.nan)


@torch.no_grad()
def effective_learning_rate(learning_rate: Tensor, weight_norm: Tensor) -> Tensor:
    r"""What a learning rate amounts to in front of a normalisation, :math:`\eta / \lVert w \rVert^2`.

    The output of a normalised layer does not depend on the length of its weights, but their gradient does, as its
    inverse: growing weights slow the layer down (van Laarhoven 2017, arXiv 1706.05350).

    Args:
        learning_rate: of each layer, or one for all.
        weight_norm: norms of the weights, any shape.

    Returns:
        in [0, inf], of the arguments' shape; NaN where the weights are zero.
    """
    return torch.where(weight_norm > 0, learning_rate / weight_norm.square(), torch.nan)


@torch.no_grad()
def normalised_step(update_norm: Tensor, learning_rate: Tensor, size: Tensor) -> Tensor:
    r"""Root mean square of an update over the learning rate, :math:`\lVert \Delta w \rVert / (\eta \sqrt{n})`.

    Adam's is near 1 while gradients agree and about :math:`\sqrt{(1 - \beta_1) / (1 + \beta_1)}`, 0.23, where they are
    noise (Kingma and Ba 2015, arXiv 1412.6980, section 2.1, bound it by 1 in most cases). Far less says that the
    optimizer's mean of squared gradients is of larger ones.

    Args:
        update_norm: norms of the change that one step made, [layers].
        learning_rate: of each layer; NaN where there is none.
        size: entries of each layer.

    Returns:
        in [0, inf], of the arguments' shape; NaN where the rate is zero or there is none.
    """
    step = learning_rate * size.sqrt()
    return torch.where(step > 0, update_norm / step, torch.nan)


@torch.no_grad()
def weight_gain(weight_norm: Tensor, outputs: Tensor) -> Tensor:
    r"""By how much a layer stretches inputs whose entries are independent, :math:`\lVert w \rVert / \sqrt{m}`.

    That is the root mean square of its outputs, biases apart, for inputs of mean square 1. Usual initialisations have
    0.58 (torch's own) to 1.7 (for tanh), less where there are more outputs than inputs (Glorot and Bengio 2010; He et
    al., arXiv 1502.01852).

    Args:
        weight_norm: [layers] norms of the weights, without biases.
        outputs: [layers] the number m of outputs of each layer, the rows of its matrices; 0 where that is not known.

    Returns:
        [layers] in [0, inf]; NaN where ``outputs`` is 0.
    """
    return torch.where(outputs > 0, weight_norm / outputs.clamp_min(1).sqrt(), torch.nan)


def _dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """At least float32: half precision overflows at a norm of 65504."""
    return reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)


def _sum_by_layer(values: Tensor, layer_of: Tensor, num_layers: int) -> Tensor:
    """Sums of [parameters] values by layer; selecting by a mask would wait for the device, a spare layer does not."""
    layer_of = layer_of.to(values.device, non_blocking=True)
    layer_of = torch.where(layer_of < 0, num_layers, layer_of)
    return values.new_zeros(num_layers + 1).index_add_(0, layer_of, values)[:num_layers]
