"""Make big deep-RL networks learn: diagnose, stabilise, train, prove (arXiv 2506.15544)."""

__version__ = "0.1.0"
