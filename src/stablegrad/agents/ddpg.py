"""DDPG: a deterministic policy for continuous actions, led by one critic, from a replay buffer.

Lillicrap et al., "Continuous control with deep reinforcement learning", 2016 (arXiv 1509.02971). It is TD3 without what
that added: a second critic, delayed updates of the actor, noise on the actions of targets. The defaults are otherwise
TD3's, which are CleanRL's for MuJoCo.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from stablegrad.agents import td3
from stablegrad.agents.td3 import TD3, TD3Config
from stablegrad.environments import EnvironmentSpec


@dataclass(frozen=True)
class DDPGConfig(TD3Config):
    """Everything that decides what DDPG learns; each of TD3's additions is an option that is off."""

    num_critics: int = 1
    policy_delay: int = 1
    target_policy_noise: float = 0.0


class DDPG(TD3):
    """The agent; see ``Agent`` and ``MakeAgent``."""


def defaults(spec: EnvironmentSpec) -> DDPGConfig:
    """CleanRL's settings for MuJoCo, the same for all environments; but the actor is updated as often as the critic."""
    return DDPGConfig()


ALGORITHM = dataclasses.replace(td3.ALGORITHM, title="DDPG", agent=DDPG, config=DDPGConfig, defaults=defaults)
