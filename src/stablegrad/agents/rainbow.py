"""Rainbow: DQN with six extensions, each of which can be switched off.

Hessel et al., "Rainbow: Combining Improvements in Deep Reinforcement Learning", 2018 (arXiv 1710.02298): Double
Q-learning, n-step returns, a dueling head, prioritised replay, noisy layers and distributions of returns. The defaults
are those of arXiv 2506.15544 for Atari; for state vectors they are DQN's here, with Rainbow's extensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor, nn

from stablegrad.agents import discrete, dqn
from stablegrad.agents.contract import Algorithm, check_fractions
from stablegrad.agents.discrete import supports
from stablegrad.agents.dqn import DQN, DQNConfig
from stablegrad.agents.off_policy import replay_arguments, replay_bytes
from stablegrad.agents.prioritised import PrioritisedBatch, PrioritisedReplay, priority_bytes
from stablegrad.agents.replay import Batch, Replay
from stablegrad.agents.values import outputs_at
from stablegrad.environments import EnvironmentSpec
from stablegrad.errors import UsageError
from stablegrad.networks import make_noisy, noise
from stablegrad.optimizers.config import OptimizerConfig


@dataclass(frozen=True)
class RainbowConfig(DQNConfig):
    """Everything that decides what Rainbow learns; with all extensions off it is DQN."""

    optimizer: OptimizerConfig = field(
        default_factory=partial(OptimizerConfig, name="adam", adam_learning_rate=6.25e-5, adam_eps=1.5e-4)
    )
    target_every: int = 8000
    """Environment steps between two updates of the target network, at most one in each call of learn."""
    double: bool = True
    """Let the trained network choose the action that the target network values (van Hasselt et al. 2016)."""
    n_step: int = 3
    """Rewards that a target sums up before it bootstraps."""
    dueling: bool = True
    """Two streams behind the torso, for the value of the state and for advantages (Wang et al. 2016)."""
    noisy: bool = True
    """Explore by learned noise in all linear layers (Fortunato et al. 2018); epsilon's options are of runs without."""
    noisy_sigma: float = 0.5
    """noisy: standard deviation of a layer's noise at the start, times the root of its inputs."""
    prioritised: bool = True
    """Sample by how wrong a transition's value was (Schaul et al. 2016)."""
    priority_exponent: float = 0.5
    """prioritised: from 0, uniform, to 1, in proportion to the error; alpha."""
    importance_exponent: float = 0.4
    """prioritised: how far losses are corrected for the sampling, from here linearly to 1 at the end; beta."""
    value_loss: str = "c51"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "priority_exponent", "importance_exponent")
        if self.noisy and (self.torso.spectral_norm or self.torso.sparsity):
            option = "spectral-norm" if self.torso.spectral_norm else "sparsity"
            raise UsageError(
                f"noisy layers add to weights, which torso {option} makes; give --no-noisy, or leave it out"
            )
        if not 0.0 < self.noisy_sigma < float("inf"):
            raise UsageError(f"noisy-sigma must be above 0 and finite, got {self.noisy_sigma}")


def build_networks(config: RainbowConfig, spec: EnvironmentSpec) -> dict[str, nn.Module]:
    """The Q-network of a configuration, freshly initialised."""
    networks = discrete.build_networks(config, spec, dueling=config.dueling)
    if config.noisy:
        make_noisy(networks["q"], config.noisy_sigma)
    return networks


class Rainbow(DQN):
    """The agent; see ``Agent`` and ``MakeAgent``.

    Every call of ``act`` and every pass of an update has noise of its own; evaluation and measurements have none.
    """

    config: RainbowConfig
    replay: Replay
    build_networks = staticmethod(build_networks)

    def make_replay(self) -> Replay:
        """An empty replay buffer, with priorities where they are asked for."""
        if not self.config.prioritised:
            return super().make_replay()
        return PrioritisedReplay(
            **replay_arguments(self.config, self.spec),
            discount=self.config.discount,
            device=self.device,
            exponent=self.config.priority_exponent,
        )

    def epsilon(self, env_steps: int) -> float:
        """Fraction of random actions: 1 until learning starts, then DQN's, or 0 with noisy layers."""
        if self.config.noisy and env_steps >= self.config.learning_starts:
            return 0.0
        return super().epsilon(env_steps)

    def act(self, env_steps: int) -> np.ndarray:
        """The best actions by a network with new noise, or epsilon-greedy ones, int64 [num_envs]."""
        with noise(self.network, self.noise):
            return super().act(env_steps)

    def importance_exponent(self, env_steps: int) -> float:
        """How far losses are corrected for the sampling after ``env_steps`` environment steps; beta."""
        start = self.config.importance_exponent
        return start + (1.0 - start) * min(env_steps / self.total_steps, 1.0)

    def batches(self, env_steps: int) -> Iterator[Batch]:
        """The ``gradient_steps`` batches of one call of learn; by priority each is drawn when it is asked for."""
        config, replay = self.config, self.replay
        if not isinstance(replay, PrioritisedReplay):
            return super().batches(env_steps)
        draw = partial(replay.sample_prioritised, config.batch_size, self.importance_exponent(env_steps), self.sampling)
        return (draw() for _ in range(config.gradient_steps))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step down the mean loss of a batch, by importance, and new priorities of its transitions."""
        # Choosing, valuing and learning each have noise of their own (Fortunato et al. 2018, algorithm 1).
        with noise(self.network, self.noise), noise(self.target, self.noise):
            labels = self.td_labels(batch)
        with noise(self.network, self.noise), self.autocast():
            outputs = self.network(batch.observation).float()
        outputs = outputs_at(outputs, batch.action)
        losses = self.values.losses(outputs, labels)
        loss = (losses * batch.weight if isinstance(batch, PrioritisedBatch) else losses).mean()
        norms = self.step("q", loss)
        if isinstance(batch, PrioritisedBatch):
            assert isinstance(self.replay, PrioritisedReplay)
            self.replay.prioritise(batch.place, self.values.errors(outputs.detach(), labels))
        return {"loss/td": loss.detach(), "values/q": self.values.of(outputs.detach()).mean(), **norms}

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """The fraction of random actions, and with priorities the exponent of their correction."""
        if not self.config.prioritised:
            return super().scalars(env_steps)
        return {**super().scalars(env_steps), "replay/importance_exponent": self.importance_exponent(env_steps)}

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and the rows of ``replay``, which are saved apart."""
        if not isinstance(self.replay, PrioritisedReplay):
            return super().state_dict()
        return {**super().state_dict(), "priorities": self.replay.priorities()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``; see ``Agent``."""
        super().load_state_dict(state)
        if isinstance(self.replay, PrioritisedReplay):
            self.replay.load_priorities(state["priorities"])


def defaults(spec: EnvironmentSpec) -> RainbowConfig:
    """The published settings for images (arXiv 2506.15544, for Atari); for state vectors DQN's, with the extensions.

    Rewards of state vectors are not clipped: discounted returns of CartPole reach 100, those of Acrobot -100, and those
    of LunarLander lie within some 200 of 0.
    """
    if spec.is_image:
        return RainbowConfig()
    shared = vars(dqn.defaults(spec))
    return RainbowConfig(
        **{**shared, "double": True, "n_step": 3, "value_loss": "c51", "v_min": -200.0, "v_max": 200.0}
    )


def experience_bytes(config: RainbowConfig, spec: EnvironmentSpec) -> int:
    """Memory of the replay buffer of a configuration and of its priorities."""
    priorities = priority_bytes(**replay_arguments(config, spec)) if config.prioritised else 0
    return replay_bytes(config, spec) + priorities


ALGORITHM = Algorithm(
    title="Rainbow",
    agent=Rainbow,
    config=RainbowConfig,
    supports=supports,
    defaults=defaults,
    build_networks=build_networks,
    experience_bytes=experience_bytes,
    metrics=("loss/td", "values/q"),
)
