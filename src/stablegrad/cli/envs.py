"""``stablegrad envs``: what can be trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from stablegrad.cli.arguments import parse
from stablegrad.environments import list_environments
from stablegrad.errors import UsageError
from stablegrad.terminal import text_console


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad envs`` takes."""

    search: str | None = None
    """Show only names that contain this word."""
    json: bool = False
    """Print the list as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "envs", arguments, "List the environments that can be trained on.")
    environments = list_environments(parsed.search)
    if not environments:
        raise UsageError(f"no environment's name contains {parsed.search!r}; 'stablegrad envs' lists them all")
    if parsed.json:
        print(json.dumps([dataclasses.asdict(environment) for environment in environments]))
        return 0
    console = text_console()
    if not console.is_terminal:
        for environment in environments:
            print("\t".join(str(value) for value in dataclasses.astuple(environment)))
        return 0
    table = Table(*(field.name.replace("_", " ") for field in dataclasses.fields(environments[0])), box=None)
    for environment in environments:
        table.add_row(*(str(value) for value in dataclasses.astuple(environment)))
    console.print(table)
    console.print(
        f"{len(environments):,} environments; any other gymnasium id or package.module:factory works as well",
        style="dim",
    )
    return 0
