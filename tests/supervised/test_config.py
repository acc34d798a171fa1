"""Settings: presets, JSON, and what is refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.agents.presets import PRESETS, option_names
from stablegrad.errors import StablegradError, UsageError
from stablegrad.supervised import ImageEncoderConfig, SupervisedConfig, preset_config


def test_the_baseline_is_the_papers():
    config = preset_config("baseline")
    assert (config.epochs, config.batch_size, config.reshuffles) == (100, 256, [20, 40, 60, 80])
    assert config.optimizer.initial_learning_rate == 2.5e-4
    assert (config.torso.kind, config.torso.norm, config.torso.out_features) == ("mlp", "none", 512)
    assert not config.normalizes_encoder


def test_stable_has_all_three_interventions():
    config = preset_config("stable")
    assert (config.torso.kind, config.optimizer.name, config.torso.norm) == ("multi_skip", "kron", "layer")
    assert config.normalizes_encoder
    assert config.preset == "stable"


@pytest.mark.parametrize(
    "preset", [name for name, changes in PRESETS.items() if changes.keys() <= set(option_names(SupervisedConfig()))]
)
def test_presets_take_changes(preset):
    config = preset_config(f"{preset}+torso.depth=2+batch_size=32+encoder.dropout=0.5")
    assert (config.torso.depth, config.batch_size, config.encoder.dropout) == (2, 32, 0.5)
    assert config.preset.startswith(f"{preset}+")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("redo", "preset 'redo' changes reset, which only agents have"),
        ("stabel", "did you mean 'stable'"),
        ("stable+torso.dept=3", "torso.depth"),
        ("baseline+epochs=0", "at least 1"),
    ],
)
def test_wrong_settings_are_refused(setting, message):
    with pytest.raises(UsageError, match=message):
        preset_config(setting)


@given(
    seed=st.integers(0, 2**31),
    at=st.none() | st.lists(st.integers(1, 99), unique=True).map(sorted).map(tuple),
    limit=st.none() | st.integers(1, 10**6),
    dropout=st.floats(0, 0.99),
)
def test_json_and_back(seed, at, limit, dropout):
    config = SupervisedConfig(seed=seed, reshuffle_at=at, data_limit=limit, encoder=ImageEncoderConfig(dropout=dropout))
    written = json.loads(json.dumps({"format": 1, **config.to_json(), "provenance": {}}))
    assert SupervisedConfig.from_json(written) == config
    assert written["algorithm"] == "supervised"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "pqn"}, "config.algorithm should be 'supervised', got 'pqn'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": "many"}, "config.epochs should be int, got 'many'"),
        ({"reshuffle_at": 20}, "config.reshuffle_at should be a list of epochs or null, got 20"),
        ({"reshuffle_at": [20, "x"]}, "should be a list of epochs"),
        ({"encoder": {"kind": "cn"}}, "unknown encoder 'cn'"),
    ],
)
def test_an_edited_config_is_refused(change, message):
    with pytest.raises(StablegradError, match=message):
        SupervisedConfig.from_json(SupervisedConfig().to_json() | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"data_limit": 0}, "data-limit must be at least 1"),
        ({"relearn_accuracy": 0.0}, "relearn-accuracy must be above 0 and at most 1"),
        ({"max_grad_norm": float("inf")}, "max-grad-norm must be above 0 and finite"),
        ({"precision": "fp16"}, "unknown precision 'fp16'"),
    ],
)
def test_values_out_of_range_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(SupervisedConfig(), **change)
