import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stablegrad.agents.presets import apply_changes
from stablegrad.diagnostics.rules import Finding
from stablegrad.errors import StablegradError, UsageError
from stablegrad.studies import search, search_confirmation, search_result, summary
from stablegrad.studies.comparison import RunRecord
from stablegrad.studies.plan import CellPlan
from stablegrad.studies.search import estimate, run_search
from stablegrad.studies.search_diagnosis import illness
from stablegrad.studies.search_folder import SearchFolder, SearchPlan
from stablegrad.studies.search_result import spent_in_words
from stablegrad.studies.search_storage import load_optuna, open_study
from stablegrad.training.config import default_run

pytest.importorskip("optuna")
SCRIPT = Path(__file__).with_name("fake_search.py")


@pytest.fixture
def fake(monkeypatch):
    specification = importlib.util.spec_from_file_location("fake_search", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.install(monkeypatch.setattr)
    return module


def plan(trials=8, *, changes=None, **options):
    config = default_run("pqn", "CartPole-v1")
    agent = apply_changes(config.agent, {"torso.width": 16, "torso.depth": 2, **(changes or {})})
    config = dataclasses.replace(config, agent=agent, threads=1, total_steps=1600)
    return SearchPlan(config, trials=trials, **{"confirm_seeds": 3, **options})


def test_a_search_finds_confirms_and_says_what_it_spent(fake, tmp_path):
    lines = []
    result = run_search(SearchFolder.open(tmp_path / "s", plan(10)), 1, on_event=lines.append)
    trials = result["trials"]
    assert [row["number"] for row in trials] == list(range(10))
    assert [row["source"] for row in trials] == ["baseline", "stable"] + ["sampled"] * 8
    assert trials[0]["value"] == 21 and trials[1]["value"] == 101  # what the made-up runs say
    assert result["verdict"] == "better" and result["best"]["value"] >= 101
    assert result["words"][0].startswith("Found and confirmed on fresh seeds (2, 3, 4): ")
    assert any("winner's curse" in sentence for sentence in result["words"])
    assert result["confirmation"]["seeds"] == result["fresh_seeds"] == [2, 3, 4]
    assert result["confirmation"]["difference"]["mean"] == pytest.approx(result["best"]["value"] - 21)
    spent = result["spent"]
    assert sum(spent["trials"].values()) == 10
    # Every made-up run writes all of its log at once.
    assert spent["env_steps"] == 1600 * 10 + spent["confirmation_env_steps"]
    assert spent["confirmation_env_steps"] == 1600 * (9 if result["confirmation_prescription"] else 6)
    assert "10 trials" in spent_in_words(spent) and "on the confirmation" in spent_in_words(spent)
    assert json.loads((tmp_path / "s/search.json").read_text())["result"] == result
    assert run_search(SearchFolder.read(tmp_path / "s"), 1) == result  # there is nothing left to do
    assert lines[0].startswith("diagnosis, pre-flight") and any("trial 1 (stable)" in line for line in lines)


def test_the_seeds_of_a_trial_are_never_those_of_the_confirmation(fake, tmp_path):
    result = run_search(SearchFolder.open(tmp_path / "s", plan(3, seeds=(7, 2))), 2)
    trained = {path.name for path in (tmp_path / "s/trials").glob("*/*")}
    confirmed = {path.name for path in (tmp_path / "s/confirmation/runs").glob("*/*")}
    assert trained == {"seed-2", "seed-7"} and confirmed == {"seed-8", "seed-9", "seed-10"}
    assert result["trials"][0]["value"] == 20 + (7 + 2) / 2  # the mean over its seeds


def test_a_trial_that_falls_ill_is_stopped_by_the_diagnosis(fake, monkeypatch, tmp_path):
    finding = Finding("exploding_gradient", "collapsing", "network", 1, 1.0, 1.0, "a made-up finding")
    monkeypatch.setattr(search, "preflight_findings", lambda config: [finding])
    monkeypatch.setattr(fake, "is_ill", lambda config: config["agent"]["max_grad_norm"] < 10)
    # The first thing prescribed for a gradient that explodes makes these runs ill.
    result = run_search(SearchFolder.open(tmp_path / "s", plan(4)), 1)
    row = next(row for row in result["trials"] if row["source"] == "clip_gradients")
    assert row["state"] == "pruned" and row["value"] is None
    assert row["reason"] == (
        "diagnosis: collapsed, 'torso' gets no gradient: it is cut off from the loss or behind units that are all dead "
        "at 25%"
    )
    assert result["spent"]["pruned_by"]["diagnosis"] >= 1
    assert not (tmp_path / "s/trials/001/seed-1/summary.json").exists()


def test_a_baseline_is_never_stopped(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(fake, "is_ill", lambda config: True)
    result = run_search(SearchFolder.open(tmp_path / "s", plan(3)), 1)
    assert [row["state"] for row in result["trials"]] == ["finished", "pruned", "pruned"]
    assert result["verdict"] == "nothing better" and "Nothing beat the baseline" in result["words"][0]
    assert result["confirmation"] is None and "--torso.width 16" in result["command"]
    assert json.loads((tmp_path / "s/search.json").read_text())["diagnosis"]["run"][0]["rule"] == "no_gradient"


def test_a_trial_behind_the_others_is_stopped_by_its_return(fake, monkeypatch, tmp_path):
    gains, known = [50.0, 40.0, 60.0, 10.0, 70.0, 5.0], {}

    def value_of(config):
        return known.setdefault(json.dumps(config["agent"]), gains[len(known) % 6])

    monkeypatch.setattr(fake, "value_of", value_of)
    folder = SearchFolder.open(tmp_path / "s", plan(6))
    result = run_search(folder, 1)
    assert result["best"]["number"] == 4 and result["spent"]["pruned_by"] == {"diagnosis": 0, "return": 2}
    trials = open_study(load_optuna(), folder.journal).get_trials()
    assert [one.state.name for one in trials] == ["COMPLETE"] * 3 + ["PRUNED", "COMPLETE", "PRUNED"]
    assert trials[3].user_attrs["reason"] == "return: below the median of the others at 12%"
    # One rung was reported, then it was over.
    assert trials[3].intermediate_values == {200: pytest.approx(10 / 8)} and len(trials[4].intermediate_values) == 3


def test_illness_is_what_the_diagnosis_says_of_the_log_so_far():
    healthy = {"gradient_norm/a": 1.0, "gradient_norm/b": 1.0, "update_ratio/a": 1e-3, "update_ratio/b": 1e-3}
    rows = [{"step": step, **healthy} for step in range(1, 20)]
    assert illness(rows) is None
    ill = [{**row, "gradient_norm/a": 0.0} if row["step"] > 10 else row for row in rows]
    assert illness(ill[:10]) is None and illness(ill).startswith("collapsed, 'a' gets no gradient")
    assert illness([{"step": 1, "gradient_norm/a": 0.0, "train/return": 1.0}]) is None  # no look was taken yet


@pytest.mark.parametrize(("code", "starts"), [(1, "x"), (-9, "xxx")])
def test_a_run_that_was_killed_is_tried_again_and_one_that_failed_is_not(fake, monkeypatch, tmp_path, code, starts):
    kron = lambda config: config["agent"]["optimizer"]["name"] == "kron"  # noqa: E731
    monkeypatch.setattr(fake.FakeExecutor, "fails", staticmethod(lambda config: code if kron(config) else None))
    result = run_search(SearchFolder.open(tmp_path / "s", plan(3)), 1)
    assert result["trials"][1]["state"] == "failed" and result["spent"]["trials"]["failed"] >= 1
    assert result["trials"][1]["reason"] in (
        "exit status 1, nothing on standard error",
        "killed by SIGKILL (often: out of memory)",
    )
    assert (tmp_path / "s/trials/001/seed-1/starts").read_text() == starts


def test_findings_without_a_figure_are_kept(fake, monkeypatch, tmp_path):
    """A gradient that is no number has no value that JSON knows."""
    finding = Finding("nonfinite", "collapsed", "network", 1, math.nan, math.inf, "the loss is no number")
    monkeypatch.setattr(search, "preflight_findings", lambda config: [finding])
    for _ in range(2):
        result = run_search(SearchFolder.open(tmp_path / "s", plan(3)), 1)
    assert result["diagnosis"]["prescriptions"]


def test_a_stop_before_the_confirmation_is_heard(fake, monkeypatch, tmp_path):
    """Comparisons hear a stop themselves; what comes between two is the search's."""
    received = []
    monkeypatch.setattr(search, "stop_signals", lambda: contextlib.nullcontext(received))
    folder = SearchFolder.open(tmp_path / "s", plan(3))
    whole = search._Search.run
    monkeypatch.setattr(search._Search, "run", lambda one: (whole(one), received.append(signal.SIGTERM)))
    with pytest.raises(KeyboardInterrupt):
        run_search(folder, 1)
    received.clear()
    monkeypatch.setattr(search._Search, "run", whole)
    assert run_search(SearchFolder.open(tmp_path / "s", plan(3)), 1)["verdict"]


def test_a_baseline_that_cannot_be_trained_ends_the_search(fake, monkeypatch, tmp_path):
    monkeypatch.setattr(fake.FakeExecutor, "fails", staticmethod(lambda config: 1))
    for _ in range(2):  # also when it is asked for again
        with pytest.raises(StablegradError, match="the baseline cannot be trained: exit status 1"):
            run_search(SearchFolder.open(tmp_path / "s", plan(3)), 1)


def test_a_signal_stops_a_search_in_order(fake, monkeypatch, tmp_path):
    received = []
    monkeypatch.setattr(search, "stop_signals", lambda: contextlib.nullcontext(received))
    folder = SearchFolder.open(tmp_path / "s", plan(4))
    with pytest.raises(KeyboardInterrupt):
        run_search(folder, 1, on_event=lambda line: received.append(signal.SIGINT) if "trial 1" in line else None)
    assert len(list((tmp_path / "s/trials").iterdir())) == 2
    received.clear()
    result = run_search(SearchFolder.read(tmp_path / "s"), 1)
    assert [row["state"] for row in result["trials"][:2]] == ["finished", "finished"] and len(result["trials"]) == 4


def _command(seconds, *more):
    return [sys.executable, str(SCRIPT), str(seconds), "search", *more, "--workers", "1", "--json", "--quiet"]


def _asked(directory, trials):
    return [
        *("pqn", "--env", "CartPole-v1", "--torso.width", "16", "--torso.depth", "2", "--total-steps", "1600"),
        *("--trials", str(trials), "--confirm-seeds", "2", "--run-dir", str(directory)),
    ]


def test_a_search_killed_and_resumed_repeats_nothing_and_ends_the_same(fake, tmp_path):
    undisturbed = run_search(SearchFolder.open(tmp_path / "a", plan(6, confirm_seeds=2)), 1)
    killed = subprocess.Popen(_command(0.3, *_asked(tmp_path / "b", 6)), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "b/trials").glob("*/*/summary.json"))) < 3:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "b/trials").glob("*/*/summary.json")}
    assert 3 <= len(finished) < 6
    # As if the kill had cut a line of the journal, while it held its lock.
    with (tmp_path / "b/trials.log").open("a") as file:
        file.write('{"op_code": 5, "trial')
    lock = tmp_path / "b/trials.log.lock"
    if not lock.is_symlink():
        lock.symlink_to("trials.log")
    resumed = subprocess.run(_command(0.0, "--resume", str(tmp_path / "b")), capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout.splitlines()[-1])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert all((path.parent / "starts").read_text() == "x" for path in finished)
    of = ("number", "source", "changes", "state", "value", "reason", "env_steps")
    assert [[row[name] for name in of] for row in result["trials"]] == [
        [row[name] for name in of] for row in undisturbed["trials"]
    ]
    assert result["best"] == undisturbed["best"] and result["verdict"] == undisturbed["verdict"]
    assert len(list((tmp_path / "b/trials").iterdir())) == 6


@pytest.mark.parametrize("drawn", [0, 1, 2, 3])
def test_a_search_killed_while_a_trial_is_drawn_draws_it_the_same(fake, tmp_path, monkeypatch, drawn):
    undisturbed = run_search(SearchFolder.open(tmp_path / "a", plan(6, confirm_seeds=2)), 1)
    number = next(row["number"] for row in undisturbed["trials"] if row["source"] == "sampled")
    original = search.Space.suggest

    def interrupted(self, trial):
        if trial.number == number:
            left = iter(range(drawn))
            for name in ("suggest_categorical", "suggest_float", "suggest_int"):
                monkeypatch.setattr(trial, name, _until_used_up(getattr(trial, name), left))
        return original(self, trial)

    monkeypatch.setattr(search.Space, "suggest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(SearchFolder.open(tmp_path / "b", plan(6, confirm_seeds=2)), 1)
    monkeypatch.setattr(search.Space, "suggest", original)
    result = run_search(SearchFolder.read(tmp_path / "b"), 1)
    assert [row["changes"] for row in result["trials"]] == [row["changes"] for row in undisturbed["trials"]]


def _until_used_up(call, left):
    def limited(*arguments, **options):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return call(*arguments, **options)

    return limited


def _measured(monkeypatch, seconds):
    def plan_cells(cells, workers):
        return {cell.name: CellPlan(cell, 1, 1, seconds, False) for cell in cells}

    monkeypatch.setattr(search, "plan_cells", plan_cells)


def test_the_time_is_divided_before_it_is_spent(monkeypatch):
    _measured(monkeypatch, 60.0)
    takes = estimate(plan(None, max_hours=1.0, confirm_seeds=5), 1)
    assert takes.confirmation == pytest.approx(1.15 * 10 * 65)
    assert takes.trials == (3600 - 30 - takes.confirmation) // 69 and takes.total <= 3600
    assert estimate(plan(4), 2).trials == 4
    two = estimate(plan(None, max_hours=1.0, confirm_seeds=5), 2)
    assert two.confirmation == pytest.approx(takes.confirmation / 2) and two.trials > takes.trials
    with pytest.raises(
        UsageError, match=r"0\.2 hours are too short: the baseline, one more trial and 10 runs to confirm"
    ):
        estimate(plan(None, max_hours=0.2, confirm_seeds=5), 1)


def test_hours_too_short_for_one_trial_leave_nothing_behind(fake, monkeypatch, tmp_path):
    _measured(monkeypatch, 60.0)
    with pytest.raises(UsageError, match="too short"):
        run_search(SearchFolder.open(tmp_path / "s", plan(None, max_hours=0.1)), 1)
    assert not (tmp_path / "s/trials").exists()
    assert SearchFolder.open(tmp_path / "s", plan(None, max_hours=1.0)).plan.max_hours == 1.0


def test_the_hours_are_kept(fake, monkeypatch, tmp_path):
    _measured(monkeypatch, 0.1)
    monkeypatch.setattr(fake.FakeExecutor, "seconds", 0.1)
    monkeypatch.setattr(search, "PREFLIGHT_SECONDS", 0.0)
    monkeypatch.setattr(search_confirmation, "START_SECONDS", 0.0)
    result = run_search(SearchFolder.open(tmp_path / "s", plan(None, max_hours=4 / 3600, confirm_seeds=2)), 1)
    assert result["spent"]["seconds"] < 4.5 and sum(result["spent"]["trials"].values()) > 2
    assert result["verdict"] == "better"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": None}, "say how long to search"),
        ({"trials": 1}, "trials must be at least 2"),
        ({"max_hours": -1.0}, "max-hours must be above 0"),
        ({"max_hours": float("nan")}, "max-hours must be above 0"),
        ({"seeds": (1, 1)}, "seeds should be distinct"),
        ({"confirm_seeds": 1}, "confirm-seeds must be at least 2"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        plan(**options)


def test_a_folder_belongs_to_one_search(tmp_path):
    assert SearchFolder.open(tmp_path / "s", plan(4)).plan != plan(5)  # it has not begun, so it makes way
    first = SearchFolder.open(tmp_path / "s", plan(5))
    first.state["diagnosis"] = {"preflight": [], "run": None}
    first.save()
    assert SearchFolder.open(tmp_path / "s", plan(5)).plan == first.plan == SearchFolder.read(tmp_path / "s").plan
    with pytest.raises(UsageError, match="holds another search; it differs in trials: 6 asked for, 5 there") as error:
        SearchFolder.open(tmp_path / "s", plan(6))
    assert "--resume" in str(error.value)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty and holds no search"):
        SearchFolder.open(tmp_path / "other", plan(5))
    with pytest.raises(UsageError, match="is no search folder"):
        SearchFolder.read(tmp_path / "other")
    (tmp_path / "s/search.json").write_text("{")
    with pytest.raises(StablegradError, match="cannot be read as a search"):
        SearchFolder.read(tmp_path / "s")


def test_without_optuna_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"^a search needs Optuna: pip install 'stablegrad\[search\]'$"):
        load_optuna()


def test_a_damaged_journal_is_named_with_its_line_and_left_as_it_is(fake, tmp_path):
    folder = SearchFolder.open(tmp_path / "s", plan(2))
    study = open_study(load_optuna(), folder.journal)
    for _ in range(2):
        study.enqueue_trial({}, user_attrs={"source": "sampled"})
        study.tell(study.ask(), 1.0)
    whole = folder.journal.read_bytes()
    lines = whole.split(b"\n")
    damages = {
        b"\n".join([*lines[:2], lines[2][:20], *lines[3:]]): "line 3 is damaged",
        b"\n".join([*lines[:1], b"[1]", *lines[1:]]): "line 2 is damaged",
        b"\x89PNG": "line 1 is damaged",
        b'{"op_code": 99, "worker_id": "x"}\n' + whole: "is damaged",
        whole.replace(b'{"source":"sampled"}', b"{}"): "trial 0 has no source",
    }
    for damaged, message in damages.items():
        folder.journal.write_bytes(damaged)
        with pytest.raises(StablegradError, match=rf"trials\.log.*{message}.*; restore it from a copy"):
            open_study(load_optuna(), folder.journal)
        assert folder.journal.read_bytes().startswith(damaged)  # Optuna notes that the study was opened
    for cut in (b'{"op_code": 5, "tri', b"\0\0\0", b'{"op_code"\0\0'):
        folder.journal.write_bytes(whole + cut)
        assert len(open_study(load_optuna(), folder.journal).get_trials()) == 2
        assert cut not in folder.journal.read_bytes() and folder.journal.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "change",
    [
        {"spent": None},
        {"spent": {"seconds": "x", "confirmation_seconds": 0}},
        {"winner": "first"},
        {"diagnosis": [1]},
        {"diagnosis": {"preflight": [{}], "run": None}},
        {"result": []},
        {"plan": {}},
        {"plan": None},
        {"seconds_of_run": "x"},
    ],
)
def test_a_search_json_of_another_shape_is_one_line(tmp_path, change):
    folder = SearchFolder.open(tmp_path / "s", plan(2))
    folder.path.write_text(json.dumps({**json.loads(folder.path.read_text()), **change}))
    with pytest.raises(StablegradError, match=r"search\.json' cannot be read as a search"):
        SearchFolder.read(folder.directory)


def test_numbers_without_bounds_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"trials must be at least 2, .* at most 10,000; got 1000000000"):
        plan(10**9)
    with pytest.raises(UsageError, match=r"confirm-seeds must be at least 2, .* at most 1,000"):
        plan(2, confirm_seeds=10**9)
    with pytest.raises(UsageError, match="workers must be at least 1 and at most 10,000, got 1000000000"):
        run_search(SearchFolder.open(tmp_path / "s", plan(2)), 10**9)


def confirmed(best):
    """A confirmation's summary with these returns beside a baseline's of 1, 2, 3; None: not finished."""
    baseline = [1.0, 2.0, 3.0]
    records = {
        name: [RunRecord(name, seed, "finished" if v is not None else "left", None, {"final_return": v}, [])
               for seed, v in enumerate(values, start=5)]
        for name, values in (("baseline", baseline), ("best", best))
    }  # fmt: skip
    results = {name: summary._results(own, 0.95) for name, own in records.items()}
    return {
        "settings": ["baseline", "best"], "seeds": [5, 6, 7], "confidence": 0.95, "results": results, "left_out": [],
        "difference": summary._difference(records["baseline"], records["best"], 0.95),
        "stability": summary.stability_of(records), "trade_off": summary.trade_off(("baseline", "best"), records),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("best", "said"),
    [
        ([None, None, None], "no pair of runs on fresh seeds is finished"),
        ([9.0, None, None], "the one pair of runs on a fresh seed (5) cannot tell"),
        ([1.0, 2.0, 3.0], "on fresh seeds (5, 6, 7) the best trial has the returns of the baseline"),
        ([2.0, 1.0, None], "on fresh seeds (5, 6) the best trial is not told from the baseline"),
        ([11.0, 12.1, None], "Found and confirmed on fresh seeds (5, 6)"),
    ],
)
def test_a_confirmation_claims_no_more_than_its_pairs(best, said):
    found = confirmed(best)
    rows = [{"state": "finished", "value": 3.0, "changes": {}}] * 2
    names = {search_result.CONFIRMATION: found, search_result.CONFIRMATION_PRESCRIPTION: None}
    words = search_result._words(search_result._answer(found), rows[0], rows, plan(2), names)
    assert said in words[0] and (said.startswith("Found") or words[0].startswith("Not confirmed: "))
