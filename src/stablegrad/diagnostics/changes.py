"""Changes of somebody's network and optimizer, made in place: what stands behind the interventions.

Each change is a function ``(model, optimizer) -> optimizer``, those of the learning rate with a factor; it returns the
optimizer that it was given, or the one that takes its place. Layers are found by structure and not by a trace, as there
is no input here: a *hidden* layer is a linear layer or convolution whose output fits the input of a later one; all
others are outputs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.optim import Optimizer

from stablegrad.diagnostics.input_normaliser import InputNormaliser
from stablegrad.diagnostics.optimizer_changes import CannotApply, reset_optimizer_state
from stablegrad.networks import MLPTorso, MultiSkipTorso
from stablegrad.networks.layers import ACTIVATIONS, orthogonal_
from stablegrad.optimizers import OPTIMIZERS, Kron, default_learning_rate
from stablegrad.optimizers.held import held_of

Change = Callable[..., Optimizer]
Layer = nn.Linear | _ConvNd

#: Share of the layer's mean gradient below which a unit is dormant (GraMa, arXiv 2505.24061).
DORMANT = 0.01
#: Values that a norm needs to leave something of what it normalises: of two, only the sign of their difference is left.
FEWEST = 3
#: Rate for a layer that none is known for, of an optimizer that normalises its steps; a tenth of that of others.
USUAL_RATE = 1e-3

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm, _InstanceNorm)
_BOUNDED = (nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardsigmoid, nn.Softsign)
_RECTIFIED = (nn.ReLU, nn.ReLU6)
_ACTIVATIONS = (*_BOUNDED, *_RECTIFIED, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
                nn.Hardswish, nn.PReLU)  # fmt: skip


# -- what a network is made of


def all_layers(model: nn.Module) -> list[Layer]:
    """Linear layers and convolutions in the order in which they were made; not attention's, which it never calls."""
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear | _ConvNd) and not isinstance(module, NonDynamicallyQuantizableLinear)
    ]


def hidden_layers(model: nn.Module) -> list[Layer]:
    """Layers whose output fits the input of a later one, in the order in which they were made."""
    layers = all_layers(model)
    return [
        layer
        for number, layer in enumerate(layers)
        if _width(layer) > 1 and any(_fits(layer, later) for later in layers[number + 1 :])
    ]


def depth(model: nn.Module) -> int:
    """Hidden layers of the longest chain: layers, in the order in which they were made, of which each fits the next."""
    longest = chain = 0
    for layer, later in pairwise(all_layers(model)):
        chain = chain + 1 if _fits(layer, later) else 0
        longest = max(longest, chain)
    return longest


def layers_without_norm(model: nn.Module) -> list[Layer]:
    """Hidden layers that no normalisation follows."""
    parts = list(_parts(model))
    following = {
        id(part): next((one for one in parts[number + 1 :] if not isinstance(one, nn.Identity | nn.Dropout)), None)
        for number, part in enumerate(parts)
    }
    hidden = hidden_layers(model)
    bare = [layer for layer in hidden if not isinstance(following[id(layer)], _NORMS)]
    # Norms that are kept apart from their layers (two lists of modules) are counted by width.
    beside = {id(following[id(layer)]) for layer in hidden}
    apart = [_norm_width(part) for part in parts if isinstance(part, _NORMS) and id(part) not in beside]
    widths = [_width(layer) for layer in bare]
    return [layer for layer in bare if apart.count(_width(layer)) < widths.count(_width(layer))]


def square_layers(model: nn.Module) -> list[Layer]:
    """Hidden layers whose output has the shape of their input, in no residual block that is known here."""
    inside = {id(part) for module in model.modules() if isinstance(module, MultiSkipTorso) for part in module.modules()}
    return [
        layer
        for layer in hidden_layers(model)
        if _keeps_shape(layer) and id(layer) not in inside and _add_input not in layer._forward_hooks.values()
    ]


def _keeps_shape(layer: Layer) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    if layer.in_channels != layer.out_channels or set(layer.stride) != {1} or not isinstance(layer, _ConvNd):
        return False
    if isinstance(layer.padding, str):
        return layer.padding == "same"
    sides = zip(layer.kernel_size, layer.padding, layer.dilation, strict=True)
    return all(2 * padding == dilation * (size - 1) for size, padding, dilation in sides)


def replaceable_activations(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, module) of ReLUs and bounded activations that are modules and do not shape the output."""
    shaping = _behind_outputs(model)
    return [one for one in _children(model, _BOUNDED + _RECTIFIED) if id(one[2]) not in shaping]


def output_shapers(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, module) of ReLUs, bounded activations and norms right behind an output layer."""
    shaping = _behind_outputs(model)
    return [one for one in _children(model, _BOUNDED + _RECTIFIED + _NORMS) if id(one[2]) in shaping]


def left_out(model: nn.Module, optimizer: Optimizer) -> bool:
    """Whether a parameter is in no group, in one at a rate of 0, or without ``requires_grad``."""
    known = {id(one) for group in optimizer.param_groups if group.get("lr") != 0 for one in group["params"]}
    return any(id(one) not in known or not one.requires_grad for one in model.parameters() if one.is_floating_point())


def narrow_norms(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """(parent, name, module) of norms over next to nothing: one or two values, or the places of one channel."""
    flat = not any(isinstance(module, _ConvNd) for module in model.modules())
    return [one for one in _children(model, _NORMS) if _is_narrow(one[2], flat)]


def _is_narrow(norm: nn.Module, flat: bool) -> bool:
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return math.prod(norm.normalized_shape) < FEWEST
    if isinstance(norm, nn.GroupNorm) and norm.num_groups > 1:
        # Without places a group has as many values as channels.
        return norm.num_channels // norm.num_groups < (FEWEST if flat else 2)
    return isinstance(norm, _InstanceNorm)


def _behind_outputs(model: nn.Module) -> set[int]:
    """Ids of the modules that come right after an output layer."""
    heads = {id(layer) for layer in all_layers(model)} - {id(layer) for layer in hidden_layers(model)}
    return {id(after) for part, after in pairwise(_parts(model)) if id(part) in heads}


def _children(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[tuple[nn.Module, str, nn.Module]]:
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]


def has_plain_stack(model: nn.Module) -> bool:
    """Whether there is something that :func:`multi_skip` can rebuild."""
    return bool(_plain_torsos(model) or _stacks(model))


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """Modules that compute something themselves, in the order in which they were made."""
    for module in model.modules():
        if not any(True for _ in module.children()) or any(True for _ in module.parameters(recurse=False)):
            yield module


def _width(layer: Layer) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _norm_width(norm: nn.Module) -> int:
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return norm.normalized_shape[0]
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else int(getattr(norm, "num_features", 0))


def _fits(layer: Layer, later: Layer) -> bool:
    if isinstance(later, nn.Linear):
        # Images are flattened in front of a linear layer.
        images = isinstance(layer, _ConvNd)
        return later.in_features % _width(layer) == 0 if images else later.in_features == _width(layer)
    return isinstance(layer, _ConvNd) and later.in_channels == _width(layer)


def wrapper_of(model: nn.Module) -> str:
    """Name of what wraps a network and would not see that it changes inside; "" where nothing does."""
    if hasattr(model, "_orig_mod"):
        return "torch.compile"
    wrapped = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return type(model).__name__ if wrapped else ""


# -- what an optimizer holds


def _group_of(optimizer: Optimizer, parameter: Tensor) -> dict[str, Any]:
    """The group of a parameter; the first one where it is in none."""
    groups = optimizer.param_groups
    return next((group for group in groups if any(one is parameter for one in group["params"])), groups[0])


def _add(optimizer: Optimizer, parameters: Iterable[nn.Parameter], beside: Tensor) -> None:
    """Train more parameters, with the settings of the group in which ``beside`` is."""
    _group_of(optimizer, beside)["params"].extend(parameters)


def _replace(optimizer: Optimizer, old: Iterable[nn.Parameter], new: Iterable[nn.Parameter]) -> None:
    """Train other parameters instead of some; the new ones get the settings of the first that goes."""
    gone = list(old)
    group = _group_of(optimizer, gone[0])
    ids = {id(parameter) for parameter in gone}
    for one in optimizer.param_groups:
        one["params"][:] = [parameter for parameter in one["params"] if id(parameter) not in ids]
    for parameter in gone:
        optimizer.state.pop(parameter, None)
    group["params"].extend(new)


# -- the changes


def layer_norm(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """LayerNorm after every hidden linear layer, GroupNorm with one group after every hidden convolution.

    Hooks keep all names: the norm becomes the layer's child ``norm_after``, and any code that calls the layer gets the
    normalised output.
    """
    bare = layers_without_norm(model)
    if not bare:
        raise CannotApply("layer_norm: every hidden layer is followed by a norm already, or there is none")
    for layer in bare:
        width = _width(layer)
        norm: nn.Module = nn.LayerNorm(width) if isinstance(layer, nn.Linear) else nn.GroupNorm(1, width)
        layer.add_module("norm_after", norm.to(layer.weight.device, layer.weight.dtype))
        layer.register_forward_hook(_normalise)
        _add(optimizer, norm.parameters(), beside=layer.weight)
    return optimizer


def _normalise(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
    return layer.get_submodule("norm_after")(output)


def residual(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """x + f(x) around every hidden linear layer or convolution whose output has the shape of its input."""
    layers = square_layers(model)
    if not layers:
        raise CannotApply("residual: no hidden layer's output has the shape of its input, outside of residual blocks")
    for layer in layers:
        layer.register_forward_hook(_add_input)
    return optimizer


def _add_input(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return args[0] + output


@torch.no_grad()
def orthogonal_init(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Orthogonal weights for all linear layers, convolutions and recurrent cells; what was learned is lost.

    Gain sqrt(2) for hidden layers, 5/3 in front of tanh, 1 for outputs and for every gate of a cell (Saxe et al. 2014);
    biases of zero.
    """
    parts = list(_parts(model))
    hidden = {id(layer) for layer in hidden_layers(model)}
    seen: set[int] = set()
    for number, part in enumerate(parts):
        if not isinstance(part, nn.Linear | _ConvNd) or id(part.weight) in seen:
            continue
        seen.add(id(part.weight))
        function = next((one for one in parts[number + 1 :] if isinstance(one, _ACTIVATIONS)), None)
        gain = 1.0 if id(part) not in hidden else 5 / 3 if isinstance(function, nn.Tanh) else math.sqrt(2)
        orthogonal_(part, gain)  # type: ignore[arg-type]  # takes convolutions of all dimensions
    cells = [part for part in model.modules() if isinstance(part, nn.RNNBase)]
    for cell in cells:
        for name, parameter in cell.named_parameters():
            for gate in parameter.split(cell.hidden_size) if parameter.ndim == 2 else ():
                nn.init.orthogonal_(gate)
            if name.startswith("bias"):
                parameter.zero_()
    if not seen and not cells:
        raise CannotApply("orthogonal_init: the model has no linear layer, no convolution and no recurrent cell")
    return reset_optimizer_state(model, optimizer)


def multi_skip(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Plain stacks of linear layers rebuilt as multi-skip torsos of the same size (arXiv 2506.15544, section 5).

    Plain and residual torsos of :mod:`stablegrad.networks`, and runs of at least three hidden layers of one width in an
    ``nn.Sequential``. What they had learned is lost.
    """
    torsos, stacks = _plain_parts(model, "multi_skip")
    for parent, name, torso in torsos:
        new = _multi_skip_of(torso)
        setattr(parent, name, new)
        _replace(optimizer, torso.parameters(), new.parameters())
    for sequence, first, last in stacks:
        modules = list(sequence)
        run = modules[first:last]
        linear = [module for module in run if isinstance(module, nn.Linear)]
        new = _make_multi_skip(linear[0], max((len(linear) - 2) // 2, 1), run)
        old = [parameter for module in run for parameter in module.parameters()]
        # By name, so that all other modules keep theirs; deleting from an nn.Sequential numbers them anew.
        names = list(sequence._modules)
        sequence._modules[names[first]] = new
        for name in names[first + 1 : last]:
            del sequence._modules[name]
        _replace(optimizer, old, new.parameters())
    return optimizer


def smaller_network(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Plain stacks with two layers left, the first and the last, at their initial or learned weights.

    Plain torsos of :mod:`stablegrad.networks` are made anew; for what stacks are, see :func:`multi_skip`.
    """
    torsos, stacks = _plain_parts(model, "smaller_network")
    for parent, name, torso in torsos:
        new = _shallow(torso)
        setattr(parent, name, new)
        _replace(optimizer, torso.parameters(), new.parameters())
    for sequence, first, last in stacks:
        places = [place for place in range(first, last) if isinstance(sequence[place], nn.Linear)]
        gone = range(places[1], places[-1])
        old = [parameter for place in gone for parameter in sequence[place].parameters()]
        for name in [list(sequence._modules)[place] for place in gone]:
            del sequence._modules[name]
        _replace(optimizer, old, ())
    return optimizer


def _shallow(torso: MLPTorso | MultiSkipTorso) -> MLPTorso:
    """A plain torso of two layers between the same sizes."""
    first = all_layers(torso)[0]
    assert isinstance(first, nn.Linear)
    return MLPTorso(
        first.in_features,
        first.out_features,
        0,
        out_features=torso.out_features,
        norm="layer" if any(isinstance(module, nn.LayerNorm) for module in torso.modules()) else "none",
        activation=_activation_of(torso.modules()),
    ).to(first.weight.device, first.weight.dtype)


def _plain_parts(
    model: nn.Module, change: str
) -> tuple[list[tuple[nn.Module, str, MLPTorso | MultiSkipTorso]], list[tuple[nn.Sequential, int, int]]]:
    """The plain torsos and stacks of a network; raises CannotApply where it has neither."""
    torsos, stacks = _plain_torsos(model), _stacks(model)
    if not torsos and not stacks:
        raise CannotApply(
            f"{change}: found neither a plain torso of stablegrad.networks nor an nn.Sequential with at least three "
            "hidden linear layers of one width; change the network by hand"
        )
    return torsos, stacks


def _plain_torsos(model: nn.Module) -> list[tuple[nn.Module, str, MLPTorso | MultiSkipTorso]]:
    """(parent, name, torso) of torsos without the repeated skip, but for those too shallow to have a block."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if (isinstance(child, MLPTorso) and len(child.layers) > 1)
        or (isinstance(child, MultiSkipTorso) and not child.skip_blocks and len(child.blocks))
    ]


def _multi_skip_of(torso: MLPTorso | MultiSkipTorso) -> MultiSkipTorso:
    depth = len(torso.blocks) if isinstance(torso, MultiSkipTorso) else (len(torso.layers) - 1) // 2
    normed = any(isinstance(module, nn.LayerNorm) for module in torso.modules())
    return _make_multi_skip(all_layers(torso)[0], depth, torso.modules(), torso.out_features, normed=normed)


def _make_multi_skip(
    first: Layer, depth: int, like: Iterable[nn.Module], out_features: int | None = None, *, normed: bool = True
) -> MultiSkipTorso:
    """A multi-skip torso that begins like the layer ``first``, with the activation of ``like``."""
    assert isinstance(first, nn.Linear)
    return MultiSkipTorso(
        first.in_features,
        first.out_features,
        depth,
        out_features=out_features,
        norm="layer" if normed else "none",
        activation=_activation_of(like),
    ).to(first.weight.device, first.weight.dtype)


def _activation_of(modules: Iterable[nn.Module]) -> str:
    """Name of the first activation that there is one for."""
    made_by = {make: name for name, make in ACTIVATIONS.items()}
    return next((made_by[type(module)] for module in modules if type(module) in made_by), "relu")


def _stacks(model: nn.Module) -> list[tuple[nn.Sequential, int, int]]:
    """(sequence, begin, end) of runs of at least three hidden linear layers of one width, with what stands between."""
    found = []
    hidden = {id(layer) for layer in hidden_layers(model)}
    between = (*_NORMS, *_ACTIVATIONS, nn.Identity, nn.Dropout)
    inside = {id(part) for _, _, torso in _plain_torsos(model) for part in torso.modules()}
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential) or id(sequence) in inside:
            continue
        run: list[int] = []
        for number, module in enumerate([*sequence, None]):
            belongs = isinstance(module, nn.Linear) and id(module) in hidden
            if run and belongs and _width(sequence[run[0]]) == _width(sequence[number]):  # type: ignore[arg-type]
                run.append(number)
            elif not run or not isinstance(module, between):
                if len(run) >= 3:
                    found.append((sequence, run[0], number))
                    break  # one run a sequence: the places of a second would have moved
                run = [number] if belongs else []
    return found


def activation(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Leaky ReLU for ReLU, whose dead units pass no gradient; GELU for bounded ones, whose ends have no slope."""
    replaceable = replaceable_activations(model)
    if not replaceable:
        raise CannotApply("activation: no ReLU and no bounded activation is a module; change the functions by hand")
    for parent, name, child in replaceable:
        setattr(parent, name, nn.LeakyReLU(0.1) if isinstance(child, _RECTIFIED) else nn.GELU())
    return optimizer


def kron(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Kron instead of the optimizer, over the same parameters, at the rate that follows from Adam's."""
    if isinstance(optimizer, Kron):
        raise CannotApply("kron: the optimizer is Kron already")
    entry = OPTIMIZERS.get(type(optimizer).__name__.lower())
    ratio = entry.lr_ratio if entry else 1.0
    groups = []
    for group in optimizer.param_groups:
        decoupled = type(optimizer).__name__ == "AdamW" or group.get("decoupled_weight_decay", False)
        groups.append(
            {
                "params": list(group["params"]),
                "lr": default_learning_rate("kron", float(group["lr"]) / ratio),
                "weight_decay": group.get("weight_decay", 0.0) if decoupled else 0.0,
            }
        )
    return Kron(groups)


def train_layer(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Train what is left out: parameters in no group, groups at a rate of 0, parameters without ``requires_grad``."""
    rates = [float(group["lr"]) for group in optimizer.param_groups if float(group["lr"]) > 0]
    rates = rates or [USUAL_RATE if "eps" in optimizer.defaults else 10 * USUAL_RATE]
    changed = False
    for group in optimizer.param_groups:
        if float(group["lr"]) == 0:
            group["lr"], changed = max(rates), True
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            parameter.requires_grad_(True)
            changed = True
        if id(parameter) not in known:
            optimizer.param_groups[0]["params"].append(parameter)
            changed = True
    if not changed:
        raise CannotApply("train_layer: the optimizer trains every parameter already")
    return optimizer


@torch.no_grad()
def recycle_dormant(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Fresh incoming weights for units that get next to no gradient (after ReDo, arXiv 2302.12902).

    Dormant by the mean absolute gradient of a unit's incoming weights, over the layer's mean: GraMa's measure, on the
    gradients that are there, or else on the optimizer's running mean of them. Outgoing weights stay, so a unit speaks
    again at once; of outputs only a layer without any gradient at all is renewed.
    """
    hidden = {id(layer) for layer in hidden_layers(model)}
    gradients = [(layer, _gradient_of(layer, optimizer)) for layer in all_layers(model)]
    if not any(gradient is not None for _, gradient in gradients):
        raise CannotApply("recycle_dormant: there are no gradients to judge units by; call it after a backward pass")
    renewed = 0
    for layer, gradient in gradients:
        if gradient is None:
            continue
        size = gradient.flatten(1).abs().mean(dim=1)
        rows = size <= DORMANT * size.mean()
        if id(layer) not in hidden and not rows.all():
            continue
        renewed += int(rows.sum())
        fresh = copy.deepcopy(layer)
        fresh.reset_parameters()
        for name, parameter in layer.named_parameters(recurse=False):
            parameter[rows] = getattr(fresh, name)[rows]
            for held in held_of(optimizer, parameter):
                held[rows] = 0
    if not renewed:
        raise CannotApply("recycle_dormant: no unit is dormant")
    return optimizer


def _gradient_of(layer: Layer, optimizer: Optimizer) -> Tensor | None:
    """[units, ...] the gradient of a layer's weights, or the optimizer's running mean of it."""
    weight = layer.weight
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return None  # a transposed convolution keeps its units in the second dimension
    if weight.grad is not None:
        return weight.grad
    if isinstance(optimizer, Kron):  # whose means are padded
        return next(iter(held_of(optimizer, weight)), None)
    held = optimizer.state.get(weight, {})
    return next((held[name] for name in ("exp_avg", "momentum", "momentum_buffer") if name in held), None)


def free_output(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """No activation and no norm behind an output layer."""
    shapers = output_shapers(model)
    if not shapers:
        raise CannotApply("free_output: nothing that is a module stands behind an output layer")
    for parent, name, _ in shapers:
        setattr(parent, name, nn.Identity())
    return optimizer


def wider_norm(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Norms over one or two values taken out; norms of single channels made norms of all channels together."""
    narrow = narrow_norms(model)
    if not narrow:
        raise CannotApply("wider_norm: no norm is over one or two values, and none over single channels")
    for parent, name, norm in narrow:
        channels = _norm_width(norm)
        if isinstance(norm, nn.LayerNorm | nn.RMSNorm) or channels < FEWEST:
            setattr(parent, name, nn.Identity())
            continue
        old, new = list(norm.parameters()), nn.GroupNorm(1, channels, affine=any(True for _ in norm.parameters()))
        weight = next(model.parameters())
        setattr(parent, name, new.to(weight.device, weight.dtype))
        if old:
            _replace(optimizer, old, new.parameters())
    return optimizer


def normalise_inputs(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    """Inputs at mean 0 and deviation 1, by running statistics of what the network is trained on."""
    first = model
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]  # what is added to a sequence would become its last part
    if isinstance(getattr(first, "input_normaliser", None), InputNormaliser):
        raise CannotApply("normalise_inputs: the inputs are normalised already")
    parameter = next(model.parameters(), torch.empty(0))
    first.add_module("input_normaliser", InputNormaliser().to(parameter.device))
    first.register_forward_pre_hook(_normalise_input)
    return optimizer


def _normalise_input(first: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not args or not isinstance(args[0], Tensor):
        return None
    return (first.get_submodule("input_normaliser")(args[0]), *args[1:])
