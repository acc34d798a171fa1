"""SAC: a stochastic policy for continuous actions that earns reward and entropy, from a replay buffer.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018 (arXiv 1812.05905), with the temperature learned.
The defaults are the paper's, as in RL Baselines3 Zoo for MuJoCo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents import tanh_gaussian
from stablegrad.agents.actor_critic import ActorCriticAgent, ActorCriticConfig, build_networks, state_action, supports
from stablegrad.agents.contract import Algorithm, Objective
from stablegrad.agents.off_policy import replay_bytes
from stablegrad.agents.replay import Batch
from stablegrad.agents.targets import update_target_
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import UsageError
from stablegrad.networks import GaussianActor
from stablegrad.optimizers.saved import load_state


@dataclass(frozen=True)
class SACConfig(ActorCriticConfig):
    """Everything that decides what SAC learns; torso and optimizer are those of critic and actor."""

    temperature: float | None = None
    """Weight of the entropy: at the start, or throughout where it is not learned; None: 1, or 0.01 where rewards are
    normalised."""
    learn_temperature: bool = True
    """Fit the temperature to the target entropy."""
    temperature_learning_rate: float = 3e-4
    """Adam's rate for the logarithm of the temperature, which follows the critic's schedule."""
    target_entropy: float | None = None
    """Entropy that the temperature is fitted to, in nats; None: entropy_per_number for each number of an action."""
    entropy_per_number: float = -1.0
    """Target entropy for each number of an action, in nats."""
    squash_log_std: bool = False
    """Bring the policy's log standard deviations into [-10, 2] by a tanh (SimBa); else they are cut at -20 and 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("temperature", "temperature_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise UsageError(f"{name.replace('_', '-')} must be above 0 and finite, got {value}")

    @property
    def first_temperature(self) -> float:
        """The weight of the entropy at the start.

        Beside normalised rewards, which add up to about 1 over the horizon, an entropy that weighs 1 in every step is
        all that a target says; 0.01 is that of XQC and SimbaV2.
        """
        if self.temperature is not None:
            return self.temperature
        return 0.01 if self.normalize_rewards else 1.0


class SAC(ActorCriticAgent):
    """The agent; see ``Agent`` and ``MakeAgent``. Every update steps temperature, critic and actor, in this order."""

    config: SACConfig
    target_networks = ("critic",)
    build_networks = staticmethod(partial(build_networks, GaussianActor))
    outputs: Mapping[str, str | None] = {"actor": "tanh_gaussian", "critic": None}

    def __init__(self, config: SACConfig, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        each = config.entropy_per_number * self.action_size
        self.target_entropy = each if config.target_entropy is None else config.target_entropy
        self.log_temperature = torch.tensor(math.log(config.first_temperature), device=self.device, requires_grad=True)
        self.temperature_optimizer = torch.optim.Adam(
            [self.log_temperature], lr=config.temperature_learning_rate, fused=True
        )

    def set_learning_rates(self, env_steps: int) -> None:
        """Set the rates that belong to so many environment steps, the temperature's too."""
        super().set_learning_rates(env_steps)
        factor = self.config.optimizer.schedule_factor(env_steps / self.total_steps)
        self.temperature_optimizer.param_groups[0]["lr"] = self.config.temperature_learning_rate * factor

    @torch.no_grad()
    def explore(self, observation: np.ndarray) -> np.ndarray:
        """Actions drawn from the policy, float32 [n, size]."""
        noise = torch.randn((len(observation), self.action_size), generator=self.noise, device=self.device)
        return self.sample(self.on_device(observation), noise)[0].cpu().numpy()

    @torch.no_grad()
    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The tanh of the Gaussian's mean in each observation, float32 [n, size]."""
        with self.autocast():
            outputs = self.actor(self.on_device(observation)).float()
        return outputs.chunk(2, dim=-1)[0].tanh().cpu().numpy()

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's actions, [batch, size], by standard normal ``noise``, and their log probabilities, [batch]."""
        with self.autocast():
            outputs = self.actor(observation).float()
        return tanh_gaussian.sample(*tanh_gaussian.mean_and_log_std(outputs, self.config.squash_log_std), noise)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step each of the temperature, the critic and the actor, and of the target network."""
        noise, next_noise = torch.randn((2, *batch.action.shape), generator=self.noise, device=self.device)
        temperature = self.temperature()
        observation = batch.observation
        with self.batch_statistics(self.actor):
            action, log_prob = self.sample(observation, noise)
        metrics = self.step_temperature(log_prob.detach()) if self.config.learn_temperature else {}

        next_action, bonus = self.next_action(batch, next_noise, temperature)
        outputs, next_outputs = self.critic_outputs(batch, next_action)
        critic_loss = self.value_losses(outputs, self.td_labels(batch, next_outputs, bonus)) / len(observation)
        metrics |= self.step("critic", critic_loss)

        with self.autocast():
            policy_outputs = self.critic(state_action(observation, action)).float()
        actor_loss = policy_loss(self.values.of(policy_outputs), log_prob, temperature) / len(observation)
        metrics |= self.step("actor", actor_loss)

        update_target_(self.target_critic, self.critic, self.config.tau)
        return metrics | {
            "loss/td": critic_loss.detach(),
            "loss/actor": actor_loss.detach(),
            "values/q": self.values.of(outputs.detach()).mean(),
            "values/entropy": -log_prob.detach().mean(),
        }

    def temperature(self) -> Tensor:
        """The weight of the entropy, a scalar."""
        return self.log_temperature.detach().exp()

    def step_temperature(self, log_prob: Tensor) -> dict[str, Tensor]:
        """One step of the temperature towards the target entropy (eq. 18, on the logarithm as in the authors' code)."""
        slope = -(log_prob.mean() + self.target_entropy)
        loss, self.log_temperature.grad = self.log_temperature.detach() * slope, slope
        if self.average_gradients is not None:
            self.average_gradients([self.log_temperature])
        self.temperature_optimizer.step()
        return {"loss/temperature": loss}

    @torch.no_grad()
    def next_action(self, batch: Batch, noise: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's next actions by ``noise``, [batch, size], and what targets add for their entropy, [batch].

        Soft targets are :math:`r + \\gamma (\\min_i Q_i(s', a') - \\alpha \\log \\pi(a' | s'))` (eqs. 2, 3).
        """
        action, log_prob = self.sample(batch.next_observation, noise)
        return action, -temperature * log_prob

    def value_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """As of all critics; half the squared errors (eq. 5)."""
        losses = super().value_losses(outputs, labels)
        return 0.5 * losses if self.config.value_loss == "squared" else losses

    def objectives(self, rows: int) -> Mapping[str, Objective]:
        """The losses of actor and critic, in fp32, on transitions out of the replay buffer."""
        batch = self.recent(rows)
        if batch is None:
            return {}
        generator = torch.Generator(self.device).manual_seed(self.updates)
        noise, next_noise = torch.randn((2, *batch.action.shape), generator=generator, device=self.device)
        temperature, count = self.temperature(), len(batch.action)

        def actor_loss(outputs: Tensor, observation: Tensor, noise: Tensor) -> Tensor:
            action, log_prob = tanh_gaussian.sample(
                *tanh_gaussian.mean_and_log_std(outputs, self.config.squash_log_std), noise
            )
            policy_q = self.values.of(self.critic(state_action(observation, action)))
            return policy_loss(policy_q, log_prob, temperature)

        next_action, bonus = self.next_action(batch, next_noise, temperature)
        labels = self.td_labels(batch, self.next_outputs(batch, next_action), bonus)
        return {
            "actor": Objective(batch.observation, actor_loss, (batch.observation, noise), count),
            "critic": Objective(state_action(batch.observation, batch.action), self.value_losses, (labels,), count),
        }

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """The temperature."""
        return {"exploration/temperature": self.temperature().item()}

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and ``replay``, which are saved apart."""
        return {
            **super().state_dict(),
            "log_temperature": self.log_temperature.detach(),
            "temperature_optimizer": self.temperature_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; see ``Agent``."""
        super().load_state_dict(state)
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        load_state(self.temperature_optimizer, state["temperature_optimizer"])


def policy_loss(q_values: Tensor, log_prob: Tensor, temperature: Tensor) -> Tensor:
    """Sum of alpha log pi - min_i Q_i (eq. 9): q_values [batch, critics] of the policy's actions, log_prob [batch]."""
    return (temperature * log_prob - q_values.amin(dim=1)).sum()


def defaults(spec: EnvironmentSpec) -> SACConfig:
    """The published settings, the same for all environments."""
    return SACConfig()


ALGORITHM = Algorithm(
    title="SAC",
    agent=SAC,
    config=SACConfig,
    supports=supports,
    defaults=defaults,
    build_networks=SAC.build_networks,
    experience_bytes=replay_bytes,
    metrics=("loss/td", "values/q", "loss/actor", "loss/temperature", "values/entropy", "exploration/temperature"),
)
