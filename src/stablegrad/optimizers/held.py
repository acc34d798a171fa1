"""What an optimizer keeps for every entry of a parameter."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer

from stablegrad.optimizers.kron import Kron

#: Names of entries that lie in another basis where the state also holds the bases (SOAP).
_ROTATED, _BASES = "exp_avg_sq", "Q"


def held_of(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """What an optimizer keeps for every entry of a parameter, such as Adam's two means, as views of its shape.

    Left out is what belongs to no single entry: counts of steps, the factors of Kron, what Shampoo keeps in objects
    (preconditioners and the graft's mean), and SOAP's bases with the second moments in them.

    Returns:
        tensors of the parameter's shape, to be changed in place; none before the first step.
    """
    if isinstance(optimizer, Kron):
        return optimizer.held_of(parameter)
    state = optimizer.state.get(parameter, {})
    rotated = _ROTATED if _BASES in state else None
    return [
        held
        for name, held in state.items()
        if isinstance(held, Tensor) and held.shape == parameter.shape and name not in ("step", rotated)
    ]
