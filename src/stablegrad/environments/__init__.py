"""A name -> a vector environment with one exact contract."""

from stablegrad.environments.atari import AtariOptions
from stablegrad.environments.catalogue import EnvironmentInfo, list_environments
from stablegrad.environments.contract import Box, Discrete, EnvironmentSpec, EpisodeStatistics, StepResult, VectorEnv
from stablegrad.environments.make import environment_spec, make_vector_env
from stablegrad.environments.seeds import environment_seeds

__all__ = [
    "AtariOptions",
    "Box",
    "Discrete",
    "EnvironmentInfo",
    "EnvironmentSpec",
    "EpisodeStatistics",
    "StepResult",
    "VectorEnv",
    "environment_seeds",
    "environment_spec",
    "list_environments",
    "make_vector_env",
]
