import json
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stablegrad.errors import CheckpointError
from stablegrad.optimizers import OPTIMIZERS, OptimizerConfig
from stablegrad.training import checkpoint
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint, load_weights, save_checkpoint

STATE = {
    "optimizer": {
        "state": {0: {"m": torch.arange(6.0).view(2, 3), "step": 3}},
        "groups": [{"lr": 1e-3, "b": (0.9, 0.99)}],
    },
    "returns": [1.5, float("inf"), -0.0],
    "name": "x",
    "none": None,
    "flag": True,
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def test_comes_back_as_it_was(tmp_path):
    network = nn.Linear(3, 2)
    path = save_checkpoint(tmp_path / "checkpoints", 42, network, STATE, keep=2)
    assert path.name == "step-42"
    weights, state = load_checkpoint(path)
    assert equal(dict(network.state_dict()), weights)
    assert equal(STATE, state)
    assert sorted(file.name for file in path.iterdir()) == [
        "SHA256SUMS",
        "model.safetensors",
        "state.json",
        "tensors.safetensors",
    ]


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.just(torch.eye(2, dtype=torch.bfloat16)),
)
trees = st.recursive(
    leaves,
    lambda children: (
        st.lists(children) | st.lists(children).map(tuple) | st.dictionaries(st.text() | st.integers(), children)
    ),
    max_leaves=12,
)


@given(trees)
def test_any_tree_of_state_comes_back(tree):
    tensors = {}
    encoded = json.loads(json.dumps(checkpoint._encode(tree, "", tensors), allow_nan=False))
    assert equal(checkpoint._decode(encoded, tensors), tree)


def test_shared_and_transposed_tensors_are_saved(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    state = {"a": base, "b": base, "c": base.T}
    _, loaded = load_checkpoint(save_checkpoint(tmp_path / "c", 1, nn.Linear(1, 1), state, keep=1))
    assert equal(loaded, {"a": base, "b": base, "c": base.T.contiguous()})


def test_objects_that_are_no_data_are_refused(tmp_path):
    with pytest.raises(TypeError, match="/thing: a checkpoint holds tensors, numbers and strings, not Linear"):
        save_checkpoint(tmp_path / "c", 1, nn.Linear(1, 1), {"thing": nn.Linear(1, 1)}, keep=1)
    assert list_checkpoints(tmp_path / "c") == []


def test_only_the_newest_are_kept_in_the_order_of_steps(tmp_path):
    for step in (900, 1000, 10_000):
        save_checkpoint(tmp_path / "c", step, nn.Linear(1, 1), {}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path / "c")] == ["step-1000", "step-10000"]
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_copies_that_a_person_made_are_no_checkpoints(tmp_path):
    path = save_checkpoint(tmp_path / "c", 5, nn.Linear(1, 1), {}, keep=2)
    path.with_name("step-5.bak").mkdir()
    path.with_name("step-old").mkdir()
    assert list_checkpoints(tmp_path / "c") == [path]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizers_state_comes_back_and_goes_on_as_before(tmp_path, name):
    def network_and_optimizer():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        return network, OptimizerConfig(name=name).build(network)

    def step(network, optimizer):
        optimizer.zero_grad()
        network(torch.linspace(-1, 1, 20).view(5, 4)).square().mean().backward()
        optimizer.step()

    network, optimizer = network_and_optimizer()
    for _ in range(3):
        step(network, optimizer)
    path = save_checkpoint(tmp_path / "c", 3, network, optimizer.state_dict(), keep=1)
    other_network, other_optimizer = network_and_optimizer()
    weights, state = load_checkpoint(path)
    load_weights(other_network, weights, path)
    other_optimizer.load_state_dict(state)
    for _ in range(2):
        step(network, optimizer)
        step(other_network, other_optimizer)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other_network.parameters(), strict=True))


def test_writing_the_same_step_again_replaces_it(tmp_path):
    for value in (1, 2):
        path = save_checkpoint(tmp_path / "c", 5, nn.Linear(1, 1), {"value": value}, keep=2)
    assert load_checkpoint(path)[1] == {"value": 2}
    assert len(list((tmp_path / "c").iterdir())) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "tensors.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("damage", ["truncate", "edit", "remove"])
def test_damage_is_found_and_named(tmp_path, name, damage):
    save_checkpoint(tmp_path / "c", 4, nn.Linear(3, 2), STATE, keep=2)
    path = save_checkpoint(tmp_path / "c", 5, nn.Linear(3, 2), STATE, keep=2)
    file = path / name
    data = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "edit":
        position = len(data) - 5
        file.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=r"step-5' is damaged: .*; remove the folder to continue from step-4"):
        load_checkpoint(path)
    load_checkpoint(tmp_path / "c" / "step-4")


@pytest.mark.parametrize("moment", ["write", "fsync", "rename", "remove"])
def test_an_interruption_at_any_moment_leaves_whole_checkpoints_only(tmp_path, monkeypatch, moment):
    """The failing call stands for a kill: what is on the disk at that moment is all that is left."""
    directory = tmp_path / "c"
    save_checkpoint(directory, 1, nn.Linear(1, 1), {"n": 1}, keep=1)
    with monkeypatch.context() as patch:

        def fail(*_args, **_kwargs):
            raise KeyboardInterrupt

        # The clean-up of an exception does not happen in a kill.
        if moment != "remove":
            patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        target = {
            "write": (checkpoint, "sync_folder"),
            "fsync": (os, "fsync"),
            "rename": (checkpoint.Path, "rename"),
            "remove": (checkpoint.shutil, "rmtree"),
        }[moment]
        patch.setattr(*target, fail)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(directory, 2, nn.Linear(1, 1), {"n": 2}, keep=1)
    for path in list_checkpoints(directory):
        load_checkpoint(path)
    assert list_checkpoints(directory)
    path = save_checkpoint(directory, 3, nn.Linear(1, 1), {"n": 3}, keep=1)
    assert load_checkpoint(path)[1] == {"n": 3}
    assert [entry.name for entry in directory.iterdir()] == ["step-3"]


def test_a_checkpoint_of_weights_that_are_not_finite_is_not_written(tmp_path):
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="weights of 'bias' are not finite at step 9"):
        save_checkpoint(tmp_path / "c", 9, network, {}, keep=1)
    assert list_checkpoints(tmp_path / "c") == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(3, 4), r"its 'bias' has shape \[4\], the configured network's \[2\]"),
        (nn.Linear(3, 2, bias=False), "it lacks 'bias'"),
        (nn.Sequential(nn.Linear(3, 2)), "it holds '0.bias'"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, other, message):
    path = save_checkpoint(tmp_path / "c", 1, other, {}, keep=1)
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        load_weights(network, load_checkpoint(path)[0], path)
    assert torch.equal(network.weight, before)
