"""What an agent is to the rest of the package: its methods, its configuration, its entry in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stablegrad.agents.replay import Replay
from stablegrad.agents.values import CLASSIFICATION, VALUE_LOSSES
from stablegrad.environments import EnvironmentSpec, StepResult
from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.optimizers.config import OptimizerConfig

PRECISIONS = ("fp32", "bf16")
#: Rules of units that are reset, and the share of its layer's mean below which each takes a unit.
RESETS: Mapping[str, float] = {"redo": 0.025, "regrama": 0.01}
RESET_EVERY = 1000
#: Replaces the gradients of parameters by their means over all processes of a run.
AverageGradients = Callable[[Sequence[Tensor]], None]


def averaged(values: Tensor, average_gradients: AverageGradients | None) -> Tensor:
    """The mean of a tensor over the processes that train one agent; None: there is one."""
    if average_gradients is None:
        return values
    carrier = torch.empty_like(values)
    carrier.grad = values.clone()
    average_gradients([carrier])
    return carrier.grad


@dataclass(frozen=True)
class AgentConfig:
    """The options that every agent has: what presets, searches and memory estimates change or read."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    torso: TorsoConfig = field(default_factory=TorsoConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_envs: int = 1
    """Environments that are stepped together."""
    discount: float = 0.99
    """Gamma."""
    max_grad_norm: float | None = None
    """Gradient norm of a network above which its gradients are scaled down; None: never."""
    precision: str = "fp32"
    """fp32, or bf16: matrix products and convolutions in bfloat16, weights and optimizer in fp32."""
    sigreg: float = 0.0
    """Weight of SIGReg, which holds the penultimate features near a standard Gaussian; 0: none."""
    reset: str = "none"
    """Hidden units that begin anew: none, redo (those that are silent) or regrama (those without gradient)."""
    reset_every: int = RESET_EVERY
    """Updates between two resets."""
    reset_threshold: float | None = None
    """Share of its layer's mean up to which a unit is reset; None: 0.025 for redo, 0.01 for regrama."""
    value_loss: str = "squared"
    """Of values: squared, huber, or a cross-entropy of returns from v-min to v-max: two_hot, hl_gauss or c51."""
    num_atoms: int = 51
    """two_hot, hl_gauss, c51: returns whose probabilities are learned."""
    v_min: float = -10.0
    """two_hot, hl_gauss, c51: the lowest of them."""
    v_max: float = 10.0
    """two_hot, hl_gauss, c51: the highest of them; discounted returns beyond cannot be told from it."""
    normalize_rewards: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    max_return: float | None = None
    """normalize_rewards: divide by more where a discounted return would still exceed this; None: never."""

    def __post_init__(self) -> None:
        check_at_least(self, num_envs=1)
        check_fractions(self, "discount")
        if self.max_grad_norm is not None and not 0.0 < self.max_grad_norm < float("inf"):
            raise UsageError(f"max-grad-norm must be above 0 and finite, or none; got {self.max_grad_norm}")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not 0.0 <= self.sigreg < float("inf"):
            raise UsageError(f"sigreg must be at least 0 and finite, got {self.sigreg}")
        if self.max_return is not None:
            if not self.normalize_rewards:
                raise UsageError("max-return is for normalize-rewards, which is off")
            if not 0.0 < self.max_return < float("inf"):
                raise UsageError(f"max-return must be above 0 and finite, or none; got {self.max_return}")
        self._check_reset()
        self._check_values()
        self._check_norms()

    def _check_reset(self) -> None:
        if self.reset not in ("none", *RESETS):
            raise unknown_name("reset", self.reset, ("none", *RESETS))
        check_at_least(self, reset_every=1)
        if self.reset == "none" and (self.reset_every, self.reset_threshold) != (RESET_EVERY, None):
            option = "reset-every" if self.reset_threshold is None else "reset-threshold"
            raise UsageError(f"{option} is for reset redo or regrama; reset is none")
        if self.reset != "none" and (self.torso.spectral_norm or self.torso.sparsity):
            option = "spectral-norm" if self.torso.spectral_norm else "sparsity"
            raise UsageError(
                f"reset {self.reset!r} rewrites weights, which torso {option} makes; choose one of the two"
            )
        if self.reset_threshold is not None and not 0.0 <= self.reset_threshold < 1.0:
            raise UsageError(f"reset-threshold must be at least 0 and below 1, or none; got {self.reset_threshold}")

    def _check_values(self) -> None:
        if self.value_loss not in VALUE_LOSSES:
            raise unknown_name("value loss", self.value_loss, VALUE_LOSSES)
        check_at_least(self, num_atoms=2)
        if not float("-inf") < self.v_min < self.v_max < float("inf"):
            raise UsageError(f"v-min must be below v-max, both finite; got {self.v_min} and {self.v_max}")

    def _check_norms(self) -> None:
        if "batch" in (self.encoder.norm, self.torso.norm):
            raise UsageError("norm 'batch' is for agents with an actor, a critic and a replay; use layer or none")

    def atoms(self, device: torch.device) -> Tensor | None:
        """The returns whose probabilities networks give instead of a value, [num_atoms]; None: they give the value."""
        if self.value_loss not in CLASSIFICATION:
            return None
        return torch.linspace(self.v_min, self.v_max, self.num_atoms, device=device)

    @property
    def value_outputs(self) -> int | None:
        """Outputs of a network for each value; None: the value alone, without a dimension of its own."""
        return self.num_atoms if self.value_loss in CLASSIFICATION else None

    def optimizer_of(self, network: str) -> OptimizerConfig:
        """How a network is optimized, by its name; an algorithm whose networks differ overrides this."""
        return self.optimizer

    @property
    def horizon(self) -> int:
        """Steps of every environment between two calls of ``Agent.learn``."""
        return 1

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The precision of passes through networks, as a context."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


@dataclass(frozen=True)
class Objective:
    """The loss of one network on fixed inputs, as curvature and gradient ranks need it; without SIGReg's term.

    Attributes:
        inputs: [rows, ...] what the network is given.
        loss: called with the network's output for some rows, and those rows of ``targets``; returns the sum of their
            losses, a scalar.
        targets: [rows, ...] each; targets of a TD loss are held fixed.
        count: rows that count, by which the sum is divided for the mean.
    """

    inputs: Tensor
    loss: Callable[..., Tensor]
    targets: tuple[Tensor, ...]
    count: Tensor | float

    def mean_loss(self, network: nn.Module) -> Tensor:
        """The mean loss with the network's current weights, a scalar with its graph."""
        return self.loss(network(self.inputs), *self.targets) / self.count


class Agent(Protocol):
    """A learner: it acts in ``config.num_envs`` environments, observes what comes of it, and learns.

    The interaction loop calls ``begin`` once a segment, then ``act`` and ``observe`` for every step of the
    environments, and ``learn`` after every ``config.horizon`` of them.
    """

    config: Any
    """Its configuration, an ``AgentConfig``."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """What is trained, by name: {"q"}, or {"actor", "critic"}. Target networks are part of ``state_dict``."""

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """One for each network, by its name; other learned values, such as a temperature, are in ``state_dict``."""

    @property
    def updates(self) -> int:
        """Minibatch steps taken so far."""

    @property
    def outputs(self) -> Mapping[str, str | None]:
        """What churn means for each network's outputs, by its name.

        "argmax" where the best of several values or logits is the action, "expected_argmax" where it is the best mean
        of distributions that are given by logits [rows, actions, atoms], "action" where the outputs are the action,
        "gaussian" or "tanh_gaussian" where they are means and log standard deviations of such a policy, None where they
        choose nothing.
        """

    @property
    def replay(self) -> Replay | None:
        """The replay buffer, which checkpoints save on their own; None for an agent without one."""

    def begin(self, observation: np.ndarray) -> None:
        """Start a segment from the first observations of fresh environments, [num_envs, *observation_shape]."""

    def act(self, env_steps: int) -> np.ndarray:
        """Choose actions for the newest observations.

        Args:
            env_steps: environment steps taken so far in the run.

        Returns:
            int64 [num_envs], or float32 [num_envs, size] in [-1, 1] for a ``Box``.
        """

    def observe(self, result: StepResult) -> None:
        """Take in what came of the actions that ``act`` returned last."""

    def learn(self, env_steps: int) -> Mapping[str, Tensor]:
        """Learn from what was observed.

        Args:
            env_steps: environment steps taken before the first of the last ``horizon`` ones.

        Returns:
            Tensors on the agent's device, not waited for, one value per update: ``loss/*``, ``values/*``,
            ``gradients/<network>`` (norm before clipping), and ``parameter_norms/<network>``
            [updates, number of parameters] (norms before clipping, in the order of ``network.parameters()``).
            Of a network that only some updates change, one value for each of these, and ``updates/<network>``: their
            numbers, int64 from 1, on the host. Empty where nothing was learned, as while a replay buffer fills.
        """

    def policy(self, observation: np.ndarray) -> np.ndarray:
        """Deterministic actions for evaluation; observations [n, *observation_shape], actions as for ``act``."""

    def probe(self, rows: int) -> Mapping[str, Tensor]:
        """At most ``rows`` recent inputs of each network, by its name; empty where there are none yet."""

    def objectives(self, rows: int) -> Mapping[str, Objective]:
        """The loss of each network on at most ``rows`` recent rows, by its name; empty where there are none yet."""

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """What else belongs in the log, such as ``exploration/epsilon``."""

    def make_networks(self) -> Mapping[str, nn.Module]:
        """Fresh networks of the same shapes and device as ``networks``, drawn from torch's random numbers."""

    def reseed(self, seed: int) -> None:
        """Start new random streams."""

    def state_dict(self) -> dict[str, Any]:
        """All but the weights of ``networks`` and ``replay``, which are saved apart."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``, after the weights of ``networks`` were loaded.

        Raises:
            ValueError: the state is of another agent or optimizer.
        """


class MakeAgent(Protocol):
    """An agent's constructor."""

    def __call__(
        self,
        config: Any,
        spec: EnvironmentSpec,
        *,
        total_steps: int,
        device: torch.device,
        seed: int,
        average_gradients: AverageGradients | None = None,
    ) -> Agent:
        """Make an agent.

        Args:
            config: of the algorithm's configuration class.
            spec: the environment's observations and actions.
            total_steps: environment steps of the whole run, for schedules.
            device: where its networks live.
            seed: draws the initial weights and, until ``reseed``, everything else.
            average_gradients: where several processes train one agent: called with the parameters after every backward
                pass and before clipping.
        """


@dataclass(frozen=True)
class Algorithm:
    """One entry of the catalogue: everything that the package needs to know of an algorithm.

    Attributes:
        title: its name in sentences, such as "PQN".
        agent: makes an agent.
        config: its configuration class, an ``AgentConfig``.
        supports: why it cannot be used in an environment, as the end of a sentence ("PQN needs ..."); None: it can.
        defaults: the published settings for an environment.
        build_networks: its networks by name, freshly initialised; also on the meta device.
        experience_bytes: memory of its rollout or replay buffer.
        metrics: keys of ``metrics.jsonl`` beside those that every agent has, which studies may report.
        distributed: whether several processes can train one agent (torchrun).
    """

    title: str
    agent: MakeAgent
    config: type[AgentConfig]
    supports: Callable[[EnvironmentSpec], str | None]
    defaults: Callable[[EnvironmentSpec], Any]
    build_networks: Callable[[Any, EnvironmentSpec], dict[str, nn.Module]]
    experience_bytes: Callable[[Any, EnvironmentSpec], int]
    metrics: tuple[str, ...] = ()
    distributed: bool = False


def check_at_least(config: Any, **minimum: float) -> None:
    """Raise UsageError for an option below its minimum."""
    for name, least in minimum.items():
        if not getattr(config, name) >= least:
            raise UsageError(f"{name.replace('_', '-')} must be at least {least}, got {getattr(config, name)}")


def check_fractions(config: Any, *names: str) -> None:
    """Raise UsageError for an option that is not within [0, 1]."""
    for name in names:
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise UsageError(f"{name.replace('_', '-')} must be from 0 to 1, got {getattr(config, name)}")


def shown_names(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Networks by the names under which their layers, weights and metrics are shown: a single one has none."""
    return {"": next(iter(networks.values()))} if len(networks) == 1 else dict(networks)
