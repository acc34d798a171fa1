"""What agents that learn from rollouts share: their options, random streams, minibatches, steps and state."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablegrad.agents.contract import AgentConfig, check_at_least
from stablegrad.agents.learner import Learner
from stablegrad.agents.rollout import Rollout, rollout_bytes
from stablegrad.environments import Box, EnvironmentSpec, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks.running_norm import CLIP
from stablegrad.optimizers.gradients import clip_gradient_norm_


@dataclass(frozen=True)
class OnPolicyConfig(AgentConfig):
    """The options of learning from rollouts."""

    num_steps: int = 128
    """Steps of every environment between two updates."""
    num_minibatches: int = 4
    """Minibatches an epoch; num_envs * num_steps must be a multiple of it."""
    num_epochs: int = 4
    """Passes over each rollout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, num_steps=1, num_minibatches=1, num_epochs=1)
        if self.value_loss == "c51":
            raise UsageError(
                "value-loss 'c51' needs targets of single steps; rollouts give lambda-returns: use two_hot or hl_gauss"
            )
        if (self.num_envs * self.num_steps) % self.num_minibatches:
            raise UsageError(
                f"num-envs * num-steps = {self.num_envs * self.num_steps} cannot be cut into "
                f"{self.num_minibatches} minibatches of one size; change num-minibatches"
            )

    @property
    def horizon(self) -> int:  # noqa: D102
        return self.num_steps


class OnPolicyAgent(Learner):
    """A learner from rollouts, without what makes an algorithm: ``act``, which fills ``rollout``, and ``learn``.

    Arguments as of ``Learner``.
    """

    replay = None

    def __init__(self, config: Any, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.parameters = [parameter for network in self.networks.values() for parameter in network.parameters()]
        size = spec.action_space.size if isinstance(spec.action_space, Box) else None
        self.rollout = Rollout(
            config.num_steps,
            config.num_envs,
            spec.observation_shape,
            getattr(torch, spec.observation_dtype),
            self.device,
            action_shape=() if size is None else (size,),
            action_dtype=torch.int64 if size is None else torch.float32,
        )

    def reseed(self, seed: int) -> None:
        """Start new random streams for actions and minibatches."""
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def begin(self, observation: np.ndarray) -> None:
        """Start a rollout from the first observations of fresh environments."""
        self.rollout.begin(observation)
        if self.reward_scale is not None:
            self.reward_scale.begin()

    def observe(self, result: StepResult) -> None:
        """Store what came of the actions that ``act`` returned last."""
        self.rollout.add(result)

    @abstractmethod
    def learn(self, env_steps: int) -> Mapping[str, Tensor]:
        """Learn from the rollout; see ``Agent.learn``."""

    def scaled(self, reward: Tensor) -> Tensor:
        """Rewards of a rollout, [num_steps, num_envs], normalised and then clipped where that is asked for."""
        return reward if self.reward_scale is None else (reward * self.reward_scale.scale).clamp(-CLIP, CLIP)

    def follow_returns(self) -> None:
        """Let the scale of rewards follow a full rollout, once."""
        if self.reward_scale is not None:
            rollout = self.rollout
            self.reward_scale.follow(rollout.reward, rollout.terminated | rollout.truncated, rollout.valid)

    def minibatches(self) -> Iterator[Tensor]:
        """Row numbers of the minibatches of one epoch, in a new random order, int64 each."""
        config = self.config
        order = torch.randperm(config.num_steps * config.num_envs, generator=self.generator, device=self.device)
        return iter(order.view(config.num_minibatches, -1))

    def step(self, loss: Tensor, weight: Tensor | None = None) -> dict[str, Tensor]:
        """One update: a step of all optimizers down the gradient of ``loss``, clipped by its norm over all networks.

        Args:
            loss: 0-d, of passes within ``autocast``.
            weight: [batch] 1 for rows that count and 0 for others, for SIGReg and resets; None: all count.

        Returns:
            ``gradients/<network>`` and ``parameter_norms/<network>``, before clipping, see ``Agent.learn``; and what
            ``Plasticity`` reports.
        """
        metrics: dict[str, Tensor] = {}
        if self.plasticity is not None:
            loss, metrics = self.plasticity.penalized(loss, self.networks, self.updates + 1, weight)
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        if self.average_gradients is not None:
            self.average_gradients(self.parameters)
        total, norms = clip_gradient_norm_(self.parameters, self.config.max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.updates += 1
        if self.plasticity is not None:
            metrics |= self.plasticity.reset(self.networks, self.updates, weight)
        if len(self.networks) == 1:
            (name,) = self.networks
            return metrics | {f"gradients/{name}": total, f"parameter_norms/{name}": norms}
        counts = [sum(1 for _ in network.parameters()) for network in self.networks.values()]
        for name, own in zip(self.networks, norms.split(counts), strict=True):
            metrics |= {f"gradients/{name}": torch.linalg.vector_norm(own), f"parameter_norms/{name}": own}
        return metrics


def experience_bytes(config: OnPolicyConfig, spec: EnvironmentSpec) -> int:
    """Memory of a rollout's observations."""
    return rollout_bytes(config.num_steps, config.num_envs, spec.observation_shape, spec.observation_dtype)
