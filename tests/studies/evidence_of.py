"""Evidence from tables of scores, so that decisions can be tested without folders."""

from __future__ import annotations

from pathlib import Path

from stablegrad.studies.evidence import Change, Evidence, EvidenceRun, Size


def evidence_of(baseline, candidate, **changes):
    """Scores [sizes][seeds] of both settings; None where a run did not finish.

    ``changes`` replace fields of the evidence; ``lost`` (setting, size) -> how many of its runs lost what they had
    learned, ``seconds`` setting -> wall time of a run, ``failed`` and ``machines`` are about runs.
    """
    lost, failed = changes.pop("lost", {}), changes.pop("failed", set())
    seconds = changes.pop("seconds", {"baseline": 100.0, "stable": 120.0})
    machines = changes.pop("machines", ["a machine"])
    runs = []
    for setting, table in (("baseline", baseline), ("stable", candidate)):
        for size, row in enumerate(table):
            for index, score in enumerate(row):
                place = (setting, size, index + 1)
                finished = score is not None
                wall = seconds[setting] if finished else None
                runs.append(
                    EvidenceRun(
                        setting=setting,
                        size=size,
                        task=0,
                        seed=index + 1,
                        status="finished" if finished else "failed" if place in failed else "left",
                        error="it broke" if place in failed else None,
                        score=score,
                        seconds=wall,
                        seconds_per_step=None if wall is None else wall / 1000,
                        memory_bytes=2**30 if finished else None,
                        lost=index < lost.get((setting, size), 0) if finished else None,
                        machine=machines[index % len(machines)],
                        path=Path("runs") / setting / f"{size}-{index + 1}",
                    )
                )
    sizes = len(baseline)
    config = {"algorithm": "pqn", "env": "CartPole-v1", "preset": "baseline"}
    values = {
        "kind": "comparison" if sizes == 1 else "study",
        "form": None if sizes == 1 else "full",
        "directory": Path("somewhere"),
        "title": None,
        "agents": True,
        "tasks": ("CartPole-v1",),
        "score": "final_return",
        "baseline": "baseline",
        "candidate": "stable",
        "passed_over": (),
        "sizes": tuple(Size((("depth", str(index + 1)),), 1000 * 4**index) for index in range(sizes)),
        "seeds": tuple(range(1, len(baseline[0]) + 1)),
        "runs": tuple(runs),
        "changes": (Change("torso.kind", "mlp", "multi_skip"),),
        "configs": {(name, size): config for name in ("baseline", "stable") for size in range(sizes)},
        "budget": 1000,
        "paper_budget": None,
        "depth": sizes,
        "steps_share": None,
        "whole_run_share": None,
        "equal_time": None,
        "candidate_short": None,
        "nothing_to_reach": False,
        "level": None,
        "command": ("stablegrad", "compare", "pqn", "--env", "CartPole-v1", "--seeds", "3", "--dir", "somewhere"),
        "study_file": None,
    }
    return Evidence(**{**values, **changes})
