"""PPO: a policy that is improved by clipped steps on its newest rollout, beside a value that judges it.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017 (arXiv 1707.06347), with advantages by GAE (Schulman et
al. 2016, arXiv 1506.02438). The defaults are those of arXiv 2506.15544 for Atari, and the field's for state vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stablegrad.agents.contract import Algorithm, Objective, averaged, check_fractions
from stablegrad.agents.on_policy import OnPolicyAgent, OnPolicyConfig, experience_bytes
from stablegrad.agents.policies import Categorical, DiagonalGaussian, Distribution
from stablegrad.agents.returns import lambda_returns
from stablegrad.agents.rollout import Rollout
from stablegrad.diagnostics.metrics import explained_variance, value_statistics
from stablegrad.environments import Box, Discrete, EnvironmentSpec
from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.networks.actor_critic import POLICY_GAIN, ActorCritic, Body, GaussianHead, Policy, StateValue
from stablegrad.networks.layers import linear
from stablegrad.networks.running_norm import RunningNorm
from stablegrad.optimizers.config import SCHEDULES, OptimizerConfig

#: The KL divergence at which a rollout is given up, in units of target_kl, as in Stable-Baselines3.
KL_FACTOR = 1.5


@dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Everything that decides what PPO learns."""

    encoder: EncoderConfig = field(default_factory=partial(EncoderConfig, norm="none"))
    torso: TorsoConfig = field(default_factory=partial(TorsoConfig, norm="none"))
    optimizer: OptimizerConfig = field(default_factory=partial(OptimizerConfig, name="adam", schedule="linear"))
    num_envs: int = 8
    """Environments that are stepped together."""
    max_grad_norm: float | None = 0.5
    """Gradient norm over all networks above which gradients are scaled down; None: never."""
    shared: bool = True
    """Policy and value read one encoder and torso; otherwise each has its own."""
    gae_lambda: float = 0.95
    """Lambda of the advantages: 0 is the one-step TD error, 1 the return minus the value."""
    clip: float = 0.1
    """How far the probability of an action may move, relative to the rollout's, before its gradient ends."""
    clip_schedule: str = "constant"
    """Of clip over the run: constant, linear, cosine or cyclic, as optimizer.schedule."""
    clip_value: bool = True
    """Bound the value's move by clip as well, where value-loss is squared."""
    value_coefficient: float = 0.5
    """Weight of the value's loss, which is half its squared error or as value-loss says."""
    entropy_coefficient: float = 0.01
    """Weight of the policy's entropy."""
    normalize_advantages: bool = True
    """Bring the advantages of every minibatch to mean 0 and standard deviation 1."""
    normalize_observations: bool = False
    """Normalise observations by their running mean and variance, which are saved with the networks."""
    target_kl: float | None = None
    """Stop learning from a rollout once the policy's KL divergence passes 1.5 times this; None: never."""
    log_std: float = 0.0
    """Logarithm of the standard deviation of continuous actions at the start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fractions(self, "gae_lambda")
        for name in ("value_coefficient", "entropy_coefficient"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name.replace('_', '-')} must be at least 0, got {getattr(self, name)}")
        if not 0.0 < self.clip < float("inf"):
            raise UsageError(f"clip must be above 0 and finite, got {self.clip}")
        if self.target_kl is not None and not 0.0 < self.target_kl < float("inf"):
            raise UsageError(f"target-kl must be above 0 and finite, or none; got {self.target_kl}")
        if not -20.0 <= self.log_std <= 2.0:
            raise UsageError(f"log-std must be from -20 to 2, got {self.log_std}")
        if self.clip_schedule not in SCHEDULES:
            raise unknown_name("schedule", self.clip_schedule, SCHEDULES)


def build_networks(config: PPOConfig, spec: EnvironmentSpec) -> dict[str, nn.Module]:
    """The networks of a configuration, freshly initialised: {"actor_critic"}, or {"actor", "critic"}.

    Raises:
        UsageError: images are to be normalised.
    """
    if config.normalize_observations and spec.is_image:
        raise UsageError(
            f"normalize-observations is for state vectors; images, as in {spec.env_id!r}, are scaled to [0, 1] anyway"
        )

    def body() -> Body:
        return Body(
            spec.observation_shape,
            encoder=config.encoder,
            torso=config.torso,
            is_image=spec.is_image,
            normalize=config.normalize_observations,
        )

    def head(features: int) -> nn.Module:
        space = spec.action_space
        if isinstance(space, Discrete):
            return linear(features, space.n, gain=POLICY_GAIN)
        return GaussianHead(features, space.size, config.log_std)

    first = body()
    if config.shared:
        return {"actor_critic": ActorCritic(first, head(first.out_features), config.value_outputs or 1)}
    return {
        "actor": Policy(first, head(first.out_features)),
        "critic": StateValue(body(), config.value_outputs or 1),
    }


class PPO(OnPolicyAgent):
    """The agent; see ``Agent`` and ``MakeAgent``."""

    config: PPOConfig
    build_networks = staticmethod(build_networks)

    def __init__(self, config: PPOConfig, spec: EnvironmentSpec, **options: Any):
        super().__init__(config, spec, **options)
        self.continuous = isinstance(spec.action_space, Box)
        self.distribution: Distribution = DiagonalGaussian() if self.continuous else Categorical()
        self.normalizers = [
            module
            for network in self.networks.values()
            for module in network.modules()
            if isinstance(module, RunningNorm)
        ]

    @property
    def outputs(self) -> Mapping[str, str | None]:
        """What churn means for each network's outputs."""
        kind = "gaussian" if self.continuous else "argmax"
        return {"actor_critic": kind} if self.config.shared else {"actor": kind, "critic": None}

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """The policy's outputs, [batch, ...], and the value's, [batch] or [batch, atoms], in float32."""
        with self.autocast():
            if self.config.shared:
                outputs, value = self.networks["actor_critic"](observation)
            else:
                outputs, value = self.networks["actor"](observation), self.networks["critic"](observation)
        return outputs.float(), self._value_outputs(value.float())

    def _value_outputs(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1) if self.config.value_outputs is None else outputs

    @torch.no_grad()
    def act(self, env_steps: int) -> np.ndarray:
        """Actions drawn from the policy: int64 [num_envs], or float32 [num_envs, size] clipped to [-1, 1]."""
        outputs, value = self.forward(self.rollout.newest)
        action, log_prob = self.distribution.sample(outputs, self.generator)
        # The rollout keeps what was drawn: its density, not that of the clipped action, is the policy's.
        self.rollout.choose(action, self.values.of(value), log_prob)
        return self._clipped(action)

    @torch.no_grad()
    def policy(self, observation: np.ndarray) -> np.ndarray:
        """The most likely action of each observation, as for ``act``."""
        network = self.networks["actor_critic" if self.config.shared else "actor"]
        with self.autocast():
            outputs = network(torch.from_numpy(observation).to(self.device))
        return self._clipped(self.distribution.mode((outputs[0] if self.config.shared else outputs).float()))

    def _clipped(self, action: Tensor) -> np.ndarray:
        return (action.clamp(-1.0, 1.0) if self.continuous else action).cpu().numpy()

    def learn(self, env_steps: int) -> dict[str, Tensor]:
        """Learn from the rollout: advantages, then ``num_epochs`` passes of minibatch steps.

        Rows that only carry a reset keep their places, so that every minibatch has one shape, and weigh nothing.

        Args:
            env_steps: environment steps taken before this rollout, for schedules.

        Returns:
            Of every update "loss/policy", "loss/value", "values/entropy", "values/kl" (of this policy from the
            rollout's, Schulman's estimate (r - 1) - log r) and "values/clip_fraction"; gradient norms as in
            ``Agent.learn``. Of the rollout "values/mean", "values/std", "values/min", "values/max" and
            "values/explained_variance" [1].
        """
        rollout, config = self.rollout, self.config
        self.follow_returns()
        returns, advantage = self._targets(rollout)
        action, log_prob = rollout.action.flatten(0, 1), rollout.log_prob.flatten()
        value, valid = rollout.value.flatten(), rollout.valid.flatten()
        labels = self.values.labels(returns)
        weight = valid.float()
        self.set_learning_rates(env_steps)
        clip = config.clip * SCHEDULES[config.clip_schedule](min(env_steps / self.total_steps, 1.0))
        updates = []
        for rows in (rows for _ in range(config.num_epochs) for rows in self.minibatches()):
            outputs, new_value = self.forward(rollout.observations_at(rows))
            rows_weight = weight[rows]
            count = rows_weight.sum().clamp(min=1.0)
            rows_advantage = advantage[rows]
            if config.normalize_advantages:
                rows_advantage = normalized(rows_advantage, rows_weight)
            new_log_prob, entropy = self.distribution.log_prob_and_entropy(outputs, action[rows])
            log_ratio = new_log_prob - log_prob[rows]
            loss_policy = policy_loss(log_ratio, rows_advantage, rows_weight, clip) / count
            loss_value = self.value_loss(new_value, labels[rows], value[rows], rows_weight, clip) / count
            mean_entropy = (rows_weight * entropy).sum() / count
            with torch.no_grad():
                ratio = log_ratio.exp()
                kl = (rows_weight * (ratio - 1.0 - log_ratio)).sum() / count
                clipped = (rows_weight * ((ratio - 1.0).abs() > clip)).sum() / count
            if config.target_kl is not None and self._averaged(kl) > KL_FACTOR * config.target_kl:
                break
            loss = loss_policy + config.value_coefficient * loss_value - config.entropy_coefficient * mean_entropy
            updates.append(
                {
                    **self.step(loss, rows_weight),
                    "loss/policy": loss_policy.detach(),
                    "loss/value": loss_value.detach(),
                    "values/entropy": mean_entropy.detach(),
                    "values/kl": kl,
                    "values/clip_fraction": clipped,
                }
            )
        if self.plasticity is not None:
            self.plasticity.forget()  # the pass after which target_kl ended them all
        # After the last pass: all passes over a rollout see the observations that its actions were drawn for.
        for normalizer in self.normalizers:
            normalizer.update(rollout.observation[:-1].flatten(0, 1), weight, self._averaged)
        mean, std, least, most = value_statistics(value, valid).split(1)
        metrics = {name: torch.stack([one[name] for one in updates]) for name in (updates[0] if updates else ())}
        return metrics | {
            "values/mean": mean,
            "values/std": std,
            "values/min": least,
            "values/max": most,
            "values/explained_variance": explained_variance(value, returns, valid).reshape(1),
        }

    @torch.no_grad()
    def _targets(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        r"""[num_steps * num_envs] returns and advantages of a full rollout.

        GAE(lambda) is the TD(lambda) return minus the value, :math:`\hat A_t = G^\lambda_t - V(s_t)`.
        """
        bootstrap = self.values.of(self.forward(rollout.observation[-1])[1])
        returns = lambda_returns(
            self.scaled(rollout.reward),
            torch.cat([rollout.value[1:], bootstrap[None]]),
            rollout.terminated,
            rollout.truncated,
            discount=self.config.discount,
            lambda_=self.config.gae_lambda,
        )
        return returns.flatten(), (returns - rollout.value).flatten()

    def value_loss(self, outputs: Tensor, labels: Tensor, old: Tensor, weight: Tensor, clip: float) -> Tensor:
        """Sum of the value's losses: half the squared error, bounded where that is asked for, or another loss.

        Args:
            outputs: [batch] or [batch, atoms].
            labels: of the same shape.
            old: [batch] values when the rollout was collected.
            weight: [batch] 1 for rows that count, 0 for others.
            clip: as of ``squared_value_loss``.
        """
        if self.config.value_loss == "squared":
            return squared_value_loss(outputs, labels, old, weight, clip if self.config.clip_value else None)
        return (weight * self.values.losses(outputs, labels)).sum()

    def _averaged(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes that train this agent."""
        return averaged(values, self.average_gradients)

    def probe(self, rows: int) -> dict[str, Tensor]:
        """Observations of the current rollout, evenly spread."""
        observation = self.rollout.observations_at(self.rollout.spread(rows))
        return dict.fromkeys(self.networks, observation)

    def objectives(self, rows: int) -> dict[str, Objective]:
        """The losses on rows of the last rollout, evenly spread, with advantages and returns fixed now; in fp32."""
        rollout, config, distribution = self.rollout, self.config, self.distribution
        chosen = rollout.spread(rows)
        returns, advantage = (one[chosen] for one in self._targets(rollout))
        weight = rollout.valid.flatten()[chosen].float()
        if config.normalize_advantages:
            advantage = normalized(advantage, weight)
        clip = config.clip

        def policy(outputs: Tensor, action: Tensor, log_prob: Tensor, advantage: Tensor, weight: Tensor) -> Tensor:
            new_log_prob, entropy = distribution.log_prob_and_entropy(outputs, action)
            surrogate = policy_loss(new_log_prob - log_prob, advantage, weight, clip)
            return surrogate - config.entropy_coefficient * (weight * entropy).sum()

        def value(outputs: Tensor, labels: Tensor, old: Tensor, weight: Tensor) -> Tensor:
            return self.value_loss(self._value_outputs(outputs), labels, old, weight, clip)

        def both(outputs: tuple[Tensor, Tensor], *targets: Tensor) -> Tensor:
            action, log_prob, advantage, weight, labels, old = targets
            of_value = value(outputs[1], labels, old, weight)
            return policy(outputs[0], action, log_prob, advantage, weight) + config.value_coefficient * of_value

        action, log_prob = rollout.action.flatten(0, 1)[chosen], rollout.log_prob.flatten()[chosen]
        old = rollout.value.flatten()[chosen]
        observation, count = rollout.observations_at(chosen), weight.sum().clamp(min=1.0)
        of_policy, of_value = (action, log_prob, advantage, weight), (self.values.labels(returns), old)
        if config.shared:
            return {"actor_critic": Objective(observation, both, (*of_policy, *of_value), count)}
        return {
            "actor": Objective(observation, policy, of_policy, count),
            "critic": Objective(observation, value, (*of_value, weight), count),
        }

    def scalars(self, env_steps: int) -> Mapping[str, float]:
        """The mean standard deviation of continuous actions."""
        if not self.continuous:
            return {}
        network = self.networks["actor_critic" if self.config.shared else "actor"]
        assert isinstance(network, ActorCritic | Policy) and isinstance(network.head, GaussianHead)
        return {"exploration/std": network.head.log_std.detach().exp().mean().item()}


def normalized(advantage: Tensor, weight: Tensor) -> Tensor:
    """Advantages of a minibatch, [batch], at mean 0 and standard deviation 1 over the rows that weigh 1."""
    count = weight.sum().clamp(min=1.0)
    away = advantage - (weight * advantage).sum() / count
    deviation = ((weight * away.square()).sum() / (count - 1.0).clamp(min=1.0)).sqrt()
    return away / (deviation + 1e-8)


def policy_loss(log_ratio: Tensor, advantage: Tensor, weight: Tensor, clip: float) -> Tensor:
    r"""Sum of :math:`-\min(r A, \operatorname{clip}(r, 1 - \epsilon, 1 + \epsilon) A)` (eq. 7), all [batch].

    Args:
        log_ratio: log of r, the action's probability over that of the rollout's policy.
        advantage: A.
        weight: 1 for rows that count, 0 for others.
        clip: epsilon.
    """
    ratio = log_ratio.exp()
    least = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    return -(weight * least).sum()


def squared_value_loss(value: Tensor, returns: Tensor, old: Tensor, weight: Tensor, clip: float | None) -> Tensor:
    """Half the sum of squared errors, all [batch]; with ``clip`` the larger of it and that of the bounded value.

    Args:
        value: the network's.
        returns: what they should be.
        old: the network's when the rollout was collected.
        weight: 1 for rows that count, 0 for others.
        clip: how far values may move from ``old`` before their gradient ends, as in OpenAI's baselines; None: as far as
            they like.
    """
    error = (value - returns).square()
    if clip is not None:
        error = torch.maximum(error, (old + (value - old).clamp(-clip, clip) - returns).square())
    return 0.5 * (weight * error).sum()


def supports(spec: EnvironmentSpec) -> str | None:
    """Why PPO cannot be used; None: it can, everywhere."""
    return None


def defaults(spec: EnvironmentSpec) -> PPOConfig:
    """The published settings for one kind of environment.

    Images: arXiv 2506.15544 for Atari. State vectors: CleanRL's, with more environments; continuous actions: those of
    Tianshou's benchmark on MuJoCo, without its recomputed advantages.
    """
    if spec.is_image:
        return PPOConfig()
    torso = TorsoConfig(depth=0, width=64, norm="none", activation="tanh")
    if isinstance(spec.action_space, Discrete):
        return PPOConfig(torso=torso, shared=False, clip=0.2)
    return PPOConfig(
        torso=torso,
        optimizer=OptimizerConfig(name="adam", adam_learning_rate=3e-4, schedule="linear"),
        num_envs=1,
        num_steps=2048,
        num_minibatches=32,
        num_epochs=10,
        shared=False,
        clip=0.2,
        clip_value=False,
        entropy_coefficient=0.0,
        normalize_observations=True,
        normalize_rewards=True,
        log_std=-0.5,
    )


ALGORITHM = Algorithm(
    title="PPO",
    agent=PPO,
    config=PPOConfig,
    supports=supports,
    defaults=defaults,
    build_networks=build_networks,
    experience_bytes=experience_bytes,
    metrics=(
        "loss/policy",
        "loss/value",
        "values/mean",
        "values/entropy",
        "values/kl",
        "values/clip_fraction",
        "exploration/std",
    ),
    distributed=True,
)
