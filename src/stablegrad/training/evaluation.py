"""How good an agent is: greedy episodes on fresh environments, raw scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from stablegrad.agents import PQN
from stablegrad.environments import AtariOptions, environment_seeds, environment_spec, make_vector_env
from stablegrad.environments.atari_scores import ALE_57, human_normalized_score
from stablegrad.errors import CheckpointError, UsageError
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights
from stablegrad.training.config import RunConfig, resolve_device
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.video import video_writer

#: Segment number of evaluation: no training run gets there, so its environments share no seed with training.
EVALUATION_SEGMENT = 2**31
MAX_ENVS = 16


def evaluate_run(
    run_dir: Path | str,
    *,
    episodes: int = 10,
    seed: int | None = None,
    video: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run.

    Args:
        run_dir: the run.
        episodes: whole games to play.
        seed: of the environments; None: the run's.
        video: MP4 file to write of the first game.
        device: where to run the network; not necessarily where it was trained.

    Returns:
        What ``evaluate`` returns, with "step", the checkpoint's.

    Raises:
        CheckpointError: the run has no checkpoint, or a damaged one.
    """
    folder = RunFolder(run_dir)
    config = RunConfig.from_json(folder.read_config())
    checkpoints = list_checkpoints(folder.checkpoints_path)
    if not checkpoints:
        raise CheckpointError(f"run '{folder.path}' has no checkpoint yet; evaluate it after its first one")
    weights, state = load_checkpoint(checkpoints[-1])
    spec = environment_spec(config.env, atari=config.atari)
    agent = PQN(config.agent, spec, total_steps=config.total_steps, device=resolve_device(device), seed=0)
    load_weights(agent.network, weights, checkpoints[-1])
    result = evaluate(
        agent.act_greedily,
        config.env,
        episodes=episodes,
        seed=config.seed if seed is None else seed,
        atari=config.atari,
        video=video,
    )
    return {"step": state["env_steps"], **result}


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    env_id: str,
    *,
    episodes: int,
    seed: int,
    atari: AtariOptions | None = None,
    video: Path | None = None,
    stop: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Play whole games and report their raw returns.

    Each environment plays the same number of games, first come first counted, so that short games do not crowd out
    long ones.

    Args:
        act: observations [n, ...] to actions int64 [n].
        env_id: the environment; life loss and reward clipping are switched off for Atari.
        episodes: games to play, at least 1.
        seed: of the environments.
        atari: preprocessing of the training run.
        video: MP4 file to write of the first game.
        stop: called before every step; raises to stop.

    Returns:
        {"episodes", "mean_return", "standard_deviation" (None for one game), "minimum", "maximum",
        "mean_length", "returns": [...], "human_normalized_score": mean, None where there is none}.
    """
    if episodes < 1:
        raise UsageError(f"episodes must be at least 1, got {episodes}")
    if atari is not None:
        atari = dataclasses.replace(atari, life_loss_terminal=False, clip_rewards=False)
    returns: list[float] = []
    lengths: list[int] = []
    num_envs = min(episodes, MAX_ENVS)
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    first_quota = quota[0]
    with ExitStack() as stack:
        add_frame = stack.enter_context(video_writer(video)) if video is not None else None
        env = make_vector_env(
            env_id,
            num_envs,
            seeds=environment_seeds(seed, EVALUATION_SEGMENT, num_envs),
            atari=atari,
            render=video is not None,
        )
        stack.callback(env.close)
        observation = env.reset()
        while quota.any():
            if stop is not None:
                stop()
            if add_frame is not None and quota[0] == first_quota and (frame := env.render()) is not None:
                add_frame(frame)
            result = env.step(act(observation))
            observation = result.observation
            counted = result.episode.finished & (quota > 0)
            if counted.any():
                returns += result.episode.returns[counted].tolist()
                lengths += result.episode.lengths[counted].tolist()
                quota[counted] -= 1
    game = environment_spec(env_id, atari=atari).atari_game
    mean = float(np.mean(returns))
    return {
        "episodes": len(returns),
        "mean_return": mean,
        "standard_deviation": float(np.std(returns, ddof=1)) if len(returns) > 1 else None,
        "minimum": min(returns),
        "maximum": max(returns),
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
        "human_normalized_score": float(human_normalized_score(game, mean)) if game in ALE_57 else None,
    }
