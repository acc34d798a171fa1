"""What the bootstrap takes, and how often its 95% intervals hold the true value.

    python benchmarks/bootstrap.py

Time: 10,000 replicates of 57 environments x 5 seeds x 2 agents; the bar is 5 s for all statistics together.
Coverage: repetitions of a study whose true values are known, by the number of seeds. Results in
benchmarks/results/bootstrap.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np

from common import save
from stablegrad.studies import statistics

SEEDS, ENVIRONMENTS, REPLICATES = 5, 57, 10_000
BAR = 5.0
REPETITIONS = 2000
COVERED_REPLICATES = 1000
SHIFT = 0.2  # by which one agent is better, in standard deviations of a run


def timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of each call, of the second time: the first one warms up."""
    seconds = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        seconds[name] = round(time.perf_counter() - start, 4)
        print(f"{name}: {seconds[name]:.3f} s", flush=True)
    return seconds


def speed() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    x, y = (generator.gamma(1.0, np.linspace(0.2, 3, ENVIRONMENTS), size=(SEEDS, ENVIRONMENTS)) for _ in range(2))
    thresholds = np.linspace(0, 8, 101)
    options: dict[str, Any] = {"replicates": REPLICATES}
    seconds = timed(
        {
            "aggregates of both": lambda: [statistics.aggregates(scores, **options) for scores in (x, y)],
            "probability of improvement": lambda: statistics.improvement_interval(x, y, **options),
            "paired difference of IQMs": lambda: statistics.paired_bootstrap(x, y, **options),
            "profiles of both, 101 thresholds": lambda: [
                statistics.performance_profile(scores, thresholds, **options) for scores in (x, y)
            ],
        }
    )
    total = sum(seconds.values())
    print(f"together {total:.2f} s (bar {BAR:.0f} s): {'reached' if total <= BAR else 'MISSED'}")
    return {"seconds": seconds, "together": round(total, 4), "bar": BAR}


def coverage(seeds: int, environments: int = 10) -> dict[str, float]:
    """Share of repetitions in which the 95% interval holds the true value."""
    generator = np.random.default_rng(seeds)
    scales = np.linspace(0.2, 2, environments)

    def skewed(*shape: int) -> np.ndarray:
        return generator.gamma(2.0, scales, size=(*shape, environments))

    def holds(interval: tuple[Any, Any] | None, truth: float) -> bool:
        assert interval is not None
        return bool(interval[0] <= truth <= interval[1])

    many = skewed(400_000)
    truths = {
        "iqm": float(statistics.aggregate_iqm(many)),
        "median": float(np.median(2 * scales)),
        "mean": float((2 * scales).mean()),
        "optimality_gap": float(statistics.aggregate_optimality_gap(many)),
    }
    truths["probability_of_improvement"] = NormalDist().cdf(SHIFT / 2**0.5)
    held = dict.fromkeys(truths, 0)
    # A repetition at a time: drawn together, all would share the luck of the same replicates.
    options: dict[str, Any] = {"replicates": COVERED_REPLICATES, "rng": generator}
    for _ in range(REPETITIONS):
        found = dict(statistics.aggregates(skewed(seeds), **options))
        better, worse = generator.normal(size=(2, seeds, environments)) + np.array([SHIFT, 0])[:, None, None]
        found["probability_of_improvement"] = statistics.improvement_interval(better, worse, **options)
        for name, truth in truths.items():
            held[name] += holds(found[name].interval, truth)
    shares = {name: count / REPETITIONS for name, count in held.items()}
    print(f"{seeds} seeds: " + ", ".join(f"{name} {share:.1%}" for name, share in shares.items()), flush=True)
    return shares


def main() -> None:
    result = {
        "case": {"replicates": REPLICATES, "environments": ENVIRONMENTS, "seeds": SEEDS, "agents": 2},
        "speed": speed(),
        "coverage": {str(seeds): coverage(seeds) for seeds in (3, 5, 10, 20)},
    }
    save("bootstrap", "python benchmarks/bootstrap.py", result)


if __name__ == "__main__":
    main()
