"""The diagnosis inside a run: what it logs, how it survives a resume, and what it does when the run collapses."""

import dataclasses
import itertools
import shutil
import types

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stablegrad.agents import PQN
from stablegrad.agents.presets import apply_changes
from stablegrad.cli.main import main
from stablegrad.diagnostics import LEVELS, RULES, Finding, History, judge, recorded
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.prescriptions import prescribe
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.diagnostics.rules import Outcome
from stablegrad.environments import environment_spec
from stablegrad.errors import UsageError
from stablegrad.files import write_json
from stablegrad.reports.run_page import write_run_report
from stablegrad.training import health as health_module
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, step_of
from stablegrad.training.config import RunConfig
from stablegrad.training.health import HEALTHY, LIVE, DiagnosisConfig, Health, outcome_of
from stablegrad.training.interaction import lifecycle, resume, train
from stablegrad.training.lifecycle import Collapsed
from stablegrad.training.run_folder import RunFolder


def watched(run, *, on_collapse="continue", look_every=4, probe_every=8, curvature_every=0, **changes):
    agent = apply_changes(run.agent, changes)
    diagnosis = DiagnosisConfig(look_every, probe_every, on_collapse, curvature_every)
    return dataclasses.replace(run, agent=agent, diagnosis=diagnosis, total_steps=1500, checkpoint_every=500)


@pytest.fixture
def collapsing(tiny_run):
    """Every update changes the weights by more than their own size."""
    return dataclasses.replace(tiny_run, agent=apply_changes(tiny_run.agent, {"optimizer.learning_rate": 1.0}))


def test_figures_of_looks_and_probes_are_in_the_log_and_the_verdict_in_the_summary(tmp_path, tiny_run):
    summary = train(watched(tiny_run), tmp_path / "run", quiet=True)
    rows = RunFolder(tmp_path / "run").read_metrics()
    history = History.from_rows(rows)
    for metric in ("update_ratio", "dormant", "gradient_dormant", "churn", "effective_rank", "error_signal"):
        assert len(history.series(metric).steps) > 5, metric
    # A line with figures of a look has the gradient norms of all layers too, under the same names.
    assert set(history.series("gradient_norm").sites) == set(history.series("update_ratio").sites)
    outcome = outcome_of(RunFolder(tmp_path / "run").read_config(), rows)
    assert summary["health"]["verdict"] == diagnose_recorded(rows, outcome=outcome).verdict
    assert 0 < summary["seconds"]["diagnostics"] < summary["wall_seconds"]


def test_what_an_agent_has_already_is_not_prescribed_for_it(tmp_path, tiny_run, monkeypatch):
    """The preset is ``stable``: skips, LayerNorm, Kron. A run that did not say what fits it is offered everything."""
    ill = [Finding("vanishing_gradient", "collapsing", "torso.output.linear", 100, 0.0, 1.0, "it gets no gradient")]
    for module in (health_module, recorded):
        monkeypatch.setattr(module, "judge", lambda *_, **__: ill)
    train(watched(tiny_run), tmp_path / "run", quiet=True)
    folder, title = RunFolder(tmp_path / "run"), INTERVENTIONS["multi_skip"].title[1:]
    summary = folder.read_summary()
    assert summary["health"]["prescriptions"]
    assert not {"multi_skip", "layer_norm", "residual", "kron"}.intersection(summary["health"]["prescriptions"])
    assert title not in write_run_report(folder.path).read_text()
    del summary["health"]["fitting"]
    write_json(folder.summary_path, summary)
    assert title in write_run_report(folder.path).read_text()


def test_a_run_that_goes_back_to_its_beginning_has_no_verdict_yet(tiny_run):
    run = watched(tiny_run)
    spec = environment_spec(run.env)
    health = Health(run.diagnosis, PQN(run.agent, spec, total_steps=1500, device=torch.device("cpu"), seed=0))
    health.findings, health.verdict = [Finding("nonfinite", "collapsed", "network", 1, 1.0, 0.0, "")], "collapsed"
    health.restore([])
    assert (health.findings, health.verdict) == ([], None)
    rows = [{"step": 10 * n, "update_ratio/q": 1e-3, "gradient_norm/q": 1.0} for n in range(1, 4)]
    health.restore(rows[:2])
    assert health.verdict == health.summary(None)["verdict"] == "too early" and health.verdict in HEALTHY
    assert not health.sure
    health.restore(rows)
    assert health.verdict == "healthy"


def test_a_bad_verdict_is_sure_when_it_was_drawn_twice_and_is_not_while_returns_rise(tiny_run, monkeypatch):
    run = watched(tiny_run)
    health = Health(
        run.diagnosis,
        PQN(run.agent, environment_spec(run.env), total_steps=1500, device=torch.device("cpu"), seed=0),
    )
    found = {"at": "collapsing"}
    finding = lambda: [Finding("policy_churn", found["at"], "network", 1, 1.0, 0.0, "")] if found["at"] else []  # noqa: E731
    monkeypatch.setattr(health_module, "judge", lambda *_, **__: finding())
    rows = [{"step": 10 * n, "update_ratio/q": 1e-3, "gradient_norm/q": 1.0} for n in range(1, 20)]
    sure = []
    for level in ("collapsing", "", "collapsing", "collapsing", "at risk", "collapsed"):
        found["at"] = level
        health.history.add(*(lambda row: (row.pop("step"), row))(dict(rows[len(sure)])))
        health._judge(len(health.history.rows))
        sure.append(health.sure)
    assert sure == [False, False, False, True, False, True]


def test_returns_that_still_rise_lower_a_verdict_but_not_numbers_that_are_not_finite(monkeypatch):
    def levels(returns, level):
        monkeypatch.setitem(RULES, "stub", lambda *_: [Finding("stub", level, "network", 1, 1.0, 0.0, "it is so")])
        outcome = Outcome(np.arange(len(returns)), np.array(returns, float))
        history = History([(n, {"gradient_norm/a": 1.0}) for n in range(len(returns))])
        return [(one.level, one.reason) for one in judge(history, outcome=outcome, ended=False) if one.rule == "stub"]

    rising, flat = [5.0 * n for n in range(40)], [5.0 + n % 2 for n in range(40)]
    assert levels(flat, "collapsing") == [("collapsing", "it is so")]
    assert levels(rising, "collapsing") == [("at risk", "it is so (returns still rise)")]
    assert levels(rising[:30] + rising[:10], "collapsing") == [("collapsing", "it is so")]
    assert levels(rising, "collapsed") == [("collapsed", "it is so")]


def test_the_diagnosis_changes_nothing_in_the_training(tmp_path, tiny_run):
    weights = []
    settings = watched(tiny_run, curvature_every=8), watched(tiny_run, look_every=0, probe_every=0)
    for number, config in enumerate(settings):
        train(config, tmp_path / str(number), quiet=True)
        weights.append(load_checkpoint(list_checkpoints(tmp_path / str(number) / "checkpoints")[-1])[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_resumed_run_has_the_verdict_of_an_undisturbed_one(tmp_path, tiny_run):
    whole = train(watched(tiny_run, curvature_every=40), tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    curvature = History.from_rows(folder.read_metrics()).network("hessian_trace")
    folder.summary_path.unlink()
    shutil.rmtree(list_checkpoints(folder.checkpoints_path)[-1])
    assert resume(tmp_path / "run", quiet=True)["health"] == whole["health"]
    again = History.from_rows(folder.read_metrics()).network("hessian_trace")
    assert len(curvature[0]) > 2
    assert all((one == other).all() for one, other in zip(curvature, again, strict=True))


@pytest.mark.parametrize(("epochs", "minibatches", "look_every"), [(2, 4, 7), (1, 1, 2)])
def test_a_resumed_run_records_what_an_undisturbed_one_records(tmp_path, tiny_run, epochs, minibatches, look_every):
    """Rates that fall between two looks on both sides of a checkpoint, and looks that end with the first update."""
    changes = {"optimizer.schedule": "linear", "num_epochs": epochs, "num_minibatches": minibatches}
    config = watched(tiny_run, look_every=look_every, probe_every=look_every, **changes)
    train(config, tmp_path / "run", quiet=True)
    folder = RunFolder(tmp_path / "run")
    whole = folder.read_metrics()
    folder.summary_path.unlink()
    shutil.rmtree(list_checkpoints(folder.checkpoints_path)[-1])
    resume(tmp_path / "run", quiet=True)
    measured = [
        [{key: value for key, value in row.items() if "second" not in key} for row in rows]
        for rows in (whole, folder.read_metrics())
    ]
    assert measured[0] == measured[1]


def test_curvature_is_measured_at_the_ends_of_rollouts_in_which_it_is_due(tmp_path, tiny_run):
    """Eight updates a rollout of 64 rows, of which resets are no steps: 40 updates are somewhat below 320 steps."""
    train(watched(tiny_run, curvature_every=40), tmp_path / "run", quiet=True)
    history = History.from_rows(RunFolder(tmp_path / "run").read_metrics())
    for metric in ("hessian_trace", "hessian_top", "gradient_covariance_rank", "ntk_rank"):
        steps, values = history.network(metric)
        assert len(steps) == 1500 // 300
        assert all(280 < later - earlier <= 320 for earlier, later in itertools.pairwise([0, *steps]))
        assert (values != 0).all()


def test_a_collapse_is_said_on_the_progress_line_and_the_run_goes_on(tmp_path, collapsing, capfd):
    summary = train(watched(collapsing), tmp_path / "run")
    assert summary["status"] == "finished"
    assert summary["health"]["verdict"] in ("collapsing", "collapsed")
    shown = capfd.readouterr().err
    assert shown.count("warning: coll") == 1
    assert "stablegrad diagnose" in shown


def test_stop_writes_a_checkpoint_and_resume_goes_on(tmp_path, collapsing):
    with pytest.raises(Collapsed, match="collaps"):
        train(watched(collapsing, on_collapse="stop"), tmp_path / "run", quiet=True)
    summary = RunFolder(tmp_path / "run").read_summary()
    assert summary["status"] == "stopped"
    assert 0 < summary["env_steps"] < collapsing.total_steps
    assert list_checkpoints(tmp_path / "run" / "checkpoints")
    assert resume(tmp_path / "run", quiet=True)["status"] == "finished"


def test_rollback_returns_to_health_and_lowers_the_rate(tmp_path, collapsing):
    summary = train(watched(collapsing, on_collapse="rollback"), tmp_path / "run", quiet=True)
    assert summary["status"] == "finished"
    done = summary["health"]["interventions"]
    assert 1 <= len(done) <= 3
    assert {one["name"] for one in done} == {"lower_learning_rate"}
    assert all(one["back_to"] < one["collapsed_at"] for one in done)
    rows = RunFolder(tmp_path / "run").read_metrics()
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "what was logged after the checkpoint is void"
    assert rows[-1]["optimizer/learning_rate"] < 1.0


def prescribing(monkeypatch, *prescriptions):
    """Let every rollback apply the next of some (name, factor), and the last one from then on."""
    left = [types.SimpleNamespace(name=name, factor=factor) for name, factor in prescriptions]
    monkeypatch.setattr(
        Health, "live_prescription", lambda health: left.pop(0) if len(left) > 1 else left[0], raising=True
    )


@pytest.mark.parametrize(
    ("prescription", "rate", "clipping", "state"),
    [
        (("lower_learning_rate", 0.1), 0.1, 1.0, True),
        (("raise_learning_rate", 100.0), 100.0, 1.0, True),
        (("clip_gradients", None), 1.0, 0.1, True),
        (("reset_optimizer_state", None), 1.0, 1.0, False),
    ],
)
def test_each_live_prescription_changes_the_running_agent(tiny_run, prescription, rate, clipping, state):
    changes = {"optimizer.name": "adam", "optimizer.learning_rate": 0.5, "optimizer.schedule": "constant"}
    run = watched(tiny_run, **changes, max_grad_norm=2.0)
    agent = PQN(run.agent, environment_spec(run.env), total_steps=1500, device=torch.device("cpu"), seed=0)
    agent.network(torch.zeros(2, 4)).square().mean().backward()
    agent.optimizer.step()
    health_module.apply_live(agent, *prescription)
    agent.config.optimizer.set_learning_rate(agent.optimizer, 0.5)
    assert {group["lr"] for group in agent.optimizer.param_groups} == {0.5 * rate}
    assert agent.config.optimizer.initial_learning_rate == 0.5 * rate
    assert agent.config.max_grad_norm == pytest.approx(2.0 * clipping)
    assert bool(agent.optimizer.state) is state


def test_all_that_can_be_applied_live_is_tested_and_is_marked_so():
    marks = test_each_live_prescription_changes_the_running_agent.pytestmark[0].args[1]
    assert {case[0][0] for case in marks} == set(LIVE)
    assert all(INTERVENTIONS[name].live for name in LIVE)


def test_a_second_rollback_keeps_what_the_first_one_changed(tmp_path, collapsing, monkeypatch):
    """Both go back to the beginning, whose checkpoint holds the rate that the run began with."""
    prescribing(monkeypatch, ("raise_learning_rate", 2.0), ("clip_gradients", None))
    config = watched(collapsing, on_collapse="rollback", **{"optimizer.schedule": "constant"})
    run = lifecycle(RunFolder.create(tmp_path / "run", config.to_json()), config, quiet=True)
    done = run.run()["health"]["interventions"]
    assert [one["name"] for one in done[:2]] == ["raise_learning_rate", "clip_gradients"]
    assert done[0]["back_to"] == done[1]["back_to"] == 0
    clipped = len(done) - 1
    assert run.loop.agent.optimizer.param_groups[0]["lr"] == 2.0
    assert RunFolder(tmp_path / "run").read_metrics()[-1]["optimizer/learning_rate"] == 2.0
    assert run.loop.agent.config.max_grad_norm == pytest.approx(config.agent.max_grad_norm / 10**clipped)
    assert run.loop.agent.config.optimizer.learning_rate == 2.0


def test_a_rollback_finds_what_can_be_applied_behind_what_cannot(tiny_run):
    """The preset has LayerNorm, skips and Kron already, and no person is there to reconnect a layer."""
    run = watched(tiny_run)
    agent = PQN(run.agent, environment_spec(run.env), total_steps=1500, device=torch.device("cpu"), seed=0)
    health = Health(run.diagnosis, agent)
    assert health.live_prescription() is None
    rules = ("vanishing_gradient", "fading_gradient", "no_gradient", "dormant_units")
    health.findings = [Finding(rule, "collapsing", "torso", 100, 0.0, 1.0, rule) for rule in rules]
    assert not {one.name for one in prescribe(health.findings)}.intersection(LIVE)
    assert health.live_prescription().name == "lower_learning_rate"
    health.findings = [Finding("no_gradient", "collapsed", "torso", 2, 0.0, 0.0, "cut off")]
    assert health.live_prescription() is None


def test_a_plain_training_is_diagnosed_and_its_gradients_are_in_tensorboard(tmp_path, monkeypatch, capsys):
    """No option asks for it. Looks are 100 updates apart; eight updates a rollout of 64 rows."""
    monkeypatch.chdir(tmp_path)
    options = ["--torso.width", "16", "--num-envs", "8", "--num-steps", "8", "--threads", "1", "--run-dir", "run"]
    assert main(["train", "pqn", "--env", "CartPole-v1", "--total-steps", "3000", "--quiet", *options]) == 0
    folder = RunFolder(tmp_path / "run")
    health, rows = folder.read_summary()["health"], folder.read_metrics()
    assert health["verdict"] in LEVELS
    assert {"findings", "prescriptions", "notes", "fitting", "interventions"} <= set(health)
    layers = folder.read_summary()["layers"]
    assert {f"gradient_norm/{layer}" for layer in layers} <= set(rows[-1])
    looks = [row for row in rows if f"update_ratio/{layers[0]}" in row]
    assert len(looks) > 2
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    for metric, lines in (("gradient_norm", rows), ("update_ratio", looks)):
        for layer in layers:
            tag = f"{metric}/{layer}"
            shown = [(point.step, point.value) for point in events.Scalars(tag)]
            assert shown == [(row["step"], pytest.approx(row[tag])) for row in lines]


def test_a_fresh_optimizer_state_is_given_once_and_not_again_on_resume(tmp_path, collapsing, monkeypatch):
    fresh = types.SimpleNamespace(name="reset_optimizer_state", factor=None)
    monkeypatch.setattr(health_module, "prescribe", lambda findings, fits: [fresh])
    config = watched(collapsing, on_collapse="rollback")
    whole = train(config, tmp_path / "run", quiet=True)
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert {one["name"] for one in whole["health"]["interventions"]} == {fresh.name}
    assert whole["health"]["interventions"][-1]["back_to"] < step_of(checkpoints[-2])
    weights = load_checkpoint(checkpoints[-1])[0]
    RunFolder(tmp_path / "run").summary_path.unlink()
    shutil.rmtree(checkpoints[-1])
    resume(tmp_path / "run", quiet=True)
    again = load_checkpoint(list_checkpoints(tmp_path / "run" / "checkpoints")[-1])[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_an_old_configuration_without_diagnosis_can_be_read(tiny_run):
    old = tiny_run.to_json()
    del old["diagnosis"]
    assert RunConfig.from_json(old) == dataclasses.replace(tiny_run, diagnosis=DiagnosisConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_collapse": "rolback"}, "did you mean 'rollback'"),
        ({"look_every": 1}, "at least 2"),
        ({"look_every": 100, "probe_every": 150}, "multiple"),
        ({"look_every": 0, "on_collapse": "stop"}, "needs the diagnosis"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        DiagnosisConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature_every": -1}, "curvature-every must be at least 0, got -1"),
        ({"curvature_every": 100, "look_every": 0, "probe_every": 0}, "curvature-every needs the diagnosis"),
    ],
)
def test_wrong_cadences_of_curvature(options, message):
    with pytest.raises(UsageError, match=message):
        DiagnosisConfig(**options)
