"""Names of environments: which engine they mean, the list of them, and what is said about wrong ones."""

import subprocess
import sys
import time

import envpool
import gymnasium
import pytest

from stablegrad.environments import AtariOptions, environment_spec, list_environments, make_vector_env
from stablegrad.environments.catalogue import _FAMILIES
from stablegrad.environments.envpool_engine import action_kind, envpool_ids, import_path
from stablegrad.errors import EnvironmentFault, UsageError


@pytest.mark.parametrize(
    ("env_id", "engine"),
    [
        ("CartPole-v1", "envpool"),
        ("envpool:CartPole-v1", "envpool"),
        ("gymnasium:CartPole-v1", "gymnasium"),
        ("Taxi-v4", "gymnasium"),  # only there
    ],
)
def test_engines(env_id, engine):
    spec = environment_spec(env_id)
    assert spec.engine == engine and spec.env_id == env_id
    assert make_vector_env(env_id, 1, seeds=[0]).spec == spec


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v9", "unknown environment 'CartPole-v9'; did you mean 'CartPole-v1'?"),
        ("Breakout", "did you mean 'Breakout-v5'?"),
        ("ALE/Breakout-v5", "did you mean 'Breakout-v5'?"),
        ("lunarlander-v3", "did you mean 'LunarLander-v3'?"),
        ("envpool:CartPole-v7", "unknown envpool environment 'CartPole-v7'; did you mean 'CartPole-v1'?"),
        ("gymnasium:CartPole-v7", "unknown gymnasium environment 'CartPole-v7'; did you mean 'CartPole-v1'?"),
        ("", "unknown environment ''"),
    ],
)
def test_unknown_names(env_id, message):
    for ask in (environment_spec, lambda name: make_vector_env(name, 1, seeds=[0])):
        with pytest.raises(UsageError) as caught:
            ask(env_id)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_environments_for_several_players_are_refused():
    with pytest.raises(UsageError, match="has 2 players; expected an environment for a single agent"):
        environment_spec("ConnectFour-v1")


@pytest.mark.parametrize("env_id", ["CartPole-v1", "gymnasium:CartPole-v1", "WalkerWalk-v1"])
def test_atari_options_for_something_else_are_refused(env_id):
    for ask in (environment_spec, lambda name, atari: make_vector_env(name, 1, seeds=[0], atari=atari)):
        with pytest.raises(UsageError, match="Atari options"):
            ask(env_id, atari=AtariOptions())


def test_threads():
    with pytest.raises(UsageError, match="got -1"):
        make_vector_env("CartPole-v1", 1, seeds=[0], num_threads=-1)
    with pytest.raises(UsageError, match="runs in one thread under gymnasium"):
        make_vector_env("gymnasium:CartPole-v1", 2, seeds=[0, 1], num_threads=2)
    with pytest.raises(UsageError, match="num_envs must be at least 1"):
        make_vector_env("CartPole-v1", 0, seeds=[])


def test_an_engine_that_lacks_a_library_says_so():
    try:
        environment_spec("BigfishEasy-v0")
    except EnvironmentFault as error:
        assert "raised ImportError while being described" in str(error) and "\n" not in str(error)
    else:  # the library is there
        assert environment_spec("BigfishEasy-v0").is_image


def test_the_list_is_complete_and_fast():
    start = time.perf_counter()
    infos = list_environments()
    assert time.perf_counter() - start < 2
    ids = [info.env_id for info in infos]
    assert len(ids) == len(set(ids))
    assert set(ids) <= {*envpool.list_all_envs(), *gymnasium.registry}
    left_out = set(envpool.list_all_envs()) - set(ids) - {"VizdoomCustom-v1"}
    specs = {name: envpool.make_spec(name) for name in left_out}
    refused = {name: spec.action_space for name, spec in specs.items() if spec.config.max_num_players == 1}
    assert all(space.dtype.kind == "i" or space.high.max() >= 1e10 for space in refused.values())
    assert {"LqrLqr21-v1", "D1Basic-v1", "BinPack-v2"} <= set(refused) and len(refused) == 52
    assert len(left_out) - len(refused) < 30
    only_gymnasium = [info for info in infos if info.engine == "gymnasium"]
    assert "Taxi-v4" in {info.env_id for info in only_gymnasium}
    assert not any(info.env_id.startswith(("GymV", "tabular")) for info in only_gymnasium if info.engine == "envpool")
    assert "GymV21Environment-v0" not in ids and "Ant-v2" not in {info.env_id for info in only_gymnasium}


def test_the_kinds_of_action_are_the_engines():
    """First, middle and last environment of every family, asked one by one."""
    kinds = {info.env_id: info.actions for info in list_environments()}
    for path in _FAMILIES:
        if path in ("envpool.procgen", "envpool.vizdoom"):  # cannot be asked without Qt; all refused
            continue
        members = [name for name in envpool_ids() if import_path(name) == path and name in kinds]
        for name in {members[0], members[len(members) // 2], members[-1]}:
            assert kinds[name] == action_kind(name), name
    assert {import_path(name) for name in envpool_ids()} == set(_FAMILIES)


def test_the_environments_of_gymnasium_can_be_made():
    for info in list_environments():
        if info.engine == "gymnasium":
            assert environment_spec(info.env_id).engine == "gymnasium"


def test_search():
    assert [info.env_id for info in list_environments("breakout")] == ["Breakout-v5"]
    assert {info.family for info in list_environments("atari")} == {"Atari"}
    found = list_environments("LUNAR discrete")
    assert {info.env_id for info in found} == {"LunarLander-v2", "LunarLander-v3"}
    assert list_environments("no such thing") == []


def test_nothing_is_printed_to_a_person_who_only_wants_to_train():
    program = (
        "from stablegrad.environments import make_vector_env, list_environments\n"
        "list_environments()\n"
        "for name in ('CartPole-v1', 'Breakout-v5', 'gymnasium:CartPole-v1', 'LunarLander-v3'):\n"
        "    env = make_vector_env(name, 2, seeds=[1, 2]); env.reset(); env.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
