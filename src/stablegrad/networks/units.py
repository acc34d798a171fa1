"""Hidden units: the weights that go into them and all that come out of them, by architecture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from stablegrad.errors import UsageError
from stablegrad.networks.actor_critic import ActorCritic, GaussianHead, Policy, StateValue
from stablegrad.networks.critic import Critic
from stablegrad.networks.deterministic_actor import DeterministicActor
from stablegrad.networks.encoders import ImpalaCNN, NatureCNN, _ImpalaBlock
from stablegrad.networks.gaussian_actor import GaussianActor
from stablegrad.networks.layers import CReLU
from stablegrad.networks.q_network import QNetwork
from stablegrad.networks.simba import SimbaBlock, SimbaTorso
from stablegrad.networks.torsos import DenseNetTorso, MLPTorso, MultiSkipTorso, _Block, _Layer

Layer = nn.Linear | nn.Conv2d
#: A layer that reads units, and its input at which they begin.
Reader = tuple[Layer, int]


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one hidden layer: of a linear layer its outputs, of a convolution its channels.

    Attributes:
        layer: whose rows are their incoming weights.
        norm: what stands behind it: nothing (``nn.Identity``), or a norm with a gain and a bias a unit (and place).
        activation: what gives their outputs.
        readers: all layers that read them.
        places: inputs of a reader that belong to one channel of the activation, above 1 where images were flattened.
    """

    layer: Layer
    norm: nn.Module
    activation: nn.Module
    readers: Sequence[Reader]
    places: int = 1

    @property
    def count(self) -> int:
        """How many there are."""
        return self.layer.weight.shape[0]

    @property
    def copies(self) -> int:
        """Channels that the activation makes of each: 2 for CReLU, else 1."""
        return 2 if isinstance(self.activation, CReLU) else 1

    def by_unit(self, output: Tensor) -> Tensor:
        """What the activation gave, [batch, copies * units, ...], as [batch, copies, units, places]."""
        return output.reshape(len(output), self.copies, self.count, -1)

    def outgoing(self, weight: Tensor, first: int) -> Tensor:
        """What a reader's weights, or whatever has their shape, hold for these units, as a view with the units first.

        Args:
            weight: [outputs, inputs, ...].
            first: the input at which the units begin.
        """
        own = weight[:, first : first + self.copies * self.count * self.places]
        return own.unflatten(1, (self.copies, self.count, self.places)).movedim(2, 0)


def heads(network: nn.Module) -> list[nn.Module]:
    """The modules that read the penultimate features of a network, one for each of its torsos.

    Raises:
        UsageError: none is known; networks keep them as ``head``.
    """
    found = [head for module in network.modules() if isinstance(head := getattr(module, "head", None), nn.Module)]
    if not found:
        raise UsageError(f"the features of a {type(network).__name__} are not known; its output layer should be .head")
    return found


def hidden_units(network: nn.Module) -> list[Units]:
    """The units between the observation and the outputs, in forward order.

    Left out are those that more than one layer writes: the stream of residual, multi-skip and SimBa torsos and of the
    Impala CNN, of which a unit belongs to all blocks together.

    Raises:
        UsageError: the network is not one of this package's, or has none.
    """
    found = [one for body, readers in _bodies(network) for one in _units_of(body, readers)]
    if not found:
        raise UsageError(f"the hidden units of a {type(network).__name__} are not known, so none can be reset")
    return found


def _bodies(network: nn.Module) -> list[tuple[nn.Module, list[Layer]]]:
    """What has an encoder and a torso, and the layers that read its features."""
    match network:
        case Critic():
            return [body for member in network.members for body in _bodies(member)]
        case QNetwork() | GaussianActor() | DeterministicActor():
            return [(network, [network.head])] if isinstance(network.head, nn.Linear) else []
        case ActorCritic():
            return [(network.body, [network.value, _linear(network.head)])]
        case Policy() | StateValue():
            return [(network.body, [_linear(network.head)])]
    return []


def _linear(head: nn.Module) -> nn.Linear:
    layer = head.linear if isinstance(head, GaussianHead) else head
    assert isinstance(layer, nn.Linear)
    return layer


def _units_of(body: nn.Module, readers: Sequence[Layer]) -> list[Units]:
    encoder, torso = body.get_submodule("encoder"), body.get_submodule("torso")
    match torso:
        case MLPTorso():
            chain = _layers(*torso.layers, torso.output)
            first = chain[0].linear
            inside = [_of_layer(one, [after.linear]) for one, after in pairwise(chain)]
        case MultiSkipTorso():
            first = torso.project
            blocks = [block for block in torso.blocks if isinstance(block, _Block)]
            inside = [Units(one.linear1, one.norm1, one.activation2, [(one.linear2, 0)]) for one in blocks]
        case DenseNetTorso():
            chain = _layers(torso.project, *torso.layers, torso.output)
            first = chain[0].linear
            # The output of each layer stands where the input of the next one ends: behind its own.
            begins = [0, *(layer.linear.in_features for layer in chain[1:])]
            inside = [
                _of_layer(layer, [after.linear for after in chain[number + 1 :]], begins[number])
                for number, layer in enumerate(chain[:-1])
            ]
        case SimbaTorso():
            # Its stream, which all blocks write, is what the head reads.
            blocks_inside = [block for block in torso.blocks if isinstance(block, SimbaBlock)]
            hidden = [Units(one.linear1, nn.Identity(), one.activation, [(one.linear2, 0)]) for one in blocks_inside]
            return [*_of_encoder(encoder, torso.project), *hidden]
        case _:
            return []
    return [*_of_encoder(encoder, first), *inside, _of_layer(torso.output, readers)]


def _layers(*modules: nn.Module) -> list[_Layer]:
    return [module for module in modules if isinstance(module, _Layer)]


def _of_layer(layer: _Layer, readers: Sequence[Layer], begin: int = 0) -> Units:
    return Units(layer.linear, layer.norm, layer.activation, [(reader, begin) for reader in readers])


def _of_encoder(encoder: nn.Module, reader: nn.Linear) -> list[Units]:
    match encoder:
        case NatureCNN():
            parts = list(encoder.layers.children())  # convolution, norm, activation; and so on
            following = [*parts[3::3], reader]
            return [_of_conv(*one) for one in zip(parts[::3], parts[1::3], parts[2::3], following, strict=True)]
        case ImpalaCNN():
            branches = [list(part.branch) for part in encoder.layers.children() if isinstance(part, _ImpalaBlock)]
            return [_of_conv(branch[1], branch[2], branch[3], branch[4]) for branch in branches]
    return []


def _of_conv(layer: nn.Module, norm: nn.Module, activation: nn.Module, reader: nn.Module) -> Units:
    assert isinstance(layer, nn.Conv2d) and isinstance(reader, nn.Linear | nn.Conv2d)
    units = Units(layer, norm, activation, [(reader, 0)])
    if isinstance(reader, nn.Conv2d):
        return units
    return dataclasses.replace(units, places=reader.in_features // (units.copies * units.count))
