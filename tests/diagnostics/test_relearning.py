import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.diagnostics.relearning import (
    FEWEST_STEPS,
    PHASES,
    STEPS,
    Contestant,
    above_chance,
    draw_inputs,
    late,
    learn,
    make_task,
    own_randomness,
    plan,
    values_of,
)
from stablegrad.errors import UsageError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Returns(nn.Module):
    """Gives back what a function makes of a layer's output."""

    def __init__(self, make, width=4):
        super().__init__()
        self.layer = nn.Linear(8, width)
        self.make = make

    def forward(self, x):
        return self.make(self.layer(x))


class TestInputs:
    def test_features_of_their_own_scale(self):
        sample = torch.tensor([0.0, 100.0, -3.0]) + torch.tensor([1.0, 20.0, 0.0]) * torch.randn(500, 3)
        drawn = draw_inputs(sample, 4000, generator())
        torch.testing.assert_close(drawn.mean(dim=0), sample.mean(dim=0), rtol=0.05, atol=0.1)
        torch.testing.assert_close(drawn.std(dim=0), sample.std(dim=0), rtol=0.1, atol=0.1)

    def test_few_rows_share_one_scale(self):
        sample = 50 + 10 * torch.randn(2, 100)
        drawn = draw_inputs(sample, 100, generator())
        assert float(drawn.mean()) == pytest.approx(float(sample.mean()), abs=1)
        assert float(drawn.std()) == pytest.approx(float(sample.std()), rel=0.05)

    def test_a_constant_sample_gives_unit_numbers_around_it(self):
        drawn = draw_inputs(torch.full((2, 50), 7.0), 200, generator())
        assert float(drawn.mean()) == pytest.approx(7, abs=0.1)
        assert float(drawn.std()) == pytest.approx(1, abs=0.1)

    def test_images_are_bytes_in_blocks(self):
        drawn = draw_inputs(torch.zeros(1, 4, 84, 60, dtype=torch.uint8), 8, generator())
        assert drawn.shape == (8, 4, 84, 60)
        assert drawn.dtype == torch.uint8
        assert int(drawn.min()) == 0
        assert int(drawn.max()) == 255
        blocks = drawn.view(8, 4, 7, 12, 5, 12)
        assert (blocks == blocks[:, :, :, :1, :, :1]).all()

    def test_integers_lie_between_the_ends_and_truth_values_keep_their_share(self):
        ids = draw_inputs(torch.tensor([[3, 9, 5]]), 200, generator())
        assert ids.dtype == torch.int64
        assert sorted(ids.unique().tolist()) == [3, 4, 5, 6, 7, 8, 9]
        with pytest.raises(UsageError, match="all of it is 3"):
            draw_inputs(torch.tensor([[3, 3]]), 4, generator())
        truths = draw_inputs(torch.rand(100, 50) < 0.2, 100, generator())
        assert truths.dtype == torch.bool
        assert float(truths.float().mean()) == pytest.approx(0.2, abs=0.03)


class TestTask:
    def test_labels_are_the_same_ones_in_another_order_and_batches_cover_all_rows(self):
        task = make_task(nn.Sequential(nn.Linear(8, 256), nn.Linear(256, 4)), torch.randn(3, 8), seed=1)
        assert (task.phases, task.steps, task.classes) == (PHASES, STEPS, 4)
        assert task.inputs.shape == (256, 8)
        assert all((labels.bincount() == 64).all() for labels in task.labels)
        assert not torch.equal(task.labels[0], task.labels[1])
        for epoch in task.batches.view(PHASES * STEPS // 4, 256):
            assert (epoch.sort().values == torch.arange(256)).all()

    def test_a_seed_gives_one_task(self):
        first, second, other = (
            make_task(nn.Linear(8, 4), torch.ones(1, 8), seed=seed, phases=3, steps=7) for seed in (1, 1, 2)
        )
        assert first.batches.shape == (3, 7, 16)
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.batches, second.batches)
        assert not torch.equal(first.inputs, other.inputs)

    @pytest.mark.parametrize(("features", "rows"), [(1, 32), (2, 32), (3, 64), (8, 256), (500, 256)])
    def test_few_features_get_few_rows(self, features, rows):
        model = nn.Sequential(nn.Linear(features, 1024), nn.Linear(1024, 2))
        assert len(make_task(model, torch.zeros(1, features), seed=0).inputs) == rows

    @pytest.mark.parametrize(("width", "rows"), [(8, 32), (64, 64), (200, 256)])
    def test_small_networks_get_few_rows(self, width, rows):
        model = nn.Sequential(nn.Linear(8, width), nn.Linear(width, 4))  # 108, 836 and 2,604 parameters
        assert len(make_task(model, torch.zeros(1, 8), seed=0).inputs) == rows

    @pytest.mark.parametrize(
        ("make", "classes"),
        [
            (lambda y: y, 4),
            (lambda y: y[:, :1], 2),
            (lambda y: y.repeat(1, 100), 10),
            (lambda y: y.softmax(dim=1), 4),
            (lambda y: {"logits": y[:, :3], "value": y[:, 3:], "text": "none"}, 4),
            (lambda y: (y[:, :2], [y[:, 2:]]), 4),
            (lambda y: torch.distributions.Categorical(logits=y), 4),
            (lambda y: y.view(-1, 2, 2), 4),
            (lambda y: y.tanh(), 4),
            (lambda y: y[:, :1].sigmoid(), 2),
        ],
    )
    def test_every_kind_of_output_becomes_logits_and_can_be_learned(self, make, classes):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 8), Returns(make))
        task = make_task(model, torch.zeros(1, 8), seed=0, phases=1, steps=600)
        assert task.classes == classes
        contestant = Contestant(model, torch.optim.Adam(model.parameters(), lr=1e-2))
        assert learn(task, {"one": contestant})
        assert contestant.fits[0] > 0.9

    def test_bounded_outputs_need_not_go_to_their_ends(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 4), nn.Tanh())
        task = make_task(model, torch.zeros(1, 8), seed=0, phases=4)
        contestant = Contestant(model, torch.optim.Adam(model.parameters(), lr=2e-3))
        learn(task, {"one": contestant})
        assert min(contestant.fits) > 0.8
        assert float((model(task.inputs).abs() > 0.99).float().mean()) < 0.2

    def test_all_heads_get_a_gradient(self):
        y = torch.randn(3, 4, requires_grad=True)
        assert values_of((y, y[:, :1], torch.zeros(3, 1), y[:2], "word")).shape == (3, 5)

    @pytest.mark.parametrize(
        ("model", "sample", "message"),
        [
            ("net", torch.zeros(1, 8), "model must be a torch.nn.Module, got str"),
            (nn.ReLU(), torch.zeros(1, 8), "ReLU has no parameters"),
            (nn.LazyLinear(3), torch.zeros(1, 8), "LazyLinear has lazy layers; call it once"),
            (nn.Linear(8, 2).requires_grad_(False), torch.zeros(1, 8), "no parameter of Linear is trained"),
            (nn.Linear(8, 2), {"x": torch.zeros(1, 8)}, "sample_input must be one tensor of [rows, ...], got dict"),
            (nn.Linear(8, 2), torch.zeros(8), "shape (8,) has no batch dimension; expected [rows, ...]"),
            (nn.Linear(8, 2), torch.zeros(0, 8), "shape (0, 8) has no rows"),
            (nn.Linear(8, 2), torch.full((1, 8), math.nan), "must hold finite real numbers"),
            (nn.Linear(8, 2), torch.zeros(1, 8, device="meta"), "the sample is on meta, the model on cpu"),
            (nn.Linear(8, 2), torch.zeros(1, 7), "Linear refuses inputs of shape (32, 7), float32: RuntimeError: mat1"),
            (
                nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)),
                torch.zeros(3, 4, 4),
                "the sample of shape (3, 4, 4) has no batch dimension: Sequential takes (1, 3, 4, 4)",
            ),
            (Returns(lambda y: None), torch.zeros(1, 8), "Returns returns None without a floating-point tensor"),
            (Returns(lambda y: {"a": 1}), torch.zeros(1, 8), "Returns returns a dict without"),
            (Returns(lambda y: y.argmax(1, keepdim=True)), torch.zeros(1, 8), "Returns returns a Tensor without"),
            (Returns(lambda y: y.T), torch.zeros(1, 8), "returns 4 rows for 32"),
            (Returns(lambda y: y / 0), torch.zeros(1, 8), "not finite, before any training"),
            (Returns(lambda y: y.detach()), torch.zeros(1, 8), "carries no gradient"),
        ],
    )
    def test_wrong_use_is_one_line(self, model, sample, message):
        with pytest.raises(UsageError) as raised:
            make_task(model, sample, seed=0)
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)


class TestLearn:
    def test_figures_are_those_of_a_loop_by_hand(self):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 4))
        task = make_task(model, torch.zeros(1, 8), seed=0, phases=2, steps=10)
        by_hand = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        by_hand.load_state_dict({name.replace("3.", "2."): value for name, value in model.state_dict().items()})
        contestant = Contestant(model, torch.optim.SGD(model.parameters(), lr=0.5))
        assert learn(task, {"one": contestant})
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.5)
        for phase in range(2):
            rights = []
            for rows in task.batches[phase]:
                logits = by_hand(task.inputs[rows])
                targets = task.labels[phase][rows]
                rights.append((logits.argmax(1) == targets).float().mean().item())
                optimizer.zero_grad()
                nn.functional.cross_entropy(logits, targets).backward()
                optimizer.step()
            assert contestant.accuracies[phase] == pytest.approx(np.mean(rights))
            right = by_hand(task.inputs).argmax(1) == task.labels[phase]
            assert contestant.fits[phase] == pytest.approx(right.float().mean().item())
        assert len(contestant.seconds) == 20

    def test_what_comes_before_a_phase_is_called_for_all_but_the_first(self):
        model = nn.Linear(8, 4)
        task = make_task(model, torch.zeros(1, 8), seed=0, phases=4, steps=2)
        called = []
        contestant = Contestant(model, torch.optim.SGD(model.parameters(), lr=0.1), called.append)
        learn(task, {"one": contestant})
        assert called == [contestant] * 3

    def test_time_that_is_up_leaves_whole_phases_only(self):
        model = nn.Linear(8, 4)
        task = make_task(model, torch.zeros(1, 8), seed=0, phases=2, steps=2)
        contestant = Contestant(model, torch.optim.SGD(model.parameters(), lr=0.1))
        assert not learn(task, {"one": contestant}, deadline=0.0)
        assert (contestant.fits, contestant.seconds) == ([], [])


def test_plan_takes_steps_before_phases_and_refuses_what_says_nothing():
    assert plan(0.001, 90, 8, spent=0) == (8, STEPS)
    assert plan(0.1, 90, 8, spent=0) == (8, 112)
    assert plan(0.125, 90, 8, spent=0) == (8, 90)
    assert plan(0.25, 90, 8, spent=0) == (4, 90)
    assert plan(0.25, 100, 8, spent=0) == (5, 80)
    with pytest.raises(UsageError, match=r"a step takes 1,000 ms.*at least 240 seconds"):
        plan(1.0, 90, 8, spent=0)
    for step in (0.001, 0.05, 0.1, 0.2, 0.3, 0.37):
        phases, steps = plan(step, 90, 8, spent=0)
        assert phases * steps * step <= 90
        assert steps >= FEWEST_STEPS


def test_what_a_plan_asks_for_is_enough():
    for spent, runs in ((0.0, 1), (12.5, 5)):
        with pytest.raises(UsageError) as refused:
            plan(0.9, 30, 8, spent=spent, runs=runs)
        asked = int(str(refused.value).split("at least ")[1].removesuffix(" seconds").replace(",", ""))
        plan(0.9, asked, 8, spent=spent, runs=runs)
        with pytest.raises(UsageError):
            plan(0.9, asked - 1, 8, spent=spent, runs=runs)


def test_randomness_is_given_back():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    with own_randomness(torch.device("cpu"), 5):
        first = (torch.rand(1).item(), random.random(), np.random.rand())
    with pytest.raises(ValueError), own_randomness(torch.device("cpu"), 5):
        assert (torch.rand(1).item(), random.random(), np.random.rand()) == first
        raise ValueError
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected


def test_scales():
    assert above_chance(0.25, 4) == 0
    assert above_chance(1.0, 4) == 1
    assert above_chance(0.1, 4) == 0
    assert above_chance(0.75, 2) == pytest.approx(0.5)
    assert late([1.0, 2.0, 3.0]) == 2.5
