"""``stablegrad study``: the processes of runs get ready while the command itself is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stablegrad.cli.help import asks_for_help
from stablegrad.run_server import start_run_server


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    if _will_run_here(arguments):
        start_run_server(1)
    from stablegrad.cli.study_commands import run as carry_out

    return carry_out(arguments)


def _will_run_here(arguments: Sequence[str]) -> bool:
    """Whether runs of one thread each will be started by this machine, as far as it can be seen at a glance."""
    if (
        list(arguments[:1]) != ["run"]
        or asks_for_help(arguments)
        or {"--dry-run", "ray", "--executor=ray"} & set(arguments)
    ):
        return False
    files = [Path(argument) for argument in arguments[1:] if argument.endswith(".toml")]
    try:
        return len(files) == 1 and "threads" not in files[0].read_text()
    except (OSError, UnicodeDecodeError):
        return False
