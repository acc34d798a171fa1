"""L2 penalties, against torch's own, the same penalty in the loss, and a slow loop."""

import copy

import pytest
import torch
from torch import nn

from stablegrad.errors import UsageError
from stablegrad.optimizers import OPTIMIZERS, OptimizerConfig
from stablegrad.optimizers.saved import load_state

COUPLED = ("adam", "radam", "sgd", "rmsprop")
#: A rounding in the last place turns SOAP's eigenbases, and its steps with them: see the test of that.
STEADY = [name for name in OPTIMIZERS if name != "soap"]


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3)).double()


def train(network, optimizer, steps=5, penalty=lambda: 0.0, first=0):
    for step in range(first, first + steps):
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        (network(x).square().mean() + penalty()).backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def trained(steps=5, penalty=lambda network: 0.0, **options):
    network = make_network()
    optimizer = OptimizerConfig(**{"name": "adam", "learning_rate": 1e-2, **options}).build(network)
    return train(network, optimizer, steps, lambda: penalty(network))


@pytest.mark.parametrize("name", COUPLED)
def test_l2_is_the_weight_decay_of_torchs_coupled_optimizers(name):
    torch.testing.assert_close(trained(name=name, l2=0.1), trained(name=name, weight_decay=0.1))


@pytest.mark.parametrize("name", STEADY)
def test_l2_is_the_penalty_in_the_loss(name):
    def penalty(network):
        return 0.05 * sum(parameter.square().sum() for parameter in network.parameters())

    torch.testing.assert_close(trained(name=name, l2=0.1), trained(name=name, penalty=penalty), rtol=1e-3, atol=1e-5)
    assert not all(map(torch.equal, trained(name=name, l2=0.1), trained(name=name)))


@pytest.mark.parametrize("name", STEADY)
def test_l2_init_is_the_penalty_towards_the_first_weights(name):
    first = [parameter.detach() for parameter in make_network().parameters()]

    def penalty(network):
        return 0.5 * sum((one - start).square().sum() for one, start in zip(network.parameters(), first, strict=True))

    torch.testing.assert_close(
        trained(name=name, l2_init=1.0), trained(name=name, penalty=penalty), rtol=1e-3, atol=1e-5
    )
    assert not all(map(torch.equal, trained(name=name, l2_init=1.0), trained(name=name)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_gets_the_gradient_with_the_penalties(name):
    network, found = make_network(), []
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = OptimizerConfig(name=name, learning_rate=1e-2, l2=0.5, l2_init=2.0).build(network)
    train(network, optimizer, 3)
    optimizer.zero_grad()
    network(torch.ones(5, 6, dtype=torch.float64)).square().mean().backward()
    expected = [
        one.grad + 0.5 * one.detach() + 2.0 * (one.detach() - first)
        for one, first in zip(network.parameters(), start, strict=True)
    ]
    optimizer.register_step_pre_hook(lambda *_: found.extend(one.grad.clone() for one in network.parameters()))
    optimizer.step()
    torch.testing.assert_close(found, expected)


def test_a_rounding_turns_the_steps_of_soap():
    def nudge(network):
        return 1e-13 * sum(parameter.sum() for parameter in network.parameters())

    apart = zip(trained(name="soap"), trained(name="soap", penalty=nudge), strict=True)
    assert max((one - other).abs().max().item() for one, other in apart) > 1e-4


def test_both_pulls_by_a_loop():
    network = nn.Linear(3, 2)
    start = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1, l2=0.5, l2_init=2.0).build(network)
    expected = [one.clone() for one in start]
    x = torch.randn(4, 3)
    for _ in range(3):
        optimizer.zero_grad()
        network(x).sum().backward()
        for own, first, parameter in zip(expected, start, network.parameters(), strict=True):
            own -= 0.1 * (parameter.grad + 0.5 * own + 2.0 * (own - first))
        optimizer.step()
    torch.testing.assert_close([parameter.detach() for parameter in network.parameters()], expected)


def test_parameters_without_a_gradient_are_passed_over():
    network = make_network()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    train(network, OptimizerConfig(name="adam", l2=0.1, l2_init=0.1).build(network))
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("name", ["adam", "kron", "shampoo", "muon"])
def test_a_saved_optimizer_still_pulls_to_the_very_first_weights(name):
    config = OptimizerConfig(name=name, learning_rate=1e-2, l2_init=1.0)
    network = make_network()
    optimizer = config.build(network)
    train(network, optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    resumed = copy.deepcopy(network)
    again = config.build(resumed)  # it takes the weights of now for the first ones, until it loads its state
    load_state(again, state)
    torch.manual_seed(5)
    expected = train(network, optimizer, first=5)
    torch.manual_seed(5)
    assert all(map(torch.equal, train(resumed, again, first=5), expected))
    del state["first_weights"]
    with pytest.raises(ValueError, match="no first weights of this network"):
        load_state(again, state)


@pytest.mark.parametrize("option", ["l2", "l2_init", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_wrong_strengths(option, value):
    with pytest.raises(UsageError, match=f"{option.replace('_', '-')} must be at least 0"):
        OptimizerConfig(**{option: value})
