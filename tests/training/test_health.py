"""The diagnosis inside a run: what it logs, how it survives a resume, and what it does when the run collapses."""

import dataclasses
import itertools
import shutil
import types

import pytest
import torch

from stablegrad.agents import PQN
from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics import Finding, History, recorded
from stablegrad.diagnostics.interventions import INTERVENTIONS
from stablegrad.diagnostics.recorded import diagnose_recorded
from stablegrad.environments import environment_spec
from stablegrad.errors import UsageError
from stablegrad.reports.run_page import write_run_report
from stablegrad.training import health as health_module
from stablegrad.training import trainer as trainer_module
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, step_of
from stablegrad.training.config import RunConfig
from stablegrad.training.health import DiagnosisConfig, Health
from stablegrad.training.run_folder import RunFolder, write_json
from stablegrad.training.trainer import Collapsed, resume, train


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
    assert summary["health"]["verdict"] == diagnose_recorded(rows).verdict
    assert 0 < summary["seconds"]["diagnostics"] < summary["wall_seconds"]


def test_what_an_agent_has_already_is_not_prescribed_for_it(tmp_path, tiny_run, monkeypatch):
    """The preset is ``stable``: skips, LayerNorm, Kron. A run that did not say what fits it is offered everything."""
    ill = [Finding("vanishing_gradient", "collapsing", "torso.output.linear", 100, 0.0, 1.0, "it gets no gradient")]
    for module in (health_module, recorded):
        monkeypatch.setattr(module, "judge", lambda *_: ill)
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


def test_curvature_is_measured_at_the_ends_of_rollouts_in_which_it_is_due(tmp_path, tiny_run):
    """Eight updates a rollout of 64 rows, of which resets are no steps: 40 updates are somewhat below 320 steps."""
    train(watched(tiny_run, curvature_every=40), tmp_path / "run", quiet=True)
    history = History.from_rows(RunFolder(tmp_path / "run").read_metrics())
    for metric in ("hessian_trace", "hessian_top"):
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


def test_a_fresh_optimizer_state_is_given_once_and_not_again_on_resume(tmp_path, collapsing, monkeypatch):
    fresh = types.SimpleNamespace(name="reset_optimizer_state", factor=None)
    monkeypatch.setattr(trainer_module, "prescribe", lambda findings: [fresh])
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
