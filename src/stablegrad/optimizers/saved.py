"""Going on from an optimizer's saved state."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

#: What pytorch_optimizer's optimizers add to a group in their first step.
COUNTED = {"step"}


def load_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state, which must be of the same kind of optimizer.

    torch takes over whatever options it is given, and fails in the next step only.

    Raises:
        ValueError: the state is of another optimizer or of other parameters.
    """
    own, saved = optimizer.param_groups[0].keys(), state["param_groups"][0].keys()
    if own - COUNTED != saved - COUNTED:
        raise ValueError(f"it was saved with the options {', '.join(sorted(saved))}")
    optimizer.load_state_dict(state)
