"""How much of a training's wall time goes into the work itself: environment, act, update, optimizer.

    python benchmarks/overhead.py

The bar: at least 95%. The rest is diagnosis, logging, checkpoints and the loop.
"""

from __future__ import annotations

import dataclasses

from common import save, train_all
from stablegrad.training.config import default_run

RUNS = {
    "CartPole-v1 baseline": ("CartPole-v1", "baseline", 200_000),
    "LunarLander-v3 baseline": ("LunarLander-v3", "baseline", 200_000),
    "LunarLander-v3 stable large": ("LunarLander-v3", "stable+torso.depth=large", 50_000),
    "Breakout-v5 baseline": ("Breakout-v5", "baseline", 25_000),
}
PARTS = ("environment", "act", "update", "optimizer")


def main() -> None:
    shares = {}
    for name, (env, setting, steps) in RUNS.items():
        run = dataclasses.replace(default_run("pqn", env, setting), total_steps=steps, threads=2)
        result = train_all({name: run}, workers=1)[name]
        shares[name] = {
            "share": sum(result["seconds"][part] for part in PARTS) / result["wall_seconds"],
            "seconds": result["seconds"],
            "wall_seconds": result["wall_seconds"],
        }
        print(f"{name}: {shares[name]['share']:.1%} of {result['wall_seconds']:.0f} s")
    save("overhead", "python benchmarks/overhead.py", {"runs": shares})


if __name__ == "__main__":
    main()
