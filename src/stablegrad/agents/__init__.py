"""Algorithms, one a file, on one contract; the catalogue finds them by name."""

from stablegrad.agents.dqn import DQN, DQNConfig
from stablegrad.agents.pqn import PQN, PQNConfig
from stablegrad.agents.rainbow import Rainbow, RainbowConfig
from stablegrad.agents.sac import SAC, SACConfig

__all__ = ["DQN", "PQN", "SAC", "DQNConfig", "PQNConfig", "Rainbow", "RainbowConfig", "SACConfig"]
