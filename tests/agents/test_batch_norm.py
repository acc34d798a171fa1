"""BatchNorm in actors and critics: whose statistics a pass uses, and the published update written out."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from stablegrad.agents.actor_critic import ActorConfig
from stablegrad.agents.ddpg import DDPG, DDPGConfig
from stablegrad.agents.replay import Batch
from stablegrad.agents.sac import SAC, SACConfig
from stablegrad.agents.td3 import TD3, TD3Config
from stablegrad.environments import Box, EnvironmentSpec
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

CPU = torch.device("cpu")
SPEC = EnvironmentSpec("test", (3,), "float32", Box((-1.0, -1.0), (1.0, 1.0)), False, None, "factory", None)
SMALL = {
    "encoder": EncoderConfig(norm="batch"),
    "torso": TorsoConfig(depth=0, width=16, norm="batch"),
    "optimizer": OptimizerConfig(name="sgd", learning_rate=0.05),
    "buffer_size": 100,
    "learning_starts": 0,
}
AGENTS = {"SAC": (SAC, SACConfig), "TD3": (TD3, TD3Config), "DDPG": (DDPG, DDPGConfig)}


def make_agent(name, **changes):
    agent, config = AGENTS[name]
    return agent(config(**{**SMALL, **changes}), SPEC, total_steps=1000, device=CPU, seed=0)


def make_batch(seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        observation=2.0 + torch.randn(size, 3, generator=generator),
        action=2 * torch.rand(size, 2, generator=generator) - 1,
        reward=torch.randn(size, generator=generator),
        next_observation=3.0 + torch.randn(size, 3, generator=generator),
        discount=0.99 * (torch.rand(size, generator=generator) < 0.7).float(),
    )


def running(network):
    return [buffer.clone() for name, buffer in network.named_buffers() if "running" in name]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("name", AGENTS)
def test_only_updates_use_and_move_statistics(name):
    agent = make_agent(name, policy_delay=1) if name == "TD3" else make_agent(name)
    agent.update(make_batch(0))
    before = [running(network) for network in (agent.actor, agent.critic)]
    observation = make_batch(1).observation.numpy()
    whole = agent.policy(observation)
    # Running statistics: an action does not depend on the other rows.
    alone = torch.cat([torch.from_numpy(agent.policy(observation[row : row + 1])) for row in range(32)])
    torch.testing.assert_close(torch.from_numpy(whole), alone, rtol=1e-4, atol=1e-5)
    agent.explore(observation)
    agent.recent = lambda rows: make_batch(2)
    for network, objective in agent.objectives(32).items():
        objective.mean_loss(agent.networks[network]).backward()
    assert same(before[0], running(agent.actor)) and same(before[1], running(agent.critic))
    agent.update(make_batch(3))
    assert not same(before[0], running(agent.actor)) and not same(before[1], running(agent.critic))
    # The actor's loss runs through the critic and leaves its statistics alone: one batch has moved them, not two.
    norm = next(module for module in agent.critic.modules() if isinstance(module, nn.BatchNorm1d))
    assert norm.num_batches_tracked.item() == 2


def test_an_update_is_the_published_one_written_out():
    """XQC's critic loss by plain BatchNorm of the joint batch, without any of the agent's machinery."""
    options = {"value_loss": "c51", "num_atoms": 11, "v_min": -5.0, "v_max": 5.0, "learn_temperature": False}
    agent = make_agent("SAC", temperature=0.3, **options)
    # So that running statistics are none of a fresh network, and the target differs.
    agent.update(make_batch(5))
    with torch.no_grad():
        for parameter in agent.target_critic.parameters():
            parameter.mul_(1.1)
    critic, target, actor = (copy.deepcopy(one) for one in (agent.critic, agent.target_critic, agent.actor))
    generator = torch.Generator().set_state(agent.noise.get_state())
    batch = make_batch(0)
    metrics = agent.update(batch)

    _, next_noise = torch.randn((2, 32, 2), generator=generator)
    actor.eval()
    with torch.no_grad():
        mean, log_std = actor(batch.next_observation).chunk(2, dim=1)
    pre_tanh = mean + log_std.exp() * next_noise
    next_action = pre_tanh.tanh()
    density = torch.distributions.Normal(mean, log_std.exp()).log_prob(pre_tanh)
    log_prob = (density - torch.log(1 - next_action.square())).sum(dim=1)
    now = torch.cat([batch.observation, batch.action], dim=1)
    both = torch.cat([now, torch.cat([batch.next_observation, next_action], dim=1)])

    def forward(network, x):
        """Two layers of 16, [batch, critics, atoms], with batch statistics by the formula."""
        outputs = []
        for member in network.members:
            norms = [module for module in member.modules() if isinstance(module, nn.BatchNorm1d)]
            linears = [module for module in member.modules() if isinstance(module, nn.Linear)]
            assert len(norms) == 3 and len(linears) == 3

            def normalize(h, norm):
                variance = h.var(dim=0, unbiased=False)
                return (h - h.mean(dim=0)) / (variance + 1e-3).sqrt() * norm.weight + norm.bias

            h = normalize(x, norms[0])
            for linear, norm in zip(linears[:2], norms[1:], strict=True):
                h = normalize(F.linear(h, linear.weight, linear.bias), norm).relu()
            outputs.append(F.linear(h, linears[2].weight, linears[2].bias))
        return torch.stack(outputs, dim=1)

    atoms = torch.linspace(-5.0, 5.0, 11)
    with torch.no_grad():
        following = forward(target, both)[32:].softmax(dim=2)
    logits = forward(critic, both)[:32].log_softmax(dim=2)
    loss = torch.zeros(())
    for i in range(32):
        least = min(range(2), key=lambda m, i=i: float(following[i, m] @ atoms))
        label = torch.zeros(11)
        for atom, probability in zip(atoms.tolist(), following[i, least].tolist(), strict=True):
            moved = float(batch.reward[i]) + float(batch.discount[i]) * (atom - 0.3 * float(log_prob[i]))
            position = min(max(moved, -5.0), 5.0) + 5.0
            lower = min(int(position), 9)
            label[lower] += probability * (lower + 1 - position)
            label[lower + 1] += probability * (position - lower)
        loss = loss - (label * logits[i]).sum() / 32
    assert metrics["loss/td"].item() == pytest.approx(loss.item(), rel=1e-4)
    parameters = list(critic.parameters())
    for one, gradient, found in zip(
        parameters, torch.autograd.grad(loss, parameters), agent.critic.parameters(), strict=True
    ):
        torch.testing.assert_close(found.detach(), one.detach() - 0.05 * gradient, rtol=1e-3, atol=2e-5)


def test_the_actor_learns_with_statistics_of_its_batch():
    agent = make_agent("DDPG")
    batch = make_batch(0)
    agent.update(batch)
    actor, critic = copy.deepcopy(agent.actor), None
    metrics = agent.update(batch)
    critic = copy.deepcopy(agent.critic).eval()
    actor.train()
    action = actor(batch.observation)
    values = critic.members[0](torch.cat([batch.observation, action], dim=1))
    assert metrics["loss/actor"].item() == pytest.approx(-values.mean().item(), rel=1e-4)


def test_targets_take_running_statistics_over():
    agent = make_agent("TD3", policy_delay=1)
    for seed in range(3):
        agent.update(make_batch(seed))
    for name, target in agent.targets.items():
        assert same(running(target), running(agent.networks[name]))
        assert not any(module.training for module in target.modules() if isinstance(module, nn.BatchNorm1d))


def test_the_actor_may_have_another_norm_and_objectives_work_functionally():
    agent = make_agent("SAC", actor=ActorConfig(norm="layer"), encoder=EncoderConfig())
    assert not agent.batch_norms[agent.actor] and agent.batch_norms[agent.critic]
    agent.update(make_batch(0))
    agent.recent = lambda rows: make_batch(1)
    objective = agent.objectives(8)["critic"]
    parameters = dict(agent.critic.named_parameters())
    outputs = functional_call(agent.critic, parameters, (objective.inputs,))
    assert objective.loss(outputs, *objective.targets).isfinite()


def test_without_batch_norm_nothing_is_joined():
    agent = make_agent("SAC", encoder=EncoderConfig(), torso=TorsoConfig(depth=0, width=16, norm="none"))
    seen = []
    agent.critic.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    agent.update(make_batch(0))
    assert seen == [32, 32]
    joint = dataclasses.replace(agent.config, torso=TorsoConfig(depth=0, width=16, norm="batch"))
    assert joint.torso_of("actor").norm == "batch"
