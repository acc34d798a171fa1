import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stablegrad import studies
from stablegrad.errors import UsageError
from stablegrad.studies import Comparison, default_workers, processes
from stablegrad.studies.comparison import stderr_path
from stablegrad.studies.processes import locked
from stablegrad.studies.work import TRIES
from stablegrad.training.config import RunConfig
from stablegrad.training.run_folder import RunFolder

CHILD = Path(__file__).with_name("fake_child.py")


class Children:
    """An executor of processes that stand in for trainings."""

    workers = None

    def __init__(self):
        self.running = {}

    def start(self, folder):
        with stderr_path(RunFolder(folder)).open("wb") as stderr:
            self.running[folder] = subprocess.Popen([sys.executable, str(CHILD), str(folder)], stderr=stderr)

    def ended(self, timeout):
        time.sleep(min(timeout, 0.02))
        codes = {folder: code for folder, child in self.running.items() if (code := child.poll()) is not None}
        for folder in codes:
            del self.running[folder]
        return codes

    def stop(self):
        for child in self.running.values():
            child.kill()
            child.wait()


def run_comparison(*arguments, **options):
    return studies.run_comparison(*arguments, executor=Children(), **options)


def configs(baseline="ok", stable="ok", **changes):
    return {
        "baseline": RunConfig(env=baseline, preset="baseline", total_steps=100, threads=1, **changes),
        "stable": RunConfig(env=stable, preset="stable", total_steps=100, threads=1, **changes),
    }


def starts(directory, setting, seed):
    path = directory / "runs" / setting / f"seed-{seed}" / "starts.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_all_runs_finish_and_are_summed_up(tmp_path):
    seen = []
    result = run_comparison(tmp_path / "c", configs(), [1, 2], workers=2, on_progress=seen.append, command=["x"])
    assert result.failures == []
    assert result.summary["results"]["baseline"]["final_returns"] == [10.0, 20.0]
    assert result.summary["difference"]["by_seed"] == [5.0, 5.0]
    assert json.loads((tmp_path / "c" / "comparison_summary.json").read_text()) == result.summary
    last = seen[-1]
    assert [(run.setting, run.seed) for run in last] == [
        ("baseline", 1), ("stable", 1), ("baseline", 2), ("stable", 2),
    ]  # fmt: skip
    assert {(run.step, run.total_steps, run.mean_return, run.state) for run in last} == {(20, 100, 20.0, "finished")}
    config = json.loads((tmp_path / "c/runs/stable/seed-2/config.json").read_text())
    assert RunConfig.from_json(config) == dataclasses.replace(configs()["stable"], seed=2)


def test_pairs_run_side_by_side_in_the_order_of_seeds_and_within_the_workers(tmp_path):
    run_comparison(tmp_path / "c", configs("pair", "pair"), [5, 3], workers=2)
    spans = {
        (setting, seed): (
            starts(tmp_path / "c", setting, seed)[0]["at"],
            float((tmp_path / "c/runs" / setting / f"seed-{seed}/ended").read_text()),
        )
        for setting in ("baseline", "stable")
        for seed in (5, 3)
    }
    for seed in (5, 3):  # the partners of a pair overlap
        (a, b), (c, d) = spans["baseline", seed], spans["stable", seed]
        assert a < d and c < b
    assert max(spans["baseline", 5][0], spans["stable", 5][0]) < min(spans["baseline", 3][0], spans["stable", 3][0])
    for start, _ in spans.values():
        assert sum(low <= start < high for low, high in spans.values()) <= 2


def test_a_second_call_repeats_nothing_that_is_finished(tmp_path):
    first = run_comparison(tmp_path / "c", configs(), [1])
    (tmp_path / "c/runs/stable/seed-1/summary.json").unlink()
    second = run_comparison(tmp_path / "c", configs(), [1])
    assert second.summary == first.summary
    assert len(starts(tmp_path / "c", "baseline", 1)) == 1
    assert len(starts(tmp_path / "c", "stable", 1)) == 2


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("fail", "environment returned NaN at step 20"),
        ("crash", "killed by SIGKILL (often: out of memory)"),
        ("silent", "exit status 1, nothing on standard error"),
        ("unsummarised", "it ended without a finished summary.json"),
    ],
)
def test_a_failing_run_is_recorded_and_takes_nobody_with_it(tmp_path, behaviour, reason):
    seen = []
    settings = configs(stable=f"{behaviour}:2")
    result = run_comparison(tmp_path / "c", settings, [1, 2, 3], workers=2, on_progress=seen.append)
    assert result.failures == [{"setting": "stable", "seed": 2, "status": "failed", "error": reason}]
    assert result.summary["results"]["stable"]["final_returns"] == [15.0, None, 35.0]
    assert result.summary["results"]["stable"]["mean"] == 25.0
    assert [run.state for run in seen[-1]].count("failed") == 1
    assert Comparison.read(tmp_path / "c").record("stable", 2).error == reason
    # What says itself why it failed would fail again.
    assert len(starts(tmp_path / "c", "stable", 2)) == (1 if behaviour == "fail" else TRIES)


def test_a_failed_run_is_tried_again_and_its_failure_forgotten(tmp_path):
    run_comparison(tmp_path / "c", configs(stable="fail"), [1])
    path = tmp_path / "c/runs/stable/seed-1/config.json"
    path.write_text(path.read_text().replace('"fail"', '"ok"'))  # the cause is gone
    result = run_comparison(tmp_path / "c", configs(stable="fail"), [1])
    assert result.failures == []
    assert len(starts(tmp_path / "c", "stable", 1)) == 2


def test_another_comparison_in_the_folder_is_refused_and_named(tmp_path):
    run_comparison(tmp_path / "c", configs(), [1])
    before = (tmp_path / "c/comparison.json").read_bytes()
    with pytest.raises(UsageError, match=r"seeds: \[1, 2\] asked for, \[1\] there"):
        run_comparison(tmp_path / "c", configs(), [1, 2])
    with pytest.raises(UsageError, match=r'stable\.env: "other" asked for, "ok" there'):
        run_comparison(tmp_path / "c", configs(stable="other"), [1])
    assert (tmp_path / "c/comparison.json").read_bytes() == before


def test_wrong_requests(tmp_path):
    one = {"baseline": configs()["baseline"]}
    with pytest.raises(UsageError, match="of 2 settings, got 1"):
        run_comparison(tmp_path / "c", one, [1])
    with pytest.raises(UsageError, match="names a folder"):
        run_comparison(tmp_path / "c", one | {"../up": configs()["stable"]}, [1])
    for seeds in ([], [1, 1], [-1]):
        with pytest.raises(UsageError, match="distinct ones from 0"):
            run_comparison(tmp_path / "c", configs(), seeds)
    with pytest.raises(UsageError, match="workers must be at least 1"):
        run_comparison(tmp_path / "c", configs(), [1], workers=0)
    assert not (tmp_path / "c").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run_comparison(tmp_path / "full", configs(), [1])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        run_comparison(tmp_path / "file/c", configs(), [1])
    with pytest.raises(UsageError, match="no comparison folder"):
        Comparison.read(tmp_path)


def test_default_workers_fill_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    threads = lambda *numbers: [dataclasses.replace(configs()["stable"], threads=number) for number in numbers]  # noqa: E731
    assert default_workers(threads(1, 1)) == 8
    assert default_workers(threads(1, 3)) == 2
    assert default_workers(threads(0, 1)) == 1
    assert default_workers(threads(64)) == 1


def test_an_error_in_the_progress_callback_leaves_no_orphans(tmp_path):
    def broken(runs):
        if all((tmp_path / f"c/runs/{name}/seed-1/metrics.jsonl").exists() for name in ("baseline", "stable")):
            raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run_comparison(tmp_path / "c", configs("slow", "slow"), [1], workers=2, on_progress=broken)
    for setting in ("baseline", "stable"):
        assert not alive(starts(tmp_path / "c", setting, 1)[0]["pid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_same_call_goes_on(tmp_path, number):
    def interrupt(runs):
        if all(run.step == 20 for run in runs[:2]):
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run_comparison(tmp_path / "c", configs("slow", "slow"), [1, 2], workers=2, on_progress=interrupt)
    for setting in ("baseline", "stable"):
        assert not alive(starts(tmp_path / "c", setting, 1)[0]["pid"])
        records = [Comparison.read(tmp_path / "c").record(setting, seed) for seed in (1, 2)]
        assert [record.status for record in records] == ["unfinished", "waiting"]
        path = tmp_path / "c/runs" / setting / "seed-1/config.json"
        path.write_text(path.read_text().replace('"slow"', '"ok"'))
    result = run_comparison(tmp_path / "c", configs("slow", "slow"), [1, 2], on_progress=finish_the_others(tmp_path))
    assert result.failures == []


def finish_the_others(tmp_path):
    """Runs that would go on without an end come to one."""

    def finish(runs):
        for run in runs:
            folder = tmp_path / "c/runs" / run.setting / f"seed-{run.seed}"
            if run.state == "running" and run.seed == 2:
                (folder / "finish").touch()

    return finish


def test_one_process_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOCK_SECONDS", 0.5)
    run_comparison(tmp_path / "c", configs(), [1])
    with locked(tmp_path / "c", "comparison"), pytest.raises(UsageError, match="another process is running"):
        run_comparison(tmp_path / "c", configs(), [1], on_progress=lambda _: pytest.fail("it ran"))


def test_a_script_without_a_guard_of_its_main_module_trains_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import dataclasses\nfrom stablegrad.studies import run_comparison\n"
        "from stablegrad.training.config import default_run\n"
        "small = '+torso.width=8+num_envs=4+num_steps=8+num_minibatches=2'\n"
        "runs = {name: dataclasses.replace(default_run('pqn', 'CartPole-v1', name + small), total_steps=200, threads=1)"
        " for name in ('baseline', 'stable')}\n"
        "print('failures', run_comparison('pair', runs, [1], workers=2).failures)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["failures []"], done.stderr


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # an orphan that has ended waits for init to collect it
