"""Entry point: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from stablegrad import __version__
from stablegrad.errors import StablegradError, UsageError, unknown_name

COMMANDS = {
    "quickstart": "the main job in one go: a deep network failing, and the same network stabilised",
    "train": "train one agent in a run folder",
    "resume": "continue a run from its newest checkpoint",
    "evaluate": "greedy episodes of a trained agent, optionally as a video",
    "diagnose": "will a network keep learning, or why did a run not; what to do about it",
    "compare": "two settings with paired seeds: does the second learn better, and at what cost?",
    "study": "many runs, described by one file: a grid of settings and seeds, continued after any stop",
    "search": "finds the setting that makes a network learn, and confirms it on fresh seeds",
    "report": "a run, a comparison or a study as one offline HTML page",
    "verify": "whether finished runs are as they were when they ended",
    "envs": "what can be trained on",
    "relearn": "a classifier whose labels are reshuffled: does it learn them again?",
    "bench": "what an optimizer's step costs, beside others",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal's encoding has not
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
            print(_usage())
            return 0
        if arguments[0] == "--version":
            print(f"stablegrad {__version__}")
            return 0
        command, *rest = arguments
        if command.startswith("-"):
            raise UsageError(f"name a command first: stablegrad COMMAND {command} ... ('stablegrad --help' lists them)")
        if command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        module = importlib.import_module(f"stablegrad.cli.{command}")
        if "WORLD_SIZE" in os.environ and command not in ("train", "resume"):
            from stablegrad.training.distributed import refuse_torchrun

            refuse_torchrun(command)
        code = module.run(rest)
        sys.stdout.flush()
        return code
    except StablegradError as error:
        if debug:
            raise
        _tell(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        _tell("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if debug:
            raise
        where = f"'{error.filename}': " if error.filename else ""
        _tell(f"{where}{error.strerror or error}")
        return 1
    except (RuntimeError, MemoryError) as error:
        if debug:
            raise
        # torch's own: no memory, a device that is gone. Its first line says what.
        reason = (str(error).splitlines() or [""])[0]
        _tell(f"{type(error).__name__}: {reason} (--debug shows where)")
        return 1


def _tell(message: str) -> None:
    """One line, also where torchrun started several processes that all stop at the same error."""
    if "WORLD_SIZE" in os.environ:
        from stablegrad.training.distributed import first_to_tell

        if not first_to_tell():
            return
    print(f"stablegrad: {message}", file=sys.stderr)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "stablegrad: make big deep-RL networks learn",
            "",
            "usage: stablegrad COMMAND [options]",
            "",
            *lines,
            "",
            "'stablegrad COMMAND --help' explains a command; --debug shows the traceback of an error,",
            "--version the version.",
        ]
    )
