"""What a search came to, as JSON values and in words.

What is claimed comes from the confirmation alone: the best of many trials looks better than it is (winner's curse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stablegrad.studies.comparison import Comparison
from stablegrad.studies.processes import last_metrics
from stablegrad.studies.search_diagnosis import prescriptions_of
from stablegrad.studies.search_folder import CONFIRMATION, CONFIRMATION_PRESCRIPTION, SearchPlan
from stablegrad.studies.search_space import describe, train_command
from stablegrad.studies.summary import summarize
from stablegrad.studies.wording import verdict
from stablegrad.text import duration, number
from stablegrad.training.config import RunConfig
from stablegrad.training.run_folder import RunFolder

#: The reason of a trial that was cut off because its time was the confirmation's.
TIME = "no time was left"
BETTER, UNDECIDED, WORSE, NOTHING = "better", "undecided", "worse", "nothing better"


def result_of(directory: Path, plan: SearchPlan, state: Mapping[str, Any], trials: Sequence[Any]) -> dict[str, Any]:
    """The figures of a search, whose trials and confirmation are over.

    Args:
        directory: the search's folder.
        plan: what was asked for.
        state: content of search.json.
        trials: Optuna's, in their order.

    Returns:
        - ``verdict``: "better" (the interval of the paired difference on fresh seeds lies above 0), "undecided",
          "worse", or "nothing better" (no trial had a higher return than the baseline: nothing to confirm);
        - ``words``: sentences; ``command``: trains the best setting, the baseline where nothing was better;
        - ``diagnosis``: what the pre-flight and the baseline's run showed, and what is prescribed;
        - ``best``: number, source and changes of the best trial, and its return in the search;
        - ``confirmation`` and ``confirmation_prescription``: the summaries (``stablegrad.studies.summarize``), or None;
        - ``trials``: of each number, source, changes, state ("finished", "pruned", "failed", "cut"), value, reason,
          seconds, env_steps;
        - ``spent``: seconds, confirmation_seconds, confirmation_share, env_steps, numbers of trials by state and, of
          the pruned, by reason.
    """
    rows = [_row(directory, plan, one) for one in trials if one.state.is_finished()]
    winner = next(row for row in rows if row["number"] == state["winner"])
    confirmations = {name: _summary(directory / name) for name in (CONFIRMATION, CONFIRMATION_PRESCRIPTION)}
    confirmed = confirmations[CONFIRMATION]
    answer = _answer(confirmed)
    folder = directory / "trials" / f"{winner['number']:03d}" / f"seed-{plan.seeds[0]}"
    return {
        "verdict": answer,
        "words": _words(answer, winner, rows, plan, confirmations),
        "command": train_command(RunConfig.from_json(RunFolder(folder).read_config())),
        "best": {name: winner[name] for name in ("number", "source", "changes", "value")},
        "diagnosis": {
            **{name: [one["reason"] for one in state["diagnosis"][name]] for name in ("preflight", "run")},
            "prescriptions": [one.name for one in prescriptions_of(state["diagnosis"])],
        },
        "seeds": list(plan.seeds),
        "fresh_seeds": list(plan.fresh),
        "confirmation": confirmed,
        "confirmation_prescription": confirmations[CONFIRMATION_PRESCRIPTION],
        "trials": rows,
        "spent": _spent(directory, state, rows),
    }


def best_prescription(trials: Sequence[Any]) -> Any:
    """The finished trial with the highest return among the starting points that a diagnosis or a preset gave."""
    own = [one for one in trials if one.state.name == "COMPLETE"]
    own = [one for one in own if one.user_attrs["source"] not in ("baseline", "sampled")]
    return max(own, key=lambda one: one.value, default=None)


def _row(directory: Path, plan: SearchPlan, trial: Any) -> dict[str, Any]:
    attributes = trial.user_attrs
    states = {"COMPLETE": "finished", "PRUNED": "pruned"}
    state = states.get(trial.state.name, "cut" if attributes.get("reason") == TIME else "failed")
    runs = (directory / "trials" / f"{trial.number:03d}" / f"seed-{seed}" for seed in plan.seeds)
    return {
        "number": trial.number,
        "source": attributes["source"],
        "changes": attributes.get("changes", {}),
        "state": state,
        "value": trial.value if state == "finished" else None,
        "reason": attributes.get("reason"),
        "seconds": attributes.get("seconds"),
        "env_steps": sum(_steps(run) for run in runs),
    }


def _steps(run: Path) -> int:
    return int((last_metrics(RunFolder(run)) or {"step": 0})["step"])


def _summary(directory: Path) -> dict[str, Any] | None:
    return summarize(directory) if (directory / "comparison.json").exists() else None


def _answer(confirmed: Mapping[str, Any] | None) -> str:
    if confirmed is None:
        return NOTHING
    interval = confirmed["difference"]["interval"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return UNDECIDED
    return BETTER if interval[0] > 0 else WORSE


def _words(
    answer: str,
    winner: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    plan: SearchPlan,
    confirmations: Mapping[str, dict[str, Any] | None],
) -> list[str]:
    finished = sum(row["state"] == "finished" for row in rows)
    confirmed = confirmations[CONFIRMATION]
    if confirmed is None:
        return [
            f"Nothing beat the baseline: its return of {number(winner['value'])} is the highest of {finished} finished "
            f"trials (of {len(rows)}), so there was nothing to confirm."
            if finished > 1
            else f"Nothing beat the baseline: of {len(rows)} trials it alone is finished, with a return of "
            f"{number(winner['value'])}."
        ]
    difference, changes = confirmed["difference"], describe(winner["changes"])
    pairs = [seed for seed, value in zip(confirmed["seeds"], difference["by_seed"], strict=True) if value is not None]
    seeds = ", ".join(map(str, pairs))
    if not pairs:
        first = f"Not confirmed: no pair of runs on fresh seeds is finished: {changes}."
    elif difference["interval"] is None:
        first = f"Not confirmed: the one pair of runs on a fresh seed ({seeds}) cannot tell: {changes}."
    elif difference["interval"] == [0.0, 0.0]:
        first = f"Not confirmed: on fresh seeds ({seeds}) the best trial has the returns of the baseline: {changes}."
    else:
        first = {
            BETTER: f"Found and confirmed on fresh seeds ({seeds}): {changes}.",
            UNDECIDED: f"Not confirmed: on fresh seeds ({seeds}) the best trial is not told from the baseline by more "
            f"than chance: {changes}.",
            WORSE: f"Refuted on fresh seeds ({seeds}): the best trial of the search is worse than the baseline: "
            f"{changes}.",
        }[answer]
    mean = confirmed["results"]["best"]["mean"]
    fresh = "no return" if mean is None else number(mean)
    count = confirmed["results"]["best"]["count"]
    curse = (
        f"In the search it had {number(winner['value'])}, the highest of {finished}, which tends to flatter it "
        f"(winner's curse); on {count or 'no'} fresh seed{'' if count == 1 else 's'} it has {fresh}, and only that "
        "counts."
    )
    words = [first, *verdict(confirmed), curse]
    other = confirmations[CONFIRMATION_PRESCRIPTION]
    if other is not None:
        words.append(f"Against the best prescription, on the same seeds: {verdict(other)[0]}")
    return words


def _spent(directory: Path, state: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds, confirming = state["spent"]["seconds"], state["spent"]["confirmation_seconds"]
    pruned = [row["reason"].partition(":")[0] for row in rows if row["state"] == "pruned"]
    steps = 0
    for name in (CONFIRMATION, CONFIRMATION_PRESCRIPTION):
        if (directory / name / "comparison.json").exists():
            comparison = Comparison.read(directory / name)
            # The best setting's runs are the first comparison's.
            new = [one for one in comparison.settings if name == CONFIRMATION or one != "best"]
            steps += sum(_steps(comparison.run_folder(one, seed).path) for one in new for seed in comparison.seeds)
    return {
        "seconds": seconds,
        "confirmation_seconds": confirming,
        "confirmation_share": confirming / seconds if seconds else None,
        "env_steps": sum(row["env_steps"] for row in rows) + steps,
        "confirmation_env_steps": steps,
        "trials": {name: sum(row["state"] == name for row in rows) for name in ("finished", "pruned", "failed", "cut")},
        "pruned_by": {name: pruned.count(name) for name in ("diagnosis", "return")},
    }


def spent_in_words(spent: Mapping[str, Any]) -> str:
    """What a search took, in one sentence."""
    trials, by = spent["trials"], spent["pruned_by"]
    share = spent["confirmation_share"]
    cut = f", {trials['cut']} cut off for lack of time" if trials["cut"] else ""
    return (
        f"Spent: {sum(trials.values())} trials ({trials['finished']} finished; {trials['pruned']} stopped early: "
        f"{by['diagnosis']} by the diagnosis, {by['return']} by their return; {trials['failed']} failed{cut}), "
        f"{spent['env_steps']:,} environment steps, {duration(spent['seconds'])}"
        + ("" if share is None else f", {share:.0%} of it on the confirmation")
        + "."
    )
