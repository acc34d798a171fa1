"""DQN: Q-learning from a replay buffer, with a target network.

Mnih et al., "Human-level control through deep reinforcement learning", 2015. The defaults are those of
arXiv 2506.15544 for Atari; for state vectors they are those of RL Baselines3 Zoo for LunarLander.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablegrad.agents.contract import Algorithm, Objective, check_at_least, check_fractions
from stablegrad.agents.discrete import build_networks, greedy_outputs, supports
from stablegrad.agents.exploration import linear_epsilon
from stablegrad.agents.off_policy import OffPolicyAgent, OffPolicyConfig, replay_bytes
from stablegrad.agents.replay import Batch
from stablegrad.agents.targets import update_target_
from stablegrad.agents.values import outputs_at
from stablegrad.environments import Discrete, EnvironmentSpec
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig


@dataclass(frozen=True)
class DQNConfig(OffPolicyConfig):
    """Everything that decides what DQN learns."""

    encoder: EncoderConfig = field(default_factory=partial(EncoderConfig, norm="none"))
    torso: TorsoConfig = field(default_factory=partial(TorsoConfig, norm="none"))
    optimizer: OptimizerConfig = field(default_factory=partial(OptimizerConfig, name="adam", adam_learning_rate=1e-4))
    max_grad_norm: float | None = 10.0
    batch_size: int = 32
    learning_starts: int = 80_000
    train_every: int = 4
    target_every: int = 1000
    """Environment steps between two updates of the target network, at most one in each call of learn."""
    double: bool = False
    """Let the trained network choose the action that the target network values (van Hasselt et al. 2016)."""
    value_loss: str = "huber"
    epsilon_start: float = 1.0
    """Fraction of random actions at the start."""
    epsilon_end: float = 0.01
    """Fraction of random actions after the decay."""
    exploration_fraction: float = 0.1
    """Fraction of all environment steps over which epsilon falls, linearly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, target_every=1)
        check_fractions(self, "epsilon_start", "epsilon_end", "exploration_fraction")


class DQN(OffPolicyAgent):
    """The agent; see ``Agent`` and ``MakeAgent``.

    Intervals are counted in environment steps over all environments, as Stable-Baselines3 and CleanRL count them, so
    that they keep their meaning with another number of environments or of updates.
    """

    config: DQNConfig
    target_networks = ("q",)
    build_networks: Callable[[Any, EnvironmentSpec], dict[str, nn.Module]] = staticmethod(build_networks)

    def __init__(self, config: DQNConfig, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.outputs = greedy_outputs(config)
        assert isinstance(spec.action_space, Discrete)
        self.num_actions = spec.action_space.n
        self.network, self.target = self.networks["q"], self.targets["q"]
        self.target_interval = 0
        """Intervals of ``target_every`` steps that had begun when the target network was updated last."""

    def epsilon(self, env_steps: int) -> float:
        """Fraction of random actions after ``env_steps`` environment steps: 1 until learning starts."""
        config = self.config
        if env_steps < config.learning_starts:
            return 1.0
        return linear_epsilon(
            config.epsilon_start, config.epsilon_end, config.exploration_fraction, env_steps, self.total_steps
        )

    def act(self, env_steps: int) -> np.ndarray:
        """Epsilon-greedy actions for the newest observations, int64 [num_envs]."""
        explores = self.random.random(len(self.observation)) < self.epsilon(env_steps)
        self.action = self.random.integers(self.num_actions, size=len(explores))
        if not explores.all():
            self.action = np.where(explores, self.action, self.policy(self.observation))
        return self.action

    @torch.no_grad()
    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The best action of each observation, int64 [n]."""
        with self.autocast():
            outputs = self.network(self.on_device(observation))
        return self.values.of(outputs).argmax(dim=1).cpu().numpy()

    def learn(self, env_steps: int) -> Mapping[str, Tensor]:
        """Update the target network where due, then the trained one; see ``Agent.learn``."""
        interval = env_steps // self.config.target_every
        if interval > self.target_interval:
            update_target_(self.target, self.network, self.config.tau)
            self.target_interval = interval
        return super().learn(env_steps)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step down the mean loss of the TD errors of a batch."""
        labels = self.td_labels(batch)
        with self.autocast():
            outputs = self.network(batch.observation).float()
        outputs = outputs_at(outputs, batch.action)
        loss = self.values.losses(outputs, labels).mean()
        norms = self.step("q", loss)
        return {"loss/td": loss.detach(), "values/q": self.values.of(outputs.detach()).mean(), **norms}

    @torch.no_grad()
    def td_labels(self, batch: Batch) -> Tensor:
        r"""[batch, ...] labels, see ``Values``: of :math:`r + \gamma Q_{target}(s', \arg\max_a Q(s', a))`.

        The target network chooses the action (Mnih et al. 2015), or with ``double`` the trained one (van Hasselt et al.
        2016, arXiv 1509.06461, eq. 4).
        """
        with self.autocast():
            following = self.target(batch.next_observation).float()
            choosing = self.network(batch.next_observation) if self.config.double else following
        best = self.values.of(choosing).argmax(dim=1)
        return self.values.backup(batch.reward, batch.discount, outputs_at(following, best))

    def probe(self, rows: int) -> Mapping[str, Tensor]:
        """Observations out of the replay buffer."""
        batch = self.recent(rows)
        return {} if batch is None else {"q": batch.observation}

    def objectives(self, rows: int) -> Mapping[str, Objective]:
        """The TD loss, in fp32, of transitions out of the replay buffer."""
        batch = self.recent(rows)
        if batch is None:
            return {}

        def loss(outputs: Tensor, action: Tensor, labels: Tensor) -> Tensor:
            return self.values.losses(outputs_at(outputs, action), labels).sum()

        targets = (batch.action, self.td_labels(batch))
        return {"q": Objective(batch.observation, loss, targets, len(batch.action))}

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """The fraction of random actions."""
        return {"exploration/epsilon": self.epsilon(env_steps)}

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and ``replay``, which are saved apart."""
        return {**super().state_dict(), "target_interval": self.target_interval}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; see ``Agent``."""
        super().load_state_dict(state)
        self.target_interval = state["target_interval"]


def defaults(spec: EnvironmentSpec) -> DQNConfig:
    """The published settings for one kind of observation.

    Images: arXiv 2506.15544 for Atari. State vectors: RL Baselines3 Zoo for LunarLander, which learn CartPole too.
    """
    if spec.is_image:
        return DQNConfig()
    return DQNConfig(
        torso=TorsoConfig(depth=0, width=256, norm="none"),
        optimizer=OptimizerConfig(name="adam", adam_learning_rate=6.3e-4),
        batch_size=128,
        buffer_size=50_000,
        learning_starts=0,
        gradient_steps=4,
        target_every=250,
        epsilon_end=0.1,
        exploration_fraction=0.12,
    )


ALGORITHM = Algorithm(
    title="DQN",
    agent=DQN,
    config=DQNConfig,
    supports=supports,
    defaults=defaults,
    build_networks=build_networks,
    experience_bytes=replay_bytes,
    metrics=("loss/td", "values/q"),
)
