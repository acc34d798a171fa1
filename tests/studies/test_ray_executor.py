import signal
import socket
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from stablegrad.errors import UsageError
from stablegrad.studies.executors import make_executor
from stablegrad.studies.runner import run_study
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder

STUDY = """
seeds = 4
[base]
algorithm = "relearn"
data_limit = 512
epochs = 160
reshuffle_every = 40
checkpoint_every = 4
width = 16
"""


@pytest.fixture
def ray():
    handler = signal.getsignal(signal.SIGTERM)
    yield pytest.importorskip("ray", reason="Ray is an extra, and not for every Python")
    signal.signal(signal.SIGTERM, handler)  # Ray leaves its own


def test_a_missing_ray_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'stablegrad\[ray\]'"):
        make_executor("ray")


def _refused_address() -> str:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("protocol", ["", "ray://"])
def test_an_address_that_does_not_answer_is_said_at_once(ray, protocol):
    address = protocol + _refused_address()
    with pytest.raises(UsageError, match=f"no Ray cluster answers at {address}: .*refused"):
        make_executor("ray", address=address)


@pytest.mark.parametrize("protocol", ["", "ray://"])
@pytest.mark.parametrize("answer", [b"-ERR unknown command\r\n", b""])
def test_a_service_that_is_no_ray_is_said_at_once(ray, protocol, answer, monkeypatch):
    """Ray's own client waits for minutes; a service may answer nonsense, or close the connection."""
    monkeypatch.setattr("stablegrad.studies.ray_executor._is_ray", lambda address: pytest.fail("Ray was asked"))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"{protocol}127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"what answers at {address} is no Ray cluster"):
            make_executor("ray", address=address)
        thread.join()


def test_what_a_dead_cluster_left_is_named(ray, monkeypatch, tmp_path):
    address = _refused_address()
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=rf"no Ray cluster answers at {address} \(\$RAY_ADDRESS\)"):
        make_executor("ray")
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address + "\n")
    with pytest.raises(UsageError, match=rf"no Ray cluster answers at {address} \(.*; 'ray stop' clears"):
        make_executor("ray", address="auto")


def test_an_address_that_is_none_is_said(ray):
    with pytest.raises(UsageError, match="no Ray cluster at nonsense"):
        make_executor("ray", address="nonsense")


def test_a_study_that_loses_a_machine_ends_like_one_on_this_machine(ray, tmp_path):
    """Runs of the lost machine go on where there is room, though no more than one run has a place at a time."""
    from ray.cluster_utils import Cluster

    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    folders = {name: StudyFolder.open(tmp_path / name, read_study(file), file) for name in ("local", "ray")}
    assert run_study(folders["local"], make_executor("local"), 2)["finished"] == 4

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machines = [cluster.add_node(num_cpus=1)]

    try:
        executor = make_executor("ray", address=cluster.address)
        assert executor.workers == 2
        ended = executor.ended

        def ended_and_a_machine_lost(timeout):
            """As soon as a run has something to go on from: asked five times a second, while runs take seconds."""
            if machines and any((tmp_path / "ray").glob("runs/**/checkpoints/*/SHA256SUMS")):
                cluster.remove_node(machines.pop(), allow_graceful=False)
            return ended(timeout)

        executor.ended = ended_and_a_machine_lost
        summary = run_study(folders["ray"], executor, 2)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert not machines
    assert summary["finished"] == 4
    assert folders["ray"].results_path.read_bytes() == folders["local"].results_path.read_bytes()


def test_a_run_that_is_under_way_is_left_alone_when_another_ends(ray, tmp_path):
    class Place:
        """Notes each start, and takes as long as the run's name says."""

        def __init__(self, threads):
            pass

        def carry_out(self, path):
            with (tmp_path / "starts").open("a") as starts:
                starts.write(path + "\n")
            time.sleep(float(Path(path).name))
            return 0

    try:
        ray.init(num_cpus=2, log_to_driver=False)
        executor = make_executor("ray")
        executor._actor = ray.remote(num_cpus=1)(Place)
        runs = [tmp_path / seconds for seconds in ("6.0", "1.0", "1.5")]
        executor.start(runs[0])
        executor.start(runs[1])
        assert executor.ended(60.0) == {runs[1]: 0}
        executor.start(runs[2])
        ended = executor.ended(60.0) | executor.ended(60.0)
    finally:
        ray.shutdown()
    assert ended == {runs[0]: 0, runs[2]: 0}
    assert sorted((tmp_path / "starts").read_text().splitlines()) == sorted(map(str, runs))
