import json
import shlex
import sys

import pytest

from stablegrad.cli.main import main
from stablegrad.studies import plan, search_diagnosis
from stablegrad.training.run_folder import RunFolder

pytest.importorskip("optuna")
SMALL = [
    *("search", "pqn", "--env", "CartPole-v1", "--torso.width", "16", "--torso.depth", "2", "--total-steps", "3000"),
    *("--num-envs", "8", "--num-minibatches", "2", "--look-every", "20", "--probe-every", "20"),
]


def test_a_short_search_of_real_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_diagnosis, "PREFLIGHT_SECONDS", 3.0)
    assert main([*SMALL, "--trials", "2", "--confirm-seeds", "2", "--run-dir", "s", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert [row["state"] for row in result["trials"]] == ["finished", "finished"]
    assert result["verdict"] in ("better", "undecided", "worse", "nothing better")
    assert "diagnosis, pre-flight" in captured.err and "trial 0 (baseline)" in captured.err
    # The figures are those of the runs themselves.
    for row in result["trials"]:
        summary = RunFolder(tmp_path / f"s/trials/{row['number']:03d}/seed-1").read_summary()
        assert summary["final_return"] == row["value"] and summary["env_steps"] == row["env_steps"]
    confirmed = result["verdict"] != "nothing better"
    assert (tmp_path / "s/confirmation/report.html").exists() == confirmed
    if confirmed:
        assert result["confirmation"]["results"]["best"]["finished"] == 2

    # A finished search is shown again, as a table, and its command trains.
    assert main(["search", "--resume", "s"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("trial") and "Spent: 2 trials (2 finished;" in shown and result["command"] in shown
    words = shlex.split(result["command"])
    words[words.index("--total-steps") + 1] = "64"
    assert main([*words[1:], "--run-dir", "winner", "--quiet"]) == 0


def test_a_dry_run_says_what_it_takes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "LOOK_SECONDS", 0.1)
    assert main([*SMALL, "--trials", "4", "--dry-run", "--workers", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["trials"], result["seeds"], result["fresh_seeds"]) == (4, [1], [2, 3, 4, 5, 6])
    assert result["parameters"] > 0 and result["total"] > 4 * result["trial"] and len(result["dimensions"]) == 9
    assert main([*SMALL, "--max-hours", "0.0001"]) == 2
    assert "0.0001 hours are too short" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/trials"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search"], "name the algorithm first: stablegrad search pqn --env ID"),
        (["search", "pqm", "--env", "CartPole-v1"], "unknown algorithm 'pqm'; did you mean 'pqn'?"),
        (["search", "relearn"], "so it is for agents: stablegrad search pqn --env ID"),
        (["search", "pqn", "--env", "CartPole-v2"], "did you mean 'CartPole-v1'?"),
        (["search", "pqn", "--env", "Pendulum-v1", "--trials", "3"], "needs discrete actions"),
        (SMALL, "say how long to search: --trials N, --max-hours H, or both"),
        ([*SMALL, "--max-hours", "-1"], "max-hours must be above 0 and finite, got -1"),
        ([*SMALL, "--trials", "1"], "trials must be at least 2"),
        ([*SMALL, "--trials", "3", "--workers", "0"], "workers must be at least 1"),
        ([*SMALL, "--trials", "3", "--look-every", "0"], "a search needs the diagnosis"),
        ([*SMALL, "--trials", "3", "--on-collapse", "stop"], "a search needs the diagnosis"),
        ([*SMALL, "--trials", "3", "--seed", "2"], "search takes --seeds N"),
        (
            [*SMALL, "--trials", "3", "--seeds", "0"],
            "seeds should be a number of at least 1, or a list of distinct ones",
        ),
        ([*SMALL, "--trails", "3"], "did you mean '--trials'?"),
        (["search", "--resume", "none"], "'none' is no search folder"),
        (["search", "--resume", "none", "--trials", "3"], "unknown option of 'search' '--trials'"),
    ],
)
def test_what_cannot_be_searched_is_said_in_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("stablegrad: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_optuna_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main([*SMALL, "--trials", "3"]) == 2
    assert capsys.readouterr().err == "stablegrad: a search needs Optuna: pip install 'stablegrad[search]'\n"
    assert not list(tmp_path.iterdir())
