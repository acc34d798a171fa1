"""What presets name beside the interventions, on every algorithm; and target networks whose layers have buffers."""

import dataclasses

import pytest
import torch

from stablegrad.agents import dqn, sac
from stablegrad.agents.catalogue import ALGORITHMS, find_algorithm
from stablegrad.agents.presets import PRESETS, apply_changes, option_names, preset_config
from stablegrad.agents.targets import update_target_
from stablegrad.environments import Box, Discrete, EnvironmentSpec
from stablegrad.errors import UsageError
from stablegrad.networks import TorsoConfig, make_torso
from stablegrad.options import flatten

STATES = EnvironmentSpec("test", (3,), "float32", Discrete(4), False, None, "factory", None)
SPECS = {
    "states": STATES,
    "images": dataclasses.replace(STATES, observation_shape=(4, 84, 84), observation_dtype="uint8", is_image=True),
    "continuous": dataclasses.replace(STATES, action_space=Box((-1.0, -1.0), (1.0, 1.0))),
}
CASES = [
    (algorithm, spec)
    for algorithm in ALGORITHMS
    for spec in SPECS.values()
    if find_algorithm(algorithm).supports(spec) is None
]
SMALL = {"torso.width": 16, "torso.depth": 1, "batch_size": 8, "buffer_size": 100, "learning_starts": 0}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("algorithm", "spec"), CASES)
def test_a_preset_changes_what_it_says_and_its_networks_can_be_built(algorithm, spec, preset):
    entry = find_algorithm(algorithm)
    if algorithm == "rainbow" and preset in ("spectral_norm", "pruned"):
        with pytest.raises(UsageError, match=r"noisy layers add to weights, which torso .* makes"):
            preset_config(algorithm, preset, spec)
        return
    if algorithm in ("pqn", "ppo", "dqn", "rainbow") and preset == "xqc":
        with pytest.raises(UsageError, match=r"'c51' needs targets of single|'batch' is for agents with"):
            preset_config(algorithm, preset, spec)
        return
    base, config = entry.defaults(spec), preset_config(algorithm, preset, spec)
    before, after = (flatten(dataclasses.asdict(one)) for one in (base, config))
    changed = {name: value for name, value in after.items() if value != before[name]}
    assert changed.items() <= PRESETS[preset].items()
    assert all(after[name] == value for name, value in PRESETS[preset].items())
    with torch.device("meta"):
        networks = entry.build_networks(config, spec)
    assert networks.keys() == entry.build_networks(apply_changes(config, {"torso.width": 16}), spec).keys()


def test_options_of_presets_are_options_of_every_algorithm():
    for algorithm in ALGORITHMS:
        known = option_names(find_algorithm(algorithm).config())
        assert {name for changes in PRESETS.values() for name in changes} <= set(known)


def make_agent(module, spec, **changes):
    config = apply_changes(module.ALGORITHM.config(), {**SMALL, "torso.spectral_norm": True, **changes})
    return module.ALGORITHM.agent(config, spec, total_steps=100, device=torch.device("cpu"), seed=0)


def buffers(network):
    return [buffer.clone() for buffer in network.buffers()]


def test_a_target_network_has_the_weights_and_the_singular_vectors_of_the_trained_one():
    torch.manual_seed(0)
    online, target = (make_torso(TorsoConfig(width=8, spectral_norm=True, sparsity=0.5), 3) for _ in range(2))
    optimizer = torch.optim.SGD(online.parameters(), 1.0)
    for _ in range(5):
        optimizer.zero_grad()
        online(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    expected = [0.9 * old + 0.1 * new for old, new in zip(target.parameters(), online.parameters(), strict=True)]
    masks = [buffer.clone() for buffer in target.buffers() if buffer.dtype == torch.bool]
    update_target_(target, online, 0.1)
    torch.testing.assert_close(list(target.parameters()), expected)
    for kept, newest in zip(target.buffers(), online.buffers(), strict=True):
        assert torch.equal(kept, newest) or kept.dtype == torch.bool
    assert all(map(torch.equal, [one for one in target.buffers() if one.dtype == torch.bool], masks))


@pytest.mark.parametrize(("module", "spec"), [(dqn, STATES), (sac, SPECS["continuous"])])
def test_acting_and_measuring_leave_the_singular_vectors_alone(module, spec):
    agent = make_agent(module, spec)
    networks = [*agent.networks.values(), *agent.targets.values()]
    with torch.no_grad():
        for network in networks:
            for parameter in network.parameters():
                parameter.add_(torch.rand_like(parameter))  # so that the vectors have not converged
    before = [buffers(network) for network in networks]
    observation = torch.randn(1, 3).numpy()
    agent.begin(observation)
    first = agent.policy(observation)
    agent.act(50)
    assert (agent.policy(observation) == first).all()
    for network, kept in zip(networks, before, strict=True):
        assert kept and all(map(torch.equal, network.buffers(), kept))
