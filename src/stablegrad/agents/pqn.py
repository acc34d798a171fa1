"""PQN: Q-learning on many parallel environments, without a replay buffer or a target network.

Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024 (arXiv 2407.04811): LayerNorm keeps the temporal
difference stable, Q(lambda) targets replace the target network, and vectorised environments the buffer. The defaults
are those of arXiv 2506.15544 for Atari.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents.contract import Algorithm, Objective, check_fractions
from stablegrad.agents.discrete import build_networks, greedy_outputs, supports
from stablegrad.agents.exploration import linear_epsilon
from stablegrad.agents.on_policy import OnPolicyAgent, OnPolicyConfig, experience_bytes
from stablegrad.agents.returns import lambda_returns
from stablegrad.agents.rollout import Rollout
from stablegrad.agents.values import outputs_at
from stablegrad.diagnostics.metrics import explained_variance, value_statistics
from stablegrad.environments import Discrete, EnvironmentSpec
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig


@dataclass(frozen=True)
class PQNConfig(OnPolicyConfig):
    """Everything that decides what PQN learns."""

    num_envs: int = 128
    """Environments that are stepped together."""
    max_grad_norm: float | None = 10.0
    """Global gradient norm above which gradients are scaled down; None: never."""
    num_steps: int = 32
    """Steps of every environment between two updates."""
    num_minibatches: int = 32
    """Minibatches an epoch; num_envs * num_steps must be a multiple of it."""
    num_epochs: int = 2
    """Passes over each rollout."""
    q_lambda: float = 0.65
    """Lambda of the Q(lambda) targets: 0 is one-step Q-learning."""
    epsilon_start: float = 1.0
    """Fraction of random actions at the start."""
    epsilon_end: float = 0.005
    """Fraction of random actions after the decay."""
    exploration_fraction: float = 0.1
    """Fraction of all environment steps over which epsilon falls, linearly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "q_lambda", "epsilon_start", "epsilon_end", "exploration_fraction")


class PQN(OnPolicyAgent):
    """The agent; see ``Agent`` and ``MakeAgent``."""

    config: PQNConfig
    build_networks = staticmethod(build_networks)

    def __init__(self, config: PQNConfig, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.outputs = greedy_outputs(config)
        assert isinstance(spec.action_space, Discrete)
        self.num_actions = spec.action_space.n
        self.network, self.optimizer = self.networks["q"], self.optimizers["q"]

    def epsilon(self, env_steps: int) -> float:
        """Fraction of random actions after ``env_steps`` environment steps."""
        config = self.config
        return linear_epsilon(
            config.epsilon_start, config.epsilon_end, config.exploration_fraction, env_steps, self.total_steps
        )

    def scalars(self, env_steps: int) -> dict[str, float]:
        """Epsilon, for the log."""
        return {"exploration/epsilon": self.epsilon(env_steps)}

    @torch.no_grad()
    def q_values(self, observation: Tensor) -> Tensor:
        """Action values, [batch, num_actions] float32, of observations that lie on the agent's device."""
        with self.autocast():
            outputs = self.network(observation).float()
        return self.values.of(outputs)

    def act(self, env_steps: int) -> np.ndarray:
        """Epsilon-greedy actions for the newest observations, int64 [num_envs]."""
        value, action = self.q_values(self.rollout.newest).max(dim=1)
        explore = torch.rand(len(action), generator=self.generator, device=self.device) < self.epsilon(env_steps)
        uniform = torch.randint(self.num_actions, (len(action),), generator=self.generator, device=self.device)
        chosen = torch.where(explore, uniform, action)
        self.rollout.choose(chosen, value)
        return chosen.cpu().numpy()

    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The best action of each observation, int64 [batch]."""
        return self.q_values(torch.from_numpy(observation).to(self.device)).argmax(dim=1).cpu().numpy()

    def learn(self, env_steps: int) -> dict[str, Tensor]:
        """Learn from the rollout: Q(lambda) targets, then ``num_epochs`` passes of minibatch steps.

        Rows that only carry a reset keep their places, so that every minibatch has one shape, and weigh nothing.

        Args:
            env_steps: environment steps taken before this rollout, for the learning-rate schedule.

        Returns:
            Tensors on the agent's device, not waited for: "loss/td", "values/q" and "gradients/q" [updates],
            "parameter_norms/q" [updates, number of parameters]; of the first pass over the rollout "values/std",
            "values/min", "values/max" (of the actions taken) and "values/explained_variance" (of the targets, by those
            values) [1].
        """
        rollout = self.rollout
        self.follow_returns()
        config, target = self.config, self._targets(rollout)
        labels = self.values.labels(target)
        action, weight = rollout.action.flatten(), rollout.valid.flatten().float()

        self.set_learning_rates(env_steps)
        losses, q_means, steps, first_values, first_order = [], [], [], [], []
        for epoch in range(config.num_epochs):
            for rows in self.minibatches():
                with self.autocast():
                    outputs = self.network(rollout.observations_at(rows)).float()
                outputs = outputs_at(outputs, action[rows])
                rows_weight = weight[rows]
                rows_valid = rows_weight.sum().clamp(min=1.0)
                loss = (rows_weight * self.values.losses(outputs, labels[rows])).sum() / rows_valid
                steps.append(self.step(loss, rows_weight))
                losses.append(loss.detach())
                q_value = self.values.of(outputs.detach())
                q_means.append((rows_weight * q_value).sum() / rows_valid)
                if epoch == 0:
                    first_values.append(q_value)
                    first_order.append(rows)
        values, rows = torch.cat(first_values), torch.cat(first_order)
        counts = rollout.valid.flatten()[rows]
        _, std, least, most = value_statistics(values, counts).split(1)
        return {
            "values/std": std,
            "values/min": least,
            "values/max": most,
            "values/explained_variance": explained_variance(values, target[rows], counts).reshape(1),
            "loss/td": torch.stack(losses),
            "values/q": torch.stack(q_means),
            **{name: torch.stack([one[name] for one in steps]) for name in steps[0]},
        }

    def probe(self, rows: int) -> dict[str, Tensor]:
        """Observations of the current rollout, evenly spread."""
        return {"q": self.rollout.observations_at(self.rollout.spread(rows))}

    def objectives(self, rows: int) -> dict[str, Objective]:
        """The TD loss of rows of the last rollout, evenly spread, with its targets fixed now; in fp32."""
        rollout, chosen = self.rollout, self.rollout.spread(rows)
        weight = rollout.valid.flatten()[chosen].float()
        labels = self.values.labels(self._targets(rollout)[chosen])

        def loss(outputs: Tensor, action: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
            return (weight * self.values.losses(outputs_at(outputs, action), labels)).sum()

        targets = (rollout.action.flatten()[chosen], labels, weight)
        return {"q": Objective(rollout.observations_at(chosen), loss, targets, weight.sum().clamp(min=1.0))}

    def _targets(self, rollout: Rollout) -> Tensor:
        """[num_steps * num_envs] Q(lambda) targets of a full rollout."""
        bootstrap = self.q_values(rollout.observation[-1]).max(dim=1).values
        return lambda_returns(
            self.scaled(rollout.reward),
            torch.cat([rollout.value[1:], bootstrap[None]]),
            rollout.terminated,
            rollout.truncated,
            discount=self.config.discount,
            lambda_=self.config.q_lambda,
        ).flatten()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; see ``Agent``. Older checkpoints name one optimizer."""
        if "optimizer" in state:
            state = {"optimizers": {"q": state["optimizer"]}, "updates": state["updates"]}
        super().load_state_dict(state)


def defaults(spec: EnvironmentSpec) -> PQNConfig:
    """PQN's settings for one kind of observation.

    Images: the paper's for Atari. State vectors: fewer environments, more updates a step, longer exploration and an
    annealed learning rate, as these tasks are learned in some 100,000 steps instead of millions; a narrower torso, as
    in the field's agents for them. With rollouts of 16 steps Acrobot, whose reward comes late, was not learned at all
    (docs/benchmarks.md).
    """
    if spec.is_image:
        return PQNConfig()
    return PQNConfig(
        torso=TorsoConfig(width=256),
        optimizer=OptimizerConfig(adam_learning_rate=1e-3, schedule="linear"),
        num_envs=16,
        num_steps=32,
        num_minibatches=4,
        num_epochs=4,
        epsilon_end=0.01,
        exploration_fraction=0.5,
    )


ALGORITHM = Algorithm(
    title="PQN",
    agent=PQN,
    config=PQNConfig,
    supports=supports,
    defaults=defaults,
    build_networks=build_networks,
    experience_bytes=experience_bytes,
    metrics=("loss/td", "values/q"),
    distributed=True,
)
