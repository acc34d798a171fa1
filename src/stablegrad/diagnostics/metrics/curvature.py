"""Curvature of a loss from products with its Hessian, which is never formed.

A product costs about two backward passes. Of a temporal-difference loss the target is to be held fixed inside the
closure. Nothing here touches ``.grad`` or the global random stream. Lanczos makes the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy import linalg
from scipy.special import stdtrit
from torch import Tensor

from stablegrad.errors import UsageError


class Estimate(NamedTuple):
    """An estimate and its interval, 0-d tensors each; NaN if the curvature is not finite."""

    value: Tensor
    low: Tensor
    high: Tensor


def hessian_vector_product(
    loss_closure: Callable[[], Tensor], parameters: Iterable[Tensor]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    r"""The map :math:`v \mapsto \nabla^2 L \, v = \nabla (\nabla L \cdot v)` (Pearlmutter 1994).

    The closure is called once and its graph kept as long as the map.

    Args:
        loss_closure: returns the loss, a scalar with its graph.
        parameters: the variables; they require gradients. Those that the loss does not depend on have zero curvature.

    Returns:
        (product, gradient): the map takes and returns [size], the parameters flattened one after the other; so is the
        gradient, which comes for free. Both float32, or float64 if the parameters are.

    Raises:
        UsageError: no parameter, one that requires no gradient, or a loss that is no scalar with a graph.
    """
    variables = list(parameters)
    if not variables or not all(variable.requires_grad for variable in variables):
        raise UsageError("parameters should be a list of tensors that require gradients")
    with torch.enable_grad():
        loss = loss_closure()
        if loss.ndim or not loss.requires_grad:
            raise UsageError(
                f"loss_closure should return a scalar that depends on the parameters, got the shape {tuple(loss.shape)}"
                f"{'' if loss.requires_grad else ' without a graph'}"
            )
        gradients = torch.autograd.grad(loss, variables, create_graph=True, materialize_grads=True)
        gradient = torch.cat([part.flatten() for part in gradients])
        gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # a loss that is linear in its parameters
            return torch.zeros_like(gradient)
        vector = vector.to(gradient.device, gradient.dtype)
        parts = torch.autograd.grad(gradient, variables, vector, retain_graph=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts]).to(gradient.dtype)

    return product, gradient.detach()


def hessian_trace(
    loss_closure: Callable[[], Tensor], parameters: Iterable[Tensor], samples: int, generator: torch.Generator
) -> Estimate:
    r"""Trace of the Hessian, the mean of :math:`v^\top H v` over random signs v (Hutchinson 1990).

    The estimate is unbiased, with the variance :math:`2 \sum_{i \ne j} H_{ij}^2` a sample: exact for a diagonal
    Hessian. The interval is Student's of 95%.

    Args:
        loss_closure: returns the loss, a scalar with its graph.
        parameters: the variables.
        samples: random vectors, at least 2; one product each.
        generator: where they are drawn from.

    Returns:
        trace with its 95% interval.

    Raises:
        UsageError: fewer than 2 samples, or as in :func:`hessian_vector_product`.
    """
    if samples < 2:
        raise UsageError(f"samples must be at least 2, as one says nothing about its scatter; got {samples}")
    product, gradient = hessian_vector_product(loss_closure, parameters)
    draws = []
    for _ in range(samples):
        signs = torch.randint(0, 2, gradient.shape, generator=generator, device=generator.device) * 2 - 1
        signs = signs.to(gradient)
        draws.append(torch.dot(signs, product(signs)))
    scatter, trace = torch.std_mean(torch.stack(draws))
    half = float(stdtrit(samples - 1, 0.975)) / math.sqrt(samples) * scatter
    return Estimate(trace, trace - half, trace + half)


def extreme_eigenvalues(
    loss_closure: Callable[[], Tensor], parameters: Iterable[Tensor], iterations: int, generator: torch.Generator
) -> tuple[Estimate, Estimate]:
    r"""The smallest and the largest eigenvalue of the Hessian, with their signs, by Lanczos's method.

    Power iteration finds the largest *magnitude*, which away from a minimum may well be a negative one. Here both ends
    of the spectrum come from one Krylov space, kept orthogonal in full (Golub and Van Loan, section 10.3).

    For a Ritz pair :math:`(\theta, y)` with the residual :math:`r = \lVert H y - \theta y \rVert`, an eigenvalue lies
    in :math:`[\theta - r, \theta + r]`, and no Ritz value lies outside the spectrum, both up to the rounding of the
    products. That it is the extreme one is not proven, but a random start has a part of every eigenvector: what can be
    missed with few iterations are ends of the spectrum that it hardly contains.

    Args:
        loss_closure: returns the loss, a scalar with its graph.
        parameters: the variables.
        iterations: dimension of the Krylov space, at least 1: one product each, and as many vectors of the network's
            size in memory. It ends early where the space is complete.
        generator: where the start is drawn from.

    Returns:
        (smallest, largest), each with the interval of its residual.

    Raises:
        UsageError: iterations below 1, or as in :func:`hessian_vector_product`.
    """
    if iterations < 1:
        raise UsageError(f"iterations must be at least 1, got {iterations}")
    product, gradient = hessian_vector_product(loss_closure, parameters)
    start = torch.randn(gradient.shape, generator=generator, device=generator.device)
    alpha, beta = _lanczos(product, start.to(gradient), iterations)
    if not np.isfinite([*alpha, *beta]).all():
        nothing = Estimate(*(gradient.new_full((), math.nan) for _ in range(3)))
        return nothing, nothing
    ritz, vectors = linalg.eigh_tridiagonal(alpha, beta[:-1])
    residual = np.abs(beta[-1] * vectors[-1])
    smallest, largest = (
        Estimate(*(gradient.new_tensor(ritz[end] + side * residual[end]) for side in (0, -1, 1))) for end in (0, -1)
    )
    return smallest, largest


def top_eigenvalue(
    loss_closure: Callable[[], Tensor], parameters: Iterable[Tensor], iterations: int, generator: torch.Generator
) -> Estimate:
    """The largest eigenvalue of the Hessian, the largest *algebraic* one; see :func:`extreme_eigenvalues`."""
    return extreme_eigenvalues(loss_closure, parameters, iterations, generator)[1]


def _lanczos(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> tuple[list[float], list[float]]:
    """Diagonal and sub-diagonal of the tridiagonal matrix; the last entry of the latter is what leaves the space."""
    basis = start.new_empty(min(iterations, len(start)), len(start))
    basis[0] = start / torch.linalg.vector_norm(start)
    alpha: list[float] = []
    beta: list[float] = []
    for k in range(len(basis)):
        image = product(basis[k])
        length = float(torch.linalg.vector_norm(image))
        alpha.append(float(torch.dot(basis[k], image)))
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        beta.append(float(torch.linalg.vector_norm(image)))
        if not beta[k] > 10 * torch.finfo(basis.dtype).eps * length:  # the space is complete; what is left is rounding
            break
        if k + 1 < len(basis):
            basis[k + 1] = image / beta[k]
    return alpha, beta
