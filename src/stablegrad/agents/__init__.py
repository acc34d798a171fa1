"""Algorithms, one a file, on one contract; the catalogue finds them by name."""

from stablegrad.agents.ddpg import DDPG, DDPGConfig
from stablegrad.agents.dqn import DQN, DQNConfig
from stablegrad.agents.pqn import PQN, PQNConfig
from stablegrad.agents.sac import SAC, SACConfig
from stablegrad.agents.td3 import TD3, TD3Config

__all__ = ["DDPG", "DQN", "PQN", "SAC", "TD3", "DDPGConfig", "DQNConfig", "PQNConfig", "SACConfig", "TD3Config"]
