"""What goes into hidden units and what comes out of them, held against the networks' outputs."""

import itertools

import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import Critic, EncoderConfig, GaussianActor, QNetwork, TorsoConfig
from stablegrad.networks.actor_critic import ActorCritic, Body, GaussianHead, Policy, StateValue
from stablegrad.networks.units import heads, hidden_units

VECTOR, IMAGE = (5,), (3, 36, 36)


def torso(kind="mlp", activation="gelu", norm="none", depth=2):
    return TorsoConfig(kind, depth=depth, width=6, out_features=4, norm=norm, activation=activation)


def q_network(config, encoder="auto", shape=VECTOR, norm="none", activation="gelu"):
    size = {"size": "small"} if encoder == "nature" else {}
    config_of_encoder = EncoderConfig(encoder, norm=norm, activation=activation, **size)
    return QNetwork(shape, 3, encoder=config_of_encoder, torso=config, is_image=shape is IMAGE)


def body():
    return Body(VECTOR, encoder=EncoderConfig(), torso=torso(), is_image=False, normalize=True)


def made(name):
    encoder = EncoderConfig()
    kind, _, activation = name.partition("-")
    match kind:
        case "critic":
            return Critic((3,), 2, 2, encoder=encoder, torso=torso())
        case "actor":
            return GaussianActor(VECTOR, 2, encoder=encoder, torso=torso("residual"))
        case "shared":
            return ActorCritic(body(), nn.Linear(4, 3))
        case "policy":
            return Policy(body(), GaussianHead(4, 2, 0.0))
        case "value":
            return StateValue(body())
        case "nature" | "impala":
            shape = torso("multi_skip" if kind == "nature" else "densenet", activation, depth=1)
            return q_network(shape, kind, IMAGE, activation=activation)
    return q_network(torso(kind, activation))


#: Networks, and how many units of how many layers they have.
NETWORKS = {
    "mlp-gelu": (5 * 6 + 4, 6),
    "mlp-crelu": (5 * 3 + 2, 6),
    "residual-tanh": (2 * 6 + 4, 3),
    "multi_skip-crelu": (2 * 6 + 2, 3),
    "densenet-gelu": (6 + 4 * 3 + 4, 6),
    "nature-gelu": (16 + 32 + 32 + 6 + 4, 5),
    "nature-crelu": (8 + 16 + 16 + 6 + 2, 5),
    "impala-gelu": (2 * (16 + 32 + 32) + 6 + 2 * 3 + 4, 10),
    "critic": (2 * (5 * 6 + 4), 12),
    "actor": (2 * 6 + 4, 3),
    "shared": (5 * 6 + 4, 6),
    "policy": (5 * 6 + 4, 6),
    "value": (5 * 6 + 4, 6),
}


def outputs(network, shape):
    generator = torch.Generator().manual_seed(1)
    found = network(torch.randn(4, *shape, generator=generator))
    return torch.cat(found, dim=1) if isinstance(found, tuple) else found


@torch.no_grad()
def fill(units, unit, value, *, incoming):
    if incoming:
        units.layer.weight[unit], units.layer.bias[unit] = value, value
    else:
        for reader, first in units.readers:
            units.outgoing(reader.weight, first)[unit] = value


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outgoing_weights_are_all_that_reads_a_unit_and_read_nothing_else(name):
    torch.manual_seed(0)
    network = made(name)
    shape = IMAGE if name.startswith(("nature", "impala")) else VECTOR
    with_bias = [one for one in network.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    for layer in with_bias:
        layer.bias.normal_()
    layers = hidden_units(network)
    assert (sum(units.count for units in layers), len(layers)) == NETWORKS[name]
    before, state = outputs(network, shape), {k: v.clone() for k, v in network.state_dict().items()}
    differs = 0
    for units, last in itertools.product(layers, (False, True)):
        unit = units.count - 1 if last else 0
        # A unit whose output is zero: nobody can tell what reads it.
        fill(units, unit, 0.0, incoming=True)
        silent = outputs(network, shape)
        differs += not torch.equal(silent, before)
        fill(units, unit, 3.0, incoming=False)
        torch.testing.assert_close(outputs(network, shape), silent)
        # A unit that nothing reads: nobody can tell what it gives.
        fill(units, unit, 0.0, incoming=False)
        fill(units, unit, 3.0, incoming=True)
        torch.testing.assert_close(outputs(network, shape), silent)
        network.load_state_dict(state)
    assert differs > len(layers)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_output_layers_read(name):
    network = made(name)
    seen = []
    for head in heads(network):
        head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs(network, IMAGE if name.startswith(("nature", "impala")) else VECTOR)
    assert [tuple(features.shape) for features in seen] == [(4, 4)] * (2 if name == "critic" else 1)


def test_activations_by_unit():
    units = hidden_units(made("nature-crelu"))[2]
    output = torch.arange(2 * 32 * 9.0).view(2, 32, 3, 3)
    by_unit = units.by_unit(output)
    assert by_unit.shape == (2, 2, 16, 9)
    assert torch.equal(by_unit[1, 1, 5], output[1, 16 + 5].flatten())
    flat = hidden_units(made("mlp-crelu"))[0]
    assert torch.equal(flat.by_unit(torch.arange(12.0).view(2, 6))[0, 1, :, 0], torch.tensor([3.0, 4.0, 5.0]))


def test_unknown_networks_are_refused():
    with pytest.raises(UsageError, match="hidden units of a Linear are not known"):
        hidden_units(nn.Linear(3, 2))
    with pytest.raises(UsageError, match=r"features of a Linear are not known; its output layer should be \.head"):
        heads(nn.Linear(3, 2))
