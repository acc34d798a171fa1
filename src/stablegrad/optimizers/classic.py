"""The classic rule of PSGD Kron ("EQ"), the one that kron_torch 0.3.3 and so arXiv 2506.15544 run.

Q1 (m x m) and Q2 (n x n) are upper triangular and minimise E[g' P g + v' P^-1 v] with v ~ N(0, I), whose minimum
whitens the gradient: P^-2 = E[g g'] (Li, arXiv 1512.04202; the triangular form: arXiv 2211.04422). One refresh needs
two triangular solves and a random matrix as large as the gradient. A side that is a vector's, is 1 long or is longer
than 8192 has a diagonal factor, a vector here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from stablegrad.optimizers.partition import matrix_shape
from stablegrad.optimizers.whitening import norm_lower_bound, tiny

LARGEST_DENSE_SIDE = 8192

# Factors are balanced on about one step in a hundred, drawn as kron_torch draws: Python's generator with this seed, one
# draw a step.
BALANCE_SEED = 42
BALANCE_RATE = 0.01


class BalanceDraws:
    """Whether the n-th draw of the balancing generator calls for balancing; no state to save, because it follows from n
    alone."""

    def __init__(self) -> None:
        self._generator = random.Random(BALANCE_SEED)
        self._drawn = 0
        self._due: set[int] = set()

    def due(self, step: int) -> bool:
        """Whether step ``step`` (from 0) balances, given that it refreshes."""
        while self._drawn <= step:
            if self._generator.random() < BALANCE_RATE:
                self._due.add(self._drawn)
            self._drawn += 1
        return step in self._due


def refresh_due(step: int, since_refresh: int, warmup: int, floor: float) -> bool:
    """Whether to refresh on step ``step`` (from 0) when ``since_refresh`` steps have passed since the last, this one
    included: kron_torch's counter, which reaches one over the rate."""
    rate = min(1.0, max(floor, math.exp(-max(0, step - warmup) / (2 * warmup))))
    return since_refresh >= 1.0 / rate


def merged_shape(shape: Sequence[int], compat: bool) -> tuple[int, ...]:
    """The matrix that a tensor of ``shape`` is preconditioned as; scalars, vectors and matrices stay as they are.

    Args:
        shape: the tensor's shape.
        compat: choose as kron_torch 0.3.3 does. It weighs "all but the last dimension" against "all but the first" by
            columns minus rows without taking the absolute value, and so prefers the most *skewed* matrix:
            (64, 32, 4, 4) becomes 8192 x 4.
    """
    if len(shape) <= 2:
        return tuple(shape)
    if not compat:
        return matrix_shape(shape)
    last, first = (math.prod(shape[:-1]), shape[-1]), (shape[0], math.prod(shape[1:]))
    return last if last[1] - last[0] <= first[1] - first[0] else first


def dense_side(shape: Sequence[int], side: int) -> bool:
    """Whether ``side`` of a merged tensor has a triangular factor rather than a diagonal one."""
    return len(shape) == 2 and 1 < shape[side] <= LARGEST_DENSE_SIDE


def multiply_left(Q: Tensor, X: Tensor) -> Tensor:
    """Q X, where a vector Q stands for a diagonal matrix."""
    return Q @ X if Q.dim() == 2 else Q[:, None] * X


def multiply_right(X: Tensor, Q: Tensor) -> Tensor:
    """X Q, where a vector Q stands for a diagonal matrix."""
    return X @ Q if Q.dim() == 2 else X * Q


def refresh_side(Q: Tensor, gain: Tensor, inverse: Tensor, rate: float) -> Tensor:
    """Q <- Q - mu triu(T1 - T2) Q / ||T1 + T2||, with T1 and T2 the second moments of A and of B along this side.

    Args:
        Q: upper triangular [n, n], or the diagonal [n].
        gain: A, turned so that this side is its first dimension [n, m].
        inverse: B, likewise.
        rate: step size mu.
    """
    if Q.dim() == 2:
        T1, T2 = gain @ gain.mT, inverse @ inverse.mT
        total = T1 + T2
        largest = total.abs().max().clamp_min(tiny(Q))
        bound = largest * norm_lower_bound((total / largest)[None])[0]
        return Q - (rate * (T1 - T2)).triu() / bound.clamp_min(tiny(Q)) @ Q
    t1, t2 = gain.square().sum(1), inverse.square().sum(1)
    return Q - rate * (t1 - t2) * Q / (t1 + t2).max().clamp_min(tiny(Q))


def with_probe_noise(X: Tensor, V: Tensor) -> Tensor:
    """X + sqrt(float32 epsilon) mean|X| V: what keeps the factors finite along directions without gradient."""
    return X + torch.finfo(torch.float32).eps ** 0.5 * X.abs().mean() * V


def refresh(
    factors: Sequence[Tensor], X: Tensor, V: Tensor, rate: float, *, balance_first: bool = False
) -> tuple[Tensor, ...]:
    """One refresh of the factors of a scalar or a vector (one) or of a matrix (two); arguments as in the two below."""
    if len(factors) == 1:
        return (refresh_vector(factors[0], X, V, rate),)
    Q1, Q2 = balance(*factors) if balance_first else factors
    return refresh_matrix(Q1, Q2, X, V, rate)


def refresh_matrix(Q1: Tensor, Q2: Tensor, X: Tensor, V: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """One refresh of both factors of a matrix from A = Q1 X Q2' and B = Q1'^-1 V Q2^-1.

    Args:
        Q1: left factor, upper triangular [m, m] or a diagonal [m].
        Q2: right factor, [n, n] or [n].
        X: averaged gradient [m, n], probe noise included.
        V: standard normal probe [m, n].
        rate: step size mu.
    """
    A = multiply_right(multiply_left(Q1, X), Q2.mT if Q2.dim() == 2 else Q2)
    B = torch.linalg.solve_triangular(Q1.mT, V, upper=False) if Q1.dim() == 2 else V / Q1[:, None]
    B = torch.linalg.solve_triangular(Q2, B, upper=True, left=False) if Q2.dim() == 2 else B / Q2
    return refresh_side(Q1, A, B, rate), refresh_side(Q2, A.mT, B.mT, rate)


def refresh_vector(q: Tensor, x: Tensor, v: Tensor, rate: float) -> Tensor:
    """One refresh of the diagonal factor of a scalar or a vector: A = q x, B = v / q, all of one shape."""
    column = refresh_side(q.reshape(-1), (q * x).reshape(-1, 1), (v / q).reshape(-1, 1), rate)
    return column.reshape(q.shape)


def balance(Q1: Tensor, Q2: Tensor) -> tuple[Tensor, Tensor]:
    """Both factors with their largest entries set to the geometric mean of the two."""
    factor = (Q2.abs().max() / Q1.abs().max()).sqrt()
    return factor * Q1, Q2 / factor


def precondition(factors: Sequence[Tensor], X: Tensor) -> Tensor:
    """Q1' Q1 X Q2' Q2 for a matrix, q^2 X for a scalar or a vector."""
    if len(factors) == 1:
        return factors[0].square() * X
    Q1, Q2 = factors
    left = multiply_left(Q1.mT if Q1.dim() == 2 else Q1, multiply_left(Q1, X))
    return multiply_right(multiply_right(left, Q2.mT if Q2.dim() == 2 else Q2), Q2)
