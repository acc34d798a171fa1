"""What trainings of a run with its prescriptions say; the trainings themselves: tests/cli/test_diagnose.py."""

import dataclasses
import json

import pytest

from stablegrad.diagnostics import Finding, History, Report
from stablegrad.diagnostics.prescriptions import Prescription
from stablegrad.studies import ComparisonResult, run_trial
from stablegrad.studies.run_trial import (
    changed_configs,
    commands_of,
    fitting,
    outcome,
    planned_seconds,
    short_commands_of,
    shortened,
    trial_steps,
    verify_run,
)
from stablegrad.supervised import SupervisedConfig
from stablegrad.training.config import default_run


def prescription(name, factor=None):
    return Prescription(name, name.upper(), "why", ("rule",), "cost", 1.0, 1.0, {}, False, factor)


def report(*since):
    return Report([Finding("dead_units", "collapsed", "a", step, 1.0, 0.8, "dead") for step in since], History())


@pytest.mark.parametrize(
    ("since", "steps"),
    [((3_000, 40_000), 10_000), ((20_000,), 40_000), ((90_000,), 100_000), ((), 100_000)],
)
def test_a_trial_goes_beyond_the_first_finding_and_not_beyond_the_run(since, steps):
    assert trial_steps(report(*since), 100_000) == steps


def test_prescriptions_become_settings_where_they_are_some():
    base = default_run("pqn", "CartPole-v1")
    names = ["layer_norm", "reconnect", "multi_skip", "kron", "lower_learning_rate"]  # it has LayerNorm already
    changed = changed_configs(base, [prescription(name, 0.1 if "rate" in name else None) for name in names])
    assert list(changed) == ["multi_skip", "kron", "lower_learning_rate"]
    assert changed["kron"].agent.optimizer.name == "kron"
    rates = [config.agent.optimizer.initial_learning_rate for config in (changed["lower_learning_rate"], base)]
    assert rates[0] == pytest.approx(0.1 * rates[1])
    assert changed_configs(changed["kron"], [prescription("kron")]) == {}


def test_the_rate_that_is_tried_is_the_one_that_was_prescribed():
    """However far from the run's: a search would stay within a tenth and ten times."""
    base = default_run("pqn", "CartPole-v1")
    changed = changed_configs(base, [prescription("raise_learning_rate", 1000.0)])["raise_learning_rate"]
    rate = base.agent.optimizer.initial_learning_rate
    assert changed.agent.optimizer.initial_learning_rate == pytest.approx(1000 * rate)


def test_a_smaller_network_is_tried_in_its_place_among_the_prescriptions():
    base = default_run("pqn", "CartPole-v1", "stable+torso.depth=10+torso.skip_blocks=7")
    changed = changed_configs(base, [prescription("smaller_network"), prescription("lower_learning_rate", 0.1)])
    assert list(changed) == ["smaller_network", "lower_learning_rate"]
    torso = changed["smaller_network"].agent.torso
    assert (torso.depth, torso.width, torso.kind) == (1, base.agent.torso.width, "multi_skip")
    assert (
        changed_configs(default_run("pqn", "CartPole-v1", "baseline+torso.depth=1"), [prescription("smaller_network")])
        == {}
    )


def test_what_a_run_has_already_is_not_prescribed():
    settings = ("baseline+torso.norm=none", "stable")
    plain, stable = (fitting(default_run("pqn", "CartPole-v1", setting).to_json()) for setting in settings)
    assert {"layer_norm", "multi_skip", "kron"} <= plain
    assert not {"layer_norm", "multi_skip", "kron"} & stable
    elsewhere = {**default_run("pqn", "CartPole-v1").to_json(), "env": "no_such_package:make_env"}
    assert fitting(elsewhere) is None


def test_a_training_of_a_trial_goes_on_to_its_end_and_leaves_nothing_elsewhere():
    """With the run's own collapse handling the training without a change would stop, and there would be no pair."""
    run = default_run("pqn", "CartPole-v1")
    ill = dataclasses.replace(run.diagnosis, on_collapse="stop")
    short = shortened(dataclasses.replace(run, diagnosis=ill, wandb="project", eval_episodes=5, log_every=7), 5_000)
    assert (short.total_steps, short.threads, short.wandb, short.eval_episodes) == (5_000, 1, None, 0)
    assert (short.log_every, short.diagnosis.on_collapse) == (None, "continue")
    assert short.agent == run.agent


def summary(interval, finished=(3, 3), mean=5.0):
    return {
        "seeds": [2, 3, 4],
        "results": {
            "unchanged": {"finished": finished[0], "mean": 10.0},
            "kron": {"finished": finished[1], "mean": 10.0 + mean},
        },
        "difference": {"mean": mean, "interval": interval, "count": 3 if interval else 0},
        "cost": {"unchanged": {"peak_memory_bytes": 100}, "kron": {"peak_memory_bytes": 150}},
        "trade_off": {"time_ratio": 1.25},
    }


@pytest.mark.parametrize(
    ("found", "decision", "reason"),
    [
        (summary([1.0, 9.0]), "go", "better: return 10.0 without, 15.0 with it, 3 pairs"),
        (summary([-1.0, 11.0]), "no-go", "no difference that is told from chance"),
        (summary([-9.0, -1.0], mean=-5.0), "no-go", "worse"),
        (summary(None, finished=(0, 3)), "go", "of 3 trainings each, 0 came to their end without and 3 with it"),
        (summary(None, finished=(0, 2)), "no-go", "0 came to their end without and 2 with it"),
        (summary(None), "no-go", "too few trainings ended an episode"),
    ],
)
def test_the_decision_follows_from_the_interval_or_from_what_failed(found, decision, reason):
    trial = outcome(prescription("kron"), found)
    assert (trial.decision, trial.name) == (decision, "kron")
    assert reason in trial.reason
    if found["difference"]["interval"]:
        assert (trial.step_time, trial.memory, trial.seeds) == (1.25, 1.5, 3)
        assert [trial.low, trial.high] == found["difference"]["interval"]


def test_changes_are_tried_in_their_order_beside_the_same_unchanged_trainings(tmp_path, monkeypatch):
    compared = []

    def compare(directory, configs, seeds, **options):
        compared.append((directory.name, list(configs), seeds))
        for setting in configs:
            (directory / "runs" / setting).mkdir(parents=True, exist_ok=True)
        found = summary([1.0, 9.0])
        for part in ("results", "cost"):
            found[part][list(configs)[1]] = found[part].pop("kron")
        return ComparisonResult(directory, found)

    monkeypatch.setattr(run_trial, "run_comparison", compare)
    names = ["multi_skip", "reconnect", "kron", "residual"]
    base = dataclasses.replace(default_run("pqn", "CartPole-v1"), seed=7)
    for _ in range(2):  # the second time the folders are there
        trials = verify_run(tmp_path, base, [prescription(name) for name in names], steps=500, seeds=2, top=2)
        assert [(one.name, one.decision) for one in trials] == [
            ("multi_skip", "go"), ("reconnect", "not tried"), ("kron", "go"),
        ]  # fmt: skip
    assert compared[:2] == [(name, ["unchanged", name], (8, 9)) for name in ("multi_skip", "kron")]
    shared = {(tmp_path / name / "runs" / "unchanged").resolve() for name in ("multi_skip", "kron")}
    assert shared == {tmp_path / "multi_skip" / "runs" / "unchanged"}


def test_another_rate_is_another_trial(tmp_path, monkeypatch):
    """The run has gone on, and a hundredth is prescribed now where it was a tenth."""
    compared = []

    def compare(directory, configs, seeds, **options):
        compared.append(directory.name)
        found = summary([1.0, 9.0])
        for part in ("results", "cost"):
            found[part][list(configs)[1]] = found[part].pop("kron")
        return ComparisonResult(directory, found)

    monkeypatch.setattr(run_trial, "run_comparison", compare)
    for factor in (0.1, 0.01, 0.1):
        lower = [prescription("lower_learning_rate", factor)]
        verify_run(tmp_path, default_run("pqn", "CartPole-v1"), lower, steps=500, seeds=2)
    assert compared == ["lower_learning_rate-0.1", "lower_learning_rate-0.01", "lower_learning_rate-0.1"]


def test_how_long_it_takes():
    assert planned_seconds({"steps_per_second": 500.0}, 10_000, 8, 2) == pytest.approx(80.0)
    assert planned_seconds({}, 10_000, 8, 2) is None


def test_the_command_for_a_run_is_its_own_with_the_change():
    run = default_run("pqn", "CartPole-v1", "stable+torso.depth=2")
    saved = json.loads(json.dumps(dataclasses.replace(run, total_steps=77).to_json()))
    full, short = commands_of(saved), short_commands_of(saved)
    for command in (full, short):
        words = command("lower_learning_rate", 0.01).split()
        assert words[:5] == ["stablegrad", "train", run.algorithm, "--env", "CartPole-v1"]
        assert "stable" in words[words.index("--preset") + 1]
        assert float(words[words.index("--optimizer.adam-learning-rate") + 1]) == pytest.approx(1e-5)
        # It has both already, and no layer can be reconnected by an option.
        assert [command(name, None) for name in ("kron", "multi_skip", "reconnect")] == [None] * 3
    assert "--total-steps 77" in full("activation", None) and "77" not in short("activation", None)


def test_what_no_width_is_small_enough_for_has_no_command():
    saved = default_run("pqn", "CartPole-v1", "baseline+torso.width=1+torso.norm=none").to_json()
    command = commands_of(saved)
    assert command("layer_norm", None) is None and "--optimizer.name kron" in command("kron", None)


def test_a_run_whose_environment_is_not_there_and_a_classifier_get_commands_of_what_is_known():
    saved = {**default_run("pqn", "CartPole-v1").to_json(), "env": "no_such_package:make_env"}
    assert commands_of(saved)("kron", None) == (
        "stablegrad train pqn --env no_such_package:make_env --optimizer.name kron"
    )
    classifier = SupervisedConfig().to_json()
    assert commands_of(classifier)("layer_norm", None) == "stablegrad relearn --torso.norm layer"
    assert commands_of(classifier)("clip_gradients", None) == "stablegrad relearn --max-grad-norm 1.0"
    assert commands_of(classifier)("normalise_inputs", None) is None


def test_all_that_a_record_says_is_tried():
    base = default_run("pqn", "Breakout-v5", "baseline+torso.activation=gelu+optimizer.schedule=linear")
    changed = changed_configs(base, [prescription(name) for name in ("activation", "steady_rate", "normalise_inputs")])
    assert list(changed) == ["activation", "steady_rate"]  # images are normalised already
    agent = changed["activation"].agent
    assert (agent.torso.activation, agent.encoder.activation) == ("leaky_relu", "gelu")
    assert changed["steady_rate"].agent.optimizer.schedule == "constant"
