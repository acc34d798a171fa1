"""pytorch_optimizer's Muon, which splits its parameters by itself, those that are added later as well."""

from __future__ import annotations

from functools import wraps
from typing import Any

import pytorch_optimizer
from torch import Tensor
from torch.optim.optimizer import ParamsT

from stablegrad.optimizers.catalogue import tensors_of
from stablegrad.optimizers.partition import matrix_shape
from stablegrad.optimizers.third_party import Whole


class Muon(Whole, pytorch_optimizer.Muon):
    """Muon for matrices and convolutions, AdamW for everything else; arguments as of ``pytorch_optimizer.Muon``."""

    @wraps(pytorch_optimizer.Muon.__init__)  # type: ignore[misc]
    def __init__(self, params: ParamsT, *args: Any, **options: Any) -> None:
        self._made_with = (args, options)
        super().__init__(split(params), *args, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, split likewise; what it does not say is as of a group given at first.

        Raises:
            ValueError: a parameter is there already. The optimizer is as before.
        """
        args, options = self._made_with
        groups = [param_group]
        if "weight_decouple" not in param_group:  # the constructor adds whatever is missing, and only then comes here
            groups = pytorch_optimizer.Muon(split(groups), *args, **options).param_groups
        before = len(self.param_groups)
        try:
            for group in groups:
                super().add_param_group(group)
        except ValueError:
            del self.param_groups[before:]
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made_with": self._made_with}


def split(params: ParamsT) -> list[dict[str, Any]]:
    """Parameter groups of one kind each: matrices and convolutions for Muon, all others for AdamW.

    A parameter group that already says ``use_muon`` stays as it is. Muon's authors also leave the first and the last
    layer to AdamW; from the parameters alone those cannot be told, so give groups with ``use_muon`` for that.
    """
    given: list[Any] = [params] if isinstance(params, Tensor) else list(params)
    result: list[dict[str, Any]] = []
    loose = [group for group in given if not isinstance(group, dict)]
    for group in [{"params": loose}] if loose else given:
        if "use_muon" in group:
            result.append(dict(group))
            continue
        members = list(tensors_of(group))
        matrices = [tensor for tensor in members if tensor.dim() >= 2 and min(matrix_shape(tensor.shape)) > 1]
        kept = {id(tensor) for tensor in matrices}
        others = [tensor for tensor in members if id(tensor) not in kept]
        result += [
            {**group, "params": part, "use_muon": use_muon}
            for part, use_muon in ((matrices, True), (others, False))
            if part
        ]
    return result
