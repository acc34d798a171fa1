"""How good an agent is: greedy episodes on fresh environments, raw scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from stablegrad.agents.catalogue import find_algorithm
from stablegrad.environments import AtariOptions, environment_seeds, environment_spec, make_vector_env
from stablegrad.environments.atari_scores import ALE_57, human_normalized_score
from stablegrad.errors import CheckpointError, UsageError
from stablegrad.hardware import denormals_flushed
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights
from stablegrad.training.config import RunConfig, resolve_device
from stablegrad.training.progress import PLAIN_INTERVAL
from stablegrad.training.run_folder import RunFolder
from stablegrad.training.video import video_writer

#: Segment number of evaluation: no training run gets there, so its environments share no seed with training.
EVALUATION_SEGMENT = 2**31
MAX_ENVS = 16
#: Steps after which an episode is cut where the environment has no time limit: 30 minutes of an Atari game, 108,000
#: frames in steps of 4 (Machado et al. 2018, "Revisiting the Arcade Learning Environment").
EPISODE_LIMIT = 27_000


@denormals_flushed()
def evaluate_run(
    run_dir: Path | str,
    *,
    episodes: int = 10,
    seed: int | None = None,
    video: Path | None = None,
    device: str = "auto",
    max_episode_steps: int | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Evaluate the newest checkpoint of a run.

    Args:
        run_dir: the run.
        episodes: whole games to play.
        seed: of the environments; None: the run's.
        video: MP4 file to write of the first game.
        device: where to run the network; not necessarily where it was trained.
        max_episode_steps: as for ``evaluate``.
        quiet: show no progress.

    Returns:
        What ``evaluate`` returns, with "step", the checkpoint's.

    Raises:
        CheckpointError: the run has no checkpoint, or a damaged one.
    """
    folder = RunFolder(run_dir)
    config = RunConfig.from_json(folder.read_config())
    checkpoints = list_checkpoints(folder.checkpoints_path)
    if not checkpoints:
        raise CheckpointError(
            f"run '{folder.path}' has no checkpoint yet; 'stablegrad resume {folder.path}' goes on to its first one"
        )
    weights, state = load_checkpoint(checkpoints[-1])
    make_agent = find_algorithm(config.algorithm).agent
    agent = make_agent(config.agent, config.spec, total_steps=config.total_steps, device=resolve_device(device), seed=0)
    load_weights(agent.networks, weights, checkpoints[-1])
    result = evaluate(
        agent.policy,
        config.env,
        episodes=episodes,
        seed=config.seed if seed is None else seed,
        atari=config.atari,
        action_repeat=config.action_repeat,
        video=video,
        max_episode_steps=max_episode_steps,
        quiet=quiet,
    )
    return {"step": state["env_steps"], **result}


def evaluate(
    act: Callable[[np.ndarray], np.ndarray],
    env_id: str,
    *,
    episodes: int,
    seed: int,
    atari: AtariOptions | None = None,
    action_repeat: int = 1,
    video: Path | None = None,
    stop: Callable[[], None] | None = None,
    max_episode_steps: int | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Play whole games and report their raw returns.

    Games are whole ones, from raw rewards, in the run's own preprocessing: where a lost life ended an episode in
    training, the engine presses FIRE after it here as well. Without that an agent which never had to press it waits for
    a ball until the time limit.

    Each environment plays the same number of games, first come first counted, so that short games do not crowd out
    long ones. A game that does not end is cut, so that every evaluation does, and counts as truncated: with the return
    that it had by then. As an environment cannot be made to start anew, what is left to play where a game was cut is
    played in fresh ones, once the others have played theirs.

    Args:
        act: observations [n, ...] to actions, as ``VectorEnv.step`` takes them.
        env_id: the environment.
        episodes: games to play, at least 1.
        seed: of the environments.
        atari: preprocessing of the training run.
        action_repeat: of the training run.
        video: MP4 file to write of the first game.
        stop: called before every step; raises to stop.
        max_episode_steps: steps after which a game is cut; None: the environment's own time limit, or 27,000 where it
            tells none.
        quiet: show no progress.

    Returns:
        {"episodes", "mean_return", "standard_deviation" (None for one game), "minimum", "maximum",
        "mean_length", "returns": [...], "human_normalized_score": mean, None where there is none,
        "max_episode_steps": where games are cut, "cut_episodes": how many were}. A game that the environment's own
        time limit ended is not counted as cut.
    """
    for name, value in (("episodes", episodes), ("max-episode-steps", max_episode_steps)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, got {value}")
    spec = environment_spec(env_id, atari=atari, action_repeat=action_repeat)
    limit = max_episode_steps or spec.max_episode_steps or EPISODE_LIMIT
    returns: list[float] = []
    lengths: list[int] = []
    cut_episodes = 0
    segment = EVALUATION_SEGMENT
    num_envs = min(episodes, MAX_ENVS)
    quota = np.full(num_envs, episodes // num_envs)
    quota[: episodes % num_envs] += 1
    first_quota = quota[0]
    with ExitStack() as stack:
        add_frame = stack.enter_context(video_writer(video)) if video is not None else None
        progress = EvaluationProgress(episodes, quiet=quiet)
        stack.callback(progress.close)
        while quota.any():
            seeds = environment_seeds(seed, segment, num_envs)
            made = make_vector_env(
                env_id, num_envs, seeds=seeds, atari=atari, render=video is not None, action_repeat=action_repeat
            )
            with closing(made) as env:
                observation = env.reset()
                playing = quota > 0
                while playing.any():
                    if stop is not None:
                        stop()
                    if add_frame is not None and quota[0] == first_quota and (frame := env.render()) is not None:
                        add_frame(frame)
                    result = env.step(act(observation))
                    observation = result.observation
                    cut = playing & ~result.episode.finished & (result.episode.lengths >= limit)
                    counted = playing & result.episode.finished | cut
                    if counted.any():
                        returns += result.episode.returns[counted].tolist()
                        lengths += result.episode.lengths[counted].tolist()
                        cut_episodes += int(np.count_nonzero(cut))
                        quota[counted] -= 1
                        playing &= (quota > 0) & ~cut
                    progress.update(returns)
            segment += 1
    mean = float(np.mean(returns))
    return {
        "episodes": len(returns),
        "mean_return": mean,
        "standard_deviation": float(np.std(returns, ddof=1)) if len(returns) > 1 else None,
        "minimum": min(returns),
        "maximum": max(returns),
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
        "human_normalized_score": (
            float(human_normalized_score(spec.atari_game, mean)) if spec.atari_game in ALE_57 else None
        ),
        "max_episode_steps": limit,
        "cut_episodes": cut_episodes,
    }


class EvaluationProgress:
    """Shows games done, their mean return so far and the time: a bar on a terminal, plain lines elsewhere.

    Args:
        episodes: games of the whole evaluation.
        quiet: show nothing.
    """

    def __init__(self, episodes: int, *, quiet: bool = False):
        self.episodes = episodes
        self._started = self._printed = time.monotonic()
        self._bar: Progress | None = None
        self._plain = not quiet and not sys.stderr.isatty()
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("evaluation: {task.completed:.0f}/{task.total:.0f} episodes"),
                BarColumn(),
                TextColumn("mean return {task.fields[mean]}"),
                TimeElapsedColumn(),
                TextColumn("elapsed"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=episodes, mean="-")
            self._bar.start()

    def update(self, returns: list[float]) -> None:
        """Show that the games with these returns are done."""
        now = time.monotonic()
        done = len(returns)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, mean=_shown_mean(returns))
        elif self._plain and (now - self._printed >= PLAIN_INTERVAL or done == self.episodes):
            self._printed = now
            elapsed = now - self._started
            done_so_far = f"{done}/{self.episodes} episodes  mean return {_shown_mean(returns)}"
            line = f"evaluation: {done_so_far}  {elapsed:,.0f} s elapsed"
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                self._plain = False  # nobody reads any more; the evaluation goes on

    def close(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()


def _shown_mean(returns: list[float]) -> str:
    return f"{np.mean(returns):,.1f}" if returns else "-"
