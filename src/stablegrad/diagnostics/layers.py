"""Which parameters form a layer, by the names a person finds in ``print(model)``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stablegrad.errors import UsageError

#: Where ``torch.nn.utils.parametrize`` keeps what it computes a layer's weight from.
PARAMETRIZATIONS = "parametrizations."

# A LayerNorm over an image has weights of three dimensions and is no layer all the same.
_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
)
# Their matrices have a row an output. (Those of transposed convolutions have not.)
_MULTIPLYING = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


@dataclass(frozen=True)
class Layers:
    """The layers of one or several networks.

    Attributes:
        names: modules that own a weight of two or more dimensions, in the order in which they were made; with several
            networks, each under its network's name.
        parameters: all parameters of real or complex numbers, each once however often it is shared. Integers, masks and
            numbers of 8 bits are stored as parameters at times; no optimizer trains them.
        layer_of: for each of them the index of its layer, or -1 where it belongs to none (norms).
        outputs: for each of them to how many outputs it adds products of inputs (rows of a matrix); 0 where it is no
            matrix that multiplies inputs.
    """

    names: list[str]
    parameters: list[nn.Parameter]
    layer_of: list[int]
    outputs: list[int]

    def frozen(self) -> list[str]:
        """Layers of which no parameter is trained at the moment (``requires_grad`` False)."""
        live = {
            layer for layer, parameter in zip(self.layer_of, self.parameters, strict=True) if parameter.requires_grad
        }
        return [name for number, name in enumerate(self.names) if number not in live]


def find_layers(models: Mapping[str, nn.Module]) -> Layers:
    """The layers of networks by name; the name "" leaves the modules' own names as they are.

    A parameter that two modules share belongs to the first. A network without any matrix (only vectors) has all modules
    with parameters as its layers. What a parametrization computes a layer's weight from belongs to the layer.

    Raises:
        UsageError: there is no parameter at all, or a lazy one that has no shape yet.
    """
    owners: list[tuple[str, nn.Parameter]] = []
    outputs: list[int] = []
    seen: set[int] = set()
    norms: set[str] = set()
    for prefix, model in models.items():
        modules = dict(model.named_modules())
        for place, part in modules.items():
            module_name = layer_name(place)
            module = modules[module_name]
            for parameter in part.parameters(recurse=False):
                if is_lazy(parameter):
                    raise UsageError(
                        f"{join(prefix, module_name) or 'the model'} is lazy and has no weights yet; "
                        "call the model once on a batch before you attach a monitor"
                    )
                if id(parameter) not in seen and is_measured(parameter):
                    seen.add(id(parameter))
                    owners.append((join(prefix, module_name), parameter))
                    multiplies = parameter.ndim >= 2 and isinstance(module, _MULTIPLYING)
                    outputs.append(parameter.shape[0] if multiplies else 0)
                    if isinstance(module, _NORMS):
                        norms.add(join(prefix, module_name))
    if not owners:
        raise UsageError("the model has no parameters that an optimizer could train; give the network that is trained")
    matrices = {layer for layer, parameter in owners if parameter.ndim >= 2 and layer not in norms} or {
        layer for layer, _ in owners
    }
    names = list(dict.fromkeys(layer for layer, _ in owners if layer in matrices))
    number = {name: index for index, name in enumerate(names)}
    layer_of = [number.get(layer, -1) for layer, _ in owners]
    return Layers(names, [parameter for _, parameter in owners], layer_of, outputs)


def layer_name(name: str) -> str:
    """The layer that a module or a parameter belongs to: itself, unless a parametrization made it."""
    if name.startswith(PARAMETRIZATIONS):
        return ""
    return name.partition(f".{PARAMETRIZATIONS}")[0]


def is_measured(parameter: Tensor) -> bool:
    """Whether norms of it can be taken."""
    numbers = parameter.is_floating_point() or parameter.is_complex()
    return numbers and parameter.element_size() > 1 and not parameter.is_quantized


def plain(tensor: Tensor) -> Tensor:
    """A parameter or gradient as a dense tensor of real numbers, detached, of the same norm.

    Of a sharded one it is this process's part.
    """
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def join(*parts: str) -> str:
    """Names of modules inside each other, as in ``named_modules``; the root of a single network has no name."""
    return ".".join(part for part in parts if part)
