"""``stablegrad compare``: two settings with paired seeds."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.live import Live
from rich.table import Table

from stablegrad.cli.arguments import RunOptions, algorithm_and_env, folder_name, option, parse
from stablegrad.cli.study_progress import StudyProgressBar
from stablegrad.errors import UsageError, command
from stablegrad.reports import write_comparison_report, write_study_report
from stablegrad.studies import RunProgress, comparison_rows, run_comparison, verdict
from stablegrad.studies.seeds import seed_list
from stablegrad.studies.study_folder import TUNING
from stablegrad.studies.tuned_comparison import tune_comparison
from stablegrad.terminal import text_console
from stablegrad.training.config import default_run
from stablegrad.training.interruption import Interrupted

PLAIN_INTERVAL = 15.0


#: Options of ``train`` that this command has in another form.
REPLACED = {"--seed": "--seeds N", "--preset": "--settings A B"}


@dataclass(frozen=True)
class ComparedRun(RunOptions):
    """What all runs of a comparison share: not the setting and the seed."""

    preset: tyro.conf.Fixed[str] = "baseline"
    seed: tyro.conf.Fixed[int] = 1


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad compare`` takes."""

    run: Annotated[ComparedRun, tyro.conf.arg(name=""), tyro.conf.SuppressFixed]
    settings: tuple[str, str] = ("baseline", "stable")
    """The two settings: presets, each optionally with changes, as in stable+torso.skip_blocks=2."""
    seeds: tuple[int, ...] = (3,)
    """How many seeds (one number n: 1 to n), or the seeds themselves (two or more numbers)."""
    tune_rate: int | None = None
    """Learning rates to try for each setting first, around its own and on other seeds: each is compared at its best."""
    dir: Path | None = None
    """Folder of the comparison; the same command on the same folder goes on where it stopped."""
    workers: int | None = None
    """Runs at once; default: as many as the cores hold."""
    json: bool = False
    """Print the figures as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    algorithm, env, rest = algorithm_and_env("compare", arguments)
    for name, replacement in REPLACED.items():
        if option(rest, name) is not None:
            raise UsageError(f"{name} is for 'train'; compare takes {replacement}")
    # The same arguments over the defaults of each setting: what a person asks for holds for both.
    parsed = _parse(algorithm, rest, env, "baseline")
    configs = {setting: _parse(algorithm, rest, env, setting).run.config for setting in parsed.settings}
    if len(configs) < 2:
        raise UsageError(f"compare needs two different settings, got {parsed.settings[0]!r} twice")
    for config in configs.values():
        config.check()
    seeds = seed_list(parsed.seeds[0] if len(parsed.seeds) == 1 else parsed.seeds, "two or more numbers are the seeds")
    directory = parsed.dir or Path("runs") / folder_name("compare", algorithm, env)

    try:
        tuning: list[str] = []
        if parsed.tune_rate is not None:
            with StudyProgressBar("trials", quiet=parsed.quiet) as bar:
                configs, tuning = tune_comparison(
                    directory, configs, seeds, parsed.tune_rate, workers=parsed.workers, on_progress=bar.update
                )
        with ComparisonProgress(quiet=parsed.quiet) as progress:
            result = run_comparison(
                directory,
                configs,
                seeds,
                workers=parsed.workers,
                on_progress=progress.update,
                command=["stablegrad", "compare", *arguments],
                tuning=tuning,
            )
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the runs' last checkpoints") from None
    if tuning:
        write_study_report(directory / TUNING)
    report = write_comparison_report(directory)
    if parsed.json:
        print(json.dumps(result.summary))
    else:
        _print(result.summary, report)
    return 1 if result.summary["left_out"] else 0


def _parse(algorithm: str, arguments: Sequence[str], env: str, setting: str) -> Arguments:
    # One thread a run: runs side by side use the cores better than threads within small networks.
    default = dataclasses.replace(default_run(algorithm, env, setting), threads=1)
    return parse(
        Arguments,
        f"compare {algorithm}",
        arguments,
        "Train two settings on the same seeds and say whether the second is better, and at what cost.",
        Arguments(run=ComparedRun.of(default)),
    )


def _print(summary: dict, report: Path) -> None:
    first, second = summary["settings"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column(first, justify="right")
    table.add_column(second, justify="right")
    for row in comparison_rows(summary):
        table.add_row(*row)
    text_console().print(table)
    print()
    for sentence in verdict(summary):
        print(sentence)
    print(f"\nReport: {report}   pictures: {report.parent / 'figures'}")
    print(f"Next: {command('report', report.parent, '--summary')}   (for whoever decides)")
    low, high = summary["difference"]["interval"] or (0.0, 0.0)
    if low > 0 or high < 0:
        lower = first if low > 0 else second
        seed = next(
            seed
            for seed, value in zip(summary["seeds"], summary["results"][lower]["final_returns"], strict=True)
            if value is not None
        )
        print(f"      {command('diagnose', report.parent / 'runs' / lower / f'seed-{seed}')}   (why {lower} is lower)")


@dataclass
class ComparisonProgress:
    """The state of all runs: a live table on a terminal, a line now and then elsewhere."""

    quiet: bool = False
    _printed: float = field(default=0.0, init=False)
    _live: Live | None = field(default=None, init=False)

    def __enter__(self) -> ComparisonProgress:
        if not self.quiet and sys.stderr.isatty():
            self._live = Live(console=text_console(stderr=True), auto_refresh=False)
            self._live.start()
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, runs: list[RunProgress]) -> None:
        """Show the state of all runs."""
        if self._live is not None:
            self._live.update(self._table(runs), refresh=True)
        elif not self.quiet and time.monotonic() - self._printed >= PLAIN_INTERVAL:
            self._printed = time.monotonic()
            parts = [
                f"{run.setting} seed {run.seed} {run.step / run.total_steps:.0%}"
                + ("" if run.mean_return is None else f" return {run.mean_return:,.0f}")
                for run in runs
                if run.state == "running"
            ]
            done = sum(run.state == "finished" for run in runs)
            line = f"{done} of {len(runs)} runs done{self._left(runs)}; {'; '.join(parts)}"
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                self.quiet = True  # nobody reads any more; the runs go on

    def _left(self, runs: list[RunProgress]) -> str:
        done = sum(min(run.step / run.total_steps, 1.0) for run in runs)
        elapsed = time.monotonic() - self._started
        if not 0.02 <= done / len(runs) < 1:  # too early to say, or nothing left to do
            return ""
        return f", about {elapsed * (len(runs) - done) / done:,.0f} s left"

    def _table(self, runs: list[RunProgress]) -> Table:
        table = Table("setting", "seed", "state", "steps", "return", box=None, caption=self._left(runs).lstrip(", "))
        for run in runs:
            shown = "-" if run.mean_return is None else f"{run.mean_return:,.1f}"
            table.add_row(run.setting, str(run.seed), run.state, f"{run.step:,}/{run.total_steps:,}", shown)
        return table
