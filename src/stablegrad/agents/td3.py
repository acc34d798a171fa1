"""TD3: a deterministic policy for continuous actions, led by the lesser of two critics, from a replay buffer.

Fujimoto et al., "Addressing Function Approximation Error in Actor-Critic Methods", 2018 (arXiv 1802.09477). The
defaults are CleanRL's for MuJoCo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents.actor_critic import ActorCriticAgent, ActorCriticConfig, build_networks, state_action, supports
from stablegrad.agents.contract import Algorithm, Objective, check_at_least
from stablegrad.agents.off_policy import replay_bytes
from stablegrad.agents.replay import Batch
from stablegrad.agents.targets import smoothed_action, update_target_
from stablegrad.environments import EnvironmentSpec
from stablegrad.networks import DeterministicActor


@dataclass(frozen=True)
class TD3Config(ActorCriticConfig):
    """Everything that decides what TD3 learns; torso and optimizer are those of critic and actor."""

    learning_starts: int = 25_000
    exploration_noise: float = 0.1
    """Standard deviation of the Gaussian noise on actions in training, which go from -1 to 1."""
    policy_delay: int = 2
    """Updates of the critic for each one of the actor and the target networks."""
    target_policy_noise: float = 0.2
    """Standard deviation of the Gaussian noise on the actions of targets."""
    target_noise_clip: float = 0.5
    """Largest noise on the actions of targets."""
    target_actor: bool = True
    """Take the actions of targets from a target network; else from the trained actor, as SimBa's DDPG does."""
    policy_noise: float = 0.0
    """Standard deviation of the Gaussian noise on the actor's actions in its own loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(
            self,
            exploration_noise=0.0,
            policy_delay=1,
            target_policy_noise=0.0,
            target_noise_clip=0.0,
            policy_noise=0.0,
        )


class TD3(ActorCriticAgent):
    """The agent; see ``Agent`` and ``MakeAgent``. Every update steps the critic, then, where it is due, the actor."""

    config: TD3Config
    target_networks = ("actor", "critic")
    build_networks = staticmethod(partial(build_networks, DeterministicActor))
    outputs: Mapping[str, str | None] = {"actor": "action", "critic": None}

    def __init__(self, config: TD3Config, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.target_actor = self.targets["actor"]

    def explore(self, observation: np.ndarray) -> np.ndarray:
        """The policy's actions with Gaussian noise, float32 [n, size]."""
        action = self.policy(observation)
        noise = self.random.normal(0.0, self.config.exploration_noise, action.shape).astype(np.float32)
        return (action + noise).clip(-1.0, 1.0)

    @torch.no_grad()
    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The actor's action in each observation, float32 [n, size]."""
        with self.autocast():
            return self.actor(self.on_device(observation)).float().cpu().numpy()

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the critic; every ``policy_delay`` updates also one of the actor and of the target networks."""
        noise = torch.randn(batch.action.shape, generator=self.noise, device=self.device)
        outputs, next_outputs = self.critic_outputs(batch, self.next_action(batch, noise))
        critic_loss = self.value_losses(outputs, self.td_labels(batch, next_outputs)) / len(noise)
        metrics = {"loss/td": critic_loss.detach(), "values/q": self.values.of(outputs.detach()).mean()}
        metrics |= self.step("critic", critic_loss)
        number = self.updates + 1
        if number % self.config.policy_delay == 0:
            metrics |= self.update_actor(batch.observation) | {"updates/actor": torch.tensor(number)}
            for name, target_network in self.targets.items():
                update_target_(target_network, self.networks[name], self.config.tau)
        return metrics

    def update_actor(self, observation: Tensor) -> dict[str, Tensor]:
        """One step of the actor up the first critic's values of its actions."""
        with self.batch_statistics(self.actor), self.autocast():
            action = self.actor(observation)
        if self.config.policy_noise:
            noise = torch.randn(action.shape, generator=self.noise, device=self.device)
            action = (action.float() + self.config.policy_noise * noise).clamp(-1.0, 1.0)
        with self.autocast():
            loss = self.policy_loss(action, observation) / len(observation)
        return {"loss/actor": loss.detach(), **self.step("actor", loss)}

    def policy_loss(self, action: Tensor, observation: Tensor) -> Tensor:
        """Sum of -Q_1 of the policy's actions, [batch, size], in observations, [batch, ...] (algorithm 1)."""
        return -self.values.of(self.critic.members[0](state_action(observation, action)).float()).sum()

    @torch.no_grad()
    def next_action(self, batch: Batch, noise: Tensor) -> Tensor:
        """The next actions of targets, smoothed by standard normal ``noise``, both [batch, size]."""
        config = self.config
        with self.autocast():
            actor = self.target_actor if config.target_actor else self.actor
            action = actor(batch.next_observation).float()
        return smoothed_action(action, config.target_policy_noise * noise, config.target_noise_clip)

    def objectives(self, rows: int) -> Mapping[str, Objective]:
        """The losses of actor and critic, in fp32, on transitions out of the replay buffer."""
        batch = self.recent(rows)
        if batch is None:
            return {}
        generator = torch.Generator(self.device).manual_seed(self.updates)
        noise = torch.randn(batch.action.shape, generator=generator, device=self.device)
        labels = self.td_labels(batch, self.next_outputs(batch, self.next_action(batch, noise)))
        count = len(batch.action)
        return {
            "actor": Objective(batch.observation, self.policy_loss, (batch.observation,), count),
            "critic": Objective(state_action(batch.observation, batch.action), self.value_losses, (labels,), count),
        }

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """Nothing: the noise does not change."""
        return {}


def defaults(spec: EnvironmentSpec) -> TD3Config:
    """CleanRL's settings for MuJoCo, the same for all environments."""
    return TD3Config()


ALGORITHM = Algorithm(
    title="TD3",
    agent=TD3,
    config=TD3Config,
    supports=supports,
    defaults=defaults,
    build_networks=TD3.build_networks,
    experience_bytes=replay_bytes,
    metrics=("loss/td", "values/q", "loss/actor"),
)
