"""What people are told to do: the code runs, and the costs are those that were measured."""

import contextlib
import copy
import json
import shlex
from pathlib import Path

import pytest
import torch
from torch import nn

from stablegrad.cli import train as train_command
from stablegrad.diagnostics.changes import CannotApply
from stablegrad.diagnostics.interventions import BENCHMARK, INTERVENTIONS
from stablegrad.diagnostics.rules import OUTCOME_RULES, RULES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "intervention_cost.json"


def test_every_rule_has_an_answer_and_every_answer_a_rule():
    rules = {*RULES, *OUTCOME_RULES, "learns_less", "slow_relearning", "slow_optimizer", "unstable_values"}
    answered = {rule for intervention in INTERVENTIONS.values() for rule in intervention.answers}
    assert answered == rules
    assert all(0 < weight <= 1 for one in INTERVENTIONS.values() for weight in one.answers.values())


def code_of(name):
    rates = ("lower_learning_rate", "raise_learning_rate")
    return INTERVENTIONS[name].code(10.0 if name in rates else None)


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


@pytest.mark.parametrize("name", [name for name, one in INTERVENTIONS.items() if "cli" in one.code()])
def test_the_command_is_understood(name, monkeypatch):
    command = code_of(name)["cli"].replace("ALGORITHM --env ENV", "pqn --env Breakout-v5")
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


@pytest.mark.parametrize("name", ["reconnect", "slower_targets", "stable_loss"])
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


@pytest.mark.parametrize(
    ("model", "fits"),
    [
        (nn.Linear(4, 2), False),
        (nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), False),
        (nn.Sequential(*[nn.Linear(8, 8) for _ in range(4)]), True),
        # Two networks of two hidden layers side by side are not one of four.
        (nn.ModuleList([nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)) for _ in range(2)]), False),
    ],
)
def test_a_smaller_network_is_for_one_that_is_deeper_than_two_layers(model, fits):
    assert INTERVENTIONS["smaller_network"].fits(model, torch.optim.SGD(model.parameters(), lr=0.1)) is fits


STRUCTURAL = [name for name, one in INTERVENTIONS.items() if one.structural]


def changeable():
    """A network in which every structural intervention finds something to change."""
    torch.manual_seed(0)
    hidden = [part for _ in range(4) for part in (nn.Linear(8, 8), nn.ReLU())]
    narrow = [nn.Linear(8, 2), nn.LayerNorm(2), nn.Linear(2, 8)]
    return nn.Sequential(*hidden, *narrow, nn.Linear(8, 2), nn.Tanh())


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_copies_are_made_anew_after_every_change_of_what_a_network_computes(name):
    """What is called structural is what makes an old copy wrong, and its code says so."""
    if INTERVENTIONS[name].change is None:
        return
    model, x = changeable(), torch.randn(5, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=10.0)
    model(x).square().mean().backward()
    target = copy.deepcopy(model)
    with contextlib.suppress(CannotApply):
        INTERVENTIONS[name].apply(model, optimizer)
    try:
        target.load_state_dict(model.state_dict())
        fits = torch.equal(target(x), model(x))
    except RuntimeError:
        fits = False
    assert fits is not INTERVENTIONS[name].structural
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), model.eval()(x))
    assert ("copy.deepcopy(model)" in code_of(name).get("torch", "")) is INTERVENTIONS[name].structural


@pytest.mark.parametrize("name", STRUCTURAL)
def test_a_wrapped_network_is_changed_inside_and_wrapped_anew(name):
    for wrapped, wrapper in ((torch.compile(changeable()), "torch.compile"), (nn.DataParallel(changeable()), "DataP")):
        with pytest.raises(CannotApply, match=f"inside {wrapper}"):
            INTERVENTIONS[name].apply(wrapped, torch.optim.Adam(wrapped.parameters()))
