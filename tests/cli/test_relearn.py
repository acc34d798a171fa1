"""``stablegrad relearn`` as a person meets it."""

import json
import os
import signal

import pytest

from stablegrad.cli.main import main
from stablegrad.supervised import resume_supervised
from stablegrad.supervised.relabelling import Relabelling

TINY = [
    "relearn",
    *("--torso.width", "16", "--torso.out-features", "16", "--data-limit", "100", "--threads", "1"),
    *("--epochs", "6", "--reshuffle-every", "3"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "no data set"),
        (["--data", "."], "no data set in"),
        (["--preset", "stabel"], "unknown preset 'stabel'; did you mean 'stable'?"),
        (["--preset", "stable+torso.dept=3"], "did you mean 'torso.depth'?"),
        (["--torso.dept", "3"], "did you mean '--torso.depth'?"),
        (["--torso.depth", "lrge"], "unknown torso depth 'lrge'; did you mean 'large'?"),
        (["--encoder.kind", "cn"], "unknown encoder 'cn'; did you mean 'cnn'?"),
        (["--encoder.dropout", "0.5"], "are for the cnn encoder"),
        (["--data-limit", "2000"], "data-limit must be from 1 to 1438, the training images of digits; got 2000"),
        (["--epochs", "10", "--reshuffle-every", "10"], "reshuffle-every 10 never comes in 10 epochs"),
        (["--reshuffle-at", "20", "10"], "reshuffle-at must ascend from 1 to 99"),
        (["--relearn-accuracy", "90"], "relearn-accuracy must be above 0 and at most 1, got 90"),
        (["--optimizer.name", "adan"], "did you mean 'adam'?"),
        (["--device", "cuda:9"], "device 'cuda:9' is not there"),
        (["--run-dir", "/proc/no/run"], "cannot write run folder '/proc/no/run'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["relearn", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("stablegrad: ")
    assert error.count("\n") == 1, error
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_what_came_of_every_phase(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--preset", "stable"]) == 0
    captured = capsys.readouterr()
    true, reshuffled, last = captured.out.splitlines()
    summary = json.loads((tmp_path / "runs/relearn-digits-stable-seed1/summary.json").read_text())
    first, second = summary["phases"]
    assert true.startswith("true labels: ")
    assert f"training accuracy at the end {first['train_accuracy']:.3f}" in true
    assert f"test accuracy {first['test_accuracy']:.3f}" in true
    assert reshuffled.startswith("labels reshuffled (1): never learned")
    assert f"at the end {second['train_accuracy']:.3f}" in reshuffled
    assert "test" not in reshuffled
    assert last.startswith("finished: 0 of 1 reshuffles learned again; 6 epochs in ")
    assert last.endswith("runs/relearn-digits-stable-seed1")
    assert f"6/6 steps  {'':0}" in captured.err
    assert f"accuracy {summary['final_accuracy']:.3f}" in captured.err


def test_json_is_the_summary_on_the_last_line(capsys, tmp_path):
    run_dir = tmp_path / "run"
    assert main([*TINY, "--reshuffle-at", "2", "5", "--run-dir", str(run_dir), "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    printed = json.loads(captured.out.splitlines()[-1])
    assert printed.pop("run_dir") == str(run_dir)
    assert printed == json.loads((run_dir / "summary.json").read_text())
    assert [phase["epochs"] for phase in printed["phases"]] == [2, 3, 1]


def test_interrupting_writes_a_checkpoint_and_exits_130(capsys, monkeypatch, tmp_path):
    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        original = Relabelling._finish_epoch

        def finish_epoch(self, *arguments):
            original(self, *arguments)
            os.kill(os.getpid(), signal.SIGINT)

        patch.setattr(Relabelling, "_finish_epoch", finish_epoch)
        assert main([*TINY, "--run-dir", str(run_dir), "--quiet"]) == 130
    error = capsys.readouterr().err
    assert error == f"stablegrad: stopped by SIGINT at update 1; continue with 'stablegrad resume {run_dir}'\n"
    assert json.loads((run_dir / "summary.json").read_text())["status"] == "stopped"
    assert main(["resume", str(run_dir), "--quiet", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["status"], printed["run_dir"]) == ("finished", str(run_dir))
    assert resume_supervised(run_dir, quiet=True)["status"] == "finished"
    assert main(["resume", str(run_dir)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("finished: 0 of 1 reshuffles learned again")
