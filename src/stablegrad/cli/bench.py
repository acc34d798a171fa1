"""``stablegrad bench optimizers``: what an optimizer's step costs, on the networks of arXiv 2506.15544."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from stablegrad.cli.arguments import parse
from stablegrad.cli.help import asks_for_help
from stablegrad.errors import UsageError, unknown_name
from stablegrad.files import write_atomically, write_json
from stablegrad.terminal import text_console
from stablegrad.training.config import provenance, resolve_device
from stablegrad.training.tuning import keep_freed_memory

SUBJECTS = ("optimizers",)
#: A step of an MLP takes milliseconds, so its median needs more of them.
MLP_ROUNDS = 10


@dataclass(frozen=True)
class Arguments:
    """What ``stablegrad bench optimizers`` takes."""

    sizes: tuple[str, ...] = ("mlp", "nature")
    """Networks: mlp/layers/width, or depth/width of the Nature CNN's torso; mlp and nature are six and nine of them."""
    optimizers: tuple[str, ...] = ("radam", "adam", "kron", "muon", "soap", "kron_torch", "heavyball")
    """Optimizers; radam and adam are what the others are compared with."""
    rounds: int = 15
    """Times that every kind of step is taken; ten times as often with an MLP."""
    batch_size: int = 128
    """Rows of the forward and backward pass."""
    seconds: float = 20.0
    """An optimizer that has taken longer than this at one size sits out the rest of its rounds."""
    device: str = "auto"
    """cpu, cuda, cuda:<n>; auto: cuda where there is one."""
    threads: int = 0
    """Threads of torch; 0: one a core, and one for an MLP."""
    dir: Path = Path("runs/bench-optimizers")
    """Where optimizers.json and optimizers.png go."""
    json: bool = False
    """Print the figures as JSON on the last line."""


def run(arguments: Sequence[str]) -> int:
    """Carry out the command."""
    subject, *rest = arguments or [""]
    if subject not in SUBJECTS and not asks_for_help([subject]):
        raise (
            unknown_name("subject of 'bench'", subject, SUBJECTS)
            if subject
            else UsageError("bench what? try: stablegrad bench optimizers")
        )
    text = "What an optimizer's step costs beside forward and backward, interleaved, medians."
    parsed = parse(Arguments, "bench optimizers", rest if subject in SUBJECTS else ["--help"], text)
    if parsed.rounds < 1 or parsed.batch_size < 1 or parsed.seconds <= 0 or parsed.threads < 0:
        raise UsageError("rounds, batch-size and seconds must be above 0, and threads at least 0")
    # kron_torch compiles its functions for every shape, for minutes; here it runs as written.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from stablegrad.reports.figures import png
    from stablegrad.reports.optimizer_cost import cost_figure
    from stablegrad.studies.optimizer_cost import (
        CONTENDERS,
        MLP_SIZES,
        NATURE_SIZES,
        is_mlp,
        measure,
        parse_size,
    )

    groups = {"mlp": MLP_SIZES, "nature": NATURE_SIZES}
    sizes = [size for given in parsed.sizes for size in groups.get(given, (given,))]
    for size in sizes:
        parse_size(size)
    for name in parsed.optimizers:
        if name not in CONTENDERS:
            raise unknown_name("optimizer to measure", name, CONTENDERS)
    device = resolve_device(parsed.device)
    keep_freed_memory()
    cores = torch.get_num_threads()
    parsed.dir.mkdir(parents=True, exist_ok=True)
    results = []
    for size in sizes:
        torch.set_num_threads(parsed.threads or (1 if is_mlp(size) else cores))
        result = measure(
            size,
            parsed.optimizers,
            rounds=parsed.rounds * (MLP_ROUNDS if is_mlp(size) else 1),
            batch_size=parsed.batch_size,
            seconds=parsed.seconds,
            device=device,
        )
        results.append({**result, "threads": torch.get_num_threads()})
        text_console().print(_table(result))
        origin = provenance()
        record = {name: origin[name] for name in ("command", "machine", "versions")}
        settings = {"batch_size": parsed.batch_size, "device": str(device)}
        write_json(parsed.dir / "optimizers.json", {**record, **settings, "sizes": results})
        write_atomically(parsed.dir / "optimizers.png", png(cost_figure(results)))
    print(f"wrote {parsed.dir / 'optimizers.json'} and {parsed.dir / 'optimizers.png'}")
    if parsed.json:
        print(json.dumps(results))
    return 0


def _table(result: dict[str, Any]) -> Table:
    title = (
        f"{result['size']}: {result['parameters'] / 1e6:.1f} M parameters, "
        f"forward + backward {result['forward_backward_ms']:.1f} ms"
    )
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("optimizer", no_wrap=True)
    for heading in (
        "step, ms",
        "by kind, ms",
        "training step / RAdam's",
        "/ Adam's",
        "late / early",
        "state / parameters",
        "spread",
    ):
        table.add_column(heading, justify="right")
    for name, entry in result["optimizers"].items():
        if "note" in entry:
            table.add_row(name, entry["note"])
            continue
        kinds = ", ".join(f"{kind} {value['ms']:.1f}" for kind, value in entry["kinds"].items())
        keys = ("ratio_radam", "ratio_adam", "late_ratio")
        measured = [f"{entry[key]:.2f}" if key in entry else "–" for key in keys]
        spread = "–" if entry["spread"] is None else f"{entry['spread']:.0%}"
        state = f"{entry['state_bytes'] / result['parameter_bytes']:.2f}"
        table.add_row(name, f"{entry['step_ms']:.1f}", kinds, *measured, state, spread)
    return table
