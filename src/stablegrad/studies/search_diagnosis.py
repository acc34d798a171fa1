"""What a search asks the diagnosis: of a network before it is trained, and of a run that is under way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stablegrad.agents.pqn import build_network
from stablegrad.diagnostics.history import looks_of
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.diagnostics.prescriptions import Prescription, prescribe
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.diagnostics.rules import Finding
from stablegrad.environments import Discrete, environment_seeds, environment_spec, make_vector_env
from stablegrad.errors import StablegradError
from stablegrad.training.config import RunConfig

#: Verdicts that stop a trial.
ILL = ("collapsing", "collapsed")
PREFLIGHT_SECONDS = 30.0
SAMPLE_ENVS, SAMPLE_STEPS = 16, 32


def prescriptions_of(diagnosis: Mapping[str, Any]) -> list[Prescription]:
    """What all that was found in the baseline points to; ``diagnosis`` is that of search.json."""
    return prescribe([Finding.from_dict(one) for one in [*(diagnosis["run"] or []), *diagnosis["preflight"]]])


def preflight_findings(config: RunConfig) -> list[Finding]:
    """What the pre-flight finds in the network of a configuration, on observations of random actions.

    A network so slow that the time does not suffice to judge it has no findings; its run is diagnosed all the same.
    """
    spec = environment_spec(config.env, atari=config.atari)
    assert isinstance(spec.action_space, Discrete)
    actions, seeds = spec.action_space.n, environment_seeds(0, 0, SAMPLE_ENVS)
    env = make_vector_env(config.env, SAMPLE_ENVS, seeds=seeds, atari=config.atari, num_threads=1)
    random = np.random.default_rng(0)
    try:
        seen = [env.reset()]
        seen += [env.step(random.integers(actions, size=SAMPLE_ENVS)).observation for _ in range(SAMPLE_STEPS)]
    finally:
        env.close()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config.agent, spec)
    try:
        return diagnose(network, torch.from_numpy(np.concatenate(seen)), seconds=PREFLIGHT_SECONDS).findings
    except StablegradError:
        return []


def illness(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The verdict on a run's log, with its reason, where it should not go on; None where it may."""
    if not looks_of(rows):
        return None  # nothing was looked at yet
    report = diagnose_recorded(rows)
    return f"{report.verdict}, {report.findings[0].reason}" if report.verdict in ILL else None
