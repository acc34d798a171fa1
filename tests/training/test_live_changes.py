"""What is applied to a running agent: to all of its networks, and to the same effect however often it is loaded."""

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stablegrad.agents.contract import AgentConfig
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.training.health import apply_live


@dataclass(frozen=True)
class ActorConfig:
    learning_rate: float | None = None


@dataclass(frozen=True)
class TwoNetworkConfig(AgentConfig):
    actor: ActorConfig = field(default_factory=ActorConfig)

    def optimizer_of(self, network):
        if network != "actor" or self.actor.learning_rate is None:
            return self.optimizer
        return dataclasses.replace(self.optimizer, learning_rate=self.actor.learning_rate)


def make(**options):
    config = TwoNetworkConfig(optimizer=OptimizerConfig(name="adam", adam_learning_rate=1e-3), **options)
    networks = {"actor": nn.Linear(3, 2), "critic": nn.Linear(3, 1)}
    optimizers = {name: config.optimizer_of(name).build(network) for name, network in networks.items()}
    for name, network in networks.items():
        network(torch.ones(4, 3)).square().mean().backward()
        optimizers[name].step()
    return SimpleNamespace(config=config, networks=networks, optimizers=optimizers)


def rates(agent):
    return {name: optimizer.param_groups[0]["lr"] for name, optimizer in agent.optimizers.items()}


@pytest.mark.parametrize(("own", "actor"), [(None, 1e-4), (5e-3, 5e-4)])
def test_the_rates_of_all_networks(own, actor):
    agent = make(actor=ActorConfig(own))
    base = agent.config
    for _ in range(2):  # a rollback starts from the run's configuration, and from optimizers of before or after
        agent.config = base
        apply_live(agent, "lower_learning_rate", 0.1)
        assert rates(agent) == pytest.approx({"actor": actor, "critic": 1e-4})
    apply_live(agent, "raise_learning_rate", 100.0)
    assert rates(agent) == pytest.approx({"actor": 100 * actor, "critic": 1e-2})
    assert agent.config.optimizer_of("actor").initial_learning_rate == pytest.approx(100 * actor)
    assert all(optimizer.state for optimizer in agent.optimizers.values())


@pytest.mark.parametrize(("norm", "tighter"), [(None, 1.0), (2.0, 0.2)])
def test_clipping_and_nothing_else(norm, tighter):
    agent = make(max_grad_norm=norm)
    before = rates(agent)
    apply_live(agent, "clip_gradients", None)
    assert agent.config == dataclasses.replace(make(max_grad_norm=norm).config, max_grad_norm=tighter)
    assert rates(agent) == before


def test_the_states_of_all_optimizers():
    agent = make()
    config = agent.config
    apply_live(agent, "reset_optimizer_state", None)
    assert not any(optimizer.state for optimizer in agent.optimizers.values())
    assert agent.config == config
