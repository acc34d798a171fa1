"""The gradient of every sample by itself, for tangent kernels and gradient covariances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from stablegrad.errors import UsageError

#: Samples whose gradients are computed at once for a Gram matrix: what the passes hold grows with them.
CHUNK = 8


def per_sample_gradients(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    objective: Callable[..., Tensor] = torch.sum,
    *others: Tensor,
) -> Tensor:
    """Gradients of ``objective(model(x_i), ...)`` by the model's parameters, for every sample i.

    The sum of the outputs, the default, gives the usual cheap stand-in for the tangent kernel of several outputs
    (Mohamadi et al. 2022, arXiv 2206.12543, up to their factor). All samples go at once where ``vmap`` can (no control
    flow that depends on data, no dropout), else one after the other. Parameters, their ``.grad`` and buffers stay as
    they are; put the model into evaluation mode first, as dropout would draw random numbers.

    Args:
        model: takes the inputs of a batch, here of one sample.
        inputs: [n, ...], or a tuple of such if the model takes several.
        objective: called with the model's output for a batch of one sample, and with that sample of each of ``others``;
            returns a scalar.
        others: [n, ...], such as targets.

    Returns:
        [n, parameters] of those that require gradients, flattened, in the order of ``model.parameters()``. Mind the
        memory: n times the network.

    Raises:
        UsageError: no parameter requires gradients.
    """
    trained = {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
    if not trained:
        raise UsageError("no parameter of the model requires gradients")
    fixed = {name: one.detach() for name, one in model.named_parameters() if not one.requires_grad}
    fixed |= {name: one.clone() for name, one in model.named_buffers()}
    batch = (inputs if isinstance(inputs, tuple) else (inputs,), others)

    def value(weights: dict[str, Tensor], sample: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> Tensor:
        own, rest = sample
        output = functional_call(model, {**fixed, **weights}, tuple(one[None] for one in own))
        return objective(output, *(one[None] for one in rest))

    try:
        by_name = vmap(grad(value), in_dims=(None, 0))(trained, batch)
    except RuntimeError:  # what vmap refuses; an error of the model itself comes again below
        return _one_by_one(value, trained, batch)
    return torch.cat([by_name[name].flatten(1) for name in trained], dim=1).detach()


def per_sample_gram(
    model: nn.Module,
    inputs: Tensor,
    objective: Callable[..., Tensor] = torch.sum,
    *others: Tensor,
) -> Tensor:
    """Inner products of the gradients of all samples, some samples at a time.

    Holds the gradients of all of them, n times the network, and the passes of ``CHUNK``.

    Args:
        model: as in :func:`per_sample_gradients`, and so are ``objective`` and ``others``.
        inputs: [n, ...].
        objective: a scalar of a batch of one sample.
        others: [n, ...], such as targets.

    Returns:
        [n, n], as :func:`gradient_gram`.
    """
    chunks = [
        per_sample_gradients(model, own, objective, *rest)
        for own, *rest in zip(*(one.split(CHUNK) for one in (inputs, *others)), strict=True)
    ]
    chunks = [one.to(torch.promote_types(one.dtype, torch.float32)) for one in chunks]
    # Block by block: as one matrix, the gradients would be held twice.
    return torch.cat([torch.cat([one @ other.T for other in chunks], dim=1) for one in chunks])


@torch.no_grad()
def gradient_gram(gradients: Tensor) -> Tensor:
    r"""Inner products of gradients, :math:`G G^\top`.

    Args:
        gradients: [n, parameters] from :func:`per_sample_gradients`.

    Returns:
        [n, n], float32, or float64 if the gradients are.
    """
    gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
    return gradients @ gradients.T


def _one_by_one(
    value: Callable[..., Tensor],
    trained: dict[str, Tensor],
    batch: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
) -> Tensor:
    weights = {name: one.clone().requires_grad_() for name, one in trained.items()}
    inputs, others = batch
    rows = []
    for number in range(len(inputs[0])):
        sample = tuple(one[number] for one in inputs), tuple(one[number] for one in others)
        with torch.enable_grad():
            gradients = torch.autograd.grad(value(weights, sample), list(weights.values()), materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)
