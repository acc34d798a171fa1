"""The rules that fit Kron's preconditioners, as pure functions on stacks of blocks.

A block of the (averaged) gradient is X, m x n. Its preconditioned form is W = P1 X P2 with P1 = Q1' Q1 and P2 = Q2' Q2.
Whitening means E[W W'] = n I and E[W' W] = m I: every entry of W has unit variance and no two are correlated, so P2 (x)
P1 is the inverse square root of the gradient's covariance (Li, "Preconditioned stochastic gradient descent", arXiv
1512.04202; "Black box Lie group preconditioners for SGD", arXiv 2211.04422). Both rules here need matrix products only:
no triangular solve and no random probe. With T = W W' and target tau = n (or T = W' W and tau = m), they move Q against
T Q - tau Q.

All matrices are stacked: Q, P, T are [B, b, b], X is [B, m, n], scales and norms are [B].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# A direction that never carries a gradient (a dead unit, a constant input, padding) has T = 0, so nothing would stop Q
# from growing along it. It is held at this many times the amplification that the directions with a gradient have.
# kron_torch reaches the same order, 1 / sqrt(float32 epsilon), by adding random noise to the gradient.
MAX_AMPLIFICATION = 1e3

# L is a running bound on ||T|| + tau that rises at once and falls slowly.
BOUND_DECAY = 0.9

# The longest turn of Q towards symmetry in one refresh.
MAX_TURN = 0.125


class Factors(NamedTuple):
    """The fitted state of a stack of B blocks.

    Attributes:
        Q1: left factors [B, m, m].
        Q2: right factors [B, n, n].
        L1: running bounds of the left steps [B]; 0 until a block has seen its first non-zero gradient.
        L2: running bounds of the right steps [B].
    """

    Q1: Tensor
    Q2: Tensor
    L1: Tensor
    L2: Tensor


SideRule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def per_block(scale: Tensor) -> Tensor:
    """[B] -> [B, 1, 1], to multiply a stack of blocks."""
    return scale[:, None, None]


def tiny(tensor: Tensor) -> float:
    """The smallest normal number of the tensor's dtype: what a divisor is kept above."""
    return torch.finfo(tensor.dtype).tiny


def gram(Q: Tensor) -> Tensor:
    """P = Q' Q."""
    return Q.mT @ Q


def norm_lower_bound(S: Tensor) -> Tensor:
    """A cheap lower bound of the spectral norm of symmetric or skew-symmetric S [B, b, b], as [B].

    One step of the power iteration from the longest column; the matrix is scaled by its largest entry first, so nothing
    overflows.
    """
    scale = S.abs().amax((1, 2)).clamp_min(tiny(S))
    S = S / per_block(scale)
    longest = S.square().sum(1).argmax(1)
    x = S.gather(2, longest[:, None, None].expand(-1, S.shape[1], 1))
    y = S.mT @ x
    y = y / y.norm(dim=1, keepdim=True).clamp_min(tiny(S))
    return (S @ y).norm(dim=(1, 2)) * scale


def balance_factor(Q1: Tensor, Q2: Tensor) -> Tensor:
    """What to multiply Q1 by, and divide Q2 by, so that their largest entries agree, as [B].

    P1 -> c P1, P2 -> P2 / c changes no update; balancing only keeps both sides away from the ends of the number range.
    """
    return (Q2.abs().flatten(1).amax(1) / Q1.abs().flatten(1).amax(1)).sqrt()


def pro_step(Q: Tensor, T: Tensor, tau: Tensor, step: Tensor) -> Tensor:
    """The PRO rule, dQ = Q^0.5 E Q^1.5: step against T Q - tau Q, then turn Q back towards a symmetric positive matrix.

    The turn is Q <- (I + a R + a^2 R^2 / 2) Q with R = (Q' - Q) / ||Q' - Q||, a second-order rotation; a maximises the
    trace of the result and is at most 1/8.

    Args:
        Q: factors [B, b, b].
        T: second moment of the preconditioned gradient [B, b, b].
        tau: its target [B].
        step: step size over the bound of ||T|| + tau [B].
    """
    Q = torch.baddbmm(per_block(1 + step * tau) * Q, per_block(-step) * T, Q)
    R = Q.mT - Q
    R = R / per_block(norm_lower_bound(R).clamp_min(tiny(R)))
    RQ = R @ Q
    first, second = trace(RQ), -(R * RQ).sum((1, 2))  # tr(RRQ), as R is skew-symmetric
    turn = per_block(torch.where(second < 0, (-first / second).clamp_max(MAX_TURN), MAX_TURN))
    return torch.baddbmm(Q, turn * R, torch.addcmul(Q, turn / 2, RQ))


def quad_step(Q: Tensor, T: Tensor, tau: Tensor, step: Tensor) -> Tensor:
    """The QUAD rule: half a step from the left, half from the right, and the symmetric part; arguments as in
    :func:`pro_step`."""
    keep, T = per_block(1 + step * tau / 2), per_block(-step / 2) * T
    Q = torch.baddbmm(keep * Q, T, Q)
    Q = torch.baddbmm(keep * Q, Q, T)
    return (Q + Q.mT) / 2


SIDE_RULES: dict[str, SideRule] = {"pro": pro_step, "quad": quad_step}


def trace(A: Tensor) -> Tensor:
    """Traces [B] of A [B, b, b]."""
    return A.diagonal(dim1=1, dim2=2).sum(1)


def root_mean_square(X: Tensor, count: Tensor) -> Tensor:
    """Root mean square [B] of X [B, m, n] over ``count`` [B] entries; safe for entries whose square underflows."""
    largest = X.abs().amax((1, 2))
    scaled = X / per_block(largest.clamp_min(tiny(X)))
    return largest * (scaled.square().sum((1, 2)) / count).sqrt()


def first_scale(X: Tensor, count: Tensor, fresh: Tensor, sides: int) -> Tensor:
    """What to multiply fresh factors by so that the first preconditioned gradient has a root mean square of 1, as [B].

    Starting from the gradient's own scale makes every update independent of it from the first step on: a gradient of
    1e-6 and one of 1 give the same weights.

    Args:
        X: blocks [B, m, n].
        count: entries of a block that are not padding [B].
        fresh: blocks that have not been scaled yet [B], bool.
        sides: number of P matrices that multiply X (each is quadratic in its Q).
    """
    rms = root_mean_square(X, count)
    return torch.where(fresh & (rms > 0) & rms.isfinite(), rms.pow(-0.5 / sides), 1.0)


def raised_bound(L: Tensor, bound: Tensor) -> Tensor:
    """L <- max(0.9 L + 0.1 bound, bound)."""
    return torch.maximum(L.lerp(bound, 1 - BOUND_DECAY), bound)


def damped(T: Tensor, P: Tensor, tau: Tensor) -> Tensor:
    """T plus what holds directions without gradient at MAX_AMPLIFICATION times the gradient-weighted mean of P.

    With p the amplification of a direction and p0 that mean, T = 0 there becomes tau p / (K p0), which meets the target
    at p = K p0. A direction with a gradient is moved by one part in K.
    """
    weight = tau * trace(T) / (MAX_AMPLIFICATION * (T * P).sum((1, 2))).clamp_min(tiny(T))
    return T + per_block(weight) * P


def refresh(
    rule: SideRule, factors: Factors, P1: Tensor, P2: Tensor, X: Tensor, rows: Tensor, columns: Tensor, rate: float
) -> Factors:
    """One refresh of both factors of every block from its gradient.

    A block whose gradient is all zeros, or too large to square, keeps its factors.

    Args:
        rule: one of :data:`SIDE_RULES`.
        factors: what is to be refreshed.
        P1: gram(factors.Q1), cached.
        P2: gram(factors.Q2), cached.
        X: averaged gradient [B, m, n].
        rows: rows of a block that are not padding [B].
        columns: columns of a block that are not padding [B].
        rate: step size mu in (0, 1).
    """
    scale = first_scale(X, rows * columns, factors.L1 == 0, sides=2)
    W = per_block(scale.pow(4)) * (P1 @ X @ P2)
    T1, T2 = damped(W @ W.mT, P1, columns), damped(W.mT @ W, P2, rows)
    bound1, bound2 = norm_lower_bound(T1) + columns, norm_lower_bound(T2) + rows
    usable = (W.abs().amax((1, 2)) > 0) & bound1.isfinite() & bound2.isfinite()
    L1, L2 = raised_bound(factors.L1, bound1), raised_bound(factors.L2, bound2)
    Q1, Q2 = rule(factors.Q1, T1, columns, rate / L1), rule(factors.Q2, T2, rows, rate / L2)
    balance = balance_factor(Q1, Q2)
    Q1, Q2 = per_block(scale * balance) * Q1, per_block(scale / balance) * Q2
    keep = per_block(usable)
    return Factors(
        torch.where(keep, Q1, factors.Q1),
        torch.where(keep, Q2, factors.Q2),
        torch.where(usable, L1, factors.L1),
        torch.where(usable, L2, factors.L2),
    )


def refresh_diagonal(q: Tensor, L: Tensor, X: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """One refresh of diagonal preconditioners P = q^2, for tensors of fewer than two dimensions.

    Every matrix of :func:`refresh` is diagonal here, so both rules become q <- q - mu (t - 1) q / L with t = (q^2 x)^2,
    and L a running bound of max t + 1.

    Args:
        q: square roots of the preconditioners [B, 1, n].
        L: running bounds [B]; 0 until the first non-zero gradient.
        X: averaged gradients [B, 1, n].
        rate: step size mu in (0, 1).

    Returns:
        The new q and L.
    """
    scale = first_scale(X, torch.full_like(L, X.shape[-1]), L == 0, sides=1)
    p = per_block(scale.square()) * q.square()
    t = (p * X).square()
    weight = t.sum((1, 2)) / (MAX_AMPLIFICATION * (t * p).sum((1, 2))).clamp_min(tiny(t))
    t = t + per_block(weight) * p
    bound = t.amax((1, 2)) + 1
    usable = (X.abs().amax((1, 2)) > 0) & bound.isfinite()
    raised = raised_bound(L, bound)
    stepped = per_block(scale) * (q - per_block(rate / raised) * (t - 1) * q)
    return torch.where(per_block(usable), stepped, q), torch.where(usable, raised, L)
