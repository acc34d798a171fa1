"""Replays written to a run's checkpoints and read back: only new rows, bit for bit, whatever happens in between."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.agents.replay import Replay
from stablegrad.environments import EpisodeStatistics, StepResult
from stablegrad.errors import CheckpointError
from stablegrad.training import experience
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, remove_checkpoint, save_checkpoint
from stablegrad.training.experience import load_experience, remove_unlisted, save_experience


def make_replay(num_envs=2, capacity=12, **options):
    kinds = {"discount": 0.9, "n_step": 2, "frame_stack": 3, "device": "cpu", **options}
    return Replay(num_envs * capacity, num_envs, (3, 2), torch.uint8, **kinds)


class Player:
    """Fills a replay with frames and episodes that follow from a seed."""

    def __init__(self, replay, num_envs, seed):
        self.replay, self.num_envs = replay, num_envs
        self.random = np.random.default_rng(seed)
        self.begin()

    def begin(self):
        self.stack = self.random.integers(0, 256, (self.num_envs, 3, 2), np.uint8)
        self.resetting = np.zeros(self.num_envs, bool)
        self.replay.begin(self.stack)

    def play(self, steps):
        for _ in range(steps):
            valid = ~self.resetting
            first = self.random.integers(0, 256, self.stack.shape, np.uint8)
            self.stack = np.concatenate([self.stack[:, 1:], first[:, :1]], axis=1)
            fresh = self.resetting & (self.random.random(self.num_envs) < 0.5)
            self.stack[fresh] = first[fresh]
            ended = valid & (self.random.random(self.num_envs) < 0.2)
            terminated = ended & (self.random.random(self.num_envs) < 0.5)
            reward = np.where(valid, self.random.standard_normal(self.num_envs), 0).astype(np.float32)
            nothing = EpisodeStatistics(valid, np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64))
            result = StepResult(self.stack, reward, terminated, ended & ~terminated, valid, nothing)
            self.replay.add(self.random.integers(0, 4, self.num_envs), result)
            self.resetting = ended


def samples(replay, seed=0):
    """What a replay gives, as plain data."""
    if not len(replay):
        return replay.state_dict()
    batch = replay.sample(64, torch.Generator().manual_seed(seed))
    fields = (batch.observation, batch.action, batch.reward, batch.next_observation, batch.discount)
    return [replay.state_dict(), *(field.tolist() for field in fields)]


def loaded(directory, manifest, **options):
    replay = make_replay(**options)
    load_experience(directory, manifest, replay)
    return replay


operations = st.lists(
    st.one_of(
        st.tuples(st.just("play"), st.integers(1, 30)),
        st.tuples(st.just("save"), st.none()),
        st.tuples(st.just("begin"), st.none()),
        st.tuples(st.just("roll back"), st.integers(0, 3)),
        st.tuples(st.just("drop oldest"), st.none()),
        st.tuples(st.just("resume"), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), operations)
def test_a_loaded_replay_gives_the_same_batches(num_envs, script):
    """Over wraps, episodes, returns to older checkpoints and resumed runs; every kept checkpoint stays exact."""
    replay = make_replay(num_envs)
    player = Player(replay, num_envs, 0)
    kept = []  # (manifest, what the replay gave then)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "experience"
        for what, number in [*script, ("save", None)]:
            if what == "play":
                player.play(number)
            elif what == "begin":
                player.begin()
            elif what == "save":
                manifest = json.loads(json.dumps(save_experience(directory, replay)))
                kept.append((manifest, samples(replay)))
            elif what == "drop oldest":
                del kept[:1]
                remove_unlisted(directory, [manifest for manifest, _ in kept])
            elif kept:
                if what == "roll back":
                    del kept[max(len(kept) - number, 1) :]
                else:
                    replay = player.replay = make_replay(num_envs)
                load_experience(directory, kept[-1][0], replay)
                player.begin()
        for manifest, given_then in kept:
            assert samples(loaded(directory, manifest, num_envs=num_envs)) == given_then
        remove_unlisted(directory, [kept[-1][0]])
        assert {path.name for path in directory.iterdir()} == {file["name"] for file in kept[-1][0]["files"]}
        assert samples(loaded(directory, kept[-1][0], num_envs=num_envs)) == kept[-1][1]


def test_only_new_rows_are_written_and_old_files_stay(tmp_path):
    replay = make_replay(capacity=100)
    player = Player(replay, 2, 0)
    player.play(40)
    first = save_experience(tmp_path / "e", replay)
    assert save_experience(tmp_path / "e", replay) == first
    before = {path.name: path.stat() for path in (tmp_path / "e").iterdir()}
    player.play(3)
    second = save_experience(tmp_path / "e", replay)
    assert second["files"][:-1] == first["files"] and len(second["files"]) == 2
    assert {name: (tmp_path / "e" / name).stat() for name in before} == before
    new = second["files"][-1]
    rows = sum(new["ends"]) - sum(new["starts"])
    assert rows == sum(replay.totals) - sum(first["totals"])
    row_bytes = sum(array[0, 0].nbytes for array in replay.arrays().values())
    header = (tmp_path / "e" / new["name"]).read_bytes().index(b"\n") + 1
    assert new["bytes"] == header + rows * row_bytes
    assert new["name"].startswith(f"rows-{sum(new['starts'])}-{sum(new['ends'])}-{new['sha256'][:8]}")


def test_files_whose_rows_fell_out_of_the_ring_are_listed_no_longer(tmp_path):
    replay = make_replay()
    player = Player(replay, 2, 0)
    for _ in range(12):
        player.play(5)
        manifest = save_experience(tmp_path / "e", replay)
        assert len(manifest["files"]) <= 5
        remove_unlisted(tmp_path / "e", [manifest])
    assert len(list((tmp_path / "e").iterdir())) == len(manifest["files"])


def test_the_same_rows_with_other_content_are_another_file(tmp_path):
    """A return to an older checkpoint, after which the run went another way."""
    replay = make_replay(capacity=100, frame_stack=1, n_step=1)
    replay_player = Player(replay, 2, 0)
    replay_player.play(5)
    root = save_experience(tmp_path / "e", replay)
    replay_player.play(5)
    abandoned = save_experience(tmp_path / "e", replay)
    then = samples(replay)
    load_experience(tmp_path / "e", root, replay)
    replay_player.random = np.random.default_rng(9)
    replay_player.play(5)
    taken = save_experience(tmp_path / "e", replay)
    a, b = abandoned["files"][-1], taken["files"][-1]
    assert (a["starts"], a["ends"]) == (b["starts"], b["ends"]) and a["name"] != b["name"]
    options = {"capacity": 100, "frame_stack": 1, "n_step": 1}
    assert samples(loaded(tmp_path / "e", abandoned, **options)) == then
    assert samples(loaded(tmp_path / "e", taken, **options)) == samples(replay)


def test_slices_are_views_of_the_storage_and_small(monkeypatch):
    """So saving takes no second copy in memory, however large the replay."""
    monkeypatch.setattr(experience, "SLICE_BYTES", 64)
    replay = make_replay(num_envs=1, capacity=200)
    Player(replay, 1, 0).play(300)
    for array in replay.arrays().values():
        first, size = array.data_ptr(), 0
        rows, total = array.shape[1], replay.totals[0]
        for data in experience._slices(array[0], total - rows, total):
            assert len(data) <= 64
            assert first <= np.frombuffer(data, np.uint8).ctypes.data < first + array.nbytes
            size += len(data)
        assert size == array.nbytes


@pytest.mark.parametrize("damage", ["truncate", "extend", "edit", "edit header", "remove"])
def test_damage_is_found_and_the_file_named(tmp_path, damage):
    replay = make_replay()
    player = Player(replay, 2, 0)
    for _ in range(3):
        player.play(4)
        manifest = save_experience(tmp_path / "e", replay)
    path = tmp_path / "e" / manifest["files"][1]["name"]
    data = path.read_bytes()
    changed = {
        "truncate": data[:-3],
        "extend": data + b"\0",
        "edit": data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        "edit header": data.replace(b"uint8", b"uint9", 1),
        "remove": None,
    }[damage]
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)
    message = "cannot be read: No such file" if damage == "remove" else "is damaged: it was truncated or edited"
    with pytest.raises(CheckpointError, match=f"{path.name}' {message}") as error:
        loaded(tmp_path / "e", manifest)
    assert "\n" not in str(error.value)


def test_a_replay_after_a_failed_load_is_saved_whole(tmp_path):
    """Its rows are no longer those of its files."""
    other = make_replay()
    other_player = Player(other, 2, 1)
    for _ in range(2):
        other_player.play(3)
        others = save_experience(tmp_path / "e", other)
    (tmp_path / "e" / others["files"][1]["name"]).write_bytes(b"")
    replay = make_replay()
    Player(replay, 2, 0).play(8)
    before = save_experience(tmp_path / "e", replay)
    with pytest.raises(CheckpointError):
        load_experience(tmp_path / "e", others, replay)
    after = save_experience(tmp_path / "e", replay)
    assert after["files"] != before["files"]
    assert samples(loaded(tmp_path / "e", after)) == samples(replay)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 3}, r"array 'action' is int64 \[2, 16\], the configured one is int64 \[3, 16\]"),
        ({"capacity": 20}, r"array 'action' is int64 \[2, 16\], the configured one is int64 \[2, 24\]"),
        (
            {"action_dtype": torch.float32},
            r"array 'action' is int64 \[2, 16\], the configured one is float32 \[2, 16\]",
        ),
    ],
)
def test_a_replay_of_another_configuration_is_refused(tmp_path, options, message):
    replay = make_replay()
    Player(replay, 2, 0).play(4)
    manifest = save_experience(tmp_path / "e", replay)
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path / "e", manifest, **options)


def test_leftovers_are_replaced_and_files_lost_are_written_again(tmp_path):
    replay = make_replay()
    player = Player(replay, 2, 0)
    player.play(6)
    name = save_experience(tmp_path / "e", replay)["files"][0]["name"]
    other = make_replay()
    Player(other, 2, 0).play(6)
    (tmp_path / "e" / name).write_bytes(b"half of it")
    (tmp_path / "e" / ".rows").write_bytes(b"half of another")
    manifest = save_experience(tmp_path / "e", other)
    assert manifest["files"][0]["name"] == name
    assert samples(loaded(tmp_path / "e", manifest)) == samples(other)
    (tmp_path / "e" / name).unlink()
    player.play(3)
    manifest = save_experience(tmp_path / "e", replay)
    assert samples(loaded(tmp_path / "e", manifest)) == samples(replay)
    # The same run in another folder.
    manifest = save_experience(tmp_path / "moved", replay)
    assert samples(loaded(tmp_path / "moved", manifest)) == samples(replay)


def test_files_that_are_not_of_this_replay_are_not_relied_on(tmp_path):
    """A file that was cut short, and a state that somebody took back without the files."""
    replay = make_replay(capacity=100)
    player = Player(replay, 2, 0)
    player.play(6)
    early = replay.state_dict()
    player.play(6)
    path = tmp_path / "e" / save_experience(tmp_path / "e", replay)["files"][0]["name"]
    path.write_bytes(path.read_bytes()[:-1])
    manifest = save_experience(tmp_path / "e", replay)
    assert samples(loaded(tmp_path / "e", manifest, capacity=100)) == samples(replay)
    replay.load_state_dict(early)
    manifest = save_experience(tmp_path / "e", replay)
    assert manifest["files"][-1]["ends"] == replay.totals
    assert samples(loaded(tmp_path / "e", manifest, capacity=100)) == samples(replay)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    replay = make_replay()
    player = Player(replay, 2, 0)
    player.play(6)
    manifest = save_experience(tmp_path / "e", replay)
    player.play(6)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            save_experience(tmp_path / "e", replay)
    assert [path.name for path in (tmp_path / "e").iterdir()] == [manifest["files"][0]["name"]]
    assert samples(loaded(tmp_path / "e", save_experience(tmp_path / "e", replay))) == samples(replay)


def test_checkpoints_share_files_and_take_them_along_when_they_go(tmp_path):
    directory = tmp_path / "checkpoints"
    replay = make_replay()
    player = Player(replay, 2, 0)
    given_then = {}
    for step in range(1, 9):
        player.play(6)
        protected = directory / "step-2"
        path = save_checkpoint(
            directory, step, {"q": nn.Linear(1, 1)}, {"step": step}, keep=2, protected=protected, experience=replay
        )
        given_then[path.name] = samples(replay)
    paths = list_checkpoints(directory)
    assert [path.name for path in paths] == ["step-2", "step-7", "step-8"]
    listed = set()
    for path in paths:
        _, state = load_checkpoint(path)
        assert state["step"] == int(path.name[5:])
        listed |= {file["name"] for file in state["experience"]["files"]}
        assert samples(loaded(directory / "experience", state["experience"])) == given_then[path.name]
    assert {path.name for path in (directory / "experience").iterdir()} == listed
    # Back to step 2, as the trainer does it.
    for path in paths[1:]:
        remove_checkpoint(path)
    load_experience(directory / "experience", load_checkpoint(paths[0])[1]["experience"], replay)
    player.begin()
    player.play(3)
    path = save_checkpoint(directory, 3, {"q": nn.Linear(1, 1)}, {}, keep=2, experience=replay)
    assert samples(loaded(directory / "experience", load_checkpoint(path)[1]["experience"])) == samples(replay)
    assert samples(loaded(directory / "experience", load_checkpoint(paths[0])[1]["experience"])) == given_then["step-2"]


def test_nothing_is_removed_while_a_checkpoint_cannot_be_read(tmp_path):
    directory = tmp_path / "checkpoints"
    replay = make_replay()
    player = Player(replay, 2, 0)
    player.play(6)
    path = save_checkpoint(directory, 1, {"q": nn.Linear(1, 1)}, {}, keep=2, experience=replay)
    names = {file.name for file in (directory / "experience").iterdir()}
    (path / "state.json").write_text("{")
    player.play(60)
    save_checkpoint(directory, 2, {"q": nn.Linear(1, 1)}, {}, keep=2, experience=replay)
    assert names < {file.name for file in (directory / "experience").iterdir()}
    save_checkpoint(directory, 3, {"q": nn.Linear(1, 1)}, {}, keep=2, experience=replay)
    assert not names & {file.name for file in (directory / "experience").iterdir()}


def _fingerprint(replay):
    return hashlib.sha256(repr(samples(replay)).encode()).hexdigest()


def _resume(directory):
    """The replay of the newest checkpoint and its number."""
    replay = make_large_replay()
    checkpoints = list_checkpoints(directory) if directory.exists() else []
    if not checkpoints:
        return replay, 0
    state = load_checkpoint(checkpoints[-1])[1]
    load_experience(directory / "experience", state["experience"], replay)
    assert _fingerprint(replay) == state["fingerprint"]
    return replay, state["segment"]


def make_large_replay():
    return Replay(20_000, 2, (3, 2), torch.uint8, discount=0.9, n_step=2, frame_stack=3, device="cpu")


def _run(directory, told):
    """Play and write checkpoints for ever."""
    replay, segment = _resume(directory)
    told.send(segment)
    while True:
        Player(replay, 2, segment).play(100)
        segment += 1
        state = {"segment": segment, "fingerprint": _fingerprint(replay)}
        save_checkpoint(directory, segment, {"q": nn.Linear(2, 2)}, state, keep=2, experience=replay)
        told.send(segment)


def test_a_run_killed_at_random_moments_goes_on_exactly(tmp_path):
    """Kill -9 while rows, checkpoints and removals are under way; what is there then is whole, and no file too many."""
    context = multiprocessing.get_context("fork")
    directory, moments, reached = tmp_path / "checkpoints", random.Random(0), 0
    for _ in range(12):
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(directory, sending))
        process.start()
        sending.close()
        assert receiving.recv() >= reached
        time.sleep(moments.uniform(0.0, 0.15))
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                reached = receiving.recv()
        checkpoints = list_checkpoints(directory) if directory.exists() else []
        assert not reached or int(checkpoints[-1].name[5:]) >= reached
        for path in checkpoints:
            state = load_checkpoint(path)[1]
            replay = make_large_replay()
            load_experience(directory / "experience", state["experience"], replay)
            assert _fingerprint(replay) == state["fingerprint"]
    assert reached >= 3
