"""What agents share that have an actor, a critic and a replay buffer: continuous actions out of state vectors.

With BatchNorm, the critic and its target see the batch and what follows it as one batch and normalise by its statistics
(Bhatt et al., CrossQ, arXiv 1902.05605; Palenicek et al., XQC, arXiv 2509.25174), and so does the actor where it
learns. All other passes, among them those of the actor's loss through the critic, use running statistics.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablegrad.agents.contract import averaged
from stablegrad.agents.off_policy import OffPolicyAgent, OffPolicyConfig
from stablegrad.agents.replay import Batch
from stablegrad.agents.values import outputs_at
from stablegrad.environments import Box, EnvironmentSpec, StepResult
from stablegrad.errors import UsageError
from stablegrad.networks import Critic, DeterministicActor, GaussianActor, TorsoConfig
from stablegrad.networks.running_norm import RunningNorm
from stablegrad.networks.sizes import resolve_depth
from stablegrad.optimizers.config import OptimizerConfig


@dataclass(frozen=True)
class ActorConfig:
    """Where the actor differs from the critic; None or auto: it does not."""

    kind: str | None = None
    """As torso.kind."""
    depth: int | str | None = None
    """As torso.depth."""
    width: int | str | None = None
    """As torso.width."""
    norm: str = "auto"
    """As torso.norm: layer, batch or none; auto: the critic's."""
    activation: str | None = None
    """As torso.activation."""
    optimizer: str | None = None
    """As optimizer.name; another optimizer's rate follows from optimizer.adam_learning_rate."""
    learning_rate: float | None = None
    """As optimizer.learning_rate."""


@dataclass(frozen=True)
class ActorCriticConfig(OffPolicyConfig):
    """The options of an actor and a critic; torso and optimizer are those of both."""

    torso: TorsoConfig = field(default_factory=partial(TorsoConfig, depth=0, width=256, norm="none"))
    optimizer: OptimizerConfig = field(default_factory=partial(OptimizerConfig, name="adam", adam_learning_rate=3e-4))
    actor: ActorConfig = field(default_factory=ActorConfig)
    tau: float = 0.005
    """How far target networks move to the trained ones when they are updated; 1 copies them."""
    normalize_observations: bool = False
    """Normalise observations by their running moments, which follow what the agent acts on in training."""
    num_critics: int = 2
    """Critics, of which targets take the least value: 1 or 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_critics not in (1, 2):
            raise UsageError(f"num-critics must be 1 or 2, got {self.num_critics}")
        # The actor's options are checked now, and not when its network is built.
        self.torso_of("actor")
        self.optimizer_of("actor")

    def _check_norms(self) -> None:
        """BatchNorm is for these agents."""

    def torso_of(self, network: str) -> TorsoConfig:
        """The torso of "actor" or "critic"."""
        if network == "critic":
            return self.torso
        own = self.actor
        names = ("kind", "depth", "width", "norm", "activation")
        changes = {name: value for name in names if (value := getattr(own, name)) not in (None, "auto")}
        if own.kind not in (None, self.torso.kind):
            changes |= {"skip_blocks": None, "variance_preserving": False}  # options of the critic's kind
        elif own.depth is not None and self.torso.skip_blocks is not None:
            changes["skip_blocks"] = min(self.torso.skip_blocks, resolve_depth(own.depth))
        return dataclasses.replace(self.torso, **changes)

    def optimizer_of(self, network: str) -> OptimizerConfig:
        """The optimizer of "actor" or "critic"."""
        if network == "critic":
            return self.optimizer
        own, changes = self.actor, dict[str, Any]()
        if own.optimizer not in (None, self.optimizer.name):
            changes = {"name": own.optimizer, "learning_rate": None}
        if own.learning_rate is not None:
            changes["learning_rate"] = own.learning_rate
        return dataclasses.replace(self.optimizer, **changes) if changes else self.optimizer


class ActorCriticAgent(OffPolicyAgent):
    """A learner with the networks "actor" and "critic", without what makes an algorithm; see ``OffPolicyAgent``."""

    config: ActorCriticConfig

    def __init__(self, config: ActorCriticConfig, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        actor, critic = self.networks["actor"], self.networks["critic"]
        assert isinstance(spec.action_space, Box) and isinstance(critic, Critic)
        self.action_size = spec.action_space.size
        self.actor, self.critic = actor, critic
        self.target_critic = self.targets["critic"]
        everything = (*self.networks.values(), *self.targets.values())
        self.normalizers = [one for network in everything for one in network.modules() if isinstance(one, RunningNorm)]
        """All alike: the actor's, and those that follow it."""
        self.batch_norms = {
            network: [one for one in network.modules() if isinstance(one, nn.BatchNorm1d)]
            for network in (*self.networks.values(), *self.targets.values())
        }
        for norms in self.batch_norms.values():
            for norm in norms:
                norm.eval()

    def begin(self, observation: np.ndarray) -> None:
        """Start a segment; see ``OffPolicyAgent``."""
        super().begin(observation)
        self.follow(np.ones(len(observation), dtype=np.bool_))

    def observe(self, result: StepResult) -> None:
        """Store what came of the newest actions; see ``OffPolicyAgent``."""
        super().observe(result)
        self.follow(~(result.terminated | result.truncated))

    def follow(self, acted_on: np.ndarray) -> None:
        """Update the moments of observations by the newest ones: of rows that actions are taken in, bool [num_envs]."""
        if not self.normalizers:
            return
        first, *others = self.normalizers
        weight = torch.from_numpy(acted_on).to(self.device).float()
        observation = self.on_device(self.observation).flatten(1)
        first.update(observation, weight, lambda moments: averaged(moments, self.average_gradients))
        for other in others:
            torch._foreach_copy_(list(other.buffers()), list(first.buffers()))

    @contextmanager
    def batch_statistics(self, network: nn.Module) -> Iterator[None]:
        """Passes in which the BatchNorm layers of a network use the statistics of their batch, and remember them."""
        norms = self.batch_norms[network]
        for norm in norms:
            norm.train()
        try:
            yield
        finally:
            for norm in norms:
                norm.eval()

    def critic_outputs(self, batch: Batch, next_action: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the critic for a batch, and of the target critic for what follows: [batch, critics, ...] each."""
        now = state_action(batch.observation, batch.action)
        if not self.batch_norms[self.critic]:
            next_outputs = self.next_outputs(batch, next_action)
            with self.autocast():
                return self.critic(now).float(), next_outputs
        rows, both = len(now), torch.cat([now, state_action(batch.next_observation, next_action)])
        with self.batch_statistics(self.critic), self.batch_statistics(self.target_critic):
            with torch.no_grad(), self.autocast():
                next_outputs = self.target_critic(both)[rows:]
            with self.autocast():
                return self.critic(both)[:rows].float(), next_outputs.float()

    @torch.no_grad()
    def next_outputs(self, batch: Batch, next_action: Tensor) -> Tensor:
        """Outputs of the target critic for what follows a batch, [batch, critics, ...]."""
        with self.autocast():
            return self.target_critic(state_action(batch.next_observation, next_action)).float()

    def td_labels(self, batch: Batch, next_outputs: Tensor, bonus: Tensor | None = None) -> Tensor:
        r"""[batch, ...] labels, see ``Values``: of :math:`r + \gamma (\min_i Q_i(s', a') + b)`.

        The critic of the least value is that of Fujimoto et al. 2018 (arXiv 1802.09477, eq. 10).

        Args:
            batch: the transitions.
            next_outputs: [batch, critics, ...] of the target critic for the next actions.
            bonus: [batch] b; None: nothing.
        """
        least = self.values.of(next_outputs).argmin(dim=1)
        return self.values.backup(batch.reward, batch.discount, outputs_at(next_outputs, least), bonus)

    def value_losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Sum of the losses of all critics: outputs [batch, critics, ...], labels [batch, ...]."""
        return self.values.losses(outputs, labels.unsqueeze(1).expand_as(outputs)).sum()

    def act(self, env_steps: int) -> np.ndarray:
        """The exploring policy's actions, float32 [num_envs, size]; uniformly random until learning starts."""
        if env_steps < self.config.learning_starts:
            shape = (len(self.observation), self.action_size)
            self.action = self.random.uniform(-1.0, 1.0, shape).astype(np.float32)
        else:
            self.action = self.explore(self.observation)
        return self.action

    @abstractmethod
    def explore(self, observation: np.ndarray) -> np.ndarray:
        """Actions to learn from, float32 [n, size] in [-1, 1], for observations [n, *observation_shape]."""

    def probe(self, rows: int) -> Mapping[str, Tensor]:
        """Observations, and observations with actions, out of the replay buffer."""
        batch = self.recent(rows)
        if batch is None:
            return {}
        return {"actor": batch.observation, "critic": state_action(batch.observation, batch.action)}


def state_action(observation: Tensor, action: Tensor) -> Tensor:
    """What a critic reads, [batch, observation + action]: observations are [batch, ...], actions [batch, size]."""
    return torch.cat([observation.flatten(1), action], dim=1)


def build_networks(
    make_actor: type[GaussianActor] | type[DeterministicActor], config: ActorCriticConfig, spec: EnvironmentSpec
) -> dict[str, nn.Module]:
    """Actor and critic of a configuration, freshly initialised."""
    assert isinstance(spec.action_space, Box)
    shape, size = spec.observation_shape, spec.action_space.size
    return {
        "actor": make_actor(
            shape,
            size,
            encoder=config.encoder,
            torso=config.torso_of("actor"),
            normalize=config.normalize_observations,
        ),
        "critic": Critic(
            shape,
            size,
            config.num_critics,
            encoder=config.encoder,
            torso=config.torso_of("critic"),
            num_atoms=config.value_outputs,
            normalize=config.normalize_observations,
        ),
    }


def supports(spec: EnvironmentSpec) -> str | None:
    """Why such an agent cannot be used in an environment; None: it can."""
    if not isinstance(spec.action_space, Box):
        return f"needs continuous actions; those of {spec.env_id!r} are discrete"
    if spec.is_image:
        return f"needs state vectors; observations of {spec.env_id!r} are images"
    return None
