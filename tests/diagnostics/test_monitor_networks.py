"""The monitor beside an agent with an actor and a critic: probes, churn and measurements of each by its name."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.diagnostics import Monitor, metrics

SIZE, ROWS = 2, 40


def data(seed=0, rows=ROWS):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


class Actor(nn.Module):
    """Means and log standard deviations in one tensor."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 2 * SIZE)

    def forward(self, observation):
        return self.head(self.body(observation))


class Agent:
    """An actor that the critic leads; one tensor of observation and action goes into the critic."""

    def __init__(self, critics=1, lr=0.05):
        torch.manual_seed(0)
        self.networks = {
            "actor": Actor(),
            "critic": nn.Sequential(nn.Linear(4 + SIZE, 8), nn.ReLU(), nn.Linear(8, critics)),
        }
        self.optimizers = {name: torch.optim.Adam(one.parameters(), lr=lr) for name, one in self.networks.items()}

    def critic_loss(self):
        return (self.networks["critic"](torch.cat([data(1), data(2)[:, :SIZE]], dim=1)) - 1).square().mean()

    def actor_loss(self):
        actions = self.networks["actor"](data(1))[:, :SIZE].tanh()
        return -self.networks["critic"](torch.cat([data(1), actions], dim=1)).mean()

    def update(self, steps):
        for _ in range(steps):
            for name in ("critic", "actor"):
                self.optimizers[name].zero_grad()
                getattr(self, f"{name}_loss")().backward()
                self.optimizers[name].step()


def watch(agent, **options):
    return Monitor(agent.networks, list(agent.optimizers.values()), every=2, probe_every=4, **options)


def row(monitor, step):
    """All that was measured at a step; both networks end their looks there."""
    return {key: value for at, figures in monitor.fetch().rows if at == step for key, value in figures.items()}


KINDS = {"actor": "tanh_gaussian", "critic": None}


def test_each_network_has_its_own_probe_and_churn():
    agent, observations = Agent(), data(3)
    probe = {"actor": observations, "critic": lambda: torch.cat([observations, data(4)[:, :SIZE]], dim=1)}
    with watch(agent, probe=probe, churn=KINDS) as monitor:
        agent.update(3)
        old = copy.deepcopy(agent.networks["actor"])
        agent.update(1)
    new = agent.networks["actor"]
    encoder_only, head_only = copy.deepcopy(new), copy.deepcopy(old)
    encoder_only.head, head_only.head = old.head, new.head
    figures, before = row(monitor, 4), np.tanh(old(observations).detach().numpy()[:, :SIZE])
    for metric, network in (("", new), ("_encoder", encoder_only), ("_head", head_only)):
        after = np.tanh(network(observations).detach().numpy()[:, :SIZE])
        expected = np.sqrt(np.mean((after - before) ** 2))
        assert figures[f"action_churn{metric}/actor"] == pytest.approx(expected, rel=1e-4)
    assert figures["action_churn/actor"] > 0
    assert {"srank/actor", "srank/critic", "output_std/critic", "output_std/actor"} <= set(figures)
    assert not [key for key in figures if key.startswith("churn") or key.startswith("action_churn/critic")]


def test_names_that_are_left_out_gather_their_own_rows_and_have_the_best_of_several_values():
    agent = Agent(critics=3)
    with watch(agent, probe={"actor": data(3)}, churn={"actor": "tanh_gaussian"}) as monitor:
        agent.update(8)
    figures = row(monitor, 8)
    assert {"action_churn/actor", "churn/critic", "srank/critic"} <= set(figures)
    agent = Agent(critics=3)
    with watch(agent) as monitor:
        agent.update(8)
    assert {"churn/actor", "churn/critic"} <= set(row(monitor, 8))


class Scaled(nn.Module):
    """Actions as CleanRL's actors return them: a tanh, scaled to the bounds."""

    def __init__(self, size):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, size)

    def forward(self, observation):
        return 2.0 * self.head(self.body(observation)).tanh() + 0.5


class Stateless(Actor):
    """As in PPO: standard deviations that are the same in every state."""

    def __init__(self):
        super().__init__()
        self.head, self.log_std = nn.Linear(8, SIZE), nn.Parameter(torch.zeros(SIZE))

    def forward(self, observation):
        mean = self.head(self.body(observation))
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=1)


@pytest.mark.parametrize(
    ("kind", "make", "action_of"),
    [
        ("action", lambda: Scaled(3), lambda outputs: outputs),
        ("action", lambda: Scaled(1), lambda outputs: outputs),
        ("gaussian", Actor, lambda outputs: outputs[:, :SIZE]),
        ("gaussian", Stateless, lambda outputs: outputs[:, :SIZE]),
        ("tanh_gaussian", Actor, lambda outputs: outputs[:, :SIZE].tanh()),
    ],
)
def test_parts_of_an_actions_churn_are_those_of_networks_put_together_by_hand(kind, make, action_of):
    """More rows than the probe runs at once; whatever the network does after its head is in both parts."""
    torch.manual_seed(0)
    network, probe = make(), data(3, rows=300)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    with Monitor(network, optimizer, every=2, probe=probe, probe_every=2, churn=kind) as monitor:
        for step in range(4):
            old = copy.deepcopy(network) if step == 3 else None
            optimizer.zero_grad()
            (network(data(1)) - 1).square().mean().backward()
            optimizer.step()
    encoder_only, head_only = copy.deepcopy(network), copy.deepcopy(old)
    encoder_only.head, head_only.head = old.head, network.head
    figures, before = row(monitor, 4), action_of(old(probe))
    parts = [("", network), ("_encoder", encoder_only), ("_head", head_only)]
    expected = [(action_of(one(probe)) - before).square().mean().sqrt().item() for _, one in parts]
    assert [figures[f"action_churn{part}/network"] for part, _ in parts] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0 and len(set(expected)) == 3
    assert not monitor.notes


def test_a_single_network_takes_a_plain_kind_and_one_without_a_mean_action_says_so():
    kinds = (("tanh_gaussian", 4, "action_churn"), ("tanh_gaussian", 3, None), ("gaussian", 3, None), (None, 4, None))
    for churn, outputs, expected in kinds:
        network = nn.Linear(4, outputs)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with Monitor(network, optimizer, every=2, probe=data(3), probe_every=2, churn=churn) as monitor:
            for _ in range(4):
                optimizer.zero_grad()
                network(data(1)).square().mean().backward()
                optimizer.step()
        found = {metric for metric in monitor.fetch().metrics() if "churn" in metric}
        assert found == ({expected, f"{expected}_encoder", f"{expected}_head"} if expected else set())
        notes = [f"no churn: a {churn} policy has [rows, 2 * size] outputs, it has 3"] if outputs == 3 else []
        assert monitor.notes == notes


def test_of_distributions_churn_is_of_the_best_mean():
    class Distributions(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3 * 5)

        def forward(self, x):
            return self.head(x).unflatten(1, (3, 5))

    torch.manual_seed(0)
    network, probe = Distributions(), data(3)
    optimizer = torch.optim.SGD(network.parameters(), lr=20.0)
    means = []
    with Monitor(network, optimizer, every=2, probe=probe, probe_every=4, churn="expected_argmax") as monitor:
        for _ in range(4):
            with torch.no_grad():
                means.append(network(probe).softmax(dim=2) @ torch.linspace(-7.0, 3.0, 5))
            optimizer.zero_grad()
            network(data(1)).square().mean().backward()
            optimizer.step()
    after = network(probe).softmax(dim=2) @ torch.linspace(-7.0, 3.0, 5)
    figures = monitor.fetch().rows[-1][1]
    changed = (means[-1].argmax(dim=1) != after.argmax(dim=1)).float().mean()
    assert figures["churn/network"] == pytest.approx(float(changed)) and changed > 0
    assert "srank/network" in figures and monitor.notes == []


def test_curvature_and_gradient_ranks_of_one_network_by_name():
    agent = Agent()
    critic = agent.networks["critic"]
    with watch(agent) as monitor:
        both = monitor.measure_curvature(agent.actor_loss, samples=4, iterations=4)
        actor = monitor.measure_curvature(agent.actor_loss, network="actor", samples=4, iterations=4)
        inputs = torch.cat([data(1), data(2)[:, :SIZE]], dim=1)
        ranks = monitor.measure_gradient_ranks(inputs, lambda value: (value - 1).square().sum(), network="critic")
    alone = metrics.hessian_trace(
        agent.actor_loss, list(agent.networks["actor"].parameters()), 4, torch.Generator().manual_seed(0)
    )
    assert actor["hessian_trace"].value == pytest.approx(alone.value)
    assert actor["hessian_trace"].value != pytest.approx(both["hessian_trace"].value)
    figures = monitor.fetch()
    assert figures.series("hessian_trace").sites == ["network", "actor"]
    assert figures.series("ntk_rank").sites == ["critic"]
    with Monitor(critic, agent.optimizers["critic"], probe_every=0) as monitor:
        single = monitor.measure_gradient_ranks(inputs, lambda value: (value - 1).square().sum())
    assert {name: rank.item() for name, rank in ranks.items()} == {name: rank.item() for name, rank in single.items()}
    assert monitor.fetch().series("ntk_rank").sites == ["network"]


def test_a_training_that_is_watched_so_ends_as_one_that_is_not():
    ends = []
    for watched in (True, False):
        agent = Agent()
        if watched:
            probe = {"actor": data(3), "critic": torch.cat([data(3), data(4)[:, :SIZE]], dim=1)}
            with watch(agent, probe=probe, churn=KINDS) as monitor:
                agent.update(5)
                monitor.measure_curvature(agent.critic_loss, network="critic", samples=2, iterations=2)
                monitor.measure_gradient_ranks(data(3), torch.sum, network="actor")
                agent.update(5)
        else:
            agent.update(10)
        ends.append([parameter for network in agent.networks.values() for parameter in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
