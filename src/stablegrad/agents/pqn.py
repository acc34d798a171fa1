"""PQN: Q-learning on many parallel environments, without a replay buffer or a target network.

Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024 (arXiv 2407.04811): LayerNorm keeps the temporal
difference stable, Q(lambda) targets replace the target network, and vectorised environments the buffer. The defaults
are those of arXiv 2506.15544 for Atari.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablegrad.agents.contract import (
    AgentConfig,
    Algorithm,
    AverageGradients,
    Objective,
    check_at_least,
    check_fractions,
)
from stablegrad.agents.discrete import build_networks, supports
from stablegrad.agents.exploration import linear_epsilon
from stablegrad.agents.returns import lambda_returns
from stablegrad.agents.rollout import Rollout, rollout_bytes
from stablegrad.diagnostics.metrics import explained_variance, value_statistics
from stablegrad.environments import Discrete, EnvironmentSpec, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.optimizers.gradients import clip_gradient_norm_
from stablegrad.optimizers.saved import load_state


@dataclass(frozen=True)
class PQNConfig(AgentConfig):
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
        check_at_least(self, num_steps=1, num_minibatches=1, num_epochs=1)
        if (self.num_envs * self.num_steps) % self.num_minibatches:
            raise UsageError(
                f"num-envs * num-steps = {self.num_envs * self.num_steps} cannot be cut into "
                f"{self.num_minibatches} minibatches of one size; change num-minibatches"
            )
        check_fractions(self, "q_lambda", "epsilon_start", "epsilon_end", "exploration_fraction")

    @property
    def horizon(self) -> int:  # noqa: D102
        return self.num_steps


class PQN:
    """The agent: network, optimizer, how it acts and how it learns; see ``MakeAgent`` for the arguments."""

    replay = None
    outputs: Mapping[str, str | None] = {"q": "argmax"}

    def __init__(
        self,
        config: PQNConfig,
        spec: EnvironmentSpec,
        *,
        total_steps: int,
        device: torch.device,
        seed: int,
        average_gradients: AverageGradients | None = None,
    ):
        assert isinstance(spec.action_space, Discrete)
        self.config = config
        self.total_steps = total_steps
        self.device = device
        self.num_actions = spec.action_space.n
        self.average_gradients = average_gradients
        # A fork, so that making an agent leaves the random numbers of the program around it alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks = {name: network.to(device) for name, network in build_networks(config, spec).items()}
        self.network = self.networks["q"]
        self.parameters = list(self.network.parameters())
        self.optimizer = config.optimizer.build(self.network)
        self.optimizers = {"q": self.optimizer}
        self.rollout = Rollout(
            config.num_steps,
            config.num_envs,
            spec.observation_shape,
            getattr(torch, spec.observation_dtype),
            device,
        )
        self.updates = 0
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start new random streams for actions and minibatches."""
        self.generator = torch.Generator(self.device).manual_seed(seed)

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
        with self._autocast():
            return self.network(observation).float()

    def begin(self, observation: np.ndarray) -> None:
        """Start a rollout from the first observations of fresh environments."""
        self.rollout.begin(observation)

    def act(self, env_steps: int) -> np.ndarray:
        """Epsilon-greedy actions for the newest observations, int64 [num_envs]."""
        value, action = self.q_values(self.rollout.newest).max(dim=1)
        explore = torch.rand(len(action), generator=self.generator, device=self.device) < self.epsilon(env_steps)
        uniform = torch.randint(self.num_actions, (len(action),), generator=self.generator, device=self.device)
        chosen = torch.where(explore, uniform, action)
        self.rollout.choose(chosen, value)
        return chosen.cpu().numpy()

    def observe(self, result: StepResult) -> None:
        """Store what came of the actions that ``act`` returned last."""
        self.rollout.add(result)

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
        config, target = self.config, self._targets(rollout)
        action, weight = rollout.action.flatten(), rollout.valid.flatten().float()

        config.optimizer.set_learning_rate(self.optimizer, env_steps / self.total_steps)
        losses, q_means, totals, norms, first_values, first_order = [], [], [], [], [], []
        for epoch in range(config.num_epochs):
            order = torch.randperm(len(target), generator=self.generator, device=self.device)
            for rows in order.view(config.num_minibatches, -1):
                with self._autocast():
                    q_values = self.network(rollout.observations_at(rows)).float()
                q_value = q_values.gather(1, action[rows, None]).squeeze(1)
                rows_weight = weight[rows]
                rows_valid = rows_weight.sum().clamp(min=1.0)
                loss = _td_loss(q_value, target[rows], rows_weight, rows_valid)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if self.average_gradients is not None:
                    self.average_gradients(self.parameters)
                total, parameter_norms = clip_gradient_norm_(self.parameters, config.max_grad_norm)
                self.optimizer.step()
                losses.append(loss.detach())
                q_means.append((rows_weight * q_value.detach()).sum() / rows_valid)
                totals.append(total)
                norms.append(parameter_norms)
                if epoch == 0:
                    first_values.append(q_value.detach())
                    first_order.append(rows)
        self.updates += len(losses)
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
            "gradients/q": torch.stack(totals),
            "parameter_norms/q": torch.stack(norms),
        }

    def probe(self, rows: int) -> dict[str, Tensor]:
        """Observations of the current rollout, evenly spread."""
        return {"q": self.rollout.observations_at(self.rollout.spread(rows))}

    def objectives(self, rows: int) -> dict[str, Objective]:
        """The TD loss of rows of the last rollout, evenly spread, with its targets fixed now; in fp32."""
        rollout, chosen = self.rollout, self.rollout.spread(rows)
        weight = rollout.valid.flatten()[chosen].float()
        targets = (rollout.action.flatten()[chosen], self._targets(rollout)[chosen], weight)
        return {"q": Objective(rollout.observations_at(chosen), td_error, targets, weight.sum().clamp(min=1.0))}

    def _targets(self, rollout: Rollout) -> Tensor:
        """[num_steps * num_envs] Q(lambda) targets of a full rollout."""
        bootstrap = self.q_values(rollout.observation[-1]).max(dim=1).values
        return lambda_returns(
            rollout.reward,
            torch.cat([rollout.value[1:], bootstrap[None]]),
            rollout.terminated,
            rollout.truncated,
            discount=self.config.discount,
            lambda_=self.config.q_lambda,
        ).flatten()

    def state_dict(self) -> dict[str, Any]:
        """Optimizer and counters; the network's weights are saved apart, from ``self.network``."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``.

        Raises:
            ValueError: the state is of another optimizer.
        """
        load_state(self.optimizer, state["optimizer"])
        self.updates = state["updates"]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")


def td_error(q_values: Tensor, action: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum of squared TD errors of some rows, weighted: q_values [batch, actions], the others [batch]."""
    return _td_loss(q_values.gather(1, action[:, None]).squeeze(1), target, weight, torch.ones_like(weight[0]))


def _td_loss(q_value: Tensor, target: Tensor, weight: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of the rows that weigh 1, ``valid`` in number."""
    return (weight * F.mse_loss(q_value, target, reduction="none")).sum() / valid


def defaults(spec: EnvironmentSpec) -> PQNConfig:
    """PQN's settings for one kind of observation.

    Images: the paper's for Atari. State vectors: fewer and shorter rollouts, more updates a step, longer exploration
    and an annealed learning rate, as these tasks are learned in some 100,000 steps instead of millions; a narrower
    torso, as in the field's agents for them (docs/benchmarks.md has what they reach).
    """
    if spec.is_image:
        return PQNConfig()
    return PQNConfig(
        torso=TorsoConfig(width=256),
        optimizer=OptimizerConfig(adam_learning_rate=5e-4, schedule="linear"),
        num_envs=64,
        num_steps=16,
        num_minibatches=8,
        num_epochs=2,
        epsilon_end=0.01,
        exploration_fraction=0.3,
    )


def experience_bytes(config: PQNConfig, spec: EnvironmentSpec) -> int:
    """Memory of a rollout's observations."""
    return rollout_bytes(config.num_steps, config.num_envs, spec.observation_shape, spec.observation_dtype)


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
