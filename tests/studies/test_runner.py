import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from stablegrad.errors import UsageError
from stablegrad.studies import work
from stablegrad.studies.local_executor import LocalExecutor
from stablegrad.studies.runner import run_study, summarize_study
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.work import TRIES
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.run_folder import RunFolder

CLASSIFIERS = """
seeds = 2
report = ["relearning.mean_final_accuracy", "gradients/norm", "parameters"]
[base]
algorithm = "relearn"
data_limit = 256
epochs = 8
reshuffle_every = 4
batch_size = 8
checkpoint_every = 2
keep_checkpoints = 3
width = 16
[axes]
setting = [{name = "baseline"}, {name = "stable", preset = "stable"}]
"""

AGENTS = """
seeds = 1
report = ["final_return", "train/return", "gradients/norm"]
[base]
algorithm = "pqn"
env = "CartPole-v1"
total_steps = 1500
checkpoint_every = 500
keep_checkpoints = 10
num_envs = 8
num_steps = 8
num_minibatches = 4
look_every = 10
probe_every = 20
width = 16
[axes]
setting = [{name = "baseline"}, {name = "stable", preset = "stable"}]
"""


def make_folder(tmp_path, text, name):
    file = tmp_path / "study.toml"
    file.write_text(text)
    return StudyFolder.open(tmp_path / name, read_study(file), file)


@pytest.fixture
def study_in(tmp_path):
    return lambda text, name: make_folder(tmp_path, text, name)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The study of classifiers, made without a disturbance."""
    folder = make_folder(tmp_path_factory.mktemp("undisturbed"), CLASSIFIERS, "s")
    seen = []
    summary = run_study(folder, LocalExecutor(), 2, on_progress=seen.append)
    assert (summary["finished"], summary["failed"], summary["left"]) == (4, 0, 0)
    assert (seen[-1].finished, seen[-1].done, seen[-1].running) == (4, 4, {})
    return folder


def final_weights(folder):
    return {
        run.name: load_checkpoint(list_checkpoints(folder.run_folder(run).checkpoints_path)[-1])[0]
        for run in folder.study.runs
    }


def assert_same(one, other):
    assert one.results_path.read_bytes() == other.results_path.read_bytes()
    ours, theirs = final_weights(one), final_weights(other)
    for run, weights in ours.items():
        for name, tensor in weights.items():
            assert torch.equal(tensor, theirs[run][name]), (run, name)


class Killer(LocalExecutor):
    """Sends the process of every run a signal, once, when it has written its first checkpoint."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.killed = {}

    def ended(self, timeout):
        for folder, pid in self.pids().items():
            if folder.name not in self.killed and list_checkpoints(folder / "checkpoints"):
                os.kill(pid, self.number)
                self.killed[folder.name] = (folder / "summary.json").exists()
        return super().ended(min(timeout, 0.01))


def kill_and_compare(undisturbed, disturbed, number=signal.SIGKILL):
    killer = Killer(number)
    assert run_study(disturbed, killer, 2)["failed"] == 0
    assert killer.killed == {run.name: False for run in undisturbed.study.runs}  # in the midst of each
    assert_same(undisturbed, disturbed)


def test_classifiers_whose_processes_were_killed_end_like_those_that_were_not(study_in, undisturbed):
    kill_and_compare(undisturbed, study_in(CLASSIFIERS, "s"))


def test_agents_whose_processes_were_killed_end_like_those_that_were_not(study_in):
    """SIGTERM too: a clean stop's checkpoint is none of the schedule, and would change the results."""
    undisturbed = study_in(AGENTS, "undisturbed")
    run_study(undisturbed, LocalExecutor(), 2)
    kill_and_compare(undisturbed, study_in(AGENTS, "killed"))
    kill_and_compare(undisturbed, study_in(AGENTS, "terminated"), signal.SIGTERM)


def test_what_is_finished_is_not_repeated(study_in):
    folder = study_in(CLASSIFIERS, "s")
    first = run_study(folder, LocalExecutor(), 2, runs=folder.study.runs[:1])
    assert (first["finished"], first["left"]) == (1, 3)
    run = folder.study.runs[0]
    before = folder.run_folder(run).summary_path.stat().st_mtime_ns
    executor = Scripted({})
    summary = run_study(folder, executor, 2)
    assert executor.started == [run.name for run in folder.study.runs[1:]]
    assert folder.run_folder(run).summary_path.stat().st_mtime_ns == before
    assert summary["finished"] == 4


@pytest.fixture
def driver(study_in):
    """A process that runs a study, whose runs have written checkpoints."""
    folder = study_in(CLASSIFIERS, "driven")
    program = f"""
        from stablegrad.studies.local_executor import LocalExecutor
        from stablegrad.studies.runner import run_study
        from stablegrad.studies.study_folder import StudyFolder
        if __name__ == "__main__":
            executor = LocalExecutor()
            ended = executor.ended
            def tell(timeout):
                print(*executor.pids().values(), flush=True)
                return ended(timeout)
            executor.ended = tell
            run_study(StudyFolder.read({str(folder.directory)!r}), executor, 2)
    """
    script = folder.directory / "driver.py"
    script.write_text(textwrap.dedent(program))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    first = folder.run_folder(folder.study.runs[0])
    wait_until(lambda: list_checkpoints(first.checkpoints_path), 60)
    yield process, folder
    process.kill()
    process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_study_that_was_stopped_leaves_no_process_and_ends_like_one_that_was_not(driver, undisturbed, number):
    process, folder = driver
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    pids = {int(pid) for pid in out.split()}
    assert pids
    wait_until(lambda: not any(alive(pid) for pid in pids), 10)
    assert summarize_study(folder)["left"] > 0
    run_study(folder, LocalExecutor(), 2)
    assert_same(folder, undisturbed)


class Scripted:
    """Stands in for an executor: runs end at once, with the exit status that a script has for them, else well."""

    workers = None

    def __init__(self, script):
        self.script = {name: list(codes) for name, codes in script.items()}
        self.started = []
        self.stopped = False
        self._ended = {}

    def start(self, folder):
        self.started.append(folder.name)
        code = (self.script.get(folder.name) or [0]).pop(0)
        if code == 0:
            (folder / "summary.json").write_text(json.dumps({"status": "finished", "parameters": len(self.started)}))
        else:
            (folder / "stderr.log").write_text("a warning\nstablegrad: the disk is full\n")
        self._ended[folder] = code

    def ended(self, timeout):
        ended, self._ended = self._ended, {}
        return ended

    def stop(self):
        self.stopped = True


def test_a_run_that_keeps_failing_is_recorded_and_the_study_goes_on(study_in):
    folder = study_in(CLASSIFIERS, "s")
    executor = Scripted({"setting=stable-seed1": [1] * TRIES, "setting=baseline-seed1": [-9, 1]})
    summary = run_study(folder, executor, 1)
    assert executor.started == [
        *["setting=baseline-seed1"] * 3,
        *["setting=stable-seed1"] * TRIES,
        "setting=baseline-seed2",
        "setting=stable-seed2",
    ]
    assert (summary["finished"], summary["failed"], summary["left"]) == (3, 1, 0)
    assert summary["failures"] == [{"cell": "setting=stable", "seed": 1, "error": "the disk is full"}]
    assert summary["cells"][1]["figures"]["parameters"]["count"] == 1
    rows = json.loads(folder.results_path.read_text())["runs"]
    assert [row["status"] for row in rows] == ["finished", "failed", "finished", "finished"]
    assert executor.stopped
    # and it is tried again when the study is
    assert run_study(folder, Scripted({}), 1)["finished"] == 4


def test_a_run_that_cannot_be_right_is_not_tried_again(study_in):
    folder = study_in(CLASSIFIERS, "s")
    executor = Scripted({"setting=baseline-seed1": [2]})
    assert run_study(folder, executor, 2)["failed"] == 1
    assert executor.started.count("setting=baseline-seed1") == 1


def test_a_run_that_gets_on_is_tried_as_often_as_it_takes(study_in, monkeypatch):
    newest = iter(range(1000))
    monkeypatch.setattr(work, "_newest_checkpoint", lambda _: next(newest))
    folder = study_in(CLASSIFIERS, "s")
    executor = Scripted({"setting=baseline-seed1": [-9] * 10})
    assert run_study(folder, executor, 1)["failed"] == 0
    assert executor.started.count("setting=baseline-seed1") == 11


def test_a_study_stops_when_its_time_is_over(study_in):
    folder = study_in(CLASSIFIERS, "s")
    executor = Scripted({})
    summary = run_study(folder, executor, 1, max_seconds=0.0)
    assert (summary["finished"], summary["left"], executor.started) == (0, 4, [])


def test_no_workers(study_in):
    with pytest.raises(UsageError, match="workers must be at least 1"):
        run_study(study_in(CLASSIFIERS, "s"), Scripted({}), 0)


def test_means_have_intervals_over_seeds(study_in):
    folder = study_in(CLASSIFIERS, "s")
    run_study(folder, Scripted({}), 1)
    baseline, stable = summarize_study(folder)["cells"]
    assert baseline["figures"]["parameters"] == {
        "mean": 2.0, "interval": pytest.approx([2 - 12.706 * 1, 2 + 12.706 * 1], abs=1e-3), "count": 2,
    }  # fmt: skip
    assert stable["figures"]["gradients/norm"] == {"mean": None, "interval": None, "count": 0}


def test_figures_are_averaged_over_axes_seed_by_seed(study_in):
    text = CLASSIFIERS.replace("[axes]\n", "[axes]\ndepth = [1, 2]\n")
    folder = study_in(text, "s")
    run_study(folder, Scripted({}), 1)
    full = summarize_study(folder)
    one = summarize_study(folder, by=["setting"])
    assert (one["axes"], one["averaged"], [cell["name"] for cell in one["cells"]]) == (
        ["setting"], ["depth"], ["setting=baseline", "setting=stable"],
    )  # fmt: skip
    assert one["cells"][0]["finished"] == 4 and one["cells"][0]["figures"]["parameters"]["count"] == 2
    means = [cell["figures"]["parameters"]["mean"] for cell in full["cells"] if cell["values"]["setting"] == "baseline"]
    assert one["cells"][0]["figures"]["parameters"]["mean"] == pytest.approx(sum(means) / 2)
    everything = summarize_study(folder, by=["depth", "setting"])
    assert [cell["figures"] for cell in everything["cells"]] == [cell["figures"] for cell in full["cells"]]
    assert [cell["name"] for cell in summarize_study(folder, by=[])["cells"]] == ["all"]
    with pytest.raises(UsageError, match=r"unknown axis of this study 'dpth'; did you mean 'depth'\?"):
        summarize_study(folder, by=["dpth"])
    with pytest.raises(UsageError, match="'depth' is named twice"):
        summarize_study(folder, by=["depth", "depth"])


def test_returns_are_not_averaged_over_environments(study_in):
    text = AGENTS.replace('env = "CartPole-v1"\n', "").replace(
        "[axes]\n", '[axes]\nenv = ["CartPole-v1", "Acrobot-v1"]\n'
    )
    folder = study_in(text, "s")
    summary = summarize_study(folder, by=["setting"])
    assert summary["not_averaged"] == ["final_return", "train/return"]
    assert summarize_study(folder, by=["environment"])["not_averaged"] == []


def wait_until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_one_run_is_killed_alone(tmp_path):
    folder = make_folder(tmp_path, AGENTS.replace("3000", "3_000_000"), "s")
    executor = LocalExecutor()
    paths = []
    for run in folder.study.runs:
        path = folder.run_folder(run).path
        RunFolder.create(path, run.config.to_json())
        executor.start(path)
        paths.append(path)
    pids = executor.pids()
    try:
        executor.kill(paths[0])
        assert not Path(f"/proc/{pids[paths[0]]}").exists()
        assert executor.ended(0.1) == {} and list(executor.pids()) == paths[1:]
        executor.kill(paths[0])  # it is gone already
    finally:
        executor.stop()
