"""Every rule: what must alarm, what must not, and that a spike or a dip that recovers is neither."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stablegrad.diagnostics import RULES, History, Report, Thresholds, judge
from stablegrad.diagnostics.prescriptions import prescribe
from stablegrad.diagnostics.rules import Finding
from stablegrad.diagnostics.rules.shared import middle
from stablegrad.errors import UsageError

LOOKS = 12


def history(**series):
    """Figures by "metric__site" (or "metric", of the network): one value for all looks, or a list of them."""
    made = History()
    for look in range(LOOKS):
        figures = {}
        for name, values in series.items():
            metric, _, site = name.partition("__")
            value = values[look] if isinstance(values, list) else values
            if value is not None:
                figures[f"{metric}/{site or 'network'}"] = value
        made.add(10 * (look + 1), figures)
    return made


def then(before, after, looks=5):
    """``before``, and ``after`` for the last looks."""
    return [before] * (LOOKS - looks) + [after] * looks


def dip(before, after):
    """``after`` for three looks in the middle, and back."""
    return [before] * 5 + [after] * 3 + [before] * (LOOKS - 8)


def pair(metric, a, b, **others):
    return {f"{metric}__a": a, f"{metric}__b": b, **others}


NORMS = {"weight_norm__a": 1.0, "weight_norm__b": 1.0}
FLOW = {"error_signal": 1.0, **NORMS}

#: By rule: a function from a shape of time (``then`` or ``dip``) to figures; the site; the level.
ALARMS = {
    "no_gradient": (lambda t: pair("gradient_norm", t(1.0, 0.0), 1.0), "a", "collapsed"),
    "no_update": (
        lambda t: pair("gradient_norm", 1.0, 1.0) | pair("update_ratio", t(1e-3, 0.0), 1e-3),
        "a",
        "collapsing",
    ),
    "vanishing_gradient": (lambda t: pair("gradient_norm", t(1.0, 1e-6), 1.0) | NORMS, "a", "collapsing"),
    "fading_gradient": (lambda t: pair("gradient_norm", t(1.0, 5e-3), 1.0) | FLOW, "a", "collapsing"),
    "exploding_gradient": (lambda t: pair("gradient_norm", t(1.0, 2e3), 1.0) | FLOW, "a", "collapsing"),
    "nonfinite_input": (
        lambda t: {"nonfinite__a": t(None, 1.0), "input_mean": t(0.0, math.inf), "gradient_norm__a": 1.0},
        "network",
        "collapsed",
    ),
    "thrown_weights": (lambda t: {"update_ratio__a": t(1e-3, 0.5), "dead__a": t(0.1, 1.0)}, "network", "collapsing"),
    "stale_state": (
        lambda t: {"normalised_step__a": t(0.2, 1e-3), "gradient_cosine__a": 0.6, "error_signal": 1.0},
        "network",
        "at risk",
    ),
    "small_update": (
        lambda t: pair("update_ratio", t(1e-3, 1e-7), t(1e-3, 1e-7), error_signal=1.0),
        "network",
        "at risk",
    ),
    "leftover_gradient": (lambda t: {"leftover_gradient__a": t(0.0, 1.0)}, "a", "collapsing"),
    "dormant_units": (lambda t: {"dormant__a": t(0.1, 0.8), "gradient_dormant__a": 0.8}, "a", "at risk"),
    "dead_units": (lambda t: {"dead__a": t(0.1, 0.9)}, "a", "at risk"),
    "rank_collapse": (lambda t: {"effective_rank": t(30.0, 1.2)}, "network", "collapsing"),
    "constant_output": (lambda t: {"output_size": 1.0, "output_spread": t(1.0, 1e-5)}, "network", "collapsed"),
    "diverging_output": (
        lambda t: {"output_size": t(1.0, 50.0), "error_signal": t(1.0, 50.0)},
        "network",
        "collapsing",
    ),
}

#: What looks like an alarm and is none.
HEALTHY = {
    "no_gradient": {"gradient_norm__a": then(1.0, 0.0), "gradient_norm__b": then(1.0, 0.0)},  # nothing is left to learn
    "no_update": pair("gradient_norm", 0.0, 1.0) | pair("update_ratio", 0.0, 1e-3),  # no gradient: another rule's
    "vanishing_gradient": pair("gradient_norm", then(1.0, 1e-6), then(1.0, 1e-6)) | NORMS,  # all fall alike
    "fading_gradient": pair("gradient_norm", then(1.0, 1e-4), 1e-4, error_signal=then(1.0, 1e-4)),  # it is learned
    "exploding_gradient": pair("gradient_norm", then(1.0, 1e4), 1.0, error_signal=then(1.0, 1e4)),  # the error grew
    "nonfinite_input": {"input_mean": dip(0.0, math.inf), "gradient_norm__a": 1.0},  # the loss took no notice
    "thrown_weights": {"update_ratio__a": [0.5] * 2 + [1e-3] * (LOOKS - 2), "dead__a": 0.1},  # it recovered
    "stale_state": {
        "normalised_step__a": then(0.2, 1e-3),
        "gradient_cosine__a": 0.05,
        "error_signal": 1.0,
    },  # converged
    "leftover_gradient": {"leftover_gradient__a": 0.0},
    "small_update": pair("update_ratio", then(1e-3, 1e-7), then(1e-3, 1e-7), error_signal=then(1.0, 0.01)),  # annealed
    "dormant_units": {"dormant__a": 0.8, "gradient_dormant__a": 0.0},  # silent, but they learn
    "dead_units": {"dead__a": 0.7},  # sparse
    "rank_collapse": {"effective_rank": then(300.0, 9.0)},  # ten classes, all learned
    "constant_output": {"output_size": then(1.0, 1e-5), "output_spread": then(1.0, 1e-5)},  # all of it shrank
    "diverging_output": {"output_size": then(1.0, 50.0), "error_signal": 1.0},  # values grow as returns do
}


def rules(made):
    return {finding.rule: finding for finding in judge(made)}


def long(before, after):
    return then(before, after, looks=9)


#: Rules about the beginning, about a single moment, or about more looks than these: they have tests of their own.
APART = {"nonfinite", "extreme_rate", "alike_units", "unscaled_input", "unscaled_weights", "starved_rate"}


def test_every_rule_is_tested():
    assert set(ALARMS) == set(HEALTHY) == set(RULES) - APART


@pytest.mark.parametrize("rule", ALARMS)
def test_what_lasts_alarms_at_its_place_and_since_its_step(rule):
    figures, site, level = ALARMS[rule]
    finding = rules(history(**figures(long)))[rule]
    assert (finding.site, finding.level) == (site, level)
    assert finding.since == 10 * (LOOKS - 9 + 1)
    assert finding.reason


#: Rules that hold for good once they held.
FOR_GOOD = ("nonfinite_input",)


@pytest.mark.parametrize("rule", [rule for rule in ALARMS if rule not in FOR_GOOD])
def test_a_dip_that_recovers_does_not(rule):
    figures, _, _ = ALARMS[rule]
    assert rule not in rules(history(**figures(dip)))


@pytest.mark.parametrize("rule", [rule for rule in ALARMS if rule not in FOR_GOOD])
def test_one_look_is_not_enough(rule):
    figures, _, _ = ALARMS[rule]
    assert rule not in rules(history(**figures(lambda before, after: then(before, after, looks=1))))


@pytest.mark.parametrize("rule", HEALTHY)
def test_what_looks_like_it_and_is_healthy(rule):
    assert rule not in rules(history(**HEALTHY[rule]))


def test_a_gradient_that_is_no_number_alarms_at_once_and_for_good():
    made = history(gradient_norm__a=dip(1.0, None), nonfinite__a=dip(None, 1.0))
    finding = rules(made)["nonfinite"]
    assert (finding.level, finding.site, finding.since) == ("collapsed", "a", 60)


def many(looks, **series):
    """As ``history``, of more looks; lists are as long."""
    made = History()
    for look in range(looks):
        figures = {name: values[look] if isinstance(values, list) else values for name, values in series.items()}
        made.add(10 * (look + 1), {f"{name}/network" if "__" not in name else name.replace("__", "/"): value
                                   for name, value in figures.items()})  # fmt: skip
    return made


@pytest.mark.parametrize(
    ("rank", "spread", "alarms"),
    [(1.0, 1.0, True), (1.2, 1.0, False), (then(9.0, 1.0), 1.0, False), (1.0, 1e-3, False)],
)
def test_units_that_were_alike_from_the_beginning(rank, spread, alarms):
    made = history(effective_rank=rank, output_size=1.0, output_spread=spread, **NORMS)
    assert ("alike_units" in rules(made)) is alarms


@pytest.mark.parametrize(
    ("mean", "dead", "alarms"),
    [(300.0, 1.0, True), (300.0, 0.1, False), (3.0, 1.0, False), (then(1.0, 300.0), 1.0, False)],
)
def test_inputs_of_another_scale_and_damage(mean, dead, alarms):
    assert ("unscaled_input" in rules(history(input_mean=mean, input_std=1.0, dead__a=dead))) is alarms


def test_frozen_layers_need_no_gradient():
    made = history(gradient_norm__a=0.0, gradient_norm__b=1.0)
    made.frozen = ["a"]
    assert "no_gradient" not in rules(made)


SMALL = {"update_ratio__a": 1e-4, "gradient_cosine__a": 0.5, "error_signal": 1.0}


@pytest.mark.parametrize(
    ("changes", "alarms"),
    [
        ({}, True),
        ({"gradient_cosine__a": 0.05}, False),  # noise at the bottom of a valley
        ({"error_signal": [0.8**look for look in range(LOOKS)]}, False),  # it works
        ({"update_ratio__a": 1e-3}, False),
        ({"update_ratio__a": then(1e-3, 1e-4)}, False),  # not for long
        ({"error_signal": then(1.0, 1e-3, looks=10)}, False),  # it is learned
        ({"gradient_cosine__a": None}, False),
    ],
)
def test_small_steps_that_agree_and_change_nothing(changes, alarms):
    assert ("small_update" in rules(history(**SMALL | changes))) is alarms


def test_a_layer_whose_gradient_vanished_is_not_left_out():
    made = pair("update_ratio", 0.0, 1e-3)
    assert "no_update" not in rules(history(**made, **pair("gradient_norm", 1e-14, 1.0)))
    assert "no_update" in rules(history(**made, **pair("gradient_norm", 1e-6, 1.0)))


def test_nobody_moves_where_the_rate_is_annealed_to_zero():
    assert "no_update" not in rules(
        history(**pair("update_ratio", then(1e-3, 0.0), then(1e-3, 0.0)), gradient_norm__a=1.0)
    )


def test_answers_around_a_large_mean_are_not_constant_while_they_spread():
    spreads = [0.05, 0.08, 0.2, 0.4, *[0.9] * (LOOKS - 4)]
    assert "constant_output" not in rules(history(output_size=5e3, output_spread=spreads))
    assert "constant_output" in rules(history(output_size=5e3, output_spread=0.05))


def test_an_error_that_was_next_to_nothing_may_jump():
    errors = [1.0, 1.0, 1.0, 1e-4, 1e-4, 1e-4, *[0.02] * (LOOKS - 6)]
    assert "diverging_output" not in rules(history(output_size=then(0.1, 6.0, looks=9), error_signal=errors))


def test_thresholds_and_patience_are_used():
    made = history(dead__a=then(0.1, 0.9, looks=4))
    assert [finding.rule for finding in judge(made)] == ["dead_units"]
    assert judge(made, Thresholds(dead=0.95)) == []
    assert judge(made, Thresholds(patience=5)) == []


def test_the_worst_stands_first():
    made = history(dead__a=0.9, nonfinite__b=1.0, gradient_norm__a=1.0)
    levels = [finding.level for finding in judge(made)]
    assert (levels[0], levels[-1]) == ("collapsed", "at risk")


@pytest.mark.parametrize("options", [{"patience": 0}, {"slow_looks": 1.5}, {"dead": 0.0}, {"fading": math.inf}])
def test_wrong_thresholds(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        Thresholds(**options)


METRICS = (
    "gradient_norm weight_norm update_ratio effective_learning_rate normalised_step nonfinite dormant gradient_dormant "
    "leftover_gradient dead saturated gradient_cosine error_signal output_size output_spread input_mean input_std "
    "effective_rank churn loss weight_gain"
)
KEYS = [f"{metric}/{site}" for metric in METRICS.split() for site in ("a", "b", "network")]
FIGURES = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1e30, math.inf, -math.inf]))


@given(st.lists(FIGURES, min_size=1, max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=200)
def test_whatever_is_missing_or_infinite_there_is_a_verdict(looks, patience):
    made = History()
    for step, figures in enumerate(looks):
        made.add(step, figures)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge(made, Thresholds(patience=patience))


@pytest.mark.parametrize(
    ("ranks", "level"),
    [
        ((1.9, 1.9, 1.4), "at risk"),
        ((3.9, 1.3, 1.3), None),
        ((3.9, 1.3, 1.3, 1.3), "at risk"),
        ((1.1, 1.2, 1.3), None),  # of sigmoids, say, which spread as they learn
        ((30.0, 1.2, 1.2), "collapsing"),
        ((3.1, 1.9, 3.0, 1.9), None),
    ],
)
def test_features_of_next_to_one_direction(ranks, level):
    made = History()
    for look, rank in enumerate(ranks):
        made.add(100 * (look + 1), {"effective_rank/network": rank})
    found = [finding.level for finding in judge(made, Thresholds()) if finding.rule == "rank_collapse"]
    assert found == ([level] if level else [])


def first(value):
    return [value] + [None] * (LOOKS - 1)


def test_what_broke_later_is_not_of_the_first_weights():
    at_once, later = ({"dead__a": [0.1] * looks + [1.0] * (40 - looks)} for looks in (0, 20))
    made = []
    for dead in (at_once, later):
        figures = History()
        for look in range(40):
            row = {"dead/a": dead["dead__a"][look], "weight_norm/a": 1.0}
            figures.add(10 * (look + 1), row | ({"weight_gain/a": 9.0} if look == 0 else {}))
        made.append("unscaled_weights" in rules(figures))
    assert made == [True, False]


SICK = {"output_size": 1.0, "output_spread": 1e-6}


@pytest.mark.parametrize(("gain", "size"), [(9.0, "large"), (0.01, "small")])
def test_weights_that_stretch_or_shrink_are_found_where_something_is_wrong_from_the_start(gain, size):
    gains = pair("weight_gain", first(gain), first(1.0 if gain > 1 else gain)) | NORMS
    finding = next(one for one in judge(history(**gains, **SICK)) if one.rule == "unscaled_weights")
    assert (finding.site, finding.level, finding.since, finding.value) == ("a", "collapsing", 10, gain)
    assert f"too {size}" in finding.reason
    assert "unscaled_weights" not in rules(history(**gains))  # it learns all the same


@pytest.mark.parametrize("gains", [(1.0, 0.01, 0.58), (0.58, 0.58, 0.01), (0.0, 0.0, 0.58), (math.nan, 0.58, 0.01)])
def test_small_heads_and_zeros_are_meant_so(gains):
    figures = {f"weight_gain__{site}": first(gain) for site, gain in zip("abc", gains, strict=True)}
    assert "unscaled_weights" not in rules(history(**figures, **NORMS, **SICK))


def test_first_steps_as_long_as_weights_are_an_extreme_rate():
    """Of Adam: 0.7 times a rate of 0.5, where the effective rate is that over the weights' square."""
    figures = {"normalised_step__a": 0.7, "effective_learning_rate__a": 0.5 / 16, "weight_norm__a": 4.0}
    finding = rules(history(**figures, effective_rank=1.2))["extreme_rate"]
    assert finding.value == pytest.approx(0.35)
    assert "extreme_rate" not in rules(history(**figures, effective_rank=20.0))  # nothing came of it
    usual = figures | {"effective_learning_rate__a": 1e-3 / 16}
    assert "extreme_rate" not in rules(history(**usual, effective_rank=1.2))


def test_short_steps_are_right_where_all_is_learned():
    figures = {"normalised_step__a": long(0.2, 1e-3), "gradient_cosine__a": 0.6}
    assert "stale_state" in rules(history(**figures, error_signal=1.0))
    learned = [1.0, 1.0, 0.2, *[0.03] * (LOOKS - 3)]
    assert "stale_state" not in rules(history(**figures, error_signal=learned))
    # At once it fell as the loss has another scale.
    assert "stale_state" in rules(history(**figures, error_signal=[1e5, 1e5, *[1.0] * (LOOKS - 2)]))


def test_weights_out_of_all_proportion_are_the_cause_whenever_it_shows():
    """Behind a batch norm, which hides their size, they learn next to nothing; that takes a while to be seen."""
    made = {}
    for gain in (9.0, 900.0):
        figures = History()
        for look in range(40):
            row = {"dead/a": 0.1 if look < 20 else 1.0, "weight_norm/a": 1.0}
            figures.add(10 * (look + 1), row | ({"weight_gain/a": gain} if look == 0 else {}))
        made[gain] = "unscaled_weights" in rules(figures)
    assert made == {9.0: False, 900.0: True}


def scheduled(rates, **others):
    """Figures of a layer of norm 1 under a learning rate."""
    return history(weight_norm__a=1.0, effective_learning_rate__a=rates, **others)


def rules_of(made):
    return {finding.rule for finding in judge(made)}


@pytest.mark.parametrize(
    ("rates", "error", "alarms"),
    [
        (then(1e-2, 1e-5), 1.0, True),
        (then(1e-2, 1e-5), then(1.0, 0.1), False),  # it is learned: the end of a schedule
        (then(1e-2, 2e-4), 1.0, False),  # a fiftieth
        (1e-5, 1.0, False),  # low from the beginning: another rule's
    ],
)
def test_a_schedule_that_starves(rates, error, alarms):
    made = scheduled(rates, update_ratio__a=then(1e-3, 0.0), error_signal=error)
    assert ("starved_rate" in rules_of(made)) == alarms


def test_a_layer_that_no_optimizer_holds_hides_no_schedule():
    """It has weights and no rate."""
    made = scheduled(then(1e-2, 1e-5), update_ratio__a=then(1e-3, 0.0), error_signal=1.0, weight_norm__b=2.0)
    assert "starved_rate" in rules_of(made)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5])
def test_a_finding_there_and_back_through_json(value):
    finding = Finding("nonfinite", "collapsed", "network", 3, value, 0.0, "it is none")
    back = Finding.from_dict(json.loads(json.dumps(finding.to_dict(), allow_nan=False)))
    assert repr(back) == repr(finding)
    json.dumps(Report([finding], History()).to_dict(), allow_nan=False)


@pytest.mark.parametrize(("rates", "alarms"), [(1e-2, True), (then(1e-2, 5e-4), False)])
def test_steps_at_the_end_of_a_schedule_are_short_on_purpose(rates, alarms):
    made = scheduled(rates, update_ratio__a=then(1e-3, 1e-7), error_signal=1.0)
    assert ("small_update" in rules_of(made)) == alarms


@pytest.mark.parametrize(("error", "alarms"), [(1.0, True), (then(1.0, 1e-3), False)])
def test_one_direction_is_enough_for_what_is_learned(error, alarms):
    assert ("rank_collapse" in rules_of(history(effective_rank=1.5, error_signal=error))) == alarms


def test_a_history_until_a_step_is_what_was_known_then():
    made = history(update_ratio__a=then(1e-3, 0.1), dead__a=then(0.1, 1.0))
    seen = made.until(50)
    assert seen.series("dead").steps.tolist() == [10, 20, 30, 40, 50]
    assert judge(seen) == []
    assert judge(made.until(10**6)) == judge(made)
    assert seen.rows == made.rows[:5]
    assert made.until(5).rows == made.until(5).metrics() == []
    assert not made.until(5).series("dead")


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.one_of(st.floats(-1e3, 1e3), st.sampled_from([np.nan, np.inf])),
    )
)
def test_the_middle_of_sites_is_numpys_median(values):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected = np.nanmedian(values, axis=1)
        np.testing.assert_array_equal(middle(values), expected)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (scheduled(then(1e-2, 2e-3), update_ratio__a=then(1e-3, 1e-7), error_signal=1.0), {"annealed": 0.3}),
        (history(**SMALL), {"slow_looks": 13}),
        (history(**SMALL | {"error_signal": then(1.0, 0.2, looks=10)}), {"learned": 0.3}),
    ],
)
def test_what_decides_can_be_set(made, options):
    assert "small_update" in {finding.rule for finding in judge(made)}
    assert "small_update" not in {finding.rule for finding in judge(made, Thresholds(**options))}


def test_when_weights_are_out_of_all_proportion_can_be_set():
    late = many(40, dead__a=[0.1] * 20 + [1.0] * 20, weight_norm__a=1.0, weight_gain__a=[9.0] + [math.nan] * 39)
    assert "unscaled_weights" not in rules(late)
    assert "unscaled_weights" in {finding.rule for finding in judge(late, Thresholds(absurd=1.5))}


FALLEN = [1.0] * 5 + [0.1] * 25


def gained(gains, **others):
    """Layers of first gains, in a history of more looks."""
    made = history(**{f"weight_norm__{n}": 1.0 for n in range(len(gains))}, gradient_norm__0=1.0, **others)
    made.add(10, {f"weight_gain/{n}": gain for n, gain in enumerate(gains)})
    return made


@pytest.mark.parametrize(
    ("gains", "others", "alarms"),
    [
        ([4.0] * 8, {"output_size": 1e5}, True),  # each below what is too large for one, together 4,000
        ([4.0] * 8, {"output_size": 1.0}, False),  # something normalises on the way
        ([4.0] * 8, {"output_size": 1.0, "dead__0": 1.0}, True),
        ([1.5] * 30, {"output_size": 1e5}, False),  # hardly above that of ReLU: outputs are large for another reason
        ([4.0] * 2 + [0.1] * 6, {"output_size": 1e5}, False),
    ],
)
def test_layers_that_each_stretch_a_little_stretch_much_together(gains, others, alarms):
    made = gained(gains, **others)
    assert ("unscaled_weights" in rules(made)) is alarms
    if alarms:
        assert rules(made)["unscaled_weights"].site == "network"
        assert prescribe([rules(made)["unscaled_weights"]])[0].name == "orthogonal_init"


@pytest.mark.parametrize(("gain", "alarms"), [(0.01, True), (1.0, False)])
def test_tiny_first_weights_explain_what_shows_late(gain, alarms):
    made = many(40, dead__a=[0.1] * 20 + [1.0] * 20, weight_norm__a=1.0, weight_norm__b=1.0,
                weight_gain__a=[gain] + [math.nan] * 39, weight_gain__b=[gain] + [math.nan] * 39)  # fmt: skip
    assert ("unscaled_weights" in rules(made)) is alarms
