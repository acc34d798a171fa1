"""What the benchmarks share: many runs in processes side by side, and results as small JSON files."""

from __future__ import annotations

import dataclasses
import json
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from stablegrad.files import write_json
from stablegrad.studies.statistics import mean_interval
from stablegrad.training.config import RunConfig, provenance
from stablegrad.training.interaction import train
from stablegrad.training.run_folder import RunFolder

RESULTS = Path(__file__).parent / "results"
CURVE_POINTS = 60
#: PQN's rollouts for state vectors in benchmarks that were measured before its defaults changed.
PQN_64X16 = "+num_envs=64+num_steps=16+num_epochs=2+exploration_fraction=0.3+optimizer.adam_learning_rate=5e-4"


def train_all(configs: Mapping[str, RunConfig], workers: int = 2) -> dict[str, dict[str, Any]]:
    """Train every configuration, with one thread where it leaves that open; return what is worth keeping of each."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {name: pool.submit(train_once, config) for name, config in configs.items()}
        results = {}
        for name, future in futures.items():
            results[name] = future.result()
            shown = (results[name]["evaluation"] or {}).get("mean_return", results[name]["final_return"])
            print(f"{name}: return {shown:.1f}, {results[name]['wall_seconds']:.0f} s", flush=True)
    return results


def over_seeds(results: Mapping[str, dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Mean and 95% interval of some runs' returns, of the evaluation or the last 100 episodes, with their curves."""
    runs = [results[name] for name in names]
    returns = [run["evaluation"]["mean_return"] if run["evaluation"] else run["final_return"] for run in runs]
    interval = mean_interval(returns)
    return {
        "final_returns": returns,
        "mean": float(interval.mean),
        "interval": None if interval.interval is None else [float(bound) for bound in interval.interval],
        "wall_seconds": [run["wall_seconds"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "parameters": runs[0]["parameters"],
        "curves": [run["curve"] for run in runs],
    }


def measure(
    name: str, command: str, jobs: Mapping[str, tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]], workers: int
) -> dict[str, dict[str, Any]]:
    """Results of jobs (function, arguments) by name, ``workers`` at once.

    Each is kept in ``results/<name>.json`` as soon as it is there and is not run again, so a benchmark that was stopped
    goes on; delete an entry to measure it anew.
    """
    path = RESULTS / f"{name}.json"
    runs: dict[str, dict[str, Any]] = json.loads(path.read_text())["runs"] if path.exists() else {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        missing = {
            pool.submit(function, *arguments): key for key, (function, arguments) in jobs.items() if key not in runs
        }
        for future in as_completed(missing):
            runs[missing[future]] = future.result()
            save(name, command, {"runs": dict(sorted(runs.items()))}, quiet=True)
            print(f"{missing[future]}: {runs[missing[future]]['shown']}", flush=True)
    return runs


def paired(own: Sequence[float], reference: Sequence[float], digits: int = 3) -> str:
    """Mean, and mean of the paired differences to a reference with its 95% interval, in words."""
    result = mean_interval([a - b for a, b in zip(own, reference, strict=True)])
    interval = ""
    if result.interval is not None:
        low, high = result.interval
        interval = f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    return f"{statistics.fmean(own):.{digits}f}, paired difference {result.mean:+.{digits}f}{interval}"


def save(name: str, command: str, result: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Write ``results/<name>.json`` with the command and the machine it came from."""
    RESULTS.mkdir(exist_ok=True)
    origin = provenance()
    machine = {**origin["machine"], "python": platform.python_version()}
    write_json(
        RESULTS / f"{name}.json",
        {"command": command, "machine": machine, "versions": origin["versions"], **result},
    )
    if not quiet:
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


def train_once(config: RunConfig) -> dict[str, Any]:
    """Train in a folder that does not stay; what is worth keeping of it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        train(dataclasses.replace(config, threads=config.threads or 1), run_dir, quiet=True)
        return kept(RunFolder(run_dir))
