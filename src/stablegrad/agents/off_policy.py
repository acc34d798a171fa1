"""What agents with a replay buffer share: its options, when they learn, their random streams and their state."""

from __future__ import annotations

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablegrad.agents.contract import AgentConfig, check_at_least, check_fractions
from stablegrad.agents.learner import Learner
from stablegrad.agents.replay import Batch, Replay
from stablegrad.environments import Box, EnvironmentSpec, StepResult
from stablegrad.optimizers.gradients import clip_gradient_norm_


@dataclass(frozen=True)
class OffPolicyConfig(AgentConfig):
    """The options of learning from a replay buffer."""

    batch_size: int = 256
    """Transitions of one update."""
    buffer_size: int = 1_000_000
    """Transitions that the replay buffer holds, over all environments."""
    learning_starts: int = 10_000
    """Environment steps before the first update, taken with uniformly random actions."""
    train_every: int = 1
    """Environment steps, counted over all environments, between two calls of learn; at least one of each."""
    gradient_steps: int = 1
    """Updates in each call of learn."""
    n_step: int = 1
    """Rewards that a target sums up before it bootstraps."""
    tau: float = 1.0
    """How far a target network moves to the trained one when it is updated; 1 copies it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(
            self, batch_size=1, buffer_size=self.num_envs, learning_starts=0, train_every=1, gradient_steps=1, n_step=1
        )
        check_fractions(self, "tau")

    @property
    def horizon(self) -> int:
        """Steps of every environment between two calls of learn."""
        return max(self.train_every // self.num_envs, 1)


class OffPolicyAgent(Learner):
    """A learner from a replay buffer, without what makes an algorithm: ``act``, which keeps ``action``, and ``update``.

    Arguments as of ``Learner``.
    """

    target_networks: tuple[str, ...]
    """Names of the networks that have a target network."""
    action: np.ndarray
    """The newest actions, [num_envs, ...]."""

    def __init__(self, config: Any, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.targets: Mapping[str, nn.Module] = {
            name: copy.deepcopy(self.networks[name]).requires_grad_(False) for name in self.target_networks
        }
        self.parameters = {name: list(network.parameters()) for name, network in self.networks.items()}
        self.replay = self.make_replay()

    def make_replay(self) -> Replay:
        """An empty replay buffer."""
        return Replay(**replay_arguments(self.config, self.spec), discount=self.config.discount, device=self.device)

    def reseed(self, seed: int) -> None:
        """Start new random streams."""
        sampling, noise = (int(state) for state in np.random.SeedSequence(seed).generate_state(2))
        self.random = np.random.default_rng(seed)
        """For exploration, on the CPU."""
        self.sampling = torch.Generator().manual_seed(sampling)
        """For batches."""
        self.noise = torch.Generator(self.device).manual_seed(noise)
        """For what networks add to their outputs."""

    def begin(self, observation: np.ndarray) -> None:
        """Start a segment from the first observations of fresh environments."""
        self.observation = observation
        self.replay.begin(observation)
        if self.reward_scale is not None:
            self.reward_scale.begin()

    def observe(self, result: StepResult) -> None:
        """Store what came of the actions that ``act`` returned last."""
        self.replay.add(self.action, result)
        self.observation = result.observation
        if self.reward_scale is not None:
            ended = result.terminated | result.truncated
            rows = (torch.from_numpy(one).to(self.device) for one in (result.reward, ended, result.valid))
            self.reward_scale.follow(*(one[None] for one in rows))

    def learn(self, env_steps: int) -> Mapping[str, Tensor]:
        """Make ``gradient_steps`` updates from batches of the replay buffer; see ``Agent.learn``."""
        config = self.config
        if env_steps < config.learning_starts or not len(self.replay):
            return {}
        self.set_learning_rates(env_steps)
        metrics: dict[str, list[Tensor]] = {}
        for batch in self.batches(env_steps):
            batch = self.scaled(batch)
            for name, value in self.update(batch).items():
                metrics.setdefault(name, []).append(value)
            self.updates += 1
            if self.plasticity is not None:
                self.plasticity.forget()
        return {name: torch.stack(values) for name, values in metrics.items()}

    def batches(self, env_steps: int) -> Iterator[Batch]:
        """The ``gradient_steps`` batches of one call of learn; drawn at once, which is faster than one by one."""
        config = self.config
        return self.replay.sample(config.batch_size * config.gradient_steps, self.sampling).split(config.batch_size)

    def scaled(self, batch: Batch) -> Batch:
        """A batch with its rewards normalised, where that is asked for."""
        if self.reward_scale is None:
            return batch
        return dataclasses.replace(batch, reward=batch.reward * self.reward_scale.scale)

    @abstractmethod
    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Change the weights by one batch; returns a value for each metric."""

    def step(self, name: str, loss: Tensor) -> dict[str, Tensor]:
        """One step of a network's optimizer down the gradient of ``loss``.

        Args:
            name: of the network.
            loss: 0-d, of passes within ``autocast``; of those of this network the last counts for ``Plasticity``.

        Returns:
            ``gradients/<network>`` and ``parameter_norms/<network>``, before clipping, see ``Agent.learn``; and what
            ``Plasticity`` reports.
        """
        metrics: dict[str, Tensor] = {}
        if self.plasticity is not None:
            loss, metrics = self.plasticity.penalized(loss, [name], self.updates + 1)
        parameters, optimizer = self.parameters[name], self.optimizers[name]
        # What zero_grad() does, which takes a hundred microseconds of its own.
        for parameter in parameters:
            parameter.grad = None
        # Of these alone: the actor's loss runs through the critic, whose gradients nobody needs there.
        loss.backward(inputs=parameters)
        if self.average_gradients is not None:
            self.average_gradients(parameters)
        total, norms = clip_gradient_norm_(parameters, self.config.max_grad_norm)
        optimizer.step()
        if self.plasticity is not None:
            metrics |= self.plasticity.reset([name], self.updates + 1)
        return metrics | {f"gradients/{name}": total, f"parameter_norms/{name}": norms}

    def recent(self, rows: int) -> Batch | None:
        """At most ``rows`` transitions for measurements, which leave the agent's random streams alone; None: none."""
        available = min(rows, len(self.replay))
        if not available:
            return None
        return self.scaled(self.replay.sample(available, torch.Generator().manual_seed(self.updates)))

    def on_device(self, observation: np.ndarray) -> Tensor:
        """Observations as a tensor on the agent's device."""
        return torch.from_numpy(observation).to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and ``replay``, which are saved apart."""
        targets = {name: target.state_dict() for name, target in self.targets.items()}
        return {**super().state_dict(), "targets": targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; see ``Learner``."""
        super().load_state_dict(state)
        for name, target in self.targets.items():
            target.load_state_dict(state["targets"][name])


def replay_bytes(config: OffPolicyConfig, spec: EnvironmentSpec) -> int:
    """Memory of the replay buffer of a configuration."""
    return Replay.bytes_needed(**replay_arguments(config, spec))


def replay_arguments(config: OffPolicyConfig, spec: EnvironmentSpec) -> dict[str, Any]:
    """Arguments of ``Replay.bytes_needed`` for a configuration, and of ``Replay`` but for discount and device."""
    size = spec.action_space.size if isinstance(spec.action_space, Box) else None
    return {
        "capacity": config.buffer_size,
        "num_envs": config.num_envs,
        "observation_shape": spec.observation_shape,
        "observation_dtype": getattr(torch, spec.observation_dtype),
        "action_shape": () if size is None else (size,),
        "action_dtype": torch.int64 if size is None else torch.float32,
        "n_step": config.n_step,
        "frame_stack": _frame_stack(spec),
    }


def _frame_stack(spec: EnvironmentSpec) -> int:
    """Pictures in one observation, of which all but the newest were in the observation before.

    Only Atari stacks pictures. Three channels may be three grey pictures or one in colour: these are stored whole.
    """
    channels = spec.observation_shape[0]
    return channels if spec.is_image and spec.atari_game is not None and channels % 3 else 1
