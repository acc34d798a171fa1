"""The monitor on networks whose weights a parametrization computes: the same layers, and nothing changes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from stablegrad.diagnostics import Monitor
from stablegrad.diagnostics.layers import find_layers, layer_name
from stablegrad.networks import EncoderConfig, QNetwork, TorsoConfig
from stablegrad.optimizers import OptimizerConfig

OPTIONS = [{"spectral_norm": True}, {"sparsity": 0.5}, {"spectral_norm": True, "sparsity": 0.5}]


def make_network(**torso):
    torch.manual_seed(0)
    config = TorsoConfig(kind="multi_skip", depth=1, width=16, **torso)
    return QNetwork((6,), 3, encoder=EncoderConfig(), torso=config, is_image=False)


def train(network, optimizer, steps=9):
    for step in range(steps):
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()


def watched(network, name="kron"):
    optimizer = OptimizerConfig(name=name, learning_rate=1e-2).build(network)
    monitor = Monitor(network, optimizer, every=4, probe_every=4)
    train(network, optimizer)
    history = monitor.fetch()
    monitor.close()
    return history


@pytest.mark.parametrize("options", OPTIONS)
def test_layers_have_the_names_of_the_plain_network(options):
    network = make_network(**options)
    plain, found = find_layers({"": make_network()}), find_layers({"": network})
    assert found.names == plain.names
    assert sorted(found.outputs) == sorted(plain.outputs)
    # In the network's own order, in which norms of gradients come.
    assert list(map(id, found.parameters)) == list(map(id, network.parameters()))
    for name, number in zip(found.names, range(len(found.names)), strict=True):
        assert found.layer_of.count(number) == 2, name  # weight and bias


@pytest.mark.parametrize("options", OPTIONS)
def test_every_figure_of_the_plain_network_is_there(options):
    plain, found = watched(make_network()), watched(make_network(**options))
    for metric in ("gradient_norm", "weight_norm", "update_ratio", "dormant", "churn", "srank", "churn_head"):
        assert found.series(metric).sites == plain.series(metric).sites, metric


def test_weights_of_a_pruned_network_are_those_that_it_computes_with():
    """Also with Kron, which mixes the entries of a matrix."""
    network, norms = make_network(sparsity=0.5), []
    layer = network.torso.blocks[0].linear1
    optimizer = OptimizerConfig(name="kron", learning_rate=1e-2).build(network)
    optimizer.register_step_pre_hook(lambda *_: norms.append(torch.cat([layer.weight, layer.bias[:, None]], 1).norm()))
    monitor = Monitor(network, optimizer, every=4)
    train(network, optimizer)
    series = monitor.fetch().series("weight_norm")
    looked_at = [norms[int(step) - 1].item() for step in series.steps]
    assert series.site("torso.blocks.0.linear1") == pytest.approx(looked_at, rel=1e-5)
    assert 8 in series.steps


@pytest.mark.parametrize("options", OPTIONS)
def test_watching_changes_nothing(options):
    network, alone = make_network(**options), make_network(**options)
    watched(network)
    train(alone, OptimizerConfig(name="kron", learning_rate=1e-2).build(alone))
    assert all(map(torch.equal, network.state_dict().values(), alone.state_dict().values()))


def test_a_head_with_torchs_own_parametrization_is_found_and_left_alone():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 3)))
    alone = copy.deepcopy(network)
    history = watched(network, name="adam")
    assert history.series("gradient_norm").sites == ["0", "2"]
    assert len(history.series("srank").sites) == len(history.series("churn_head").sites) == 1
    train(alone, OptimizerConfig(name="adam", learning_rate=1e-2).build(alone))
    assert all(map(torch.equal, network.state_dict().values(), alone.state_dict().values()))


def test_layers_of_names():
    assert layer_name("torso.output.parametrizations.weight.original") == "torso.output"
    assert layer_name("parametrizations.weight.0") == ""
    assert layer_name("torso.output.linear") == "torso.output.linear"
