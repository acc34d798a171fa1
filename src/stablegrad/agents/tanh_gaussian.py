"""The policy of SAC: a Gaussian whose samples pass a tanh, as pure functions (Haarnoja et al. 2018, appendix C)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

#: Log standard deviations outside of this are cut, as in the authors' code.
MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0
#: The least one where a tanh brings them into their range, as in SimBa's code.
MIN_SQUASHED_LOG_STD = -10.0


def mean_and_log_std(outputs: Tensor, squash: bool = False) -> tuple[Tensor, Tensor]:
    """Cut a network's outputs, [..., 2 * size], into means and log standard deviations, [..., size] each.

    Log standard deviations are cut at -20 and 2 or, with ``squash``, brought into [-10, 2] by a tanh.
    """
    mean, log_std = outputs.chunk(2, dim=-1)
    if squash:
        return mean, MIN_SQUASHED_LOG_STD + 0.5 * (MAX_LOG_STD - MIN_SQUASHED_LOG_STD) * (1.0 + log_std.tanh())
    return mean, log_std.clamp(MIN_LOG_STD, MAX_LOG_STD)


def sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions as differentiable functions of the noise (the reparametrisation trick).

    Args:
        mean: [..., size], of the Gaussian.
        log_std: [..., size], of the Gaussian.
        noise: [..., size], standard normal.

    Returns:
        (action, log_prob): tanh(mean + std * noise), [..., size] in [-1, 1], and the log density of it, [...].
    """
    pre_tanh = mean + log_std.exp() * noise
    return pre_tanh.tanh(), log_probability(pre_tanh, log_std, noise)


def log_probability(pre_tanh: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    r"""Log density of the action tanh(u), :math:`\log N(u; \mu, \sigma) - \sum \log (1 - \tanh^2 u)`.

    The correction is computed as :math:`2 (\log 2 - u - \operatorname{softplus}(-2 u))`, which is the same and exact
    where tanh rounds to 1.

    Args:
        pre_tanh: u, [..., size].
        log_std: log sigma, [..., size].
        noise: (u - mu) / sigma, [..., size].

    Returns:
        [...].
    """
    gaussian = -0.5 * (noise.square() + math.log(2.0 * math.pi)) - log_std
    return (gaussian - 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))).sum(dim=-1)
