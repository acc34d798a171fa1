"""PQN: Q-learning on many parallel environments, without a replay buffer or a target network.

Gallici et al., "Simplifying Deep Temporal Difference Learning", 2024 (arXiv 2407.04811): LayerNorm keeps the temporal
difference stable, Q(lambda) targets replace the target network, and vectorised environments the buffer. The defaults
are those of arXiv 2506.15544 for Atari.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stablegrad.agents.returns import lambda_returns
from stablegrad.agents.rollout import Rollout
from stablegrad.diagnostics.metrics import explained_variance, value_statistics
from stablegrad.environments import Discrete, EnvironmentSpec
from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks import EncoderConfig, QNetwork, TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig
from stablegrad.optimizers.gradients import clip_gradient_norm_
from stablegrad.optimizers.saved import load_state

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class PQNConfig:
    """Everything that decides what PQN learns."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_envs: int = 128
    """Environments that are stepped together."""
    num_steps: int = 32
    """Steps of every environment between two updates."""
    num_minibatches: int = 32
    """Minibatches an epoch; num_envs * num_steps must be a multiple of it."""
    num_epochs: int = 2
    """Passes over each rollout."""
    discount: float = 0.99
    """Gamma."""
    q_lambda: float = 0.65
    """Lambda of the Q(lambda) targets: 0 is one-step Q-learning."""
    max_grad_norm: float = 10.0
    """Global gradient norm above which gradients are scaled down."""
    epsilon_start: float = 1.0
    """Share of random actions at the start."""
    epsilon_end: float = 0.005
    """Share of random actions after the decay."""
    exploration_fraction: float = 0.1
    """Share of all environment steps over which epsilon falls, linearly."""
    precision: str = "fp32"
    """fp32, or bf16: matrix products and convolutions in bfloat16, weights and optimizer in fp32."""

    def __post_init__(self) -> None:
        for name in ("num_envs", "num_steps", "num_minibatches", "num_epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        if (self.num_envs * self.num_steps) % self.num_minibatches:
            raise UsageError(
                f"num-envs * num-steps = {self.num_envs * self.num_steps} cannot be cut into "
                f"{self.num_minibatches} minibatches of one size; change num-minibatches"
            )
        for name in ("discount", "q_lambda", "epsilon_start", "epsilon_end", "exploration_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UsageError(f"{name.replace('_', '-')} must be from 0 to 1, got {getattr(self, name)}")
        if not 0.0 < self.max_grad_norm < float("inf"):
            raise UsageError(f"max-grad-norm must be above 0 and finite, got {self.max_grad_norm}")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)


class PQN:
    """The agent: network, optimizer, how it acts and how it learns.

    Args:
        config: what to learn and how.
        spec: the environment's observations and actions.
        total_steps: environment steps of the whole run, for the schedules.
        device: where the network lives.
        seed: draws the initial weights and, until ``reseed``, actions and minibatches.
        average_gradients: where several processes train one agent: gets the parameters after every backward pass and
            replaces their gradients by the means over all processes, before they are clipped.

    Raises:
        UsageError: the environment's actions are not discrete.
    """

    def __init__(
        self,
        config: PQNConfig,
        spec: EnvironmentSpec,
        *,
        total_steps: int,
        device: torch.device,
        seed: int,
        average_gradients: Callable[[Sequence[Tensor]], None] | None = None,
    ):
        if not isinstance(spec.action_space, Discrete):
            raise UsageError(f"PQN needs discrete actions; those of {spec.env_id!r} are not one choice out of a list")
        self.config = config
        self.spec = spec
        self.total_steps = total_steps
        self.device = device
        self.num_actions = spec.action_space.n
        self.average_gradients = average_gradients
        # A fork, so that making an agent leaves the random numbers of the program around it alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_network(config, spec).to(device)
        self.parameters = list(self.network.parameters())
        self.optimizer = config.optimizer.build(self.network)
        self.updates = 0
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start new random streams for actions and minibatches."""
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def epsilon(self, env_steps: int) -> float:
        """Share of random actions after ``env_steps`` environment steps: linear, then constant."""
        config = self.config
        duration = config.exploration_fraction * self.total_steps
        progress = min(env_steps / duration, 1.0) if duration > 0 else 1.0
        return config.epsilon_start + progress * (config.epsilon_end - config.epsilon_start)

    @torch.no_grad()
    def q_values(self, observation: Tensor) -> Tensor:
        """Action values, [batch, num_actions] float32, of observations that lie on the agent's device."""
        with self._autocast():
            return self.network(observation).float()

    def act(self, observation: Tensor, env_steps: int) -> tuple[Tensor, Tensor]:
        """Epsilon-greedy actions.

        Args:
            observation: [num_envs, *observation_shape] on the agent's device.
            env_steps: environment steps taken so far in the run.

        Returns:
            (action, value): int64 [num_envs], and max_a Q(s, a), float32 [num_envs].
        """
        value, action = self.q_values(observation).max(dim=1)
        explore = torch.rand(len(action), generator=self.generator, device=self.device) < self.epsilon(env_steps)
        uniform = torch.randint(self.num_actions, (len(action),), generator=self.generator, device=self.device)
        return torch.where(explore, uniform, action), value

    def act_greedily(self, observation: np.ndarray) -> np.ndarray:
        """The best action of each observation, int64 [batch]."""
        return self.q_values(torch.from_numpy(observation).to(self.device)).argmax(dim=1).cpu().numpy()

    def update(self, rollout: Rollout, env_steps: int) -> dict[str, Tensor]:
        """Learn from one rollout: Q(lambda) targets, then ``num_epochs`` passes of minibatch steps.

        Rows that only carry a reset keep their places, so that every minibatch has one shape, and weigh nothing.

        Args:
            rollout: a full rollout.
            env_steps: environment steps taken before this rollout, for the learning-rate schedule.

        Returns:
            Tensors on the agent's device, not waited for: "loss/td" and "values/q" [updates], "gradients/norm"
            [updates] and "gradients/parameters" [updates, number of parameters], the last two before clipping; of the
            first pass over the rollout "values/std", "values/min", "values/max" (of the actions taken) and
            "values/explained_variance" (of the targets, by those values) [1].
        """
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
            "gradients/norm": torch.stack(totals),
            "gradients/parameters": torch.stack(norms),
        }

    def td_loss(self, rollout: Rollout, rows: Tensor) -> Callable[[], Tensor]:
        """The TD loss of some rows of a full rollout as a function of the weights, its targets fixed now; in fp32.

        Args:
            rollout: a full rollout.
            rows: [batch] numbers of rows, see ``Rollout.observations_at``.
        """
        observations, *others = self.td_rows(rollout, rows)
        valid = others[-1].sum().clamp(min=1.0)
        return lambda: td_error(self.network(observations), *others) / valid

    def td_rows(self, rollout: Rollout, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the TD loss of some rows of a full rollout is made of, for :func:`td_error`.

        Returns:
            observations [batch, ...], actions, targets and weights [batch] (0 where a row is only a reset).
        """
        return (
            rollout.observations_at(rows),
            rollout.action.flatten()[rows],
            self._targets(rollout)[rows],
            rollout.valid.flatten()[rows].float(),
        )

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


def build_network(config: PQNConfig, spec: EnvironmentSpec) -> QNetwork:
    """The network of a configuration, freshly initialised."""
    assert isinstance(spec.action_space, Discrete)
    return QNetwork(
        spec.observation_shape, spec.action_space.n, encoder=config.encoder, torso=config.torso, is_image=spec.is_image
    )
