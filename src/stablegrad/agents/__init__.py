"""Algorithms, one a file, on one contract; the catalogue finds them by name."""

from stablegrad.agents.ddpg import DDPG, DDPGConfig
from stablegrad.agents.dqn import DQN, DQNConfig
from stablegrad.agents.ppo import PPO, PPOConfig
from stablegrad.agents.pqn import PQN, PQNConfig
from stablegrad.agents.rainbow import Rainbow, RainbowConfig
from stablegrad.agents.sac import SAC, SACConfig
from stablegrad.agents.td3 import TD3, TD3Config

__all__ = [
    "DDPG",
    "DQN",
    "PPO",
    "PQN",
    "SAC",
    "TD3",
    "DDPGConfig",
    "DQNConfig",
    "PPOConfig",
    "PQNConfig",
    "Rainbow",
    "RainbowConfig",
    "SACConfig",
    "TD3Config",
]
