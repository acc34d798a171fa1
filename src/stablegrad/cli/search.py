"""``stablegrad search``: finds the setting that makes one network learn in one environment, and confirms it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from stablegrad.agents.catalogue import DEFAULT_ALGORITHM
from stablegrad.cli.arguments import RunOptions, algorithm_and_env, folder_name, option, parse
from stablegrad.errors import UsageError, command
from stablegrad.reports import write_comparison_report
from stablegrad.studies.kinds import RELEARN
from stablegrad.studies.processes import check_workers, default_workers
from stablegrad.studies.search import estimate, run_search
from stablegrad.studies.search_folder import CONFIRMATION, CONFIRMATION_PRESCRIPTION, SearchFolder, SearchPlan
from stablegrad.studies.search_result import spent_in_words
from stablegrad.studies.search_space import Space, describe
from stablegrad.studies.search_storage import load_optuna
from stablegrad.studies.seeds import seed_list
from stablegrad.terminal import text_console
from stablegrad.text import duration, number
from stablegrad.training.config import default_run
from stablegrad.training.interruption import Interrupted


@dataclass(frozen=True)
class SearchedRun(RunOptions):
    """The baseline: what all runs of a search share, and what the search may change."""

    seed: tyro.conf.Fixed[int] = 1


@dataclass(frozen=True)
class How:
    """How a search is carried out."""

    workers: int | None = None
    """Runs at once; default: as many as the cores hold."""
    json: bool = False
    """Print the result as JSON on the last line."""
    quiet: bool = False
    """Show no progress."""

    def __post_init__(self) -> None:
        check_workers(self.workers)


@dataclass(frozen=True)
class Arguments(How):
    """What ``stablegrad search`` takes."""

    run: Annotated[SearchedRun, tyro.conf.arg(name=""), tyro.conf.SuppressFixed] = tyro.MISSING
    trials: int | None = None
    """Settings to try, the baseline among them; default: as many as there is time for."""
    max_hours: float | None = None
    """Hours that all may take; the confirmation's are reserved first."""
    seeds: tuple[int, ...] = (1,)
    """How many seeds every trial has (one number n: 1 to n), or the seeds themselves (two or more numbers)."""
    confirm_seeds: int = 5
    """How many fresh seeds the best trial and the baseline are compared on at the end."""
    run_dir: Path | None = None
    """Folder of the search; the same command on the same folder goes on where it stopped."""
    dry_run: bool = False
    """Only say where it would start and what it would take."""


@dataclass(frozen=True)
class ResumeArguments(How):
    """What ``stablegrad search --resume`` takes."""

    resume: Path = tyro.MISSING
    """Folder of the search to go on with."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    load_optuna()
    if option(arguments, "--resume") is not None:
        wish = parse(ResumeArguments, "search", arguments, "Go on with a search: what is finished is not repeated.")
        return _carry_out(wish, SearchFolder.read(wish.resume), arguments)
    if arguments and arguments[0] == RELEARN:
        agent = f"stablegrad search {DEFAULT_ALGORITHM} --env ID ..."
        raise UsageError(f"a search confirms by paired returns, so it is for agents: {agent}")
    algorithm, env, rest = algorithm_and_env("search", arguments)
    if option(rest, "--seed") is not None:
        raise UsageError("--seed is for 'train'; search takes --seeds N")
    # One thread a run: runs side by side use the cores better than threads within small networks.
    setting = option(rest, "--preset", "baseline") or ""
    default = dataclasses.replace(default_run(algorithm, env, setting), threads=1)
    text = "Find what makes a network learn: diagnosis, trials, and a paired confirmation on fresh seeds."
    asked = parse(Arguments, f"search {algorithm}", rest, text, Arguments(run=SearchedRun.of(default)))
    seeds = seed_list(asked.seeds[0] if len(asked.seeds) == 1 else asked.seeds, "two or more numbers are the seeds")
    plan = SearchPlan(asked.run.config, seeds, asked.confirm_seeds, asked.trials, asked.max_hours)
    plan.base.check()
    if asked.dry_run:
        return _dry_run(asked, plan)
    directory = asked.run_dir or Path("runs") / folder_name("search", algorithm, env)
    return _carry_out(asked, SearchFolder.open(directory, plan), arguments)


def _carry_out(asked: How, folder: SearchFolder, arguments: Sequence[str]) -> int:
    def tell(line: str) -> None:
        if not asked.quiet:
            print(line, file=sys.stderr, flush=True)

    workers = asked.workers or default_workers([folder.plan.base])
    try:
        result = run_search(folder, workers, on_event=tell, command=["stablegrad", "search", *arguments])
    except KeyboardInterrupt:
        raise Interrupted(f"stopped; continue with '{command('search', '--resume', folder.directory)}'") from None
    names = [CONFIRMATION, CONFIRMATION_PRESCRIPTION]
    made = [folder.directory / name for name in names if result[name.replace("-", "_")] is not None]
    reports = [write_comparison_report(directory) for directory in made]
    if asked.json:
        print(json.dumps({"directory": str(folder.directory), **result}))
    else:
        _print(result, reports)
    return 0


def _print(result: dict[str, Any], reports: Sequence[Path]) -> None:
    table = Table("trial", "start", "changes", "return", "", box=None, pad_edge=False, header_style="bold")
    for row in result["trials"]:
        value = "-" if row["value"] is None else number(row["value"])
        end = row["state"] if row["reason"] is None else f"{row['state']}: {row['reason']}"
        table.add_row(str(row["number"]), row["source"], describe(row["changes"]), value, end)
    text_console().print(table)
    print()
    for sentence in result["words"]:
        print(sentence)
    print(f"\n{spent_in_words(result['spent'])}")
    for report in reports:
        print(f"Report: {report}")
    print(f"Train it: {result['command']}")


def _dry_run(asked: Arguments, plan: SearchPlan) -> int:
    workers = asked.workers or default_workers([plan.base])
    space, takes = Space(plan.base), estimate(plan, workers)
    result = {
        "parameters": space.budget,
        "workers": workers,
        "seeds": list(plan.seeds),
        "fresh_seeds": list(plan.fresh),
        "dimensions": list(space.order([])),
        **dataclasses.asdict(takes),
    }
    if asked.json:
        print(json.dumps(result))
        return 0
    print(
        f"budget: {space.budget:,} parameters, {plan.base.total_steps:,} steps a run\n"
        f"1. diagnosis of the baseline: decides where the search starts and which of these it varies first: "
        f"{', '.join(result['dimensions'])}\n"
        f"2. {takes.trials} trials on seed {', '.join(map(str, plan.seeds))}, at most {duration(takes.trial)} each, "
        "fewer where they are stopped early\n"
        f"3. confirmation on fresh seeds {', '.join(map(str, plan.fresh))}: {duration(takes.confirmation)}\n"
        f"about {duration(takes.total)} with --workers {workers} on this machine; nothing was started"
    )
    return 0
