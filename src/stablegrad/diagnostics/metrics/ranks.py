"""How many directions a representation, or the gradients of its samples, really use.

Singular values and eigenvalues are computed in float32 (float64 arguments stay so): they are then wrong by about 1e-6
of the largest, four orders less than any threshold here asks for, at half the cost. Of features that holds because they
are decomposed themselves, not their Gram matrix, which has the square of their condition number. Decompositions make
the host wait for the device.

A rank of few samples is a statement about the samples: see :func:`check_samples`. NaN says that there was a number
that is not finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stablegrad.errors import UsageError


def check_samples(num_samples: int, num_features: int) -> None:
    """Insist on at least as many samples as features: a rank can be no larger than either.

    Raises:
        UsageError: there are fewer samples.
    """
    if num_samples < num_features:
        raise UsageError(
            f"the rank of {num_features} features takes at least {num_features} samples, got {num_samples}; "
            "give more samples or measure a narrower layer"
        )


@torch.no_grad()
def singular_values(features: Tensor) -> Tensor:
    """Singular values of a feature matrix, not centred, in descending order.

    Args:
        features: [samples, features], any floating-point dtype.

    Returns:
        [min(samples, features)] in [0, inf), float32, or float64 if ``features`` are; all NaN if one is not finite.
    """
    matrix, finite = _finite(features)
    return torch.where(finite, torch.linalg.svdvals(matrix), torch.nan)


@torch.no_grad()
def srank(sigma: Tensor, delta: float = 0.01) -> Tensor:
    r"""The least k such that the k largest singular values hold a share of 1 - delta of the sum of all.

    .. math:: \operatorname{srank}_\delta = \min \{k : \sum_{i \le k} \sigma_i / \sum_i \sigma_i \ge 1 - \delta\}

    Kumar et al. (2020, arXiv 2010.14498, section 3).

    Args:
        sigma: [n] singular values, in any order.
        delta: the share that may be missing, in [0, 1).

    Returns:
        0-d, a whole number in [0, n] of the dtype of ``sigma``; 0 if all are zero.
    """
    held = sigma.sort(descending=True).values.cumsum(0)
    total = held[-1]
    # The last of them holds everything by definition, so that no rounding can ask for more than there are.
    needed = 1 + (held[:-1] < (1 - delta) * total).sum().to(sigma.dtype)
    return torch.where(total.isfinite(), torch.where(total > 0, needed, 0.0), torch.nan)


@torch.no_grad()
def effective_rank(sigma: Tensor) -> Tensor:
    r"""Exponential of the entropy of the normalised singular values.

    .. math:: \exp \left(-\sum_i p_i \log p_i\right), \qquad p_i = \sigma_i / \sum_j \sigma_j

    Roy and Vetterli (2007, "The effective rank", EUSIPCO); RankMe (Garrido et al. 2022, arXiv 2210.02885) is the same
    of embeddings. Of the singular values themselves, not of their squares.

    Args:
        sigma: [n] singular values, in any order; at least 0.

    Returns:
        0-d in [1, n], of the dtype of ``sigma``; 0 if all are zero.
    """
    total = sigma.sum()
    rank = torch.special.entr(sigma / total).sum().exp()
    return torch.where(total == 0, 0.0, rank)


@torch.no_grad()
def feature_rank(sigma: Tensor, num_samples: int, epsilon: float = 0.01) -> Tensor:
    r"""Number of singular values of :math:`\Phi / \sqrt{n}` above epsilon.

    Lyle et al. (2022, arXiv 2204.09560). Unlike the other ranks it depends on the features' scale.

    Args:
        sigma: [k] singular values of the features, [samples, features], in any order.
        num_samples: samples they were computed from, n.
        epsilon: the threshold.

    Returns:
        0-d, a whole number in [0, k] of the dtype of ``sigma``.
    """
    count = (sigma / math.sqrt(num_samples) > epsilon).sum().to(sigma.dtype)
    return torch.where(sigma.isfinite().all(), count, torch.nan)


@torch.no_grad()
def gradient_covariance_rank(gram: Tensor) -> Tensor:
    r"""Effective rank of the matrix of cosines between per-sample gradients, :math:`C_{ij} = \cos(g_i, g_j)`.

    The gradient covariance of Lyle et al. (2023, arXiv 2303.01486): 1 if all samples pull the same way (or opposite
    ways), n if no two interfere. Samples without gradient are left out.

    Args:
        gram: [n, n] inner products of the gradients, from :func:`~stablegrad.diagnostics.metrics.gradient_gram`.

    Returns:
        0-d in [1, n]; 0 if no sample has a gradient.
    """
    norms = gram.diagonal().sqrt()
    scale = torch.where(norms > 0, 1 / norms, 0.0)
    return ntk_rank(scale[:, None] * gram * scale)


@torch.no_grad()
def ntk_rank(gram: Tensor) -> Tensor:
    r"""Effective rank of a neural tangent kernel, :math:`K_{ij} = \langle \nabla f(x_i), \nabla f(x_j) \rangle`.

    :func:`effective_rank` of its eigenvalues, which for a Gram matrix are its singular values. It says in how many
    directions of function space a gradient step can move the outputs independently.

    Args:
        gram: [n, n] symmetric, positive semi-definite; of gradients of the *outputs*, where
            :func:`gradient_covariance_rank` takes those of the loss.

    Returns:
        0-d in [1, n], float32, or float64 if ``gram`` is; 0 if the kernel is zero.
    """
    matrix, finite = _finite(gram)
    eigenvalues = torch.linalg.eigvalsh(matrix).clamp(min=0.0)  # less than 0 by rounding only
    return torch.where(finite, effective_rank(eigenvalues), torch.nan)


def _finite(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """(the matrix in at least float32 with zeros in place of all if one is not finite, whether all are finite).

    LAPACK raises at NaN; a network that has diverged is to be measured all the same.
    """
    matrix = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    finite = matrix.isfinite().all()
    return torch.where(finite, matrix, 0.0), finite
