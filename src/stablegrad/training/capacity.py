"""What the networks of an agent can still learn, while it trains or from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stablegrad.agents.catalogue import find_algorithm
from stablegrad.agents.contract import Agent, shown_names
from stablegrad.diagnostics.capacity import REFIT, ROWS, Capacity, measure_capacity
from stablegrad.diagnostics.history import NETWORK, looks_of
from stablegrad.environments import environment_seeds, make_vector_env
from stablegrad.errors import CheckpointError, StablegradError
from stablegrad.hardware import denormals_flushed
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights
from stablegrad.training.config import RunConfig, resolve_device
from stablegrad.training.health import fresh_network
from stablegrad.training.run_folder import RunFolder

#: Segment number of the environments that inputs come from: no training run gets there.
CAPACITY_SEGMENT = 2**31 + 1


def with_capacity(
    folder: RunFolder,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    say: Callable[[str], None],
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The lines of a run's log with the capacity of its newest checkpoint, measured now unless the last line has it.

    Args:
        folder: the run.
        config: its configuration, as JSON values.
        rows: the lines of its metrics.jsonl.
        say: called before something that takes seconds, with what it is.

    Returns:
        (the lines, notes on why it could not be measured).
    """
    rows = list(rows)
    newest = next(iter(looks_of(reversed(rows))), None)
    if "env" not in config or newest is None or any(key.startswith(f"{REFIT}/") for key in newest):
        return rows, []
    say("measuring what its networks can still learn, on copies of the newest checkpoint")
    try:
        _, found = capacity_of_run(folder)
    except StablegradError as error:
        return rows, [f"what its networks can still learn was not measured: {error}"]
    figures = {f"{key}/{site or NETWORK}": value for site, one in found.items() for key, value in one.figures().items()}
    return [{**row, **figures} if row is newest else row for row in rows], []


@denormals_flushed()
def capacity_of_run(run_dir: RunFolder, *, device: str = "auto", seed: int = 0) -> tuple[int, dict[str, Capacity]]:
    """Measure the networks of a run's newest checkpoint, on inputs that its agent meets in its environment.

    Args:
        run_dir: the folder of an agent's run; nothing in it is changed.
        device: where the networks are run.
        seed: draws targets, weights and batches.

    Returns:
        (the checkpoint's step, what was measured of each network by the name under which it is shown).

    Raises:
        CheckpointError: the run has no checkpoint, or a damaged one.
    """
    config = RunConfig.from_json(run_dir.read_config())
    checkpoints = list_checkpoints(run_dir.checkpoints_path)
    if not checkpoints:
        raise CheckpointError(f"run '{run_dir.path}' has no checkpoint yet")
    weights, state = load_checkpoint(checkpoints[-1])
    agent = find_algorithm(config.algorithm).agent(
        config.agent, config.spec, total_steps=config.total_steps, device=resolve_device(device), seed=config.seed
    )
    load_weights(agent.networks, weights, checkpoints[-1])
    try:
        agent.load_state_dict(state["agent"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"checkpoint '{checkpoints[-1]}' does not fit the run's agent: {error}") from error
    agent.reseed(seed)
    step = int(state["env_steps"])
    with _threads(torch.get_num_threads() if config.spec.is_image else 1):
        return step, capacities(agent, _inputs(config, agent, step), seed=seed)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Run with so many threads of torch: several only wait for each other where layers are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def capacities(agent: Agent, inputs: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, Capacity]:
    """Measure each network of an agent, by the name under which it is shown; the agent is left alone.

    Args:
        agent: whose networks are measured, with the settings of their optimizers.
        inputs: [rows, ...] of each network by its name, as from ``Agent.probe``; a network without is left out.
        seed: draws targets, weights and batches.
    """
    return {
        shown: measure_capacity(
            partial(fresh_network, agent, name),
            network.state_dict(),
            inputs[name],
            agent.config.optimizer_of(name).build,
            seed=seed,
        )
        for shown, (name, network) in zip(shown_names(agent.networks), agent.networks.items(), strict=True)
        if name in inputs and name in agent.optimizers
    }


def _inputs(config: RunConfig, agent: Agent, env_steps: int) -> Mapping[str, Tensor]:
    """What the networks see while the agent plays on, without learning."""
    count = config.agent.num_envs
    env = make_vector_env(
        config.env,
        count,
        seeds=environment_seeds(config.seed, CAPACITY_SEGMENT, count),
        atari=config.atari,
        action_repeat=config.action_repeat,
    )
    with closing(env), torch.no_grad():
        agent.begin(env.reset())
        # A rollout holds one horizon; a replay buffer takes as many steps as it is given.
        steps = agent.config.horizon if agent.replay is None else -(-ROWS // count)
        for _ in range(steps):
            agent.observe(env.step(agent.act(env_steps)))
    return agent.probe(ROWS)
