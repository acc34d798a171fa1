"""Algorithms, one a file: act, targets, loss, update."""

from stablegrad.agents.pqn import PQN, PQNConfig

__all__ = ["PQN", "PQNConfig"]
