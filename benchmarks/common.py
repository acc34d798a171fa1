"""What the benchmarks share: many runs in processes side by side, and results as small JSON files."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stablegrad.studies.statistics import mean_interval
from stablegrad.training.config import RunConfig, provenance
from stablegrad.training.run_folder import RunFolder, write_json
from stablegrad.training.trainer import train

RESULTS = Path(__file__).parent / "results"
CURVE_POINTS = 60


def train_all(configs: Mapping[str, RunConfig], workers: int = 2) -> dict[str, dict[str, Any]]:
    """Train every configuration, with one thread where it leaves that open; return what is worth keeping of each."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {name: pool.submit(_train, config) for name, config in configs.items()}
        results = {}
        for name, future in futures.items():
            results[name] = future.result()
            shown = results[name]["final_return"]
            print(f"{name}: return {shown:.1f}, {results[name]['wall_seconds']:.0f} s", flush=True)
    return results


def over_seeds(results: Mapping[str, dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Mean and 95% interval of the final returns of some runs, with their curves."""
    runs = [results[name] for name in names]
    interval = mean_interval([run["final_return"] for run in runs])
    return {
        "final_returns": [run["final_return"] for run in runs],
        "mean": float(interval.mean),
        "interval": None if interval.interval is None else [float(bound) for bound in interval.interval],
        "wall_seconds": [run["wall_seconds"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "parameters": runs[0]["parameters"],
        "curves": [run["curve"] for run in runs],
    }


def save(name: str, command: str, result: Mapping[str, Any]) -> None:
    """Write ``results/<name>.json`` with the command and the machine it came from."""
    RESULTS.mkdir(exist_ok=True)
    origin = provenance()
    machine = {**origin["machine"], "python": platform.python_version()}
    write_json(
        RESULTS / f"{name}.json",
        {"command": command, "machine": machine, "versions": origin["versions"], **result},
    )
    print(f"wrote {RESULTS / f'{name}.json'}")


def kept(folder: RunFolder) -> dict[str, Any]:
    """What is worth keeping of a run: its final figures and a thinned learning curve."""
    summary = folder.read_summary()
    assert summary is not None, f"{folder.path} has not ended"
    rows = [row for row in folder.read_metrics() if "train/return" in row]
    stride = max(len(rows) // CURVE_POINTS, 1)
    figures = ("status", "final_return", "wall_seconds", "steps_per_second", "seconds", "parameters", "env_steps")
    figures += ("evaluation", "peak_memory_bytes")
    curve = [[row["step"], round(row["train/return"], 2)] for row in rows[::stride]]
    return {**{name: summary[name] for name in figures}, "curve": curve}


def _train(config: RunConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        train(dataclasses.replace(config, threads=config.threads or 1), run_dir, quiet=True)
        return kept(RunFolder(run_dir))
