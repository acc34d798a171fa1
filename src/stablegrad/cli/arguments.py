"""Command lines to dataclasses, with one line where they cannot be read."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import tyro

from stablegrad.agents.presets import PRESETS
from stablegrad.errors import UsageError, unknown_name
from stablegrad.training.config import ALGORITHMS, RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions(RunConfig):
    """A run as the command line has it, where the algorithm stands first and is no option."""

    env: Annotated[
        str,
        tyro.conf.arg(
            help="Environment: an envpool or gymnasium id, or package.module:factory.",
            help_behavior_hint=lambda env: f"(required; the defaults shown here are those for {env})",
        ),
    ]
    algorithm: tyro.conf.Fixed[str] = ALGORITHMS[0]
    preset: Annotated[
        str,
        tyro.conf.arg(help=f"{', '.join(PRESETS)}; with changes, if any, as in stable+torso.skip_blocks=2."),
    ] = "baseline"

    @classmethod
    def of(cls: type[Options], config: RunConfig) -> Options:
        """The options that say ``config``."""
        return cls(**vars(config))

    @property
    def config(self) -> RunConfig:
        """What the options say."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})


Options = TypeVar("Options", bound=RunOptions)


def parse(kind: type[T], command: str, arguments: Sequence[str], description: str, default: Any = None) -> T:
    """Read ``arguments`` into the dataclass ``kind``.

    Raises:
        UsageError: they cannot be read; the message is the first thing that is wrong.
    """
    output, errors = io.StringIO(), io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind, prog=f"stablegrad {command}", description=description, args=list(arguments), **options
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            print(output.getvalue(), end="")
            raise
        message = _one_line(errors.getvalue() + output.getvalue())
    unknown = re.match(r"Unrecognized options: ([^\s,]+)", message)
    if unknown:
        raise unknown_name(f"option of '{command}'", unknown[1], _options(kind, default))
    raise UsageError(f"{message} (see stablegrad {command} --help)")


def option(arguments: Sequence[str], name: str, default: str | None = None) -> str | None:
    """The (last) value of one option, read before the rest: what it says decides the defaults of the others."""
    value = default
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
    return value


def algorithm_and_env(command: str, arguments: Sequence[str]) -> tuple[str, str, list[str]]:
    """What decides the defaults of all other options: the algorithm, which stands first, and the environment.

    Returns:
        (algorithm, env, the arguments without the algorithm). Where only help is asked for, both have stand-ins.
    """
    asks_for_help = bool({"-h", "--help"} & set(arguments))
    if asks_for_help and arguments[0].startswith("-"):
        arguments = [ALGORITHMS[0], *arguments]
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"name the algorithm first: stablegrad {command} {ALGORITHMS[0]} --env ID ...")
    algorithm, *rest = arguments
    if algorithm not in ALGORITHMS:
        raise unknown_name("algorithm", algorithm, ALGORITHMS)
    if option(rest, "--algorithm") is not None:
        raise UsageError(f"the algorithm stands first and is no option: stablegrad {command} {algorithm} --env ID ...")
    env = option(rest, "--env", "CartPole-v1" if asks_for_help else None)
    if env is None:
        raise UsageError("name an environment: --env ID ('stablegrad envs' lists them)")
    return algorithm, env, rest


def _one_line(text: str) -> str:
    """The message in tyro's box, without the box, its title and the help of the option."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip(" │╭╮╰╯|") for line in text.splitlines()]
    message = " ".join(line for line in lines[1:] if line.strip("─- "))
    message = re.split(r" Argument helptext:| Perhaps you meant:| For full helptext|─{3,}", message)[0]
    return re.sub(r"^Error parsing [\w.]+: ", "", message).strip()


def _options(kind: type, default: Any) -> set[str]:
    """All options of a command, read off its help."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **({} if default is None else {"default": default}))
    return set(re.findall(r"--[a-z][\w.-]*", re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())))
