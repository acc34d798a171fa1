"""What agents that learn from rollouts share: their options, random streams, minibatches, steps and state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.agents.contract import AgentConfig, AverageGradients, check_at_least
from stablegrad.agents.plasticity import make_plasticity
from stablegrad.agents.rollout import Rollout, rollout_bytes
from stablegrad.environments import Box, EnvironmentSpec, StepResult
from stablegrad.errors import UsageError
from stablegrad.optimizers.gradients import clip_gradient_norm_
from stablegrad.optimizers.saved import load_state


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
        if (self.num_envs * self.num_steps) % self.num_minibatches:
            raise UsageError(
                f"num-envs * num-steps = {self.num_envs * self.num_steps} cannot be cut into "
                f"{self.num_minibatches} minibatches of one size; change num-minibatches"
            )

    @property
    def horizon(self) -> int:  # noqa: D102
        return self.num_steps


class OnPolicyAgent(ABC):
    """A learner from rollouts, without what makes an algorithm: ``act``, which fills ``rollout``, and ``learn``.

    Args:
        config: what to learn and how.
        spec: the environment's observations and actions.
        total_steps: environment steps of the whole run, for schedules.
        device: where the networks live.
        seed: draws the initial weights and, until ``reseed``, everything else.
        average_gradients: see ``MakeAgent``.
    """

    replay = None
    build_networks: Callable[[Any, EnvironmentSpec], dict[str, nn.Module]]
    """The networks of a configuration by name, freshly initialised; a static method."""

    def __init__(
        self,
        config: Any,
        spec: EnvironmentSpec,
        *,
        total_steps: int,
        device: torch.device,
        seed: int,
        average_gradients: AverageGradients | None = None,
    ):
        self.config: Any = config
        self.total_steps = total_steps
        self.device = device
        self.average_gradients = average_gradients
        # A fork, so that making an agent leaves the random numbers of the program around it alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = type(self).build_networks(config, spec)
        self.networks: Mapping[str, nn.Module] = {name: network.to(device) for name, network in networks.items()}
        self.optimizers: Mapping[str, Optimizer] = {
            name: config.optimizer_of(name).build(network) for name, network in self.networks.items()
        }
        self.parameters = [parameter for network in self.networks.values() for parameter in network.parameters()]
        continuous = isinstance(spec.action_space, Box)
        self.rollout = Rollout(
            config.num_steps,
            config.num_envs,
            spec.observation_shape,
            getattr(torch, spec.observation_dtype),
            device,
            action_shape=(spec.action_space.size,) if isinstance(spec.action_space, Box) else (),
            action_dtype=torch.float32 if continuous else torch.int64,
        )
        self.plasticity = make_plasticity(
            config, self.networks, self.optimizers, device=device, seed=seed, average_gradients=average_gradients
        )
        self.updates = 0
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Start new random streams for actions and minibatches."""
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def begin(self, observation: np.ndarray) -> None:
        """Start a rollout from the first observations of fresh environments."""
        self.rollout.begin(observation)

    def observe(self, result: StepResult) -> None:
        """Store what came of the actions that ``act`` returned last."""
        self.rollout.add(result)

    @abstractmethod
    def learn(self, env_steps: int) -> Mapping[str, Tensor]:
        """Learn from the rollout; see ``Agent.learn``."""

    def minibatches(self) -> Iterator[Tensor]:
        """Row numbers of the minibatches of one epoch, in a new random order, int64 each."""
        config = self.config
        order = torch.randperm(config.num_steps * config.num_envs, generator=self.generator, device=self.device)
        return iter(order.view(config.num_minibatches, -1))

    def set_learning_rates(self, env_steps: int) -> None:
        """Set the rates that belong to so many environment steps."""
        for name, optimizer in self.optimizers.items():
            self.config.optimizer_of(name).set_learning_rate(optimizer, env_steps / self.total_steps)

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

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of passes through networks; those with gradients must be of the loss of the next ``step``."""
        context: AbstractContextManager[Any] = self.config.autocast(self.device)
        return context if self.plasticity is None else self.plasticity.watch(context, self.updates + 1)

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks``, which are saved apart."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``, after the weights of ``networks`` were loaded.

        Raises:
            ValueError: the state is of another agent or optimizer.
        """
        own = self.state_dict().keys()
        if own != state.keys():
            raise ValueError(f"a state of {type(self).__name__} has {', '.join(own)}; this one has {', '.join(state)}")
        for name, optimizer in self.optimizers.items():
            load_state(optimizer, state["optimizers"][name])
        self.updates = state["updates"]


def experience_bytes(config: OnPolicyConfig, spec: EnvironmentSpec) -> int:
    """Memory of a rollout's observations."""
    return rollout_bytes(config.num_steps, config.num_envs, spec.observation_shape, spec.observation_dtype)
