"""How fast the report of a study of 200 runs is made, how large it is, and how fast a browser opens it.

    python benchmarks/study_report.py

The runs are written, not trained: 5 Atari games x 2 depths x 2 widths x 2 settings x 5 seeds, 500 lines of metrics each
with the gradient norms of 16 layers, five of them failed or not finished. A headless Chromium with the network cut off
opens report.html from the disk ten times, each time in a new process; results/study_report.json has the times of all:

- paint_seconds: start of the navigation to the first text on the screen, by the browser's clock;
- load_seconds: start of the navigation to the end of the load event, by the browser's clock;
- first_figure_seconds: command to navigate to the first figure drawn, as seen over the DevTools pipe every 10 ms;
- screen_seconds: the same to the last figure on the screen (1280 x 900); others are drawn when they come near it;
- processor_seconds: what the page's main thread computed until then, which says what it takes on an idle machine;
- scroll_seconds: from then on, scrolling from figure to figure as soon as the one before is drawn, until all are;
- all_seconds and all_processor_seconds: the sum of both, every figure drawn.

The bar of 3 s is for all_seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from browser import open_browser, open_screen
from common import RESULTS
from stablegrad.files import write_json
from stablegrad.reports import write_study_report
from stablegrad.studies.comparison import record_failure
from stablegrad.studies.study import Run, read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.training.config import provenance
from stablegrad.training.run_folder import RunFolder

STUDY = """
title = "A study of 200 runs, written for the benchmark"
claim = "The baseline falls with size, stable does not."
expect = ["baseline falls with depth", "stable above baseline"]
seeds = 5
report = ["final_return", "human_normalized_return", "gradients/norm"]
[base]
algorithm = "pqn"
total_steps = 50_000_000
[axes]
environment = ["Breakout-v5", "Pong-v5", "Qbert-v5", "Amidar-v5", "Phoenix-v5"]
depth = ["small", "large"]
width = ["small", "large"]
setting = [{name = "baseline", preset = "baseline"}, {name = "stable", preset = "stable"}]
"""
LINES, LAYERS = 500, 16
OPENINGS = 10
SCORES = {"Breakout-v5": 300, "Pong-v5": 20, "Qbert-v5": 14000, "Amidar-v5": 900, "Phoenix-v5": 5000}
BAR = {"seconds": 3.0, "bytes": 15 * 2**20}


def write_run(folder: RunFolder, run: Run, generator: np.random.Generator) -> None:
    """What a finished run leaves: it learns to a level, the deep baseline to a tenth of it, while gradients fade."""
    config = run.config.to_json()
    stable, large = run.cell.values["setting"] == "stable", run.cell.values["depth"] == "large"
    level = SCORES[run.cell.values["environment"]] * (0.1 if large and not stable else 1.0)
    steps = np.linspace(config["total_steps"] / LINES, config["total_steps"], LINES).astype(int)
    returns = level / (1 + np.exp(-8 * (np.linspace(0, 1, LINES) - 0.4))) * (1 + 0.1 * generator.normal(size=LINES))
    fading = 0.2 if large and not stable else 0.0
    with folder.metrics_path.open("w") as file:
        for index, step in enumerate(steps):
            norms = 10 ** (-fading * np.arange(LAYERS) * index / LINES + 0.1 * generator.normal(size=LAYERS))
            row = {
                "step": int(step),
                "wall_seconds": step / 9000,
                "train/return": returns[index],
                "train/episode_length": 800.0,
                "loss/td": 0.01,
                "gradients/norm": float(np.sqrt((norms**2).sum())),
                "speed/steps_per_second": 9000.0,
                **{f"gradient_norm/torso.layers.{layer}": norms[layer] for layer in range(LAYERS)},
            }
            file.write(json.dumps(row) + "\n")
    wall = config["total_steps"] / 9000 * (1.4 if stable else 1.0)
    write_json(
        folder.summary_path,
        {
            "status": "finished",
            "parameters": 1_000_000 * (8 if large else 1) * (4 if run.cell.values["width"] == "large" else 1),
            "env_steps": config["total_steps"],
            "wall_seconds": wall,
            "steps_per_second": config["total_steps"] / wall,
            "final_return": float(returns[-20:].mean()),
            "seconds": {"optimizer": wall * (0.4 if stable else 0.2)},
            "peak_memory_bytes": 2**30,
        },
    )


def make_study(directory: Path) -> StudyFolder:
    """The folder of the study with all its runs; the last five have failed or are left."""
    file = directory / "synthetic.toml"
    file.write_text(STUDY)
    folder = StudyFolder.open(directory / "study", read_study(file), file)
    generator = np.random.default_rng(0)
    for index, run in enumerate(folder.study.runs):
        run_folder = folder.run_folder(run)
        if index < len(folder.study.runs) - 2:
            RunFolder.create(run_folder.path, run.config.to_json())
        if index < len(folder.study.runs) - 5:
            write_run(run_folder, run, generator)
        elif index < len(folder.study.runs) - 2:
            record_failure(run_folder, "killed by SIGKILL, probably out of memory")
    return folder


def open_pages(page: Path) -> dict[str, Any]:
    """Times of a number of openings, each in a new browser, and what was asked of the network."""
    times, requests, errors = [], set[str](), []
    for _ in range(OPENINGS):
        with open_browser() as program, open_screen(program, 1280) as browser:
            opened = browser.open(page)
            scrolled = browser.scroll()
            whole = {"all_seconds": opened["screen_seconds"] + scrolled["scroll_seconds"]}
            times.append({**opened, **scrolled, **whole, "all_processor_seconds": browser.processor_seconds()})
            requests |= {url.split(":")[0] for url in browser.requests}
            errors += browser.errors
    return {
        **{
            name: {
                "lowest": min(found[name] for found in times),
                "median": statistics.median(found[name] for found in times),
                "highest": max(found[name] for found in times),
                "all": [round(found[name], 3) for found in times],
            }
            for name in times[0]
            if name != "figures"
        },
        "figures": times[0]["figures"],
        "schemes_of_requests": sorted(requests),
        "errors": errors,
    }


def main() -> None:
    """Make the study, its report, and the measurements."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_study(Path(temporary))
        started = time.perf_counter()
        page = write_study_report(folder.directory)
        seconds = time.perf_counter() - started
        pictures = sorted((folder.directory / "figures").iterdir())
        result = {
            "runs": len(folder.study.runs),
            "report_seconds": seconds,
            "page_bytes": page.stat().st_size,
            "pictures": [path.name for path in pictures],
            "pictures_bytes": sum(path.stat().st_size for path in pictures),
            "load_average_before": os.getloadavg()[0],
            **open_pages(page),
            "load_average_after": os.getloadavg()[0],
            "bar": BAR,
        }
        result["machine"] = {key: value for key, value in provenance().items() if key != "command"}
    result["passed"] = (
        result["all_seconds"]["median"] <= BAR["seconds"]
        and result["page_bytes"] <= BAR["bytes"]
        and not set(result["schemes_of_requests"]) - {"file", "data", "blob"}
        and not result["errors"]
    )
    write_json(RESULTS / "study_report.json", result)
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))


if __name__ == "__main__":
    main()
