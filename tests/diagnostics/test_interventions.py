"""What people are told to do: the code runs, and the costs are those that were measured."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from stablegrad.cli import train as train_command
from stablegrad.diagnostics.changes import CannotApply
from stablegrad.diagnostics.interventions import BENCHMARK, BESIDE_LIKE, INTERVENTIONS
from stablegrad.diagnostics.rules import BESIDE, RULES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "intervention_cost.json"


def test_every_rule_has_an_answer_and_every_answer_a_rule():
    rules = {*RULES, "slow_relearning", "slow_optimizer", *(set(BESIDE) - set(BESIDE_LIKE))}
    assert set(BESIDE_LIKE) <= set(BESIDE) and set(BESIDE_LIKE.values()) <= rules
    answered = {rule for intervention in INTERVENTIONS.values() for rule in intervention.answers}
    assert answered == rules
    assert all(0 < weight <= 1 for one in INTERVENTIONS.values() for weight in one.answers.values())


def code_of(name):
    rates = ("lower_learning_rate", "raise_learning_rate")
    return INTERVENTIONS[name].code_with(10.0 if name in rates else None)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", INTERVENTIONS)
def test_the_code_for_torch_runs(name, capsys):
    torch.manual_seed(0)
    model = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 2))
    if name == "wider_norm":
        model[1] = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2), nn.LayerNorm(2), nn.Linear(2, 8))
    if name == "free_output":
        model.append(nn.Tanh())
    if name in ("recycle_dormant", "activation"):
        model[1] = nn.ReLU()
        with torch.no_grad():
            model[0].bias[:4] = -50
    model(torch.randn(16, 8)).square().mean().backward()
    optimizer = torch.optim.Adam(model[:-1].parameters() if name == "train_layer" else model.parameters(), lr=1e-3)
    if name == "weaker_decay":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=10.0)
    code = code_of(name)["torch"]
    if name == "train_layer":
        code = code[code.index("# or") :]
    target = nn.Sequential(*[part for _ in range(4) for part in (nn.Linear(8, 8), nn.Tanh())], nn.Linear(8, 2))
    names = {"torch": torch, "nn": nn, "model": model, "optimizer": optimizer, "target": target, "n": 8, "m": 6}
    exec(code, names)
    if "hidden" in names:
        assert names["hidden"](torch.randn(3, 8)).shape == (3, 6)


@pytest.mark.parametrize(
    "name", [name for name, one in INTERVENTIONS.items() if "policy_kwargs" in one.code.get("sb3", "")]
)
def test_the_policy_of_stable_baselines_learns(name):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    names = {}
    exec(code_of(name)["sb3"], names)
    agent = stable_baselines3.PPO(
        "MlpPolicy", "CartPole-v1", policy_kwargs=names["policy_kwargs"], n_steps=16, batch_size=16, device="cpu"
    )
    before = [parameter.detach().clone() for parameter in agent.policy.parameters()]
    agent.learn(16)
    moved = [not torch.equal(old, now) for old, now in zip(before, agent.policy.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)


@pytest.mark.parametrize("name", [name for name, one in INTERVENTIONS.items() if "agent" in one.code.get("sb3", "")])
def test_the_agent_of_stable_baselines_takes_it(name):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    agent = stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, device="cpu")
    agent.learn(16)
    left_out = nn.Linear(2, 2).parameters()
    names = {"PPO": stable_baselines3.PPO, "DQN": stable_baselines3.DQN, "env": "CartPole-v1", "agent": agent}
    try:
        exec(code_of(name)["sb3"], names | {"left_out": left_out})
    except CannotApply as nothing:
        assert "no unit is dormant" in str(nothing)  # PPO's tanh units all live


@pytest.mark.parametrize("name", [name for name, one in INTERVENTIONS.items() if "cli" in one.code])
def test_the_command_is_understood(name, monkeypatch):
    command = code_of(name)["cli"].replace("ENV", "Breakout-v5")
    asked = []
    monkeypatch.setattr(train_command, "train", lambda config, *_, **__: asked.append(config))
    monkeypatch.setattr(train_command, "print_summary", lambda *_, **__: None)
    words = shlex.split(command)
    assert words[:2] == ["stablegrad", "train"]
    assert train_command.run(words[2:]) == 0
    assert asked[0].env == "Breakout-v5"


def test_costs_are_those_that_were_measured():
    measured = json.loads(RESULTS.read_text())["interventions"]
    stated = {name: one for name, one in INTERVENTIONS.items() if one.measured == BENCHMARK}
    assert stated.keys() == measured.keys()
    for name, one in stated.items():
        assert one.step_time == pytest.approx(measured[name]["step_time"], abs=0.0051), name
        assert one.memory == pytest.approx(measured[name]["memory"], abs=0.0051), name
        assert f"{one.step_time:.2f} times" in one.cost
    unmeasured = [one for one in INTERVENTIONS.values() if not one.measured]
    assert all((one.step_time, one.memory) == (1.0, 1.0) for one in unmeasured)


@pytest.mark.parametrize("name", ["reconnect", "slower_targets", "stable_loss", "revise_objective", "descend"])
def test_what_takes_a_person_says_so(name):
    model = nn.Linear(2, 2)
    with pytest.raises(CannotApply, match=f"{name} cannot be applied by itself"):
        INTERVENTIONS[name].apply(model, torch.optim.Adam(model.parameters()))


def test_fits_says_whether_there_is_something_to_change():
    """Where an intervention fits, applying it once leaves nothing more to change."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model[0].parameters())
    assert INTERVENTIONS["train_layer"].fits(model, optimizer)
    assert not INTERVENTIONS["train_layer"].fits(model, INTERVENTIONS["train_layer"].apply(model, optimizer))
    for name in ("layer_norm", "residual", "activation", "kron"):
        copied = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(copied.parameters())
        assert INTERVENTIONS[name].fits(copied, optimizer)
        optimizer = INTERVENTIONS[name].apply(copied, optimizer)
        assert not INTERVENTIONS[name].fits(copied, optimizer)
    assert not INTERVENTIONS["multi_skip"].fits(model, torch.optim.Adam(model.parameters()))
