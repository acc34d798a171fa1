"""Runs an agent: loop, checkpoints, evaluation, logs, progress."""
