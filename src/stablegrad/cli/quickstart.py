"""``stablegrad quickstart``: the main job in one go, in a few minutes on two cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stablegrad.cli import compare
from stablegrad.cli.arguments import parse

ENV = "LunarLander-v3"
DEPTH = "xlarge"
WIDTH = 128
TOTAL_STEPS = 100_000
SEEDS = 3


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad quickstart`` takes."""

    dir: Path = Path("runs/quickstart")
    """Folder of the comparison; a finished one is shown again at once."""
    json: bool = False
    """Print the figures as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "quickstart", arguments, "See a deep network fail, and the same network stabilised.")
    command = ["pqn", "--env", ENV, "--torso.depth", DEPTH, "--torso.width", str(WIDTH)]
    command += ["--total-steps", str(TOTAL_STEPS), "--seeds", str(SEEDS)]
    print(
        f"PQN learns to land on the moon ({ENV}) with a network of 22 layers, {SEEDS} seeds for each of two settings:\n"
        "  baseline  a plain stack of layers, trained with RAdam: what the field uses\n"
        "  stable    the same size with multi-skip residual blocks, trained with Kron\n"
        "A random agent gets about -190, a good landing is +200. This takes some minutes. As a command of your own:\n"
        f"  stablegrad compare {' '.join(command)}\n"
        "The plain stack fails at 0.3, 3 and 10 times its learning rate, too: add --tune-rate 4 to see (an hour).\n",
        flush=True,
    )
    flags = [f"--{name}" for name in ("json", "quiet") if getattr(parsed, name)]
    return compare.run([*command, "--dir", str(parsed.dir), *flags])
