"""Metrics of updates: what becomes of them in a line of the log, and where a divergence is said to have begun."""

import math

import pytest
import torch
from torch import nn

from stablegrad.errors import TrainingDiverged
from stablegrad.training.update_metrics import UpdateMetrics


def two_networks():
    return {"actor": nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), "critic": nn.Sequential(nn.Linear(4, 1))}


def metrics_of(updates, actor=1.0, critic=1.0):
    return {
        "loss/td": torch.arange(1.0, updates + 1),
        "gradients/actor": torch.full((updates,), actor),
        "gradients/critic": torch.full((updates,), critic),
        "parameter_norms/actor": torch.full((updates, 4), actor / 2),
        "parameter_norms/critic": torch.full((updates, 2), critic / math.sqrt(2)),
    }


def test_a_line_holds_means_extremes_and_the_norm_over_all_networks():
    metrics = UpdateMetrics(two_networks())
    assert metrics.layers == ["actor.0", "actor.1", "critic.0"]
    for updates, low in ((2, -1.0), (3, -5.0)):
        more = {"values/min": torch.tensor([low]), "values/max": torch.tensor([-low]), "values/q": torch.tensor([low])}
        metrics.add({**metrics_of(updates, actor=3.0, critic=4.0), **more})
    line = metrics.reduce(metrics.take())
    assert line["loss/td"] == pytest.approx((1 + 2 + 1 + 2 + 3) / 5)
    assert (line["values/min"], line["values/max"], line["values/q"]) == (-5.0, 5.0, -3.0)
    assert (line["gradients/actor"], line["gradients/critic"], line["gradients/norm"]) == (3.0, 4.0, 5.0)
    # Two parameters of norm 1.5 each, and two of 4 / sqrt(2).
    assert line["gradient_norm/actor.0"] == pytest.approx(1.5 * math.sqrt(2))
    assert line["gradient_norm/critic.0"] == pytest.approx(4.0)
    assert not any(key.startswith("parameter_norms") for key in line)
    assert metrics.reduce(metrics.take()) == {}, "what was taken is gone"


def delayed_metrics(first, updates, every=2, **changes):
    """Of some updates from number ``first`` on, every second of which changes the actor too; 100 was the last."""
    numbers = torch.tensor([number for number in range(first, first + updates) if number % every == 0])
    own = metrics_of(len(numbers))
    metrics = {key: values for key, values in metrics_of(updates).items() if "actor" not in key}
    if len(numbers):
        metrics |= {"loss/actor": -numbers.float(), "updates/actor": numbers}
        metrics |= {key: own[key] for key in ("gradients/actor", "parameter_norms/actor")}
    for key, (number, value) in changes.items():
        key = key.replace("__", "/")
        metrics[key][number - first if "actor" not in key else numbers.tolist().index(number)] = value
    return metrics


def test_of_a_network_that_some_updates_leave_alone_the_others_count():
    metrics = UpdateMetrics(two_networks())
    for number in range(7, 12):
        metrics.add(delayed_metrics(number, 1))
    line = metrics.reduce(metrics.take())
    assert line["loss/actor"] == -(8 + 10) / 2
    assert line["gradients/actor"] == 1.0
    assert line["gradient_norm/actor.0"] == pytest.approx(math.sqrt(0.5))
    assert not any(key.startswith("updates") for key in line)
    metrics.add(delayed_metrics(13, 1))
    line = metrics.reduce(metrics.take())
    assert "loss/actor" not in line and "gradients/actor" not in line
    assert line["gradients/norm"] == line["gradients/critic"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__actor": (98, math.nan)}, r"in update 98: the gradient of layer 'the global norm' .*\(loss nan"),
        ({"gradients__actor": (96, math.inf)}, r"in update 96: .*\(loss -96\)"),
        ({"loss__td": (97, math.nan)}, "in update 97: "),
        # What came first is said, and not what came of it.
        ({"loss__td": (97, math.nan), "loss__actor": (98, math.nan)}, "in update 97: "),
        ({"loss__td": (99, math.nan), "loss__actor": (98, math.nan)}, "in update 98: "),
    ],
)
def test_a_divergence_names_the_update_of_a_network_that_others_leave_alone(changes, message):
    metrics = UpdateMetrics(two_networks())
    with pytest.raises(TrainingDiverged, match=message):
        metrics.check_finite(delayed_metrics(95, 6, **changes), 100, "by now", "all is lost")
    metrics.check_finite(delayed_metrics(95, 6), 100, "by now", "nothing is lost")


def test_a_single_network_has_no_name():
    metrics = UpdateMetrics({"q": nn.Sequential(nn.Linear(3, 2))})
    metrics.add({"gradients/q": torch.tensor([2.0]), "parameter_norms/q": torch.tensor([[2.0, 0.0]])})
    assert metrics.reduce(metrics.take()) == {"gradients/norm": 2.0, "gradient_norm/0": 2.0}


def test_values_that_do_not_exist_are_left_out_of_a_mean():
    metrics = UpdateMetrics(two_networks())
    metrics.add({"values/explained_variance": torch.tensor([math.nan, 0.5])})
    assert metrics.reduce(metrics.take()) == {"values/explained_variance": 0.5}


def broken(name, row, value):
    taken = metrics_of(5)
    taken[name][row] = value
    return taken


@pytest.mark.parametrize(
    ("taken", "message"),
    [
        (
            broken("loss/td", 2, math.nan),
            r"by now, in update 98: .*'the global norm' is not finite \(loss nan; the upda",
        ),
        (
            {**broken("gradients/critic", 3, math.inf), "parameter_norms/critic": torch.full((5, 2), math.inf)},
            r"in update 99: the gradient of layer 'critic.0' is not finite \(loss 4\); all is lost; try a lower",
        ),
        (
            {**metrics_of(5), "loss/temperature": torch.tensor([math.inf])},
            r"by now: loss/temperature is not finite; all",
        ),
    ],
)
def test_a_divergence_names_update_layer_and_loss(taken, message):
    """After 100 updates, of which the last five are looked at."""
    metrics = UpdateMetrics(two_networks())
    with pytest.raises(TrainingDiverged, match=message):
        metrics.check_finite(taken, 100, "by now", "all is lost")


def test_finite_metrics_pass():
    UpdateMetrics(two_networks()).check_finite(metrics_of(5), 100, "by now", "all is lost")
    UpdateMetrics(two_networks()).check_finite({}, 0, "by now", "nothing was learned yet")
