"""The rules that fit Kron's preconditioners, as pure functions on stacks of factors.

A (momentum-averaged) gradient X, m x n, becomes W = P1 X P2 with P1 = Q1' Q1 and P2 = Q2' Q2, block diagonal both.
Whitening means that within every block E[W W'] = n I and E[W' W] = m I: every entry of W has unit variance and no two
are correlated, so P2 (x) P1 is the inverse square root of the gradient's covariance (Li, "Preconditioned stochastic
gradient descent", arXiv 1512.04202; "Black box Lie group preconditioners for SGD", arXiv 2211.04422). The rule here
needs matrix products only: no triangular solve and no random probe. With T a diagonal block of W W' and its target
tau = n (or of W' W, and tau = m), it moves Q against T Q - tau Q.

Factors are stacked: Q, P and T are [F, b, b], norms and bounds are [F].
"""

from __future__ import annotations

import torch
from torch import Tensor

# A direction that never carries a gradient (a dead unit, a constant input, padding) has T = 0, so nothing would stop Q
# from growing along it. It is held at this many times the amplification that the directions with a gradient have.
# kron_torch reaches the same order, 1 / sqrt(float32 epsilon), by adding random noise to the gradient.
MAX_AMPLIFICATION = 1e3

# L is a running bound on ||T|| + tau that rises at once and falls slowly: L <- max(0.9 L + 0.1 bound, bound).
BOUND_DECAY = 0.9

# The longest turn of Q towards symmetry in one refresh.
MAX_TURN = 0.125


def each(scale: Tensor) -> Tensor:
    """[F] -> [F, 1, 1], to multiply a stack of matrices."""
    return scale[:, None, None]


def tiny(tensor: Tensor) -> float:
    """The smallest normal number of the tensor's dtype: what a divisor is kept above."""
    return torch.finfo(tensor.dtype).tiny


def gram(Q: Tensor) -> Tensor:
    """P = Q' Q."""
    return Q.mT @ Q


def trace(A: Tensor) -> Tensor:
    """Traces [F] of A [F, b, b]."""
    return A.diagonal(dim1=1, dim2=2).sum(1)


def norm_lower_bound(S: Tensor) -> Tensor:
    """A cheap lower bound of the spectral norm of symmetric or skew-symmetric S [F, b, b], as [F].

    One step of the power iteration from the longest column. Squares must neither overflow nor vanish.
    """
    longest = S.square().sum(1).argmax(1)
    x = S.gather(2, longest[:, None, None].expand(-1, S.shape[1], 1))
    y = S.mT @ x
    y = y / y.norm(dim=1, keepdim=True).clamp_min(tiny(S))
    return (S @ y).norm(dim=(1, 2))


def pro_step(Q: Tensor, T: Tensor, tau: Tensor, step: Tensor) -> Tensor:
    """The PRO rule, dQ = Q^0.5 E Q^1.5: step against T Q - tau Q, then turn Q back towards a symmetric positive matrix.

    The turn is Q <- (I + a R + a^2 R^2 / 2) Q with R = (Q' - Q) / ||Q' - Q||, a second-order rotation; a maximises the
    trace of the result and is at most 1/8.

    Args:
        Q: factors [F, b, b].
        T: second moment of the preconditioned gradient [F, b, b], in any unit.
        tau: its target [F], in the same unit.
        step: step size over the bound of ||T|| + tau [F], in that unit.
    """
    Q = torch.baddbmm(each(1 + step * tau) * Q, each(-step) * T, Q)
    R = Q.mT - Q
    R = R / each(norm_lower_bound(R).clamp_min(tiny(R)))
    RQ = R @ Q
    first, second = trace(RQ), -(R * RQ).sum((1, 2))  # tr(RRQ), as R is skew-symmetric
    turn = each(torch.where(second < 0, (-first / second).clamp_max(MAX_TURN), MAX_TURN))
    return torch.baddbmm(Q, turn * R, torch.addcmul(Q, turn / 2, RQ))


def root_mean_square(X: Tensor, count: int) -> Tensor:
    """Root mean square [V] of X [V, m, n] over ``count`` entries; safe for entries whose square underflows."""
    largest = X.abs().amax((1, 2))
    return largest * torch.linalg.vector_norm(X / each(largest.clamp_min(tiny(X))), dim=(1, 2)) / count**0.5


def first_scale(rms: Tensor, fresh: Tensor, sides: int) -> Tensor:
    """What to multiply fresh factors by so that the first preconditioned gradient has a root mean square of 1, as [V].

    Starting from the gradient's own scale makes every update independent of it from the first step on: a gradient of
    1e-6 and one of 1 give the same weights.

    Args:
        rms: root mean square of each gradient [V].
        fresh: gradients whose factors were never fitted [V], bool.
        sides: number of P matrices that multiply a gradient (each is quadratic in its Q).
    """
    return torch.where(fresh & (rms > 0) & rms.isfinite(), rms.pow(-0.5 / sides), 1.0)


def refreshed(
    Q: Tensor, L: Tensor, P: Tensor, T: Tensor, tau: Tensor, live: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """One refresh of the factors of one side.

    Directions without gradient are held at MAX_AMPLIFICATION times the gradient-weighted mean of P: with p the
    amplification of a direction and p0 that mean, T = 0 there is replaced by tau p / (K p0), which meets the target at
    p = K p0. A direction with a gradient is moved by one part in K. A factor whose T is zero (no gradient) or not
    finite stays as it is.

    Args:
        Q: factors [F, b, b].
        L: running bounds of the steps [F]; 0 until the first refresh.
        P: gram(Q), cached, in any precision.
        T: second moments of the preconditioned gradient [F, b, b].
        tau: their targets [F].
        live: factors that may change [F], bool.
        rate: step size mu in (0, 1).

    Returns:
        The new Q and L.
    """
    # Everything that follows is in units of T's trace, so that no square overflows.
    total = trace(T)
    unit = total.clamp_min(tiny(T))
    T, P = T / each(unit), P.to(T.dtype)
    weight = tau / (MAX_AMPLIFICATION * (T * P).sum((1, 2))).clamp_min(tiny(T)) / unit
    T = torch.addcmul(T, each(weight), P)
    bound = unit * norm_lower_bound(T) + tau
    live = live & (total > 0) & bound.isfinite()
    raised = torch.maximum(L.lerp(bound, 1 - BOUND_DECAY), bound)
    fitted = pro_step(Q, T, tau / unit, rate * unit / raised)
    return torch.where(each(live), fitted, Q), torch.where(live, raised, L)


def refreshed_diagonal(
    q: Tensor, L: Tensor, x: Tensor, lengths: Tensor, owner: Tensor, live: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """One refresh of diagonal preconditioners P = q^2, for tensors of fewer than two dimensions.

    Every matrix of :func:`refreshed` is diagonal here, so the rule becomes q <- q - mu (t - 1) q / L with
    t = (q^2 x)^2, and L a running bound of max t + 1.

    Args:
        q: square roots of the preconditioners of V vectors, one after the other [n].
        L: running bounds [V]; 0 until the first non-zero gradient.
        x: averaged gradients [n].
        lengths: lengths of the vectors [V].
        owner: which vector an entry belongs to [n].
        live: vectors that may change [V], bool.
        rate: step size mu in (0, 1).

    Returns:
        The new q and L.
    """
    largest = _per_vector(x.abs(), lengths, "max")
    fresh = L == 0
    scale: Tensor | float = 1.0
    if fresh.device.type != "cpu" or fresh.any():  # a GPU would have to be waited for
        squares = (x / largest.clamp_min(tiny(x))[owner]).square()
        scale = first_scale(largest * (_per_vector(squares, lengths) / lengths).sqrt(), fresh, sides=1)[owner]
    p = scale * scale * q.square()
    t = (p * x).square()
    weight = _per_vector(t, lengths) / (MAX_AMPLIFICATION * _per_vector(t * p, lengths)).clamp_min(tiny(t))
    t = torch.addcmul(t, weight[owner], p)
    bound = _per_vector(t, lengths, "max") + 1
    live = live & (largest > 0) & bound.isfinite()
    raised = torch.maximum(L.lerp(bound, 1 - BOUND_DECAY), bound)
    fitted = scale * (q - (rate / raised)[owner] * (t - 1) * q)
    return torch.where(live[owner], fitted, q), torch.where(live, raised, L)


def _per_vector(values: Tensor, lengths: Tensor, reduce: str = "sum") -> Tensor:
    """Reduce [n] to [V]; deterministic on every device."""
    return torch.segment_reduce(values, reduce, lengths=lengths, unsafe=True)
