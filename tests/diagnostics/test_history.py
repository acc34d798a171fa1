import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import History
from stablegrad.diagnostics.history import looks_of
from stablegrad.diagnostics.layers import find_layers
from stablegrad.errors import UsageError


def test_series_in_the_order_of_the_data_with_gaps_as_nan():
    history = History(order=["a", "b"])
    history.add(2, {"gradient_norm/b": 1.0, "gradient_norm/a": 2.0, "churn/network": 0.5})
    history.add(4, {"gradient_norm/b": 3.0})
    history.add(4, {"gradient_norm/c": 4.0})
    series = history.series("gradient_norm")
    assert series.sites == ["a", "b", "c"]
    assert series.steps.tolist() == [2, 4]
    np.testing.assert_array_equal(series.values, [[2, 1, math.nan], [math.nan, 3, 4]])
    assert [part.tolist() for part in history.network("churn")] == [[2], [0.5]]
    history.set_order(["c", "b", "a"])
    assert history.series("gradient_norm").sites == ["c", "b", "a"]
    assert not history.series("dormant")
    assert history.metrics() == ["gradient_norm", "churn"]


def test_an_earlier_step_takes_its_place():
    history = History()
    for step, value in ((1, 1.0), (5, 5.0), (3, 3.0), (5, 6.0), (1, 2.0)):
        history.add(step, {"loss/network": value})
    assert [part.tolist() for part in history.network("loss")] == [[1, 3, 5], [2, 3, 6]]


figures = st.dictionaries(
    st.sampled_from(["gradient_norm/a", "gradient_norm/b.c", "churn/network"]),
    st.floats(allow_nan=False, width=32),
    max_size=3,
)


@given(st.lists(figures, max_size=6))
@settings(deadline=None, max_examples=50)
def test_there_and_back_through_json(rows):
    history = History(order=["a"], frozen=["b"], step_name="updates")
    for step, row in enumerate(rows):
        history.add(step, row)
    back = History.from_dict(json.loads(json.dumps(history.to_dict(), allow_nan=False)))
    assert back.rows == history.rows
    assert (back.order, back.frozen, back.step_name) == (["a"], ["b"], "updates")


def test_lines_of_a_log():
    rows = [
        {"step": 1, "wall_seconds": 0.1, "gradient_norm/a": 1.0},
        {"step": 2, "wall_seconds": 0.2, "gradient_norm/a": 1.0, "update_ratio/a": 0.1},
    ]
    assert looks_of(rows) == rows[1:]
    assert History.from_rows(rows).rows == [
        (1, {"gradient_norm/a": 1.0}),
        (2, {"gradient_norm/a": 1.0, "update_ratio/a": 0.1}),
    ]


class TestLayers:
    def test_norms_are_no_layers_even_of_three_dimensions(self):
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.LayerNorm([2, 4, 4]), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 2)
        )
        layers = find_layers({"": model})
        assert layers.names == ["0", "4"]
        assert layers.layer_of == [0, 0, -1, -1, -1, -1, 1, 1]

    def test_several_networks_share_a_layer(self):
        shared = nn.Linear(2, 2)
        layers = find_layers({"actor": nn.Sequential(shared), "critic": nn.Sequential(shared, nn.Linear(2, 1))})
        assert layers.names == ["actor.0", "critic.1"]

    def test_a_network_of_vectors_only(self):
        assert find_layers({"": nn.Sequential(nn.LayerNorm(3))}).names == ["0"]

    def test_frozen_is_what_is_not_trained_now(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        layers = find_layers({"": model})
        assert layers.frozen() == []
        model[0].requires_grad_(False)
        assert layers.frozen() == ["0"]

    def test_no_parameters(self):
        with pytest.raises(UsageError, match="no parameters"):
            find_layers({"": nn.ReLU()})
