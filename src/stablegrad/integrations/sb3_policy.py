"""Stable-Baselines3: our torsos, encoders and optimizers as ``policy_kwargs``.

    from stable_baselines3 import PPO
    from stablegrad.integrations.sb3_policy import policy_kwargs

    agent = PPO("MlpPolicy", "LunarLander-v3", policy_kwargs=policy_kwargs("PPO", depth="large"))

Agents that are made so are saved and loaded by Stable-Baselines3 as any other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from stablegrad.errors import UsageError, unknown_name
from stablegrad.networks import EncoderConfig, TorsoConfig
from stablegrad.networks.config import TORSOS, make_encoder, make_torso
from stablegrad.networks.sizes import resolve_width
from stablegrad.optimizers.catalogue import OPTIMIZERS, make_optimizer

try:
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import get_flattened_obs_dim
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
except ImportError as error:
    raise UsageError("Stable-Baselines3 is not installed: pip install 'stablegrad[sb3]'") from error

#: Agents whose critics take the action beside the features, and agents with a policy and values.
ACTOR_CRITICS = ("SAC", "TD3", "DDPG", "TQC")
ON_POLICY = ("PPO", "A2C", "TRPO")
ALGORITHMS = (*ON_POLICY, "DQN", "QRDQN", *ACTOR_CRITICS)


class TorsoExtractor(BaseFeaturesExtractor):
    """An encoder and a torso of this package as a features extractor of Stable-Baselines3.

    Args:
        observation_space: a ``Box``, ``Discrete`` or ``MultiDiscrete``; images are uint8 [channels, height, width].
        encoder: settings of the encoder.
        torso: settings of the torso.

    Raises:
        UsageError: observations are dictionaries or tuples.
    """

    def __init__(self, observation_space: spaces.Space, encoder: EncoderConfig, torso: TorsoConfig):
        if isinstance(observation_space, spaces.Dict | spaces.Tuple):
            kind = type(observation_space).__name__
            raise UsageError(
                f"torsos take one array of observations, this environment has a {kind}; flatten it: "
                "gymnasium.wrappers.FlattenObservation(env)"
            )
        shape = observation_space.shape or ()
        is_image = isinstance(observation_space, spaces.Box) and len(shape) == 3
        made = make_encoder(
            encoder, shape if is_image else (get_flattened_obs_dim(observation_space),), is_image=is_image
        )
        torso_network = make_torso(torso, made.out_features)
        super().__init__(observation_space, torso_network.out_features)
        self.encoder, self.torso = made, torso_network

    def forward(self, observations: Tensor) -> Tensor:
        """``[batch, ...]`` to features ``[batch, features_dim]``."""
        return self.torso(self.encoder(observations))


def policy_kwargs(
    algorithm: str | type,
    *,
    torso: str = "multi_skip",
    depth: int | str = "small",
    width: int | str = 256,
    norm: str = "layer",
    activation: str = "relu",
    encoder: str = "auto",
    optimizer: str = "kron",
    share: bool = False,
    **optimizer_kwargs: Any,
) -> dict[str, Any]:
    """Arguments ``policy_kwargs`` for an agent with one of our torsos and optimizers.

    Policy and values have a torso each, unless they share one. The torso takes the place of ``net_arch``; critics of
    SAC, TD3, DDPG and TQC join its features with the action in one more hidden layer of the same width. Use it with
    "MlpPolicy" for vectors and images alike.

    Args:
        algorithm: the agent's class or its name: PPO, A2C, TRPO, DQN, QRDQN, SAC, TD3, DDPG or TQC.
        torso: mlp, residual, multi_skip or densenet.
        depth: blocks of two layers: small 1, medium 3, large 5, xlarge 10, or a number.
        width: units of a hidden layer.
        norm: after every linear layer of the torso: "layer" or "none".
        activation: relu, gelu, silu, tanh, elu, leaky_relu or crelu.
        encoder: of images: auto (Nature CNN), nature, impala or hadamax; of vectors: auto.
        optimizer: a name of ``stablegrad.optimizers``; Kron takes the rate at which Adam would train the agent.
        share: whether policy and values of an on-policy agent share encoder and torso.
        optimizer_kwargs: further arguments of the optimizer.

    Returns:
        a new dictionary, to which you can add.

    Raises:
        UsageError: an unknown algorithm or option, with the nearest valid one.
    """
    name = algorithm if isinstance(algorithm, str) else algorithm.__name__
    known = {one.lower(): one for one in ALGORITHMS}
    if name.lower() not in known:
        raise unknown_name("algorithm", name, ALGORITHMS)
    name = known[name.lower()]
    if torso not in TORSOS:
        raise unknown_name("torso", torso, TORSOS)
    if optimizer not in OPTIMIZERS:
        raise unknown_name("optimizer", optimizer, OPTIMIZERS)
    if share and name not in ON_POLICY:
        raise UsageError(f"share is for {', '.join(ON_POLICY)}; {name} is another kind of agent")
    config = TorsoConfig(kind=torso, depth=depth, width=width, norm=norm, activation=activation)
    found = {
        "features_extractor_class": TorsoExtractor,
        "features_extractor_kwargs": {"encoder": EncoderConfig(kind=encoder), "torso": config},
        "net_arch": {"pi": [], "qf": [resolve_width(width)]} if name in ACTOR_CRITICS else [],
        "optimizer_class": partial(make_optimizer, optimizer),
        "optimizer_kwargs": optimizer_kwargs,
    }
    if name in ON_POLICY:
        found["share_features_extractor"] = share
    return found
