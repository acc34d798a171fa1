"""``stablegrad verify``: whether runs are as they were when they ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from stablegrad.cli.arguments import parse
from stablegrad.errors import UsageError
from stablegrad.training.checkpoint import SUMS
from stablegrad.training.integrity import altered_files, record_digest


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad verify`` takes."""

    folder: tyro.conf.Positional[Path]
    """A run, or a folder that holds runs: a comparison, a study."""
    digest: str | None = None
    """Digest of the run's record as it was printed before: finds edits of the record itself."""
    json: bool = False
    """Print the result as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    parsed = parse(Arguments, "verify", arguments, "Check that finished runs were not edited since they ended.")
    runs = [parsed.folder]
    if not (parsed.folder / "config.json").exists():
        # Those without a record, too: who edits a run can remove it. None: the error below says what the folder is.
        runs = sorted(path.parent for path in parsed.folder.rglob("config.json")) or runs
    if parsed.digest is not None and len(runs) > 1:
        raise UsageError(f"--digest is for one run, and '{parsed.folder}' holds {len(runs)}")
    results = []
    for path in runs:
        if len(runs) > 1 and not (path / SUMS).exists():
            problems, digest = [f"it has no {SUMS}, so nothing is known of it"], None
        else:
            problems, digest = altered_files(path), record_digest(path)
        if parsed.digest is not None and parsed.digest != digest:
            problems.append(f"{SUMS} was edited: its digest is {digest}, not {parsed.digest}")
        results.append({"run": str(path), "digest": digest, "altered": problems})
        if not parsed.json:
            said = "as it ended" if not problems else "; ".join(problems)
            print(f"{path}: {said}" + (f"   digest {digest}" if digest else ""))
    if parsed.json:
        print(json.dumps(results))
    return 1 if any(result["altered"] for result in results) else 0
