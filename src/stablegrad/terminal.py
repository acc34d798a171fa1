"""Where tables are printed. Text is text: neither brackets nor colons in it are taken for markup."""

from __future__ import annotations

from rich.console import Console

UNLIMITED = 10_000  # columns


def text_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is; in a file or a pipe, which has no width, a table takes what it needs."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = UNLIMITED
    return console
