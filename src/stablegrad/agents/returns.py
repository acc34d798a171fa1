"""Return targets as pure functions of time-major tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(
    reward: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    discount: float,
    lambda_: float,
) -> Tensor:
    r"""Q(lambda) targets of Peng and Williams (1996), as PQN uses them (Gallici et al. 2024, eq. 5).

    .. math:: G_t = r_t + \gamma \begin{cases} 0 & \text{terminated} \\ V(s_{t+1}) & \text{truncated, or last row} \\
              (1 - \lambda) V(s_{t+1}) + \lambda G_{t+1} & \text{otherwise} \end{cases}

    Row t is the transition from s_t to s_{t+1}; ``next_value[t]`` is V of the *true* next observation, the final one of
    the episode where it was truncated. With NEXT_STEP autoreset that is the value computed on row t + 1, so
    ``next_value = cat([value[1:], bootstrap])``. Rows that only carry a reset stand after an ended row, and no target
    looks past one of those: what stands in them reaches no other row, and theirs is to be masked out of the loss.

    Args:
        reward: [T, N] float.
        next_value: [T, N] float, V(s_{t+1}) = max_a Q(s_{t+1}, a).
        terminated: [T, N] bool, the episode ended in s_{t+1}: nothing is to be had from there.
        truncated: [T, N] bool, the episode was cut off in s_{t+1}: its value still counts.
        discount: gamma, in [0, 1].
        lambda_: 0 gives one-step targets, 1 Monte-Carlo returns with a bootstrap.

    Returns:
        [T, N] targets, of the dtype of ``reward``.
    """
    target = torch.empty_like(reward)
    # V or the mixture, with the ends folded into two coefficients so that the loop is two fused operations a row.
    continuation = lambda_ * discount * (~(terminated | truncated)).to(reward.dtype)
    one_step = reward + discount * next_value * (~terminated).to(reward.dtype)
    following = next_value[-1]
    for t in range(reward.shape[0] - 1, -1, -1):
        following = torch.addcmul(one_step[t], continuation[t], following - next_value[t], out=target[t])
    return target
