import dataclasses
import json
import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stablegrad.diagnostics import preflight
from stablegrad.diagnostics.preflight import (
    PreflightReport,
    PreflightThresholds,
    _judge_relearning,
)
from stablegrad.diagnostics.relearning import STEPS, Contestant, learn, make_task
from stablegrad.diagnostics.rules import Finding, Thresholds
from stablegrad.errors import StablegradError, UsageError
from stablegrad.networks import MultiSkipTorso

SAMPLE = torch.zeros(2, 8)


def stack(layers, width, activation, outputs=4):
    torch.manual_seed(1)
    sizes = [8] + [width] * layers
    hidden = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), activation())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def multi_skip():
    torch.manual_seed(1)
    return nn.Sequential(MultiSkipTorso(8, 64, 5), nn.Linear(64, 4))


def diagnose(*args, **options):
    """Of labels alone; values that bootstrap are in test_bootstrapping.py."""
    return preflight.diagnose(*args, **{"values": False, **options})


@pytest.fixture(scope="module")
def deep():
    return diagnose(stack(20, 64, nn.Tanh), SAMPLE, phases=4)


class TestVerdicts:
    @pytest.mark.parametrize("make", [lambda: stack(2, 64, nn.Tanh), multi_skip])
    def test_networks_that_keep_learning_are_healthy(self, make):
        report = diagnose(make(), SAMPLE, phases=4)
        assert report.verdict == "healthy", str(report)
        assert report.prescriptions == []
        assert min(report.relearning["network"]) > 0.6

    def test_a_deep_plain_network_is_not(self, deep):
        assert deep.verdict in ("collapsing", "collapsed")
        slow = next(finding for finding in deep.findings if finding.rule == "slow_relearning")
        assert slow.value < 0.5
        assert "a small twin re-learns 100%" in slow.reason
        late = deep.relearning["network"][2:]
        assert f"it re-learns {sum(late) / 2:.0%}" in slow.reason
        assert {"vanishing_gradient", "fading_gradient"} & {finding.rule for finding in deep.findings}
        assert deep.prescriptions[0].name == "multi_skip"
        assert "collapsing" in deep.layers().values()

    def test_a_layer_that_is_cut_off_stays_broken_however_well_the_rest_learns(self):
        class Cut(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder, self.body, self.head = nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 4)

            def forward(self, x):
                return self.head(F.relu(self.body(F.relu(self.encoder(x)).detach())))

        torch.manual_seed(0)
        report = diagnose(Cut(), SAMPLE, phases=4)
        assert report.verdict == "collapsed"
        assert [(finding.rule, finding.site) for finding in report.findings] == [("no_gradient", "encoder")]
        assert report.prescriptions[0].name == "reconnect"
        assert "through another method" in report.notes[-1]

    @pytest.mark.parametrize("ending", [nn.Softmax(dim=1), nn.Tanh(), nn.LogSoftmax(dim=1)])
    def test_outputs_that_are_no_logits(self, ending):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 4), ending)
        report = diagnose(model, SAMPLE, phases=4)
        assert report.verdict == "healthy", str(report)
        assert min(report.relearning["twin"]) > 0.9


class TestSmallNetworks:
    """A network that is smaller than the twin is not ill because it learns less than that by heart."""

    @pytest.mark.parametrize(
        ("make", "parameters"),
        [
            (lambda: nn.Linear(4, 2), 10),
            (lambda: nn.Linear(4, 1), 5),
            (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), 58),
            (lambda: nn.Sequential(nn.Linear(4, 32).requires_grad_(False), nn.ReLU(), nn.Linear(32, 2)), 66),
            (lambda: nn.Linear(4, 300), 1500),
        ],
    )
    def test_what_they_cannot_learn_is_a_note(self, make, parameters):
        torch.manual_seed(0)
        report = diagnose(make(), torch.randn(32, 4), phases=2)
        assert report.verdict == "healthy", str(report)
        assert f"with {parameters:,} trained parameters it is too small to learn" in " ".join(report.notes)
        assert report.prescriptions == [] and "a small twin" not in str(report)

    def test_a_single_layer_with_wide_inputs_is_judged(self):
        torch.manual_seed(0)
        report = diagnose(nn.Linear(64, 8), torch.randn(32, 64), phases=3)
        assert report.verdict == "healthy" and report.notes == []

    def test_of_a_deeper_network_that_fails_it_is_said_that_a_small_twin_does_better(self, deep):
        assert deep.task["parameters"]["twin"] < deep.task["parameters"]["network"]
        assert "a small twin re-learns" in str(deep)
        assert "kept learning on the same data" not in str(deep)


class TestReport:
    def test_figures(self, deep):
        assert isinstance(deep, PreflightReport)
        assert [len(fits) for fits in deep.relearning.values()] == [4, 4]
        assert [len(speed) for speed in deep.speed.values()] == [4, 4]
        assert deep.task["optimizer"] == "Adam"
        assert deep.task["steps"] == STEPS
        assert deep.task["parameters"]["network"] == sum(p.numel() for p in stack(20, 64, nn.Tanh).parameters())
        assert len(deep.history.series("gradient_norm").steps) == 25  # 4 phases of 6 looks, and the second step
        assert "twin of two hidden layers: 100%" in str(deep)

    def test_json_and_page(self, deep, tmp_path):
        text = json.dumps(deep.to_dict(), allow_nan=False)
        saved = json.loads(text)
        assert saved["verdict"] == deep.verdict
        assert saved["relearning"] == deep.relearning
        assert saved["trial"] == []
        page = deep.save_html(tmp_path / "page.html").read_text()
        assert "What it learns anew" in page

    def test_the_same_seed_gives_the_same_figures_and_another_one_others(self):
        def figures(seed):
            report = diagnose(stack(1, 16, nn.ReLU), SAMPLE, phases=2, seed=seed)
            return report.speed, report.history.to_dict()["rows"]

        assert figures(1) == figures(1)
        assert figures(1) != figures(2)

    def test_without_a_twin(self):
        report = diagnose(stack(12, 64, nn.Tanh), SAMPLE, phases=4, compare_twin=False)
        assert report.relearning["twin"] == []
        assert list(report.task["parameters"]) == ["network"]
        assert "twin" not in " ".join(finding.reason for finding in report.findings)


class TestTheProgramAround:
    def test_network_and_random_numbers_stay_as_they_are(self):
        model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4)).eval()
        model[0].weight.grad = torch.ones(16, 8)
        saved = {name: value.clone() for name, value in model.state_dict().items()}
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        with torch.no_grad():
            report = diagnose(model, SAMPLE, phases=2)
        after = torch.rand(3), random.random(), np.random.rand()
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        assert torch.equal(after[0], torch.rand(3))
        assert after[1:] == (random.random(), np.random.rand())
        assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
        assert not model.training
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(model[0].weight.grad, torch.ones(16, 8))
        assert report.relearning["network"][0] > 0.3

    def test_the_optimizer_is_the_persons(self):
        made = []

        def factory(parameters):
            made.append(torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
            return made[-1]

        model = stack(1, 32, nn.ReLU)
        model[0].bias.requires_grad_(False)
        report = diagnose(model, SAMPLE, optimizer=factory, phases=2)
        assert (report.task["optimizer"], report.task["learning_rate"]) == ("SGD", 0.05)
        assert {len(one.param_groups[0]["params"]) for one in made} == {3, 10}  # the network's and the twin's
        with pytest.raises(UsageError, match="it returned None"):
            diagnose(model, SAMPLE, optimizer=lambda parameters: None)

    def test_images_bytes_tokens_and_several_outputs(self):
        class Agent(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(32), nn.ReLU())
                self.policy, self.value = nn.Linear(32, 3), nn.Linear(32, 1)

            def forward(self, x):
                features = self.body(x.float() / 255)
                return {"policy": self.policy(features), "value": self.value(features)}

        agent = Agent()
        sample = torch.randint(0, 256, (2, 1, 24, 24), dtype=torch.uint8)
        agent(sample)
        report = diagnose(agent, sample, phases=2)
        assert not any(finding.rule == "no_gradient" for finding in report.findings)
        assert {"policy", "value"} <= set(report.history.series("gradient_norm").sites)
        words = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(40, 16), nn.ReLU(), nn.Linear(16, 3))
        report = diagnose(words, torch.tensor([[0, 1, 2, 3, 9]]), phases=2)
        assert report.relearning["twin"][0] > 0.5


class TestTime:
    def test_a_slow_network_is_given_fewer_steps(self, monkeypatch):
        monkeypatch.setattr("stablegrad.diagnostics.preflight.rehearse", lambda task, make: 0.1)
        report = diagnose(stack(1, 16, nn.ReLU), SAMPLE, phases=2, seconds=40)
        assert (report.task["phases"], report.task["steps"]) == (2, 99)
        assert any("2 phases of 99 steps instead of 2 of 240" in note for note in report.notes)

    def test_too_slow_to_say_anything_is_refused(self, monkeypatch):
        monkeypatch.setattr("stablegrad.diagnostics.preflight.rehearse", lambda task, make: 5.0)
        with pytest.raises(UsageError, match="a step takes 10,000 ms"):
            diagnose(stack(1, 16, nn.ReLU), SAMPLE)

    def test_time_that_is_up_is_said(self, monkeypatch):
        def learn_some(phases):
            def learn_until(task, contestants, deadline):
                part = dataclasses.replace(task, labels=task.labels[:phases], batches=task.batches[:phases])
                return learn(part, contestants) and phases == task.phases

            return learn_until

        monkeypatch.setattr("stablegrad.diagnostics.preflight.learn", learn_some(2))
        with pytest.raises(StablegradError, match="time was up after 2 of 4 phases, too few to judge"):
            diagnose(stack(1, 16, nn.ReLU), SAMPLE)
        monkeypatch.setattr("stablegrad.diagnostics.preflight.learn", learn_some(3))
        report = diagnose(stack(1, 16, nn.ReLU), SAMPLE)
        assert "time was up after 3 of 4 phases" in report.notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, "seconds must be above 0"),
        ({"seconds": math.inf}, "seconds must be above 0 and finite"),
        ({"phases": 1}, "phases must be at least 2"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UsageError, match=message):
        diagnose(nn.Linear(8, 2), SAMPLE, **options)


def test_a_network_that_cannot_be_trained_or_copied_is_refused():
    class InPlace(nn.Linear):
        def forward(self, x):
            y = super().forward(x).exp()
            y2 = y * 1
            y.add_(1)
            return y2

    with pytest.raises(UsageError, match="InPlace cannot be trained: RuntimeError: one of the variables"):
        diagnose(InPlace(8, 2), SAMPLE)

    class NoCopy(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("cannot pickle a socket")

    with pytest.raises(UsageError, match=r"NoCopy cannot be copied.*cannot pickle a socket"):
        diagnose(NoCopy(8, 2), SAMPLE)


class TestJudgement:
    """The levels of slow_relearning, from figures alone."""

    def judge(self, network, twin, findings=(), fast=None, **thresholds):
        model = nn.Linear(8, 4)
        task = make_task(model, SAMPLE, seed=0, phases=len(network))

        def contestant(accuracies):
            one = Contestant(model, torch.optim.SGD(model.parameters(), lr=0.1))
            one.accuracies, one.fits = list(accuracies), list(accuracies)
            return one

        twins = [contestant(one) for one in (twin, fast) if one is not None]
        return _judge_relearning(list(findings), contestant(network), twins, task, PreflightThresholds(**thresholds))

    @pytest.mark.parametrize(
        ("network", "level", "since"),
        [
            ((0.9, 0.9, 0.9, 0.9), None, None),
            ((0.9, 0.9, 0.7, 0.7), "at risk", 2 * STEPS + 1),
            ((0.9, 0.6, 0.5, 0.5), "collapsing", STEPS + 1),
            ((0.9, 0.25, 0.25, 0.25), "collapsed", STEPS + 1),
            ((0.25, 0.25, 0.25, 0.25), "collapsed", 1),
            # Slow from the start, and as fast as ever.
            ((0.6, 0.6, 0.6, 0.6), None, None),
            ((0.5, 0.6, 0.6, 0.7), None, None),
        ],
    )
    def test_levels(self, network, level, since):
        findings, _ = self.judge(network, (0.9, 0.9, 0.9, 0.9))
        assert [finding.level for finding in findings] == ([level] if level else [])
        assert [finding.since for finding in findings] == ([since] if since else [])

    def test_a_twin_that_tires_as_well_excuses_the_network(self):
        assert self.judge((0.9, 0.9, 0.7, 0.7), (0.9, 0.9, 0.72, 0.72))[0] == []

    def test_a_twin_that_learns_nothing_is_no_measure(self):
        findings, notes = self.judge((0.9, 0.3, 0.3, 0.3), (0.3, 0.3, 0.3, 0.3))
        assert findings == []
        assert "no measure" in notes[0]

    @pytest.mark.parametrize(
        ("network", "twin", "rules"),
        [
            ((0.4,) * 4, (0.5,) * 4, ["slow_optimizer"]),
            # The network learns in spite of it, or is the only one that is slow.
            ((0.9,) * 4, (0.5,) * 4, []),
            ((0.9, 0.3, 0.3, 0.3), (0.85,) * 4, ["slow_relearning"]),
        ],
    )
    def test_a_slow_optimizer_is_told_from_a_network_that_is_ill(self, network, twin, rules):
        findings, _ = self.judge(network, twin, fast=(0.9,) * 4)
        assert [finding.rule for finding in findings] == rules

    def test_a_rate_that_is_too_low_is_raised(self):
        torch.manual_seed(0)
        report = diagnose(
            stack(2, 64, nn.Tanh), SAMPLE, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-5)
        )
        assert "slow_optimizer" in {finding.rule for finding in report.findings}, str(report)
        assert report.prescriptions[0].name == "raise_learning_rate"
        assert min(report.relearning["reference"]) > 0.9

    def test_thresholds_can_be_set(self):
        assert self.judge((0.9, 0.9, 0.7, 0.7), (0.9,) * 4, relearning=0.6)[0] == []
        with pytest.raises(UsageError, match="kept must be above 0"):
            PreflightThresholds(kept=0)

    def test_plain_thresholds_are_taken_over(self):
        model = stack(1, 16, nn.ReLU)
        assert "the gradient of" not in self.said(diagnose(model, SAMPLE, phases=2))
        assert "the gradient of" in self.said(diagnose(model, SAMPLE, phases=2, thresholds=Thresholds(vanishing=1e9)))

    def said(self, report):
        return " ".join([*report.notes, *(finding.reason for finding in report.findings)])

    def test_symptoms_without_harm_are_notes_lost_gradients_are_less_and_what_is_broken_stays(self):
        def finding(rule, level):
            return Finding(rule, level, "a", 1, 1.0, 1.0, f"{rule} is there")

        seen = [
            finding("dead_units", "collapsed"),
            finding("vanishing_gradient", "collapsing"),
            finding("fading_gradient", "at risk"),
            finding("no_update", "collapsing"),
        ]
        left, notes = self.judge((0.9,) * 4, (0.9,) * 4, seen)
        assert left == [dataclasses.replace(seen[1], level="at risk"), seen[3]]
        assert notes[1:] == ["without harm here: dead_units is there", "without harm here: fading_gradient is there"]
        # Where harm is there, they stand as they are.
        left, _ = self.judge((0.9, 0.3, 0.3, 0.3), (0.9,) * 4, seen)
        assert set(seen) < set(left)
        # So they do beside a network that is far slower than its twin, though it keeps its speed.
        *rest, slow = self.judge((0.5,) * 4, (0.95,) * 4, seen)[0]
        assert set(rest) == set(seen)
        assert (slow.rule, slow.level) == ("slow_relearning", "at risk")
