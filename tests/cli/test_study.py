import html
import json
import shlex

import pytest

from stablegrad.cli import study
from stablegrad.cli.main import main
from stablegrad.studies import plan
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder

STUDY = """
title = "Two rates"
claim = "one is better"
seeds = 2
[base]
algorithm = "relearn"
data_limit = 64
epochs = 2
reshuffle_every = 1
width = 8
[axes]
rate = [{name = "low", "optimizer.learning_rate" = 1e-4}, {name = "high", "optimizer.learning_rate" = 1e-3}]
[small]
seeds = 1
"""


TUNED = (
    STUDY.partition("[axes]")[0].replace("seeds = 2", "seeds = 1")
    + """
[axes]
setting = [{name = "baseline"}, {name = "stable", preset = "stable"}]
[tune]
learning_rate_factors = [1, 100]
"""
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.toml").write_text(STUDY)
    return tmp_path


def test_a_study_is_run_shown_and_resumed(here, capsys):
    assert main(["study", "run", "rates.toml", "--workers", "2", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["finished"], summary["left"], summary["seeds"]) == (4, 0, [1, 2])
    assert {path.name for path in (here / "runs/rates").iterdir()} == {
        ".lock", "study.toml", "study.json", "results.json", "runs",
    }  # fmt: skip
    assert (here / "runs/rates/runs/rate=low-seed1/config.json").exists()

    for command in (["show", "rates.toml"], ["show", "runs/rates"], ["resume", "runs/rates"]):
        assert main(["study", *command]) == 0
        shown = capsys.readouterr().out
        assert "Two rates" in shown and "one is better" in shown
        assert "4 of 4 runs finished, 0 failed, 0 left" in shown
        assert "fewer than 3 seeds" in shown
    assert main(["study", "show", "runs/rates", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary

    assert main(["study", "show", "runs/rates", "--by", "rate"]) == 0
    assert "high" in capsys.readouterr().out
    assert main(["study", "show", "runs/rates", "--by", "rat"]) == 2
    assert "unknown axis of this study 'rat'; did you mean 'rate'?" in capsys.readouterr().err
    assert main(["report", "runs/rates"]) == 0
    assert "Two rates" in (here / "runs/rates/report.html").read_text()
    capsys.readouterr()

    (here / "rates.toml").write_text(STUDY.replace("epochs = 2", "epochs = 3"))
    assert main(["study", "run", "rates.toml"]) == 2
    error = capsys.readouterr().err
    assert "base.epochs: 3 asked for, 2 there" in error and "stablegrad study resume" in error


def test_a_dry_run_says_what_it_takes_and_writes_nothing(here, capsys, monkeypatch):
    monkeypatch.setattr(plan, "LOOK_SECONDS", 0.1)
    assert main(["study", "run", "rates.toml", "--dry-run", "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["runs"], result["runs_left"], len(result["cells"])) == (4, 4, 2)
    assert result["cells"][0]["parameters"] > 0 and result["seconds"] > 0 and result["memory_bytes"] > 0
    assert main(["study", "run", "rates.toml", "--form", "small", "--dry-run"]) == 0
    assert "2 runs: 2 cells, 1 seeds; 2 to make" in capsys.readouterr().out
    assert [path.name for path in here.iterdir()] == ["rates.toml"]


def test_a_tuned_study_makes_its_trials_and_then_its_runs(here, capsys, monkeypatch):
    monkeypatch.setattr(plan, "LOOK_SECONDS", 0.1)
    (here / "tuned.toml").write_text(TUNED)
    assert main(["study", "run", "tuned.toml", "--dry-run", "--workers", "1", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["runs"], planned["trials_left"], len(planned["cells"])) == (2, 4, 2)
    run_seconds = sum(cell["seconds"] for cell in planned["cells"])
    assert planned["seconds"] == pytest.approx(3 * run_seconds)
    assert main(["study", "run", "tuned.toml", "--workers", "1", "--max-hours", "1e-4"]) == 2
    assert "the trials alone take about" in capsys.readouterr().err
    assert not (here / "runs").exists()

    assert main(["study", "run", "tuned.toml", "--workers", "2"]) == 0
    shown = capsys.readouterr().out
    assert "tuned to" in shown and "tried 2 learning rates (x1, x100) on seed 1001" in shown
    study = StudyFolder.read(here / "runs/tuned").study
    assert list(study.tuned) == ["setting=baseline", "setting=stable"]
    for cell in study.cells:
        rates = {trial.values["rate"]: trial.score for trial in study.tuned[cell.name]}
        best = max(rates, key=rates.get)
        folder = StudyFolder.read(here / "runs/tuned")
        run = next(run for run in study.runs if run.cell == cell)
        rate = cell.config.optimizer.initial_learning_rate
        assert folder.run_folder(run).read_config()["optimizer"] == cell.config.to_json()["optimizer"]
        trials = StudyFolder.read(here / "runs/tuned/tuning").study
        chosen = next(one for one in trials.cells if {**cell.values, "rate": best} == one.values)
        assert chosen.config.optimizer.initial_learning_rate == rate
    assert main(["study", "resume", "runs/tuned"]) == 0
    assert "2 of 2 runs finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "study what?"),
        (["rn"], "unknown subject of 'study' 'rn'; did you mean 'run'?"),
        (["run", "none.toml"], "cannot read study file 'none.toml'"),
        (["run", "rates.toml", "--form", "smal"], "did you mean 'small'?"),
        (["run", "rates.toml", "--executor", "locl"], "unknown executor 'locl'; did you mean 'local'?"),
        (["run", "rates.toml", "--address", "x"], "--address is for --executor ray"),
        (["run", "rates.toml", "--workers", "0"], "workers must be at least 1"),
        (["run", "rates.toml", "--max-hours", "0"], "max-hours must be above 0"),
        (["run", "rates.toml", "--data", "none"], "none': it is neither 'digits' nor a folder"),
        (["run", "rates.toml", "--wokers", "2"], "did you mean '--workers'?"),
        (["resume", "none"], "'none' is no study folder"),
        (["show", "none"], "cannot read study file 'none'"),
        (["show", "rates.toml"], "has not been started"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(here, capsys, arguments, message):
    assert main(["study", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["rates.toml"]


def test_help(capsys):
    assert main(["study", "--help"]) == 0
    assert "study resume FOLDER" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["study", "run", "--help"])
    assert "--max-hours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [
        (["run", "rates.toml"], [1]),
        (["run", "rates.toml", "--form", "small", "--workers", "2"], [1]),
        (["run", "rates.toml", "--dry-run"], []),
        (["run", "rates.toml", "--executor", "ray"], []),
        (["run", "--help"], []),
        (["run", "none.toml"], []),
        (["run", "threads.toml"], []),  # how many is known when the file has been read
        (["show", "rates.toml"], []),
        ([], []),
    ],
)
def test_runs_get_ready_while_the_command_is_imported(here, monkeypatch, arguments, threads):
    (here / "threads.toml").write_text(STUDY.replace("width = 8", "width = 8\nthreads = 2"))
    started = []
    monkeypatch.setattr(study, "start_run_server", started.append)
    monkeypatch.setattr("stablegrad.cli.study_commands.run", lambda arguments: 0)
    assert study.run(arguments) == 0
    assert started == threads


def test_text_is_text_and_printed_commands_can_be_pasted(here, capsys):
    title = "Gradients [arXiv 2506.15544] of [/data/x], [bold]small[/bold] :smile: " + "long " * 60
    text = STUDY.replace("Two rates", title.strip())
    text = text.replace('name = "low"', 'name = "低 [b]"').replace("rate =", '"r [dim] /" =')
    (here / "my file's.toml").write_text(text)
    assert main(["study", "run", "my file's.toml", "--dry-run", "--quiet"]) == 0
    assert "r [dim] /" in capsys.readouterr().out
    study_file = read_study(here / "my file's.toml")
    folder = StudyFolder.open(here / "a b; $(c)", study_file, here / "my file's.toml")
    assert main(["study", "show", str(folder.directory)]) == 0
    out = capsys.readouterr().out
    assert f"title: {title.strip()}\n" in out and "r [dim] /" in out and "低-b" in out
    command = out.splitlines()[-1].removeprefix("continue with: ")
    assert shlex.split(command) == ["stablegrad", "study", "resume", str(folder.directory)]
    assert main(["study", "show", "my file's.toml"]) == 2
    command = capsys.readouterr().err.strip().rpartition(": ")[2]
    assert shlex.split(command) == ["stablegrad", "study", "run", "my file's.toml"]
    assert main(["report", str(folder.directory)]) == 0
    page = (folder.directory / "report.html").read_text()
    again = html.unescape(page.rpartition("<pre><code>")[2].partition("</code>")[0]).splitlines()
    assert [shlex.split(line)[-1] for line in again] == [str(folder.directory)] * 2
