"""Command lines to dataclasses, with one line where they cannot be read."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import tyro

from stablegrad.agents.catalogue import DEFAULT_ALGORITHM, find_algorithm
from stablegrad.agents.presets import PRESETS, RECIPES
from stablegrad.cli.help import HELP, HELP_ALL, asks_for_help, help_text
from stablegrad.cli.option_names import nearest_options
from stablegrad.errors import UsageError
from stablegrad.training.config import RunConfig

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
    algorithm: tyro.conf.Fixed[str] = DEFAULT_ALGORITHM
    preset: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join((*PRESETS, *RECIPES))}; with changes, if any, as in stable+torso.skip_blocks=2."
        ),
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
    words = [HELP[-1] if word == HELP_ALL else word for word in arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            return tyro.cli(kind, prog=f"stablegrad {command}", description=description, args=words, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            text = output.getvalue()
            if asks_for_help(arguments):
                text = help_text(text, command, everything=HELP_ALL in arguments)
            print(text, end="")
            raise
        message = _one_line(errors.getvalue() + output.getvalue())
    unknown = re.match(r"Unrecognized options: ([^\s,]+)", message)
    if unknown:
        raise _unknown(unknown[1], command, arguments, _options(kind, default))
    raise UsageError(f"{_plainer(message, arguments)} (see stablegrad {command} --help)")


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
    only_help = asks_for_help(arguments)
    if only_help and arguments[0].startswith("-"):
        arguments = [DEFAULT_ALGORITHM, *arguments]
    if not arguments or arguments[0].startswith("-"):
        raise UsageError(f"name the algorithm first: stablegrad {command} {DEFAULT_ALGORITHM} --env ID ...")
    algorithm, *rest = arguments
    find_algorithm(algorithm)  # raises where there is none
    if option(rest, "--algorithm") is not None:
        raise UsageError(f"the algorithm stands first and is no option: stablegrad {command} {algorithm} --env ID ...")
    env = option(rest, "--env", "CartPole-v1" if only_help else None)
    if env is None:
        named = rest[0] if rest and not rest[0].startswith("-") else "ID"
        raise UsageError(f"name an environment: --env {named} ('stablegrad envs' lists them)")
    return algorithm, env, rest


def folder_name(*parts: str) -> str:
    """A folder's name that says what it holds."""
    return "-".join(parts).replace(":", "-").replace("/", "-")


def _unknown(name: str, command: str, arguments: Sequence[str], options: set[str]) -> UsageError:
    """The error for an option that there is not, or for a word too many."""
    if not name.startswith("-"):
        words = [word for argument in arguments for word in argument.split("=", 1)]
        before = words[: words.index(name)] if name in words else []
        flag = before[-1] if before and before[-1] in options else None
        hint = f"{flag} takes no value" if flag else f"options begin with --, see stablegrad {command} --help-all"
        return UsageError(f"unexpected {name!r} for '{command}': {hint}")
    meant = nearest_options(name, options)
    if meant:
        return UsageError(f"unknown option of '{command}' {name!r}; did you mean {' and '.join(map(repr, meant))}?")
    return UsageError(f"unknown option of '{command}' {name!r}; 'stablegrad {command} --help-all' lists them all")


def _plainer(message: str, arguments: Sequence[str]) -> str:
    """tyro's message in words for people, where it is one of those that need them."""
    if missing := re.match(r"Missing from (stablegrad .+?): (\S+) (.+?) \(required\)", message):
        return f"'{missing[1]}' needs {missing[2]}: {missing[3].rstrip('.')}"
    named = re.search(r"(--[a-z][\w.-]*)", message)
    if named is None:
        return message
    name, value = named[1], option(arguments, named[1])
    if value is None:
        return f"{name} needs a value"
    parts = re.findall(r"[^\s,;()\[\]]+", value.replace("x", " ") if re.fullmatch(r"[\dx]+", value) else value)
    if "literal for int()" in message:
        whole = _whole_number(value)
        return f"{name} should be a whole number, got {value!r}" + (f"; did you mean {whole}?" if whole else "")
    if "could not convert string to float" in message:
        return f"{name} should be a number, got {value!r}"
    if count := re.search("Expected ([2-9]) values", message):
        hint = f": {name} {' '.join(parts)}" if len(parts) == int(count[1]) else ""
        return f"{name} needs {count[1]} values, with spaces between them{hint}"
    if len(parts) > 1:
        return f"{name} takes its values with spaces between them: {name} {' '.join(parts)}"
    return message if "no type matching" not in message else f"{name} cannot be {value!r}"


def _whole_number(text: str) -> int | None:
    """What "1e6", "1M" or "1,000,000" mean."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?(?:e\d{1,2})?)([km]?)", text.lower().replace(",", ""))
    if match is None or re.fullmatch(r"\d{1,2}(,\d{1,2})+", text):
        return None
    number = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2]]
    return int(number) if number.is_integer() else None


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
