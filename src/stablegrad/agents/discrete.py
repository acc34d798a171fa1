"""What agents share that choose one action out of a list by its value."""

from __future__ import annotations

from torch import nn

from stablegrad.agents.contract import AgentConfig
from stablegrad.environments import Discrete, EnvironmentSpec
from stablegrad.networks import QNetwork


def supports(spec: EnvironmentSpec) -> str | None:
    """Why such an agent cannot be used in an environment; None: it can."""
    if isinstance(spec.action_space, Discrete):
        return None
    return f"needs discrete actions; those of {spec.env_id!r} are continuous"


def greedy_outputs(config: AgentConfig) -> dict[str, str | None]:
    """``Agent.outputs`` of a Q-network: actions are those of the highest value."""
    return {"q": "argmax" if config.value_outputs is None else "expected_argmax"}


def build_networks(config: AgentConfig, spec: EnvironmentSpec, *, dueling: bool = False) -> dict[str, nn.Module]:
    """The Q-network of a configuration, freshly initialised; ``dueling`` as of ``QNetwork``."""
    assert isinstance(spec.action_space, Discrete)
    network = QNetwork(
        spec.observation_shape,
        spec.action_space.n,
        encoder=config.encoder,
        torso=config.torso,
        is_image=spec.is_image,
        dueling=dueling,
        num_atoms=config.value_outputs,
    )
    return {"q": network}
