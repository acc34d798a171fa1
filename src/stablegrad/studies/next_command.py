"""The command that carries out the next step of a decision, ready to paste."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stablegrad.agents.catalogue import DEFAULT_ALGORITHM
from stablegrad.options import flatten
from stablegrad.studies.decision import LONGER, Decision, deeper
from stablegrad.studies.evidence import Evidence
from stablegrad.studies.kinds import UNPREFIXED, make_config
from stablegrad.supervised.data import DIGITS

#: A first comparison of agents, for who has only seen classifiers; the environment is learned in minutes.
FIRST_AGENT = "LunarLander-v3"


def next_command(evidence: Evidence, decision: Decision) -> str:
    """One line of shell for ``decision.next_step``; it does in a new folder what would change the old one."""
    step, seeds, directory = decision.next_step, decision.next_seeds, evidence.directory
    if step == "finish":
        if evidence.kind == "study":
            return shlex.join(["stablegrad", "study", "resume", str(directory)])
        if evidence.command:
            return shlex.join(evidence.command)
        left = next(run for run in evidence.runs if run.status == "left")
        return shlex.join(["stablegrad", "resume", str(left.path)])
    if step in ("probe", "more_seeds", "settle_small", "bigger") and seeds is not None:
        if evidence.kind == "study":
            return _study_with_seeds(evidence, seeds)
        return _comparison(evidence, seeds, deeper(evidence.depth) if step == "bigger" else None)
    if step == "longer" and evidence.budget is not None and evidence.kind == "comparison":
        return _comparison(evidence, len(evidence.seeds), None, LONGER * evidence.budget)
    if step == "full_form":
        file, folder = str(directory / "study.toml"), f"{directory}-full"
        return shlex.join(["stablegrad", "study", "run", file, *_data(evidence), "--dir", folder])
    if step == "stop" or (step == "stay_small" and not evidence.agents):
        return shlex.join(["stablegrad", "diagnose", str(_worst(evidence))])
    if not evidence.agents:
        depth = [] if evidence.depth is None else ["--torso.depth", str(evidence.depth)]
        return shlex.join(["stablegrad", "compare", DEFAULT_ALGORITHM, "--env", FIRST_AGENT, *depth, "--seeds", "3"])
    setting = evidence.baseline if step == "stay_small" else evidence.candidate
    size = decision.best_size if step in ("adopt", "longer") else 0
    config = evidence.configs[setting, size]
    if step == "longer":
        config = {**config, "total_steps": LONGER * config["total_steps"]}
    return shlex.join(_train(config, max(evidence.seeds) + 1))


def _comparison(evidence: Evidence, seeds: int, depth: str | None, steps: int | None = None) -> str:
    """The comparison's own command, or one that says the same, with more seeds, another depth or more steps."""
    directory = f"{evidence.directory}-{seeds}-seeds"
    changed: dict[str, list[str]] = {"--seeds": [str(seeds)], "--dir": [directory]}
    if depth is not None:
        changed["--torso.depth"] = [depth]
        changed["--dir"] = [f"{evidence.directory}-{depth}"]
    if steps is not None:
        changed = {"--total-steps": [str(steps)], "--dir": [f"{evidence.directory}-{steps}-steps"]}
    if evidence.command is not None:
        words = list(evidence.command)
    else:
        settings = [evidence.baseline, evidence.candidate]
        algorithm = evidence.configs[evidence.baseline, 0]["algorithm"]
        words = ["stablegrad", "compare", algorithm, "--env", evidence.tasks[0], "--settings", *settings]
        if evidence.budget is not None:
            words += ["--total-steps", str(evidence.budget)]
    for name, values in changed.items():
        words = [*_without(words, name), name, *values]
    return shlex.join(words)


def _without(words: Sequence[str], name: str) -> list[str]:
    """A command line without one option and its values."""
    kept, inside = [], False
    for word in words:
        if word.startswith("--"):
            inside = word == name
            if inside or word.startswith(f"{name}="):
                continue
        elif inside:
            continue
        kept.append(word)
    return kept


def _study_with_seeds(evidence: Evidence, seeds: int) -> str:
    """The study's file with another number of seeds, under another name, and its run."""
    file, copy = evidence.directory / "study.toml", Path(f"{evidence.directory}-{seeds}-seeds.toml")
    form = ["--form", "small"] if evidence.form == "small" else []
    if re.search(r"^seeds *=", evidence.study_file or "", flags=re.MULTILINE):
        # One number, or a list that may go over several lines; of the small form as well.
        script = rf"s/(^|\n)seeds *= *(\[[^]]*\]|[^\n]*)/\1seeds = {seeds}/g"
        edit = f"sed -zE '{script}' {shlex.quote(str(file))} > {shlex.quote(str(copy))}"
    else:
        edit = f"(echo 'seeds = {seeds}'; cat {shlex.quote(str(file))}) > {shlex.quote(str(copy))}"
    folder = f"{evidence.directory}-{seeds}-seeds"
    run = shlex.join(["stablegrad", "study", "run", str(copy), *form, *_data(evidence), "--dir", folder])
    return f"{edit} && {run}"


def _data(evidence: Evidence) -> list[str]:
    """A study whose data lie in a folder may have had it from the command line."""
    data = evidence.configs[evidence.baseline, 0].get("data", DIGITS)
    return [] if data == DIGITS or len(evidence.tasks) > 1 else ["--data", str(data)]


def _worst(evidence: Evidence) -> Path:
    """The candidate's run with the lowest score at the largest size; without scores, its first."""
    runs = evidence.of(evidence.candidate, len(evidence.sizes) - 1)
    scored = [(run.score, index) for index, run in enumerate(runs) if run.score is not None]
    return runs[min(scored)[1] if scored else 0].path


def _train(config: dict[str, Any], seed: int) -> list[str]:
    """One run of a configuration: what differs from the defaults of its environment and preset, as options."""
    words = ["stablegrad", "train", config["algorithm"], "--env", config["env"], "--preset", config["preset"]]
    named = {name: config[name] for name in ("algorithm", "env", "preset")}
    default = flatten(make_config(named).to_json())
    for name, value in flatten(config).items():
        if value == default.get(name) or name in (*named, "seed"):
            continue
        first, _, rest = name.partition(".")
        option = (rest if first in UNPREFIXED else name).replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return [*words, "--seed", str(seed)]
