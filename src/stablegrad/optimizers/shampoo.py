"""pytorch_optimizer's Shampoo with a state of tensors: its own holds objects, of which no safe file can be made."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_optimizer import ScalableShampoo
from torch import Tensor

from stablegrad.optimizers.third_party import Whole

#: What it keeps of a parameter as an object, whose tensors are all that a step changes.
PARTS = ("pre_conditioner", "graft")


class Shampoo(Whole, ScalableShampoo):
    """Blocked Shampoo with grafting (Anil et al., arXiv 2002.09018); arguments as of ``ScalableShampoo``."""

    def state_dict(self) -> dict[str, Any]:
        """As of any optimizer; of the objects, their tensors by name."""
        saved = super().state_dict()
        saved["state"] = {
            number: {key: _tensors(value) if key in PARTS else value for key, value in state.items()}
            for number, state in saved["state"].items()
        }
        return saved

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave.

        Raises:
            ValueError: the state is of another network, or not of this optimizer; nothing has changed then.
        """
        before = self.__getstate__()
        super().load_state_dict(state_dict)
        try:
            for group in self.param_groups:
                for parameter in group["params"]:
                    if self.state.get(parameter):
                        self._restore(group, parameter)
        except (KeyError, ValueError):
            self.__setstate__(before)
            raise ValueError("the state is of another network or optimizer") from None

    def _restore(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Objects as the first step makes them, with the tensors that were saved."""
        saved, gradient = self.state.pop(parameter), parameter.grad
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        self.init_group({**group, "params": [parameter]})
        parameter.grad = gradient
        state = self.state[parameter]
        if saved["momentum"].shape != parameter.shape:
            raise ValueError
        state["momentum"] = saved["momentum"]
        for part in PARTS:
            fresh = _tensors(state[part])
            if fresh.keys() != saved[part].keys():
                raise ValueError
            for name, tensors in saved[part].items():
                for one, other in zip(_listed(fresh[name]), _listed(tensors), strict=True):
                    if one.shape != other.shape:
                        raise ValueError
                setattr(state[part], name, tensors)


def _tensors(part: object) -> dict[str, Tensor | list[Tensor]]:
    """The tensors of an object by attribute, alone or several of different shapes."""
    return {name: value for name, value in vars(part).items() if value is not None and _listed(value)}


def _listed(value: Any) -> list[Tensor]:
    """Tensors as a list; empty for what is none."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, Tensor) for one in value):
        return value
    return []
