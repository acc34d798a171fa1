"""Rows of the torso's weights keep their norm: against a slow loop."""

import copy

import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.networks import EncoderConfig, QNetwork, TorsoConfig
from stablegrad.optimizers import OPTIMIZERS, OptimizerConfig
from stablegrad.optimizers.saved import load_state


def make_network(**torso):
    torch.manual_seed(0)
    config = TorsoConfig(**{"depth": 1, "width": 16, **torso})
    return QNetwork((20,), 3, encoder=EncoderConfig(), torso=config, is_image=False)


def train(network, optimizer, steps=4, first=0, after=lambda: None):
    for step in range(first, first + steps):
        x = torch.randn(8, 20, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()
        after()
    return [parameter.detach().clone() for parameter in network.parameters()]


def layers(network):
    return [module for module in network.torso.modules() if isinstance(module, nn.Linear)]


def project_slowly(network, norms):
    for layer, own in zip(layers(network), norms, strict=True):
        for row, norm in zip(layer.weight.data, own, strict=True):
            row *= norm / row.square().sum().sqrt()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_scaled_back_after_every_step(name):
    config = {"name": name, "learning_rate": 1e-2}
    network, slow = make_network(), make_network()
    norms = [layer.weight.detach().norm(dim=1) for layer in layers(network)]
    torch.manual_seed(1)
    found = train(network, OptimizerConfig(**config, project_rows="first").build(network))
    torch.manual_seed(1)
    expected = train(slow, OptimizerConfig(**config).build(slow), after=lambda: project_slowly(slow, norms))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for layer, norm in zip(layers(network), norms, strict=True):
        torch.testing.assert_close(layer.weight.detach().norm(dim=1), norm)
    assert not torch.allclose(network.head.weight.norm(dim=1), make_network().head.weight.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "kron"])
def test_unit_rows_are_of_norm_1_at_once_and_after_every_step_in_torso_and_head(name):
    config = {"name": name, "learning_rate": 1e-2}
    network, slow = make_network(), make_network()

    def project():
        for layer in (*layers(slow), slow.head):
            for row in layer.weight.data:
                row /= row.square().sum().sqrt()

    project()
    torch.manual_seed(1)
    optimizer = OptimizerConfig(**config, project_rows="unit").build(network)
    for one, other in zip(network.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    found = train(network, optimizer)
    torch.manual_seed(1)
    expected = train(slow, OptimizerConfig(**config).build(slow), after=project)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for layer in (*layers(network), network.head):
        torch.testing.assert_close(layer.weight.detach().norm(dim=1), torch.ones(layer.out_features))


def test_nothing_changes_before_the_first_step_and_rows_without_weights_stay_zero():
    network = make_network(sparsity=0.97)
    before = copy.deepcopy(network.state_dict())
    optimizer = OptimizerConfig(name="kron", learning_rate=1e-2, project_rows="first").build(network)
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    empty = [(layer.weight == 0).all(dim=1) for layer in layers(network)]
    assert any(rows.any() for rows in empty)
    weights = train(network, optimizer)
    assert all(one.isfinite().all() for one in weights)
    for layer, rows in zip(layers(network), empty, strict=True):
        assert torch.equal((layer.weight == 0).all(dim=1), rows)


def test_a_saved_optimizer_keeps_the_very_first_norms():
    config = OptimizerConfig(name="adam", learning_rate=1e-2, project_rows="first")
    network = make_network()
    optimizer = config.build(network)
    train(network, optimizer)
    resumed = copy.deepcopy(network)
    with torch.no_grad():
        resumed.torso.output.linear.weight.mul_(2.0)  # what was built is no longer what was saved
    again = config.build(resumed)
    resumed.load_state_dict(network.state_dict())
    load_state(again, copy.deepcopy(optimizer.state_dict()))
    expected = train(network, optimizer, first=4)
    assert all(map(torch.equal, train(resumed, again, first=4), expected))
    other = make_network(width=8)
    with pytest.raises(ValueError, match="no row norms of this network"):
        OptimizerConfig(name="adam", project_rows="first").build(other).load_state_dict(optimizer.state_dict())


def test_a_network_without_a_torso_is_refused():
    with pytest.raises(UsageError, match="linear layers in a part of the network called 'torso'"):
        OptimizerConfig(project_rows="first").build(nn.Linear(3, 2))
    with pytest.raises(UsageError, match="unknown optimizer project-rows 'units'; did you mean 'unit'"):
        OptimizerConfig(project_rows="units")


def test_clipping_bounds_what_a_parametrization_stores():
    network = make_network(spectral_norm=True)
    optimizer = OptimizerConfig(name="adam", learning_rate=0.5, weight_clip=1.0).build(network)
    train(network, optimizer)
    for layer in layers(network):
        assert layer.parametrizations.weight.original.abs().max() <= layer.in_features**-0.5 + 1e-7
