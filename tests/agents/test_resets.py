import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.agents.resets import activity, dormant, gradient_size, renew_
from stablegrad.diagnostics.metrics import dormant_fraction
from stablegrad.networks import EncoderConfig, QNetwork, TorsoConfig
from stablegrad.networks.units import hidden_units
from stablegrad.optimizers import OPTIMIZERS, make_optimizer


def network_of(kind="mlp", norm="none", activation="relu", depth=1):
    torch.manual_seed(0)
    torso = TorsoConfig(kind, depth=depth, width=8, norm=norm, activation=activation)
    return QNetwork((5,), 3, encoder=EncoderConfig(), torso=torso, is_image=False)


def inputs(rows=16):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))


def train(network, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        network(inputs()).square().sum().backward()
        optimizer.step()


def none_of(layers):
    return [torch.zeros(units.count, dtype=torch.bool) for units in layers]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0, 0.99))
def test_dormant_units_are_those_of_the_definition(sizes, threshold):
    size = torch.tensor(sizes, dtype=torch.float64)
    chosen = dormant(size, threshold)
    for one, taken in zip(size, chosen, strict=True):
        assert taken == (one <= threshold * size.mean())
    assert chosen.double().mean() == dormant_fraction(size, threshold)


def test_a_layer_that_is_zero_is_dormant_and_one_that_is_not_finite_is_not():
    assert dormant(torch.zeros(3), 0.0).all()
    assert not dormant(torch.tensor([0.0, math.nan, 1.0]), 0.1).any()
    assert dormant(torch.tensor([0.0, 1.0]), 0.1).tolist() == [True, False]


@pytest.mark.parametrize("kind", ["mlp", "residual", "densenet"])
def test_activity_and_gradients_by_a_loop_over_units(kind):
    network = network_of(kind)
    layers = hidden_units(network)
    seen = {}
    for units in layers:
        units.activation.register_forward_hook(lambda module, _, output: seen.__setitem__(module, output.clone()))
    network(inputs()).square().mean().backward()
    for units in layers:
        output = seen[units.activation]
        rows = activity(units, output)
        for unit in range(units.count):
            for row in range(16):
                assert rows[row, unit] == output[row, unit].abs()
            gradient = units.layer.weight.grad[unit]
            assert gradient_size(units)[unit].item() == pytest.approx(sum(map(abs, gradient.tolist())) / len(gradient))
    network.zero_grad()
    assert gradient_size(layers[0]).abs().sum() == 0


def test_chosen_units_begin_anew_and_nothing_else_changes():
    """By a loop over every weight of a plain network with norms, and what Adam keeps for it."""
    network = network_of(norm="layer")
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    train(network, optimizer)
    layers = hidden_units(network)
    before, kept = copy.deepcopy(network), copy.deepcopy(optimizer.state)
    chosen = none_of(layers)
    chosen[0][2] = chosen[1][[0, 5]] = chosen[3][4] = True
    renew_(layers, chosen, optimizer, torch.Generator().manual_seed(7))

    generator = torch.Generator().manual_seed(7)
    linears = [units.layer for units in layers] + [network.head]
    old = [module for module in before.modules() if isinstance(module, nn.Linear)]
    for number, (layer, was) in enumerate(zip(linears, old, strict=True)):
        rows = chosen[number] if number < len(layers) else torch.zeros(3, dtype=torch.bool)
        columns = chosen[number - 1] if number else torch.zeros(5, dtype=torch.bool)
        fresh = nn.init.orthogonal_(torch.empty_like(layer.weight), math.sqrt(2.0), generator=generator)
        if number in (1, 2, 3):
            torch.testing.assert_close(fresh @ fresh.T, 2 * torch.eye(8))
        for i, j in ((i, j) for i in range(len(rows)) for j in range(len(columns))):
            expected = 0.0 if columns[j] else fresh[i, j] if rows[i] else was.weight[i, j]
            assert layer.weight[i, j] == expected
            for name in ("exp_avg", "exp_avg_sq"):
                held = optimizer.state[layer.weight][name][i, j]
                was_held = kept[next(key for key in kept if key is not None and key.shape == layer.weight.shape)]
                assert (held == 0) == bool(rows[i] or columns[j]) or was_held[name][i, j] == 0
        for i in range(len(rows)):
            assert layer.bias[i] == (0.0 if rows[i] else was.bias[i])
            assert (optimizer.state[layer.bias]["exp_avg_sq"][i] == 0) == bool(rows[i])
    for units, was, rows in zip(layers, hidden_units(before), chosen, strict=True):
        for name, start in (("weight", 1.0), ("bias", 0.0)):
            new, one = getattr(units.norm, name), getattr(was.norm, name)
            assert torch.equal(new[rows], torch.full_like(new[rows], start))
            assert torch.equal(new[~rows], one[~rows])
            assert (optimizer.state[new]["exp_avg"][rows] == 0).all()
    assert optimizer.state[network.head.weight]["step"] == 3


@pytest.mark.parametrize("kind", ["mlp", "residual", "multi_skip", "densenet", "simba"])
@pytest.mark.parametrize("activation", ["relu", "crelu", "gelu"])
@torch.no_grad()
def test_without_norms_outputs_change_by_what_the_units_gave(kind, activation):
    """Units whose output was zero: the function is the same afterwards, and they have a slope again."""
    network = network_of(kind, activation=activation)
    layers, chosen = hidden_units(network), none_of(hidden_units(network))
    for units, rows in zip(layers, chosen, strict=True):
        rows[::2] = True
        units.layer.weight[rows], units.layer.bias[rows] = 0.0, 0.0
    before = network(inputs())
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    renew_(layers, chosen, optimizer, torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(inputs()), before)
    for units, rows in zip(layers, chosen, strict=True):
        assert (units.layer.weight[rows].norm(dim=1) > 0.1).any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_every_optimizer_training_goes_on(name):
    pytest.importorskip("pytorch_optimizer")
    network = network_of("densenet", norm="layer", activation="crelu")
    optimizer = make_optimizer(name, network.parameters(), 1e-3)
    layers = hidden_units(network)
    chosen = [torch.arange(units.count) % 2 == 0 for units in layers]
    for _ in range(2):
        train(network, optimizer)
        renew_(layers, chosen, optimizer, torch.Generator().manual_seed(0))
        reader, first = layers[0].readers[-1]
        assert layers[0].outgoing(reader.weight, first)[::2].abs().sum() == 0
    train(network, optimizer)
    assert layers[0].outgoing(reader.weight, first)[::2].abs().sum() > 0
    assert all(parameter.isfinite().all() for parameter in network.parameters())
