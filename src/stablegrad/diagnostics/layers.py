"""Which parameters form a layer, by the names a person finds in ``print(model)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from stablegrad.errors import UsageError

# A LayerNorm over an image has weights of three dimensions and is no layer all the same.
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)


@dataclass(frozen=True)
class Layers:
    """The layers of one or several networks.

    Attributes:
        names: modules that own a weight of two or more dimensions, in the order in which they were made; with several
            networks, each under its network's name.
        parameters: all parameters, each once however often it is shared.
        layer_of: for each of them the index of its layer, or -1 where it belongs to none (norms).
    """

    names: list[str]
    parameters: list[nn.Parameter]
    layer_of: list[int]

    def frozen(self) -> list[str]:
        """Layers of which no parameter is trained at the moment (``requires_grad`` False)."""
        live = {
            layer for layer, parameter in zip(self.layer_of, self.parameters, strict=True) if parameter.requires_grad
        }
        return [name for number, name in enumerate(self.names) if number not in live]


def find_layers(models: Mapping[str, nn.Module]) -> Layers:
    """The layers of networks by name; the name "" leaves the modules' own names as they are.

    A parameter that two modules share belongs to the first. A network without any matrix (only vectors) has all modules
    with parameters as its layers.

    Raises:
        UsageError: there is no parameter at all.
    """
    owners: list[tuple[str, nn.Parameter]] = []
    seen: set[int] = set()
    norms: set[str] = set()
    for prefix, model in models.items():
        for module_name, module in model.named_modules():
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    owners.append((join(prefix, module_name), parameter))
                    if isinstance(module, _NORMS):
                        norms.add(join(prefix, module_name))
    if not owners:
        raise UsageError("the model has no parameters; give the network that is trained")
    matrices = {layer for layer, parameter in owners if parameter.ndim >= 2 and layer not in norms} or {
        layer for layer, _ in owners
    }
    names = list(dict.fromkeys(layer for layer, _ in owners if layer in matrices))
    number = {name: index for index, name in enumerate(names)}
    return Layers(names, [parameter for _, parameter in owners], [number.get(layer, -1) for layer, _ in owners])


def join(*parts: str) -> str:
    """Names of modules inside each other, as in ``named_modules``; the root of a single network has no name."""
    return ".".join(part for part in parts if part)
