"""``stablegrad diagnose`` as a person meets it."""

import json
import re
import shutil
import sys
from functools import partial

import pytest

from stablegrad.cli import diagnose as command
from stablegrad.cli.main import main
from stablegrad.diagnostics import Finding, History, Report, bootstrapping
from stablegrad.diagnostics.preflight import diagnose
from stablegrad.diagnostics.trial import Trial, verify

MODELS = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

def deep():
    parts = [nn.Linear(8, 64), nn.Tanh()]
    for _ in range(11):
        parts += [nn.Linear(64, 64), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(64, 4))

def images():
    return nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

def with_sample():
    return images(), torch.rand(2, 1, 20, 20)

def fails():
    raise RuntimeError("no weights here")

def number():
    return 3

constant = 5
"""

TRAIN = ["train", "pqn", "--env", "CartPole-v1", "--torso.width", "16", "--num-envs", "8", "--num-steps", "8"]


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrapping, "STEPS", bootstrapping.FEWEST_STEPS)
    (tmp_path / "nets_of_mine.py").write_text(MODELS)
    (tmp_path / "broken_nets.py").write_text("import no_such_package\n")
    yield tmp_path
    for name in ("nets_of_mine", "broken_nets"):
        sys.modules.pop(name, None)
    sys.path.remove(str(tmp_path)) if str(tmp_path) in sys.path else None


def failure(capsys, arguments):
    code = main(["diagnose", *arguments])
    captured = capsys.readouterr()
    assert captured.err.startswith("stablegrad: ")
    assert captured.err.count("\n") == 1, captured.err
    return code, captured.err


def test_a_network_of_ones_own(models, capsys):
    assert main(["diagnose", "nets_of_mine:small", "--output", "page.html"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("verdict: healthy")
    assert out.endswith("report: page.html\n")
    assert (models / "page.html").stat().st_size > 10_000


def test_an_ill_network_is_no_failure_of_the_command_and_what_is_prescribed_is_tried(models, capsys, monkeypatch):
    # Fewer phases and trials than usual: enough to tell, and fast.
    monkeypatch.setattr(command, "diagnose", partial(diagnose, phases=2))
    monkeypatch.setattr(command, "verify", partial(verify, phases=2, top=1))
    assert main(["diagnose", "nets_of_mine:deep", "--verify", "--seeds", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["verdict"] in ("collapsing", "collapsed")
    assert [trial["name"] for trial in report["trial"]] == [one["name"] for one in report["prescriptions"][:1]]
    (skip,) = report["trial"]
    assert (skip["name"], skip["decision"], skip["seeds"]) == ("multi_skip", "go", 2)


def test_a_healthy_network_has_nothing_to_try(models, capsys, monkeypatch):
    monkeypatch.setattr(command, "diagnose", lambda *_, **__: Report([], History()))
    assert main(["diagnose", "nets_of_mine:small", "--verify"]) == 0
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "--verify" in line]
    assert "had nothing to try" in note and "verify_training" in note


def test_a_page_that_cannot_be_written_costs_no_result(models, capsys, monkeypatch):
    monkeypatch.setattr(command, "diagnose", lambda *_, **__: Report([], History(), ["of minutes of work"]))
    for output in ([], ["--json"]):
        assert main(["diagnose", "nets_of_mine:small", "--output", ".", *output]) == 2
        captured = capsys.readouterr()
        assert "of minutes of work" in captured.out
        assert "is a folder" in captured.err and captured.err.count("\n") == 1


def test_a_trial_is_shown_as_a_table(capsys):
    tried = Trial("kron", "the optimizer Kron", "go", "better", 0.25, 0.125, 0.375, 1.5, 1.07, 3)
    command._print_trial([tried.to_dict(), Trial("reconnect", "reconnect it", "not tried", "takes a person").to_dict()])
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"the optimizer Kron +\+0.25 \(\+0.12 to \+0.38\) +x 1.50 +x 1.07 +go$", lines[2].rstrip())
    assert lines[3].rstrip().endswith("not tried: takes a person")


def test_the_trial_of_a_run_is_one_of_its_return(capsys):
    tried = Trial("kron", "Kron", "no-go", "worse", -12.5, -20.0, -5.0, 1.5, None, 3, "the return")
    command._print_trial([tried.to_dict()])
    lines = capsys.readouterr().out.splitlines()
    assert "effect on the return" in lines[1]
    assert re.search(r"Kron +-12.50 \(-20.00 to -5.00\) +x 1.50 +– +no-go$", lines[2].rstrip())
    assert lines[-1] == "Kron: worse"


def test_a_sample_or_a_shape(models, capsys, monkeypatch):
    monkeypatch.setattr(command, "diagnose", partial(diagnose, phases=2))
    assert main(["diagnose", "nets_of_mine:with_sample", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"]["learning_rate"] == 3e-4
    assert main(["diagnose", "nets_of_mine:small", "--input-shape", "8", "--seed", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"]["classes"] == 4


def test_values_are_learned_on_observations_of_an_environment_at_a_rate(models, capsys):
    arguments = ["nets_of_mine:small", "--env", "LunarLander-v3", "--learning-rate", "1e-3", "--json"]
    assert main(["diagnose", *arguments]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["task"]["learning_rate"] == 1e-3
    assert len(report["values"]["network"]) == len(report["values"]["twin"]) == 4
    assert 0 < report["values"]["twin"][0] < 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "name what to diagnose: package.module:make_model, or a run folder"),
        (["nets_of_mine:small", "--input-shape", "7"], 2, "Sequential refuses inputs of shape"),
        (["nets_of_mine:small", "--input-shape", "0"], 2, "--input-shape must be numbers of at least 1, got 0"),
        (["nets_of_mine:small", "--input-shape", "8", "--input-dtype", "float23"], 2, "did you mean 'float32'?"),
        (["nets_of_mine:images"], 2, "name it without the batch: --input-shape 4 84 84"),
        (["nets_of_mine:smal"], 2, "unknown function 'smal'; did you mean 'small'?"),
        (["nets_of_mine:constant"], 2, "names a value of type int; expected a function"),
        (["nets_of_mine:number"], 2, "returned int; expected a torch.nn.Module, or (module, sample_input)"),
        (["nets_of_mine:fails"], 1, "'nets_of_mine:fails' failed: RuntimeError: no weights here"),
        (["nets_of_yours:small"], 2, "no module 'nets_of_yours'"),
        (["broken_nets:small"], 1, "importing 'broken_nets' failed: ModuleNotFoundError: No module named"),
        (["nets_of_mine:"], 2, "cannot diagnose 'nets_of_mine:'; did you mean 'nets_of_mine:"),
        (["nets_of_mine:small", "--seconds", "0"], 2, "seconds must be above 0"),
        (["nets_of_mine:small", "--learning-rate", "0"], 2, "--learning-rate must be above 0, got 0"),
        (["nets_of_mine:small", "--env", "Lunarlander-v3"], 2, "did you mean 'LunarLander-v3'?"),
        (["nets_of_mine:small", "--env", "CartPole-v1"], 2, "Sequential refuses inputs of shape"),
        (["nets_of_mine:small", "--env", "LunarLander-v3", "--input-shape", "8"], 2, "leave it out"),
        (["nowhere"], 2, "'nowhere' is no run folder"),
        (["nets_of_mine:small", "--verify", "--steps", "100"], 2, "--steps is for the trial of a run"),
        (["nets_of_mine:small", "--beside", "run"], 2, "--beside is for a run; a network is judged beside small twins"),
        (["nets_of_mine:small", "--seeds", "3"], 2, "--seeds is for the trial of what is prescribed; add --verify"),
        ([".", "--verify"], 2, "'.' is no run folder"),
    ],
)
def test_wrong_input_is_one_line(models, capsys, arguments, code, message):
    got, error = failure(capsys, arguments)
    assert message in error
    assert got == code


class TestRunFolder:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main([*TRAIN, "--total-steps", "3000", "--threads", "1", "--run-dir", "run", "--quiet"]) == 0
        capsys.readouterr()
        return tmp_path / "run"

    def test_what_a_run_recorded(self, run, capsys):
        assert main(["diagnose", "run", "--json", "--output", "page.html"]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        summary = json.loads((run / "summary.json").read_text())
        assert report["verdict"] == summary["health"]["verdict"]
        assert "torso.output.linear" in report["layers"]
        page = (run.parent / "page.html").read_text()
        assert "environment steps" in page and "optimizer steps" not in page

    def test_options_of_networks_are_refused_for_runs(self, run, capsys):
        code, error = failure(capsys, ["run", "--input-shape", "4"])
        assert (code, "--input-shape is for a network" in error) == (2, True)

    def test_beside_the_run_of_a_smaller_network(self, run, capsys):
        other = ["--total-steps", "3000", "--threads", "1", "--seed", "2", "--run-dir", "small", "--quiet"]
        assert main([*TRAIN, *other]) == 0
        capsys.readouterr()
        assert main(["diagnose", "run", "--json"]) == 0
        alone = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert main(["diagnose", "run", "--beside", "small", "--json", "--output", "page.html"]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["findings"] == alone["findings"], "another seed of the same network"
        assert alone["beside"] == ""
        assert report["beside"].startswith("run 'small', a network of the same size (")
        assert "parameters), a training with" in report["beside"], "no option differs"
        assert report["beside"] in (run.parent / "page.html").read_text().replace("&#39;", "'")
        # The same, where only the other one learned.
        for folder, gain in ((run, 0.0), (run.parent / "small", 20.0)):
            path = folder / "metrics.jsonl"
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            for number, row in enumerate(rows):
                row["train/return"] = 10.0 + gain * number
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert main(["diagnose", "run", "--beside", "small"]) == 0
        assert "the return is 10; that of the network beside it went from" in capsys.readouterr().out

    def test_wrong_runs_to_judge_beside(self, run, capsys):
        assert "'run' cannot be judged beside itself" in failure(capsys, ["run", "--beside", "./run"])[1]
        assert "'nowhere' is no run folder" in failure(capsys, ["run", "--beside", "nowhere"])[1]
        other = run.parent / "other"
        shutil.copytree(run, other)
        (other / "metrics.jsonl").write_text("")
        code, error = failure(capsys, ["run", "--beside", "other"])
        assert (code, "cannot judge beside 'other': the run recorded no gradient norms" in error) == (1, True)
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"env": "Acrobot-v1"}))
        code, error = failure(capsys, ["run", "--beside", "other"])
        assert (code, "'run' is of CartPole-v1, 'other' of Acrobot-v1" in error) == (2, True)
        for folder, data in ((run, "digits"), (other, "data/mnist")):
            (folder / "config.json").write_text(json.dumps({"format": 1, "data": data}))
        code, error = failure(capsys, ["run", "--beside", "other"])
        assert "'run' is of classification of digits, 'other' of classification of mnist" in error

    def test_an_old_run_says_what_it_did_not_record(self, run, capsys):
        path = run / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = ("step", "wall_seconds", "train/", "loss/", "gradient_norm/")
        old = [{key: value for key, value in row.items() if key.startswith(kept)} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in old))
        assert main(["diagnose", "run"]) == 0
        out = capsys.readouterr().out
        assert "not recorded, so not judged: the size of updates" in out
        path.write_text("")
        code, error = failure(capsys, ["run"])
        assert code == 1
        assert "recorded no gradient norms of layers" in error

    def test_what_is_prescribed_for_an_ill_run_is_tried_in_its_environment(self, tmp_path, monkeypatch, capsys):
        """Steps a thousand times too long; the second command finds all trainings done."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(command, "TOP", 1)  # how changes share what is unchanged: tests/studies/test_run_trial.py
        high = ["--optimizer.name", "sgd", "--optimizer.learning-rate", "3", "--max-grad-norm", "100"]
        options = [*TRAIN, *high, "--total-steps", "3000", "--threads", "1", "--run-dir", "ill", "--quiet"]
        main(options)
        capsys.readouterr()
        verify = ["diagnose", "ill", "--verify", "--seeds", "2", "--steps", "1500"]
        assert main([*verify, "--json"]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["verdict"] in ("collapsing", "collapsed")
        tried = [trial for trial in report["trial"] if trial["decision"] != "not tried"]
        assert len(tried) == 1
        commands = [one["code"]["cli"] for one in report["prescriptions"] if "cli" in one["code"]]
        # Each is the run's own, whatever it changes.
        assert commands
        assert all("train pqn --env CartPole-v1" in one and "--total-steps 3000" in one for one in commands)
        assert [trial["name"] for trial in report["trial"]] == [
            one["name"] for one in report["prescriptions"][: len(report["trial"])]
        ]
        folder = tmp_path / "ill" / "verify" / "1500-steps-2-pairs"
        for trial in tried:
            # The folder of a rate names its factor.
            (own,) = folder.glob(f"{trial['name']}*")
            summary = json.loads((own / "comparison_summary.json").read_text())
            assert summary["seeds"] == [2, 3]
            if trial["effect"] is not None:
                assert trial["effect"] == summary["difference"]["mean"]
                assert trial["score"] == "the return"
                assert trial["decision"] == ("go" if summary["difference"]["interval"][0] > 0 else "no-go")
        written = {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")}
        assert main([*verify, "--output", "page.html"]) == 0
        captured = capsys.readouterr()
        assert "effect on the return" in captured.out
        assert "2 pairs" in captured.out or "trainings each" in captured.out
        assert f"{2 * (1 + len(tried))} trainings of 1,500 steps" in captured.err
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("summary.json")} == written
        assert "What a trial showed" in (tmp_path / "page.html").read_text()

    def test_a_healthy_run_has_nothing_to_try(self, run, capsys, monkeypatch):
        monkeypatch.setattr(command, "diagnose_recorded", lambda rows, **_: Report([], History()))
        assert main(["diagnose", "run", "--verify"]) == 0
        out = capsys.readouterr().out
        assert "--verify had nothing to try" in out and "--settings baseline stable" in out
        assert not (run / "verify").exists()

    @pytest.mark.parametrize(
        ("option", "value", "message"), [("--seeds", "1", "at least 2 seeds"), ("--steps", "0", "steps must")]
    )
    def test_wrong_trials(self, run, capsys, monkeypatch, option, value, message):
        ill = [Finding("large_update", "collapsing", "network", 100, 0.3, 0.05, "too long")]
        monkeypatch.setattr(command, "diagnose_recorded", lambda rows, **_: Report(ill, History()))
        code, error = failure(capsys, ["run", "--verify", option, value])
        assert code == 2
        assert message in error
        assert not (run / "verify").exists()
