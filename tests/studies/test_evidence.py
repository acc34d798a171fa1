import json
import shlex
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stablegrad.errors import UsageError
from stablegrad.studies import summarize
from stablegrad.studies.decision import decide
from stablegrad.studies.evidence import read_evidence
from stablegrad.studies.next_command import next_command
from stablegrad.studies.study import read_study


def test_a_comparison_gives_the_figures_that_its_summary_has(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c", **{"stable/3": {"status": None, "error": "it broke"}})
    evidence, summary = read_evidence(directory), summarize(directory)
    decision = decide(evidence)
    for name in ("baseline", "stable"):
        assert evidence.scores(name, 0) == summary["results"][name]["final_returns"]
    assert decision.advantage.mean == pytest.approx(summary["difference"]["mean"])
    assert decision.advantage.interval == pytest.approx(summary["difference"]["interval"])
    assert decision.break_even.time_ratio == pytest.approx(summary["trade_off"]["time_ratio"])
    assert evidence.equal_time == tuple(summary["trade_off"]["equal_time"][n]["return"] for n in ("baseline", "stable"))
    lost = [run.lost for run in evidence.of("baseline", 0)]
    assert sum(filter(None, lost)) == summary["stability"]["baseline"]["collapsed"] > 0
    assert [run.status for run in evidence.of("stable", 0)] == ["finished", "finished", "failed"]
    assert {change.option for change in evidence.changes} == {"torso.kind", "optimizer.name"}
    assert evidence.sizes[0].parts == (("depth", "large"), ("width", "256"))
    assert evidence.sizes[0].parameters == 869_000 and evidence.budget == 300_000 and evidence.paper_budget is None


def test_the_steps_to_a_level_are_those_of_the_trade_off(synthetic, tmp_path):
    learned = {"returns": synthetic.learning(150, np.random.default_rng(5))}
    changes = {f"baseline/{seed}": learned for seed in (1, 2, 3)}
    directory = synthetic.write_comparison(tmp_path / "c", **changes)
    evidence, trade = read_evidence(directory), summarize(directory)["trade_off"]
    assert trade["steps_share"] is not None and evidence.steps_share == trade["steps_share"]
    assert evidence.whole_run_share == pytest.approx(trade["steps_to_level"]["stable"] / 300_000)
    assert evidence.candidate_short is False and evidence.level == trade["level"]


def test_a_study_is_sorted_into_sizes_and_settings(synthetic, tmp_path):
    evidence = read_evidence(synthetic.write_study(tmp_path / "s"))
    assert (evidence.kind, evidence.baseline, evidence.candidate) == ("study", "baseline", "stable")
    assert evidence.passed_over == ("kron",) and evidence.tasks == ("digits",) and not evidence.agents
    assert [size.parts for size in evidence.sizes] == [(("depth", "small"),), (("depth", "xlarge"),)]
    assert [size.parameters for size in evidence.sizes] == [50_000, 120_000]
    assert evidence.score == "relearning.mean_final_accuracy"  # gradients/norm is no score
    assert evidence.scores("baseline", 1) == pytest.approx([0.2, 0.2, 0.2], abs=0.011)
    assert len(evidence.runs) == 18 and evidence.budget == 45 and evidence.paper_budget == 100
    # The baseline learns no new labels, so there are no epochs of its to compare with.
    assert evidence.nothing_to_reach and evidence.steps_share is None
    assert [run.lost for run in evidence.of("stable", 1)] == [False] * 3
    assert [run.lost for run in evidence.of("baseline", 1)] == [True] * 3


def test_epochs_to_learn_again_are_the_steps_of_a_classifier(synthetic, tmp_path):
    accuracy = {**synthetic.ACCURACY, ("baseline", "xlarge"): 0.95}
    slow = {"relearning": {"reshuffles": 2, "relearned": 2, "mean_final_accuracy": 0.93, "mean_epochs": 10.0}}
    changes = {f"depth=xlarge_width=64_setting=baseline-seed{seed}": slow for seed in (1, 2, 3)}
    evidence = read_evidence(synthetic.write_study(tmp_path / "s", accuracy=accuracy, **changes))
    assert evidence.steps_share == 0.5 and evidence.candidate_short is False and not evidence.nothing_to_reach
    assert decide(evidence).break_even.state == "reached"  # half the steps at 1.3 times the time


def test_an_unfinished_and_a_failed_run(synthetic, tmp_path):
    changes = {
        "depth=xlarge_width=64_setting=stable-seed3": "left",
        "depth=small_width=64_setting=kron-seed1": "failed",
    }
    evidence = read_evidence(synthetic.write_study(tmp_path / "s", **changes))
    states = {run.status: run for run in evidence.runs}
    assert states["failed"].error == "it broke" and states["failed"].score is None
    assert evidence.scores("stable", 1)[2] is None
    decision = decide(evidence)
    assert decision.answer == "few" and decision.next_step == "finish"


AGENTS = """
seeds = 3
report = ["final_return"]
[base]
algorithm = "pqn"
total_steps = 20_000
[axes]
{axes}
"""
SETTINGS = 'setting = [{name = "baseline"}, {name = "stable", preset = "stable"}]'


def _empty(tmp_path, axes, report="final_return"):
    from stablegrad.studies.study_folder import StudyFolder

    file = tmp_path / "grid.toml"
    file.write_text(AGENTS.format(axes=axes).replace('"final_return"', f'"{report}"'))
    return StudyFolder.open(tmp_path / "grid", read_study(file), file).directory


def test_axes_are_told_apart_by_what_they_change(tmp_path):
    axes = f'env = ["CartPole-v1"]\ntorso.depth = [1, 2]\ntorso.norm = ["layer", "none"]\n{SETTINGS}'
    evidence = read_evidence(_empty(tmp_path, axes))
    assert evidence.tasks == ("CartPole-v1",) and len(evidence.sizes) == 2
    assert (evidence.baseline, evidence.candidate) == ("layer, baseline", "layer, stable")
    assert set(evidence.passed_over) == {"none, baseline", "none, stable"}
    assert decide(evidence).answer == "none" and decide(evidence).next_step == "finish"


def test_what_cannot_be_decided_is_said_in_one_line(tmp_path, synthetic):
    with pytest.raises(UsageError, match="neither a comparison folder nor a study folder"):
        read_evidence(tmp_path)
    with pytest.raises(UsageError, match="has one setting"):
        read_evidence(_empty(tmp_path / _made(tmp_path, "a"), 'env = ["CartPole-v1"]\ntorso.depth = [1, 2]'))
    with pytest.raises(UsageError, match="reports no score"):
        read_evidence(_empty(tmp_path / _made(tmp_path, "b"), f'env = ["CartPole-v1"]\n{SETTINGS}', "gradients/norm"))
    # Raw returns of two environments have no common scale.
    with pytest.raises(UsageError, match=r"one that all its tasks share.*human_normalized_return"):
        read_evidence(_empty(tmp_path / _made(tmp_path, "c"), f'env = ["CartPole-v1", "Acrobot-v1"]\n{SETTINGS}'))


def _made(tmp_path, name):
    (tmp_path / name).mkdir()
    return name


# The next command


def _command(directory, step, seeds=None):
    evidence = read_evidence(directory)
    return next_command(evidence, replace(decide(evidence), next_step=step, next_seeds=seeds))


@pytest.mark.parametrize("seeds", ["seeds = {seeds}", "seeds = [\n  4,\n  5, 6\n]", ""])
def test_a_study_is_repeated_with_more_seeds(synthetic, tmp_path, seeds):
    directory = synthetic.write_study(tmp_path / "a study", text=synthetic.STUDY.replace("seeds = {seeds}", seeds))
    edit, run = _command(directory, "more_seeds", 7).split(" && ")
    subprocess.run(edit, shell=True, check=True)
    words = shlex.split(run)
    assert words[:3] == ["stablegrad", "study", "run"] and words[-1] != str(directory)
    assert read_study(words[3]).seeds == (1, 2, 3, 4, 5, 6, 7)
    before, after = tomllib.loads((directory / "study.toml").read_text()), tomllib.loads(Path(words[3]).read_text())
    assert {**before, "seeds": 7} == after


def test_a_comparison_is_repeated_with_more_seeds_or_deeper(synthetic, tmp_path):
    words = ["stablegrad", "compare", "pqn", "--env", "LunarLander-v3", "--seeds", "1", "2", "--dir=c", "--quiet"]
    directory = synthetic.write_comparison(tmp_path / "c", command=words)
    assert shlex.split(_command(directory, "more_seeds", 9)) == [
        *("stablegrad", "compare", "pqn", "--env", "LunarLander-v3", "--quiet"),
        *("--seeds", "9", "--dir", f"{directory}-9-seeds"),
    ]
    deeper = shlex.split(_command(directory, "bigger", 3))
    assert deeper[-2:] == ["--torso.depth", "xlarge"] and f"{directory}-xlarge" in deeper  # it was large
    assert _command(directory, "finish") == shlex.join(words)


def test_the_other_commands(synthetic, tmp_path):
    study, pair = synthetic.write_study(tmp_path / "s"), synthetic.write_comparison(tmp_path / "c")
    assert _command(study, "finish") == f"stablegrad study resume {study}"
    assert _command(study, "full_form") == f"stablegrad study run {study}/study.toml --dir {study}-full"
    assert _command(study, "adopt").startswith("stablegrad compare pqn --env LunarLander-v3 --torso.depth xlarge")
    worst = min((1, 2, 3), key=lambda seed: read_evidence(pair).scores("stable", 0)[seed - 1])
    assert _command(pair, "stop") == f"stablegrad diagnose {pair}/runs/stable/seed-{worst}"


def test_adopting_is_training_with_the_candidates_options(tmp_path, capsys):
    from stablegrad.cli.train import run as train

    axes = f'env = ["CartPole-v1"]\ntorso.depth = [1, 2]\n{SETTINGS}'
    directory = _empty(tmp_path, axes)
    evidence = read_evidence(directory)
    words = shlex.split(next_command(evidence, replace(decide(evidence), next_step="adopt", next_seeds=None)))
    assert words[:2] == ["stablegrad", "train"] and words[-2:] == ["--seed", "4"]
    small = [*words[2:], "--total-steps", "1024", "--quiet", "--run-dir", str(tmp_path / "run")]
    assert train(small) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    wanted = evidence.configs["stable", 1]
    assert config["agent"] == json.loads(json.dumps(wanted["agent"])) and config["seed"] == 4
