"""``stablegrad evaluate``: greedy episodes of a trained agent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError, command
from stablegrad.supervised.config import ALGORITHM as SUPERVISED
from stablegrad.training.evaluation import evaluate_run
from stablegrad.training.run_folder import RunFolder


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad evaluate`` takes."""

    run_dir: tyro.conf.Positional[Path]
    """The run's folder; its newest checkpoint is played."""
    episodes: int = 10
    """Whole games to play, each on a fresh environment."""
    seed: int | None = None
    """Seed of the environments; default: the run's."""
    video: Path | None = None
    """MP4 file to write of the first game (needs the extra 'video')."""
    max_episode_steps: int | None = None
    """Steps after which a game is cut; default: the environment's time limit, or 27,000 where it has none."""
    device: str = "auto"
    """cpu, cuda, cuda:<n>; auto: cuda where there is one."""
    json: bool = False
    """Print the result as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "evaluate", arguments, "Play greedy episodes with a run's newest checkpoint; raw scores.")
    if RunFolder(parsed.run_dir).read_config().get("algorithm") == SUPERVISED:
        raise UsageError(
            f"run '{parsed.run_dir}' is a classifier's, which plays no episodes; "
            f"'{command('report', parsed.run_dir)}' shows its training and test accuracy"
        )
    result = evaluate_run(
        parsed.run_dir,
        episodes=parsed.episodes,
        seed=parsed.seed,
        video=parsed.video,
        device=parsed.device,
        max_episode_steps=parsed.max_episode_steps,
        quiet=parsed.quiet,
    )
    if parsed.json:
        print(json.dumps(result))
        return 0
    spread = "" if result["standard_deviation"] is None else f" +- {result['standard_deviation']:,.1f}"
    normalized = result["human_normalized_score"]
    human = "" if normalized is None else f", human-normalised score {normalized:.3f}"
    print(
        f"return {result['mean_return']:,.1f}{spread} over {result['episodes']} episodes "
        f"({result['minimum']:,.1f} to {result['maximum']:,.1f}){human}; checkpoint of step {result['step']:,}"
    )
    if result["cut_episodes"]:
        print(
            f"{result['cut_episodes']} of the episodes had not ended after {result['max_episode_steps']:,} steps and "
            "were cut there: they count with the return that they had"
        )
    if parsed.video is not None:
        print(f"video of the first episode: {parsed.video}")
    return 0
