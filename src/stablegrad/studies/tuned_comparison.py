"""Before a comparison: the learning rate of each of its two settings, tuned alike on seeds that it does not use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stablegrad.errors import UsageError
from stablegrad.studies.comparison import check_settings
from stablegrad.studies.executors import Executor
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.processes import default_workers
from stablegrad.studies.runner import StudyProgress, tune_study
from stablegrad.studies.study import Cell, Study
from stablegrad.studies.study_folder import TUNING, StudyFolder
from stablegrad.studies.tuning import FIRST_SEED, Tuning, rate_factors
from stablegrad.studies.tuning_verdict import rates_in_words, tuned_cells, tuned_to, tuning_in_words

if TYPE_CHECKING:
    from stablegrad.training.config import RunConfig

SCORE = "final_return"
SEEDS = 2
MAX_RATES = 20


def tune_comparison(
    directory: Path | str,
    configs: Mapping[str, RunConfig],
    seeds: Sequence[int],
    rates: int,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    on_progress: Callable[[StudyProgress], None] | None = None,
) -> tuple[dict[str, RunConfig], list[str]]:
    """Train each setting at several learning rates, and return both with the rate at which they ended best.

    The trials are a study in ``<directory>/tuning``; called again it goes on where it stopped.

    Args:
        directory: the comparison's folder.
        configs: the two settings by name.
        seeds: the comparison's; trials have the seeds 1001 and 1002.
        rates: how many rates, around each setting's own: see ``rate_factors``.
        executor: runs the trainings; None: this machine.
        workers: how many runs at once; None: as many as the executor or the cores hold.
        on_progress: called about once a second.

    Returns:
        (the settings as tuned, sentences on what was found).

    Raises:
        UsageError: fewer than two rates or too many, seeds that are the trials', or other trials in the folder.
        KeyboardInterrupt: SIGINT or SIGTERM came; all is in order to go on.
    """
    check_settings(configs)
    if not 2 <= rates <= MAX_RATES:
        raise UsageError(f"tune-rate must be from 2 to {MAX_RATES} learning rates, got {rates}")
    tuning = Tuning(rate_factors(rates), {}, tuple(range(FIRST_SEED, FIRST_SEED + SEEDS)))
    if shared := set(seeds) & set(tuning.seeds):
        raise UsageError(f"seed {min(shared)} is one of those that tune-rate uses; choose others")
    directory = Path(directory)
    if not (directory / TUNING / "study.json").exists() and directory.exists() and any(directory.iterdir()):
        raise UsageError(f"folder '{directory}' is not empty and holds no tuned comparison; name a new or empty one")
    cells = tuple(Cell(name, {"setting": name}, config) for name, config in configs.items())
    study = Study("tuning", "full", {}, ("setting",), cells, tuple(seeds), (SCORE,), {}, tuning=tuning)
    threads = [config.threads for config in configs.values()]
    executor = executor or LocalExecutor(0 if 0 in threads else max(threads))
    workers = workers or executor.workers or default_workers(configs.values())
    tuned = tune_study(StudyFolder(directory, study), executor, workers, on_progress=on_progress).study
    how, *warnings = tuning_in_words(tuned, "setting")
    found = "; ".join(f"{cell.name} {tuned_to(cell)}, a rate of {rates_in_words(cell)}" for cell in tuned_cells(tuned))
    configs = {cell.name: cell.config for cell in tuned.cells}  # type: ignore[misc]
    return configs, [f"{how} Found: {found}.", *warnings]
