"""Networks and what trains them: what agents with rollouts and agents with a replay buffer share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from stablegrad.agents.contract import AverageGradients
from stablegrad.agents.plasticity import make_plasticity
from stablegrad.agents.reward_scale import RewardScale
from stablegrad.agents.values import Values
from stablegrad.environments import EnvironmentSpec
from stablegrad.optimizers.saved import load_state


class Learner(ABC):
    """Networks, an optimizer for each, their schedules, precision and state.

    Args:
        config: what to learn and how.
        spec: the environment's observations and actions.
        total_steps: environment steps of the whole run, for schedules.
        device: where the networks live.
        seed: draws the initial weights and, until ``reseed``, everything else.
        average_gradients: see ``MakeAgent``.
    """

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
        self.spec = spec
        self.total_steps = total_steps
        self.device = device
        self.average_gradients = average_gradients
        # A fork, so that making an agent leaves the random numbers of the program around it alone.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks: Mapping[str, nn.Module] = self.make_networks()
        self.optimizers: Mapping[str, Optimizer] = {
            name: config.optimizer_of(name).build(network) for name, network in self.networks.items()
        }
        self.plasticity = make_plasticity(
            config, self.networks, self.optimizers, device=device, seed=seed, average_gradients=average_gradients
        )
        self.values = Values(config.value_loss, config.atoms(device))
        self.reward_scale = (
            RewardScale(config.num_envs, config.discount, device, average_gradients, config.max_return)
            if config.normalize_rewards
            else None
        )
        self.updates = 0
        self.reseed(seed)

    @abstractmethod
    def reseed(self, seed: int) -> None:
        """Start new random streams."""

    def make_networks(self) -> dict[str, nn.Module]:
        """Fresh networks of its configuration by name, drawn from torch's random numbers."""
        networks = type(self).build_networks(self.config, self.spec)
        return {name: network.to(self.device) for name, network in networks.items()}

    def set_learning_rates(self, env_steps: int) -> None:
        """Set the rates that belong to so many environment steps."""
        for name, optimizer in self.optimizers.items():
            self.config.optimizer_of(name).set_learning_rate(optimizer, env_steps / self.total_steps)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of passes through networks; those with gradients must be of the loss of a coming step."""
        context: AbstractContextManager[Any] = self.config.autocast(self.device)
        return context if self.plasticity is None else self.plasticity.watch(context, self.updates + 1)

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and a replay buffer, which are saved apart."""
        scale = {} if self.reward_scale is None else {"reward_scale": self.reward_scale.state_dict()}
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "updates": self.updates,
            **scale,
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
        if self.reward_scale is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
