import copy
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import bootstrapping, diagnose
from stablegrad.diagnostics.bootstrapping import (
    DISCOUNT,
    IMAGE_ROWS,
    LENGTH,
    ROWS,
    Learner,
    Trajectories,
    exact_values,
    learn_values,
    make_value_task,
    synthetic_trajectories,
)
from stablegrad.diagnostics.preflight import PreflightThresholds, _judge_values
from stablegrad.diagnostics.rules import Finding
from stablegrad.errors import UsageError
from stablegrad.networks import MultiSkipTorso

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def task_for(model, shape=(8,), phases=2, steps=20):
    made = synthetic_trajectories(torch.zeros(2, *shape), phases, generator())
    return make_value_task(model, made, device=CPU, seed=0, steps=steps)


def plain(layers, width=64):
    torch.manual_seed(0)
    sizes = [8] + [width] * layers
    hidden = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 4))


class TestExactValues:
    @given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.data())
    def test_equal_the_discounted_sum_of_the_best_rewards(self, steps, rows, actions, data):
        drawn = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
        rewards = torch.randn(steps, rows, actions, generator=drawn, dtype=torch.float64)
        ended = torch.rand(steps, rows, generator=drawn) < 0.3
        values = exact_values(rewards, ended)
        for row in range(rows):
            for t in range(steps):
                # What comes after, until the episode ends or no more of it counts.
                total, weight, now = 0.0, DISCOUNT, t
                while not ended[now, row] and weight > 1e-9:
                    now = (now + 1) % steps
                    total += weight * float(rewards[now, row].max())
                    weight *= DISCOUNT
                for action in range(actions):
                    assert float(values[t, row, action]) == pytest.approx(
                        float(rewards[t, row, action]) + total, abs=1e-4
                    )

    def test_those_of_a_task_solve_its_own_bellman_equation(self):
        task = task_for(plain(2))
        for phase in range(task.phases):
            best = task.values[phase][task.following[phase]].amax(1, keepdim=True)
            targets = task.rewards[phase] + DISCOUNT * task.going[phase] * best
            torch.testing.assert_close(targets, task.values[phase], atol=1e-4, rtol=0)

    def test_they_are_of_unit_size_around_0(self):
        values = task_for(plain(2)).values
        assert float(values.mean()) == pytest.approx(0, abs=1e-4)
        assert float(values.std()) == pytest.approx(1, abs=1e-2)


class TestTrajectories:
    def test_closed_curves_of_the_samples_scale_that_drift(self):
        sample = torch.tensor([3.0, -5.0]) + torch.tensor([1.0, 10.0]) * torch.randn(500, 2, generator=generator())
        made = synthetic_trajectories(sample, 4, generator(1)).observations
        assert made.shape == (4, LENGTH, ROWS, 2)
        # A step is small beside the curve, from the last to the first as well.
        steps = (made - made.roll(-1, 1)).abs().mean(dim=(1, 2))
        assert (steps < 0.8 * made.std(dim=(1, 2))).all()
        torch.testing.assert_close(made[0].flatten(0, 1).mean(0), torch.tensor([3.0, -5.0]), atol=4.0, rtol=0)
        moved = (made[1:].mean(dim=(1, 2)) - made[:-1].mean(dim=(1, 2))).abs() / sample.std(dim=0)
        assert float(moved.mean()) > 0.3

    def test_images_are_bytes_in_blocks(self):
        made = synthetic_trajectories(torch.zeros(2, 4, 24, 24, dtype=torch.uint8), 2, generator()).observations
        assert made.dtype == torch.uint8 and made.shape == (2, LENGTH, IMAGE_ROWS, 4, 24, 24)
        assert torch.equal(made[..., 0, 0], made[..., 5, 7])
        assert float(made.float().std()) > 30

    def test_token_ids_are_refused_in_a_line(self):
        with pytest.raises(UsageError, match="floating point or bytes, not int64"):
            synthetic_trajectories(torch.zeros(2, 8, dtype=torch.int64), 2, generator())


class TestLearning:
    def test_a_step_follows_the_networks_own_targets(self):
        model = plain(2)
        task = task_for(model, phases=1, steps=1)
        expected, inputs, rows = copy.deepcopy(model), task.inputs[0], task.batches[0, 0]
        with torch.no_grad():
            best = expected(inputs[task.following[0, rows]]).max(1, keepdim=True).values
        loss = (expected(inputs[rows]) - task.rewards[0, rows] - DISCOUNT * best).square().mean()
        loss.backward()
        torch.optim.SGD(expected.parameters(), lr=0.1).step()
        learn_values(task, {"network": Learner(model, torch.optim.SGD(model.parameters(), lr=0.1))})
        for own, wanted in zip(model.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(own, wanted)

    def test_an_error_of_a_constant_is_1(self):
        class Constant(nn.Module):
            def __init__(self):
                super().__init__()
                self.value = nn.Parameter(torch.zeros(4))

            def forward(self, x):
                return self.value.expand(len(x), -1)

        model = Constant()
        made = synthetic_trajectories(torch.zeros(2, 8), 1, generator())
        task = make_value_task(model, made, device=CPU, seed=0, steps=50)
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=1e-9))
        learn_values(task, {"network": learner})
        assert learner.errors[0] == pytest.approx(1, abs=0.15)

    def test_deep_plain_layers_go_astray_where_skips_do_not(self):
        found = {}
        for name, model in {"plain": plain(16), "skips": multi_skip()}.items():
            task = task_for(model, phases=2, steps=150)
            learner = Learner(model, torch.optim.Adam(model.parameters(), lr=2e-3))
            assert learn_values(task, {"network": learner})
            found[name] = learner.errors[-1]
        assert found["skips"] < 1.0 < found["plain"] / 1.2, found

    def test_numbers_that_end_are_an_infinite_error(self):
        model = plain(1)
        task = task_for(model, phases=1, steps=10)
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=1e30))
        learn_values(task, {"network": learner})
        assert learner.errors == [math.inf]


def multi_skip():
    torch.manual_seed(0)
    return nn.Sequential(MultiSkipTorso(8, 64, 7), nn.Linear(64, 4))


class TestInThePreflight:
    @pytest.fixture(autouse=True)
    def few_steps(self, monkeypatch):
        monkeypatch.setattr(bootstrapping, "STEPS", bootstrapping.FEWEST_STEPS)

    def test_a_report_has_the_errors_and_says_what_they_mean(self):
        report = diagnose(plain(2), torch.zeros(2, 8), phases=2)
        assert set(report.values) == {"network", "twin"}
        assert len(report.values["network"]) == len(report.values["twin"]) == 4
        assert "error in values that bootstrap, by phase" in str(report)
        assert report.to_dict()["values"] == report.values

    def test_observations_of_ones_own(self):
        observations = torch.randn(3, 16, 8, 8, generator=generator())
        ended = torch.zeros(3, 16, 8, dtype=torch.bool)
        ended[:, -1] = True
        report = diagnose(plain(2), torch.zeros(2, 8), phases=2, trajectories=Trajectories(observations, ended))
        assert len(report.values["network"]) == 3

    def test_what_has_no_scale_is_a_note(self):
        model = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 4))
        report = diagnose(model, torch.tensor([[0, 1, 2, 9]] * 2), phases=2)
        assert report.values == {}
        assert any("were not tried" in note for note in report.notes)

    @pytest.mark.parametrize(
        ("errors", "level"),
        [((0.5, 0.5), None), ((0.9, 0.5), "at risk"), ((1.2, 0.5), "collapsing"), ((math.inf, 0.5), "collapsed")],
    )
    def test_levels_by_what_the_twin_learns_and_the_network_misses(self, errors, level):
        learners = {
            name: Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), errors=[9.0, error])
            for name, model, error in zip(("network", "twin"), (plain(4), plain(2)), errors, strict=True)
        }
        findings, notes = _judge_values([], learners, PreflightThresholds())
        assert [finding.level for finding in findings] == ([level] if level else []) and notes == []

    def test_a_twin_that_learns_nothing_is_no_measure(self):
        model = plain(2)
        learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), errors=[1.0, 1.0])
        findings, notes = _judge_values([], {"network": learner, "twin": learner}, PreflightThresholds())
        assert findings == [] and "explains only 0%" in notes[0]

    @pytest.mark.parametrize(("error", "blamed"), [(0.6, False), (0.9, True)])
    def test_who_learns_values_is_not_blamed_for_learning_labels_slowly(self, error, blamed):
        learners = {
            name: Learner(plain(2), None, errors=[one]) for name, one in {"network": error, "twin": 0.5}.items()
        }
        slow = Finding("slow_relearning", "collapsing", "network", 1, 0.3, 0.5, "it is slow")
        other = Finding("no_update", "collapsing", "0", 1, 0.0, 0.0, "it never moves")
        findings, notes = _judge_values([slow, other], learners, PreflightThresholds())
        assert [one.rule for one in findings if one.rule != "unstable_values"] == ["slow_relearning"] * blamed + [
            "no_update"
        ]
        assert any("without harm" in note for note in notes) != blamed

    def test_a_network_smaller_than_its_twin_is_not_called_astray(self):
        learners = {
            "network": Learner(plain(1, 8), None, errors=[3.0]),
            "twin": Learner(plain(2), None, errors=[0.5]),
        }
        findings, notes = _judge_values([], learners, PreflightThresholds())
        assert findings == [] and "as the twin is larger" in notes[0]
