"""A search whose runs are made up: the same files and ends as real ones, without any training.

As a program: ``python fake_search.py SECONDS_OF_A_RUN search ...`` is the command line with such runs.
"""

import json
import sys
import time

from stablegrad.files import write_json
from stablegrad.studies import search, search_confirmation
from stablegrad.studies.comparison import Comparison
from stablegrad.studies.execution import ComparisonResult
from stablegrad.studies.summary import summarize
from stablegrad.training.run_folder import RunFolder

POINTS = 16


def value_of(config):
    """The return that a made-up run ends at."""
    agent = config["agent"]
    gain = {"kron": 50.0, "adam": 5.0}.get(agent["optimizer"]["name"], 0.0)
    gain += {"multi_skip": 30.0, "residual": 10.0}.get(agent["torso"]["kind"], 0.0)
    return 20.0 + gain + config["seed"] - 1e4 * abs(agent["optimizer"]["adam_learning_rate"] - 1e-3)


def is_ill(config):
    """Whether a layer of a made-up run gets no gradient."""
    return config["agent"]["torso"]["norm"] == "none"


def write_log(folder):
    """All lines of the log."""
    config = folder.read_config()
    rows = [
        {
            "step": round(config["total_steps"] * point / POINTS),
            "wall_seconds": point / 10,
            "train/return": value_of(config) * point / POINTS,
            "gradient_norm/torso": 0.0 if is_ill(config) else 1.0,
            "gradient_norm/head": 1.0,
            "update_ratio/torso": 1e-3,
            "update_ratio/head": 1e-3,
        }
        for point in range(1, POINTS + 1)
    ]
    folder.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def finish(folder):
    """The summary of a run at its end."""
    config = folder.read_config()
    write_json(
        folder.summary_path,
        {
            "status": "finished", "final_return": value_of(config), "parameters": 100, "seconds": {},
            "wall_seconds": FakeExecutor.seconds, "env_steps": config["total_steps"], "health": {"verdict": "healthy"},
        },
    )  # fmt: skip


class FakeExecutor:
    """A run writes its log when it starts, and ends ``seconds`` later; the first poll sees none that has ended."""

    seconds = 0.0
    fails = staticmethod(lambda config: None)

    def __init__(self, threads=1):
        self.running = {}

    def start(self, folder):
        if not (folder / "summary.json").exists():  # a finished run is left as it is
            with (folder / "starts").open("a") as file:
                file.write("x")
            write_log(RunFolder(folder))
        self.running[folder] = None

    def ended(self, timeout):
        codes, now = {}, time.monotonic()
        for folder, end in list(self.running.items()):
            if end is None:
                self.running[folder] = now + self.seconds
            elif now >= end:
                code = self.fails(RunFolder(folder).read_config()) or 0
                if not code and not (folder / "summary.json").exists():
                    finish(RunFolder(folder))
                codes[folder] = code
                del self.running[folder]
        if not codes:
            time.sleep(min(timeout, 0.01))
        return codes

    def kill(self, folder):
        self.running.pop(folder, None)

    def stop(self):
        self.running.clear()


def fake_comparison(directory, configs, seeds, *, workers, on_progress, command):
    comparison = Comparison.open(directory, configs, seeds, command)
    for setting, config in configs.items():
        for seed in seeds:
            folder = comparison.run_folder(setting, seed)
            if folder.config_path.exists():
                continue
            RunFolder.create(folder.path, {**config.to_json(), "seed": seed})
            write_log(folder)
            finish(folder)
    on_progress([])
    summary = summarize(directory)
    write_json(comparison.summary_path, summary)
    return ComparisonResult(comparison.directory, summary)


def install(setattr_=setattr):
    setattr_(search, "LocalExecutor", FakeExecutor)
    setattr_(search, "preflight_findings", lambda config: [])
    setattr_(search, "POLL_SECONDS", 0.01)
    setattr_(search_confirmation, "run_comparison", fake_comparison)


if __name__ == "__main__":
    from stablegrad.cli import search as command
    from stablegrad.cli.main import main

    command.write_comparison_report = lambda directory: directory / "report.html"
    FakeExecutor.seconds = float(sys.argv[1])
    install()
    sys.exit(main(sys.argv[2:]))
