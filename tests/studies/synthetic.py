"""Writes comparison folders like those that training leaves behind, so that reading them can be tested in no time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

PLAIN = ["encoder.0"] + [f"torso.layers.{index}" for index in range(12)] + ["head"]
SKIP = (
    ["encoder.0", "torso.skip"] + [f"torso.blocks.{index}.{part}" for index in range(5) for part in ("first", "second")]
) + ["head"]


def write_run(
    folder: Path,
    *,
    setting: str = "baseline",
    seed: int = 1,
    env: str = "LunarLander-v3",
    total_steps: int = 300_000,
    points: int = 150,
    returns: np.ndarray | None = None,
    layers: list[str] = PLAIN,
    fading: float = 0.0,
    zero_from: tuple[int, float] | None = None,
    seconds_per_1000: float = 0.2,
    optimizer_share: float = 0.2,
    status: str | None = "finished",
    error: str | None = None,
) -> None:
    """One run folder; ``fading`` decades of gradient are lost a layer by the end, more towards the encoder.

    ``zero_from`` (layer index, share of the run): from then on that layer's gradient is exactly zero.
    """
    generator = np.random.default_rng((seed, len(setting)))
    folder.mkdir(parents=True)
    _write(folder / "config.json", {"format": 1, **config(setting, env=env, total_steps=total_steps), "seed": seed})
    if returns is None:
        returns = learning(points, generator)
    steps = np.linspace(total_steps / points, total_steps, points).round().astype(int)
    with (folder / "metrics.jsonl").open("w") as file:
        for index, (step, value) in enumerate(zip(steps, returns, strict=True)):
            row: dict[str, float] = {"step": int(step), "wall_seconds": step * seconds_per_1000 / 1000}
            if index >= 3:  # no episode has ended before
                row |= {"train/return": float(value), "train/episodes": index * 7}
            row |= {"loss/td": 1.0, "gradients/norm": 2.0, "speed/steps_per_second": 1000 / seconds_per_1000}
            for depth, layer in enumerate(layers):
                decades = -fading * (len(layers) - 1 - depth) * index / points
                norm = 10 ** (decades + 0.1 * generator.normal())
                if zero_from is not None and depth == zero_from[0] and index >= zero_from[1] * points:
                    norm = 0.0
                row[f"gradient_norm/{layer}"] = norm
            file.write(json.dumps(row) + "\n")
    if error is not None:
        (folder / "stderr.log").write_text(f"a warning\nstablegrad compare: this run failed: {error}\n")
    if status is None:
        return
    wall = total_steps * seconds_per_1000 / 1000
    shares = {"environment": 0.2, "act": 0.15, "update": 0.62 - optimizer_share, "optimizer": optimizer_share}
    summary = {
        "status": status,
        "algorithm": "pqn",
        "environment": env,
        "preset": setting,
        "seed": seed,
        "parameters": 869_000,
        "layers": layers,
        "env_steps": total_steps,
        "updates": 1200,
        "wall_seconds": wall,
        "steps_per_second": total_steps / wall,
        "final_return": float(returns[-1]) if status == "finished" else None,
        "evaluation": None,
        "seconds": {**{part: share * wall for part, share in shares.items()}, "diagnostics": 0.01 * wall},
        "health": {"verdict": None},
        "peak_memory_bytes": 512 * 2**20,
    }
    _write(folder / "summary.json", summary)


def write_comparison(directory: Path, seeds: tuple[int, ...] = (1, 2, 3), **changes: Any) -> Path:
    """A comparison: the baseline learns, collapses and its gradients fade, stable learns and costs 1.4 times as much.

    ``changes``: (setting, seed) as "setting/seed" -> arguments of write_run to replace; "missing" leaves the run out.
    """
    env = changes.pop("env", "LunarLander-v3")
    command = changes.pop("command", ["stablegrad", "compare", "pqn", "--env", env, "--torso.depth", "large"])
    directory.mkdir(parents=True)
    settings = ("baseline", "stable")
    _write(
        directory / "comparison.json",
        {
            "format": 1,
            "settings": settings,
            "seeds": seeds,
            "configs": {setting: config(setting, env=env) for setting in settings},
            "command": command,
        },
    )
    for seed in seeds:
        generator = np.random.default_rng(seed)
        kinds: dict[str, dict[str, Any]] = {
            "baseline": {"returns": collapsing(150, generator), "fading": 0.35, "zero_from": (0, 0.7)},
            "stable": {
                "returns": learning(150, generator),
                "layers": SKIP,
                "seconds_per_1000": 0.28 + 0.01 * seed,
                "optimizer_share": 0.4,
            },
        }
        for setting, arguments in kinds.items():
            change = changes.get(f"{setting}/{seed}", {})
            if change != "missing":
                write_run(
                    directory / "runs" / setting / f"seed-{seed}",
                    **{"setting": setting, "seed": seed, "env": env, **arguments, **change},
                )
    return directory


def config(setting: str, env: str = "LunarLander-v3", total_steps: int = 300_000) -> dict[str, Any]:
    stable = setting == "stable"
    return {
        "env": env,
        "algorithm": "pqn",
        "preset": setting,
        "total_steps": total_steps,
        "agent": {
            "torso": {"kind": "multi_skip" if stable else "mlp", "depth": "large", "width": 256, "norm": "layer"},
            "optimizer": {"name": "kron" if stable else "radam", "learning_rate": 2.5e-4},
            "num_envs": 64,
        },
        "atari": None,
        "threads": 1,
    }


def learning(points: int, generator: np.random.Generator) -> np.ndarray:
    rise = -180 + 330 / (1 + np.exp(-10 * (np.linspace(0, 1, points) - 0.4)))
    return rise + np.convolve(generator.normal(0, 40, points + 9), np.ones(10) / 10, mode="valid")


def collapsing(points: int, generator: np.random.Generator) -> np.ndarray:
    time = np.linspace(0, 1, points)
    hill = -180 + 150 * np.exp(-(((time - 0.3) / 0.15) ** 2)) - 60 * time
    return hill + np.convolve(generator.normal(0, 30, points + 9), np.ones(10) / 10, mode="valid")


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, allow_nan=False))


STUDY = """
title = "Depth and cure"
seeds = {seeds}
report = ["gradients/norm", "relearning.mean_final_accuracy"]
[base]
algorithm = "relearn"
epochs = 45
reshuffle_every = 15
norm = "layer"
[axes]
depth = ["small", "xlarge"]
width = [64]
setting = [
  {{name = "baseline", preset = "baseline"}},
  {{name = "kron", preset = "kron"}},
  {{name = "stable", preset = "stable"}},
]
"""
#: Accuracy by setting and depth.
ACCURACY = {
    ("baseline", "small"): 0.60,
    ("baseline", "xlarge"): 0.20,
    ("kron", "small"): 0.65,
    ("kron", "xlarge"): 0.50,
    ("stable", "small"): 0.70,
    ("stable", "xlarge"): 0.95,
}


def write_study(
    directory: Path, seeds: int = 3, accuracy: dict | None = None, text: str = STUDY, **changes: Any
) -> Path:
    """A study of classifiers whose accuracies are those of a table, with a little scatter by seed.

    ``changes``: run name -> "left" (not started), "failed", or entries of summary.json to replace.
    """
    from stablegrad.studies.study import read_study
    from stablegrad.studies.study_folder import StudyFolder

    accuracy = accuracy or ACCURACY
    directory.parent.mkdir(parents=True, exist_ok=True)
    file = directory.parent / f"{directory.name}.toml"
    file.write_text(text.format(seeds=seeds))
    folder = StudyFolder.open(directory, read_study(file), file)
    parameters = {"small": 50_000, "xlarge": 120_000}
    for run in folder.study.runs:
        change = changes.get(run.name, {})
        if change == "left":
            continue
        path = folder.run_folder(run).path
        path.mkdir(parents=True)
        machine = {"processor": "A processor", "cores": 2, "cuda_device": None}
        _write(path / "config.json", {"format": 1, **run.config.to_json(), "provenance": {"machine": machine}})
        if change == "failed":
            (path / "stderr.log").write_text("stablegrad compare: this run failed: it broke\n")
            continue
        setting, depth = run.cell.values["setting"], run.cell.values["depth"]
        value = accuracy[setting, depth] + 0.01 * np.sin(run.seed + len(setting))
        epochs = 5.0 if value > 0.9 else None
        relearning = {"reshuffles": 2, "relearned": 2 if epochs else 0, "mean_final_accuracy": value}
        summary = {
            "status": "finished",
            "parameters": parameters[depth],
            "epochs": 45,
            "updates": 1000,
            "wall_seconds": 20.0 if setting == "baseline" else 26.0,
            "relearning": {**relearning, "mean_epochs": epochs},
            "peak_memory_bytes": 400 * 2**20,
        }
        _write(path / "summary.json", {**summary, **change})
    return directory
