"""Help of a command: the options that matter first, all of them with ``--help-all``."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
#: More options than these are shown with ``--help-all`` only.
MANY = 30
#: What ``--help`` shows of a command with many options, in this order.
MAIN = (
    *("--env", "--data", "--preset", "--settings", "--seeds", "--seed", "--tune-rate", "--trials", "--max-hours"),
    *("--total-steps", "--epochs", "--reshuffle-every", "--torso.depth", "--torso.width", "--optimizer.learning-rate"),
    *("--num-envs", "--device", "--workers", "--run-dir", "--dir"),
)
INDENT = 28
#: Types as tyro writes them, and as they are shown.
TYPES = {"STR": "TEXT", "INT": "N", "FLOAT": "X"}


@dataclass(frozen=True)
class Entry:
    """One option: its names and type, and what it does; or the title of a group, without a text."""

    head: str
    text: str

    @property
    def names(self) -> set[str]:
        """Its names, as typed."""
        return set(re.findall(r"(?<!\S)-[-\w.]+", self.head.replace(",", " ")))


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether help is asked for, of either length."""
    return bool({*HELP, HELP_ALL} & set(arguments))


def help_text(output: str, command: str, *, everything: bool) -> str:
    """tyro's help in this package's form.

    Args:
        output: what tyro printed.
        command: without "stablegrad".
        everything: show all options, of a command with many of them, too.
    """
    before, entries = _entries(output)
    options = [entry for entry in entries if entry.text and not entry.names & set(HELP)]
    lines = "\n".join(before).rstrip().split("\n")
    if everything or len(options) <= MANY:
        shown = entries
    else:
        lines.append("")
        shown = [entry for name in MAIN for entry in options if name in entry.names]
    for entry in shown:
        lines += _shown(entry)
    if len(shown) < len(options):
        lines += ["", f"{len(options) - len(shown)} more options: stablegrad {command} {HELP_ALL}"]
    return "\n".join(lines) + "\n"


def _entries(output: str) -> tuple[list[str], list[Entry]]:
    """The lines before the options, and the options with the titles of their groups."""
    before: list[str] = []
    entries: list[Entry] = []
    for line in output.splitlines():
        option = re.match(r"  (\S.*?)(?:\s{2,}(\S.*))?$", line)
        title = re.match(r" (\S.*?)\s*$", line)
        if option:
            entries.append(Entry(option[1].strip(), (option[2] or "").strip()))
        elif title and not title[1].startswith("---"):
            entries.append(Entry(title[1], ""))
        elif entries and line.startswith("   ") and line.strip():
            last = entries[-1]
            entries[-1] = Entry(last.head, f"{last.text} {line.strip()}".strip())
        elif not entries:
            before.append(line.rstrip())
    return before, entries


def _shown(entry: Entry) -> list[str]:
    """The lines of one entry."""
    if not entry.text:
        return ["", f"{entry.head}:"]
    head = entry.head.replace("{None}|", "").replace("|{None}", "")
    text = entry.text.replace("(default: None)", "").strip()
    if text.endswith("(default: False)"):
        head, text = head.partition(", --no-")[0], text.removesuffix("(default: False)").strip()
    head = re.sub(r"\b(STR|INT|FLOAT)\b", lambda found: TYPES[found[1]], head)
    width = min(max(shutil.get_terminal_size().columns, 80), 110)
    lines = textwrap.wrap(text, width - INDENT, break_on_hyphens=False) or [""]
    first = f"  {head}"
    if len(first) > INDENT - 2:
        return [first, *(" " * INDENT + line for line in lines)]
    return [first.ljust(INDENT) + lines[0], *(" " * INDENT + line for line in lines[1:])]
