"""What a search asks the diagnosis: of a network before it is trained, and of a run that is under way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch

from stablegrad.agents.catalogue import find_algorithm
from stablegrad.agents.off_policy import OffPolicyConfig
from stablegrad.diagnostics.history import looks_of
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.diagnostics.prescriptions import Prescription, prescribe
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.diagnostics.rules import Finding
from stablegrad.environments import environment_seeds, make_vector_env
from stablegrad.errors import StablegradError
from stablegrad.training.config import RunConfig

#: Verdicts that stop a trial.
ILL = ("collapsing", "collapsed")
PREFLIGHT_SECONDS = 30.0
SAMPLE_ROWS = 512


def prescriptions_of(diagnosis: Mapping[str, Any]) -> list[Prescription]:
    """What all that was found in the baseline points to; ``diagnosis`` is that of search.json."""
    return prescribe([Finding.from_dict(one) for one in [*(diagnosis["run"] or []), *diagnosis["preflight"]]])


def preflight_findings(config: RunConfig) -> list[Finding]:
    """What the pre-flight finds in the networks of a configuration, on what they are given before they learn.

    A network so slow that the time does not suffice to judge it has no findings; its run is diagnosed all the same.
    """
    algorithm = find_algorithm(config.algorithm)
    agent_config = config.agent
    if isinstance(agent_config, OffPolicyConfig):
        agent_config = dataclasses.replace(agent_config, buffer_size=max(SAMPLE_ROWS, agent_config.num_envs))
    spec = config.spec
    agent = algorithm.agent(agent_config, spec, total_steps=config.total_steps, device=torch.device("cpu"), seed=0)
    num_envs = agent_config.num_envs
    env = make_vector_env(
        config.env,
        num_envs,
        seeds=environment_seeds(0, 0, num_envs),
        atari=config.atari,
        action_repeat=config.action_repeat,
    )
    try:
        agent.begin(env.reset())
        for _ in range(max(-(-SAMPLE_ROWS // (num_envs * agent_config.horizon)), 1) * agent_config.horizon):
            agent.observe(env.step(agent.act(0)))
    finally:
        env.close()
    found: list[Finding] = []
    for name, inputs in agent.probe(SAMPLE_ROWS).items():
        with suppress(StablegradError):
            found += diagnose(agent.networks[name], inputs, seconds=PREFLIGHT_SECONDS, values=False).findings
    return found


def illness(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The verdict on a run's log, with its reason, where it should not go on; None where it may."""
    if not looks_of(rows):
        return None  # nothing was looked at yet
    report = diagnose_recorded(rows)
    return f"{report.verdict}, {report.findings[0].reason}" if report.verdict in ILL else None
