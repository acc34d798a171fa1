"""``stablegrad diagnose``: will this network keep learning, or why did this run not?"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Adam

from stablegrad.cli.arguments import parse
from stablegrad.cli.trial_progress import TrialProgress, say, say_pairs
from stablegrad.diagnostics.bootstrapping import IMAGE_ROWS, LENGTH, PHASES, Trajectories
from stablegrad.diagnostics.changes import all_layers
from stablegrad.diagnostics.history import History
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.diagnostics.recorded import diagnose_recorded, recorded_history
from stablegrad.diagnostics.report import Report
from stablegrad.diagnostics.trial import SEEDS, TOP, verify
from stablegrad.environments import environment_spec
from stablegrad.environments.random_play import random_play
from stablegrad.errors import StablegradError, UsageError, command, unknown_name
from stablegrad.studies.reference_run import (
    differences_in_words,
    differing_options,
    is_smaller,
    reference_prescription,
    size_in_words,
)
from stablegrad.studies.run_trial import (
    changed_configs,
    check_size,
    commands_of,
    fitting,
    planned_seconds,
    trial_steps,
    verify_run,
)
from stablegrad.targets import nearest_target
from stablegrad.terminal import text_console
from stablegrad.text import duration
from stablegrad.training.capacity import with_capacity
from stablegrad.training.config import RunConfig, usable_cores
from stablegrad.training.health import outcome_of
from stablegrad.training.interruption import Interrupted
from stablegrad.training.run_folder import RunFolder

WEIGHTS = {".zip", ".pt", ".pth", ".ckpt", ".safetensors", ".pkl", ".onnx"}
DTYPES = {"float32": torch.float32, "uint8": torch.uint8}


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad diagnose`` takes."""

    target: tyro.conf.Positional[str]
    """package.module:make_model, a function without arguments that returns a torch.nn.Module, or the module and a
    sample of its inputs (or such a module itself); or a run folder."""
    input_shape: tuple[int, ...] | None = None
    """Shape of one input, without the batch, such as 4 84 84; not needed where make_model returns a sample, or where
    the network begins with a linear layer."""
    input_dtype: str = "float32"
    """Type of the inputs: float32, or uint8 for images that the network scales itself."""
    env: str | None = None
    """Environment whose observations, of random policies, the network's values are learned on; None: synthetic ones."""
    learning_rate: float | None = None
    """Adam's, as in the training that is planned; None: one that ages a network fast."""
    seconds: float = 120.0
    """Time that the diagnosis may take, about; a trial may take twice as long."""
    seed: int = 0
    """Seed of the network and of everything that is drawn."""
    verify: bool = False
    """Try the top prescriptions in a short paired trial: those of a network on a synthetic task, those of a run in its
    environment."""
    seeds: int = SEEDS
    """Pairs of the trial."""
    steps: int | None = None
    """Environment steps of each training of a run's trial; None: twice as many as the run took until it was first found
    ill, at least a tenth of it."""
    device: str | None = None
    """Device of a run's trial: cpu, cuda, cuda:<n>, auto; default: the run's."""
    workers: int | None = None
    """Trainings at once in a run's trial; default: as many as the cores hold."""
    beside: Path | None = None
    """Folder of a run of a healthy smaller network in the same task, to judge a run beside: what tells them apart."""
    output: Path | None = None
    """HTML file for the report."""
    json: bool = False
    """Print the report as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    text = "Say whether a network will keep learning, before it is trained, or what went wrong in a run."
    if not arguments:
        raise UsageError("name what to diagnose: package.module:make_model, or a run folder")
    parsed = parse(Arguments, "diagnose", arguments, text)
    for name in () if parsed.verify else ("seeds", "steps", "workers", "device"):
        if getattr(parsed, name) != getattr(Arguments, name):
            raise UsageError(f"--{name} is for the trial of what is prescribed; add --verify")
    report = _diagnose_run(parsed, arguments) if _is_folder(parsed.target) else _diagnose_model(parsed)
    if parsed.json:
        print(json.dumps(report.to_dict()), flush=True)
    else:
        print(report, flush=True)
        if report.trial:
            _print_trial(report.trial)
    # Last, so that a path that cannot be written to costs no result.
    if parsed.output is not None:
        report.save_html(parsed.output)
        if not parsed.json:
            print(f"report: {parsed.output}")
    return 0


def _is_folder(target: str) -> bool:
    """Whether a run folder is named.

    Raises:
        UsageError: something else is, that is no function of a module either.
    """
    path = Path(target)
    if path.is_dir():
        return True
    expected = "expected package.module:make_model, or a run folder"
    if (meant := nearest_target(target, "make_model")) not in (None, target):
        raise UsageError(f"cannot diagnose {target!r}; did you mean {meant!r}? ({expected})")
    if path.is_file() and path.suffix in WEIGHTS:
        raise UsageError(
            f"{target!r} is a file of weights; {expected}. Write a function that makes the network and loads them: for "
            "Stable-Baselines3, def make_model(): return A2C.load(...).policy"
        )
    return ":" not in target


def _diagnose_run(parsed: Arguments, arguments: Sequence[str]) -> Report:
    for name in ("seed", "seconds", "input_shape", "input_dtype", "env", "learning_rate"):
        if getattr(parsed, name) != getattr(Arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is for a network; a run is diagnosed as it was recorded")
    if parsed.verify:
        check_size(1 if parsed.steps is None else parsed.steps, parsed.seeds)
    folder = RunFolder(parsed.target)
    is_agent = "env" in (config := folder.read_config())
    other = RunFolder(parsed.beside) if parsed.beside is not None else None
    beside = _beside(folder, other) if other is not None else None
    fits = fitting(config) if is_agent else None
    sizes = [(one.read_summary() or {}).get("parameters") for one in (folder, other) if one is not None]
    if fits is not None and other is not None and not is_smaller(*sizes):
        fits -= {"smaller_network"}  # none was seen to learn more
    rows, unmeasured = with_capacity(folder, config, folder.read_metrics(), say)
    report = diagnose_recorded(
        rows,
        fitting=fits,
        step_name=_step_name(config),
        beside=beside,
        command=commands_of(config),
        outcome=outcome_of(config, rows),
    )
    verify_command = command("diagnose", parsed.target, "--verify")
    report = replace(
        report, notes=[*report.notes, *unmeasured], verify=f"to have them tried in its environment: {verify_command}"
    )
    if other is not None:
        differences = differing_options(config, other.read_config()) if is_agent else {}
        told = f" ({differences_in_words(differences)})" if differences else ""
        behind = next((one for one in report.findings if one.rule == "learns_less"), None)
        report = replace(
            report,
            beside=f"run '{parsed.beside}', {size_in_words(*sizes)}{told}, {report.beside}",
            reference=reference_prescription(config, differences, behind, str(parsed.beside)),
        )
    if not parsed.verify:
        return report
    if not is_agent:
        raise UsageError("--verify of a run is for agents; for this network give package.module:make_model")
    if not report.prescriptions:
        compare, env = command("compare", config["algorithm"]), shlex.quote(str(config["env"]))
        return _untried(
            report,
            f"compare settings of your own: {compare} --env {env} --settings baseline stable; or judge "
            f"the run beside that of a smaller network: stablegrad diagnose {shlex.quote(parsed.target)} --beside RUN",
        )
    return replace(report, trial=_try_in_its_environment(parsed, arguments, folder, report))


def _beside(folder: RunFolder, other: RunFolder) -> History:
    """What another run of the same task recorded."""
    if other.path.resolve() == folder.path.resolve():
        raise UsageError(f"'{folder.path}' cannot be judged beside itself; give the run of a smaller network")
    tasks = [_task(one.read_config()) for one in (folder, other)]
    if tasks[0] != tasks[1]:
        raise UsageError(f"'{folder.path}' is of {tasks[0]}, '{other.path}' of {tasks[1]}; expected runs of one task")
    try:
        return recorded_history(other.read_metrics(), step_name=_step_name(other.read_config()))
    except StablegradError as error:
        raise StablegradError(f"cannot judge beside '{other.path}': {error}") from error


def _task(config: Mapping[str, Any]) -> str:
    """What a run learns."""
    return str(config["env"]) if "env" in config else f"classification of {Path(str(config.get('data'))).name}"


def _step_name(config: Mapping[str, Any]) -> str:
    return "environment steps" if "env" in config else "updates"


def _try_in_its_environment(
    parsed: Arguments, arguments: Sequence[str], folder: RunFolder, report: Report
) -> list[dict[str, Any]]:
    """What trainings of a run with its prescriptions showed; says on stderr how far they are."""
    base = RunConfig.from_json(folder.read_config())
    if parsed.device is not None:
        base = replace(base, device=parsed.device)
    base.check()
    steps = trial_steps(report, base.total_steps) if parsed.steps is None else parsed.steps
    tried = list(changed_configs(base, report.prescriptions))[:TOP]
    trainings = (1 + len(tried)) * parsed.seeds
    takes = planned_seconds(folder.read_summary() or {}, steps, trainings, parsed.workers or usable_cores())
    say(f"{report.verdict}; trying {', '.join(tried) or 'nothing'}")
    if tried:
        say(f"{trainings} trainings of {steps:,} steps" + ("" if takes is None else f", about {duration(takes)}"))
    try:
        trials = verify_run(
            folder.path / "verify" / f"{steps}-steps-{parsed.seeds}-pairs",
            base,
            report.prescriptions,
            steps=steps,
            seeds=parsed.seeds,
            top=TOP,
            workers=parsed.workers,
            on_progress=TrialProgress(tried, trainings).update,
            command=["stablegrad", "diagnose", *arguments],
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped; the same command goes on from the trainings' last checkpoints") from None
    return [trial.to_dict() for trial in trials]


def _diagnose_model(parsed: Arguments) -> Report:
    if parsed.beside is not None:
        raise UsageError("--beside is for a run; a network is judged beside small twins of its own")
    for name in ("steps", "workers", "device"):
        if getattr(parsed, name) is not None:
            raise UsageError(f"--{name} is for the trial of a run; that of a network takes --seconds")
    torch.manual_seed(parsed.seed)
    rate = parsed.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise UsageError(f"--learning-rate must be above 0, got {rate:g}")
    played = _play(parsed) if parsed.env is not None else None
    model, sample = _make_model(parsed, None if played is None else played.observations[0].flatten(0, 1))
    optimizer = None if rate is None else partial(Adam, lr=rate)
    report = diagnose(model, sample, optimizer=optimizer, seconds=parsed.seconds, seed=parsed.seed, trajectories=played)
    if not parsed.verify:
        return report
    if not report.prescriptions:
        return _untried(report, "try changes in a training of your own: stablegrad.diagnostics.verify_training")
    say(f"{report.verdict}; trying what is prescribed, at most about {duration(2 * parsed.seconds)}")
    trials = verify(
        model,
        sample,
        report.prescriptions,
        seeds=parsed.seeds,
        optimizer=optimizer,
        seconds=2 * parsed.seconds,
        seed=parsed.seed,
        on_progress=lambda done, seconds: say_pairs(done, parsed.seeds, seconds),
    )
    return replace(report, trial=[trial.to_dict() for trial in trials])


def _untried(report: Report, instead: str) -> Report:
    """The report, which says that ``--verify`` had nothing to try, and what can be done instead."""
    note = f"--verify had nothing to try: {report.verdict}, and no change is prescribed; {instead}"
    return replace(report, notes=[*report.notes, note])


def _play(parsed: Arguments) -> Trajectories:
    """Observations of random policies in the environment."""
    for name in ("input_shape", "input_dtype"):
        if getattr(parsed, name) != getattr(Arguments, name):
            raise UsageError(f"--{name.replace('_', '-')} is that of the environment's observations; leave it out")
    is_image = len(environment_spec(str(parsed.env)).observation_shape) >= 3
    size = {"steps": LENGTH, "rows": IMAGE_ROWS} if is_image else {}
    observations, ended = random_play(str(parsed.env), PHASES, seed=parsed.seed, **size)
    return Trajectories(torch.from_numpy(observations), torch.from_numpy(ended))


def _make_model(parsed: Arguments, observed: Tensor | None) -> tuple[nn.Module, Tensor]:
    """The network that the target names, and a sample of its inputs, which may be observations."""
    made = _call(parsed.target)
    model, sample = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{parsed.target!r} returned {type(made).__name__}; expected a torch.nn.Module, or (module, sample_input)"
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if observed is not None:
        # Labels of images are learned on random ones: pixels that hardly ever change would tell no rows apart.
        return model, (torch.zeros_like(observed[:2]) if observed.ndim >= 4 else observed).to(device)
    if parsed.input_shape is None and sample is not None:
        return model, sample
    if parsed.input_dtype not in DTYPES:
        raise unknown_name("input-dtype", parsed.input_dtype, DTYPES)
    shape = parsed.input_shape
    if shape is None:
        first = next(iter(all_layers(model)), None)
        if not isinstance(first, nn.Linear):
            raise UsageError("cannot tell the shape of the inputs; name it without the batch: --input-shape 4 84 84")
        shape = (first.in_features,)
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape must be numbers of at least 1, got {' '.join(map(str, shape))}")
    return model, torch.zeros(2, *shape, dtype=DTYPES[parsed.input_dtype], device=device)


def _call(target: str) -> Any:
    """What the function returns that ``package.module:name`` names. The current directory is searched first."""
    module_name, _, name = target.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise UsageError(f"malformed {target!r}; expected package.module:make_model, or a run folder")
    if name == "":
        raise UsageError(f"{target!r} names no function; expected package.module:make_model")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise StablegradError(f"importing {module_name!r} failed: {_said(error)}") from error
        raise UsageError(
            f"no module {error.name!r} in the current directory or among the installed packages; expected "
            "package.module:make_model"
        ) from error
    except Exception as error:
        raise StablegradError(f"importing {module_name!r} failed: {_said(error)}") from error
    function = getattr(module, name, None)
    if function is None:
        own = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise unknown_name("function", name, own)
    if isinstance(function, nn.Module):
        return function
    if not callable(function):
        raise UsageError(f"{target!r} names a value of type {type(function).__name__}; expected a function")
    needed = _required(function)
    if needed:
        raise UsageError(
            f"{target!r} needs arguments ({', '.join(needed)}); expected a function without: "
            f"def make_model(): return {name}(...)"
        )
    try:
        return function()
    except Exception as error:
        raise StablegradError(f"{target!r} failed: {_said(error)}") from error


def _required(function: Callable[..., Any]) -> list[str]:
    """Arguments without which a function cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a callable without a signature, as some built in C
        return []
    named = (
        one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    )
    return [one.name for one in named if one.default is one.empty]


def _said(error: Exception) -> str:
    """An exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _print_trial(trials: Sequence[dict[str, Any]]) -> None:
    score = next((trial["score"] for trial in trials if trial["score"]), "the score")
    table = Table("change", f"effect on {score}", "step time", "memory", "decision", box=None)
    for trial in trials:
        if trial["effect"] is None:
            table.add_row(trial["title"], "–", "–", "–", f"{trial['decision']}: {trial['reason']}")
            continue
        effect = f"{trial['effect']:+,.2f} ({trial['low']:+,.2f} to {trial['high']:+,.2f})"
        factors = ("–" if trial[name] is None else f"x {trial[name]:.2f}" for name in ("step_time", "memory"))
        table.add_row(trial["title"], effect, *factors, trial["decision"])
    print()
    text_console().print(table)
    print("effect: mean over paired seeds, with its 95% interval (Student t); go where the interval lies above 0")
    for trial in trials:
        if trial["effect"] is not None:
            print(f"{trial['title']}: {trial['reason']}")
