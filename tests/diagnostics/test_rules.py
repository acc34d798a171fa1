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
from stablegrad.diagnostics.rules import Finding, passed
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
    "large_update": (lambda t: pair("update_ratio", t(1e-3, 0.1), t(1e-3, 0.1)), "network", "at risk"),
    "nonfinite_input": (
        lambda t: {"nonfinite__a": t(None, 1.0), "input_mean": t(0.0, math.inf), "gradient_norm__a": 1.0},
        "network",
        "collapsed",
    ),
    "nonfinite_at_once": (
        lambda t: {"nonfinite__a": 1.0, "gradient_norm__a": math.inf, "input_mean": 0.0},
        "network",
        "collapsed",
    ),
    "nonfinite_suddenly": (
        lambda t: {"nonfinite__a": t(None, 1.0), "update_ratio__a": t(1e-3, None), "gradient_norm__a": t(1.0, None)},
        "network",
        "collapsed",
    ),
    "shrinking_output": (lambda t: {"output_size": 1.0, "output_spread": t(1.0, 0.05)}, "network", "at risk"),
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
    "saturated_units": (lambda t: {"saturated__a": t(0.1, 0.85)}, "a", "at risk"),
    "rank_collapse": (lambda t: {"effective_rank": t(30.0, 1.2)}, "network", "collapsing"),
    "policy_churn": (lambda t: {"churn": t(0.01, 0.8)}, "network", "at risk"),
    "constant_output": (lambda t: {"output_size": 1.0, "output_spread": t(1.0, 1e-5)}, "network", "collapsed"),
    "diverging_output": (
        lambda t: {"output_size": t(1.0, 50.0), "error_signal": t(1.0, 50.0)},
        "network",
        "collapsing",
    ),
    "input_shift": (lambda t: {"input_mean": t(0.0, 9.0), "input_std": 1.0}, "network", "at risk"),
}

#: What looks like an alarm and is none.
HEALTHY = {
    "no_gradient": {"gradient_norm__a": then(1.0, 0.0), "gradient_norm__b": then(1.0, 0.0)},  # nothing is left to learn
    "no_update": pair("gradient_norm", 0.0, 1.0) | pair("update_ratio", 0.0, 1e-3),  # no gradient: another rule's
    "vanishing_gradient": pair("gradient_norm", then(1.0, 1e-6), then(1.0, 1e-6)) | NORMS,  # all fall alike
    "fading_gradient": pair("gradient_norm", then(1.0, 1e-4), 1e-4, error_signal=then(1.0, 1e-4)),  # it is learned
    "exploding_gradient": pair("gradient_norm", then(1.0, 1e4), 1.0, error_signal=then(1.0, 1e4)),  # the error grew
    "large_update": pair("update_ratio", 1e-3, 1e-3) | {"update_ratio__c": 0.5},  # one small layer moves much
    "nonfinite_input": {"input_mean": dip(0.0, math.inf), "gradient_norm__a": 1.0},  # the loss took no notice
    "nonfinite_at_once": {"nonfinite__a": then(None, 1.0), "gradient_norm__a": then(1.0, math.inf), "input_mean": 0.0},
    "nonfinite_suddenly": {
        "nonfinite__a": then(None, 1.0),
        "update_ratio__a": [0.5] * (LOOKS - 5) + [None] * 5,  # it grew too large on its way
        "gradient_norm__a": then(1.0, None),
    },
    "shrinking_output": {"output_size": then(1.0, 0.1), "output_spread": then(1.0, 0.1)},  # all of it shrank
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
    "saturated_units": {"saturated__a": 0.7},
    "rank_collapse": {"effective_rank": then(300.0, 9.0)},  # ten classes, all learned
    "policy_churn": {"churn": 0.3},
    "constant_output": {"output_size": then(1.0, 1e-5), "output_spread": then(1.0, 1e-5)},  # all of it shrank
    "diverging_output": {"output_size": then(1.0, 50.0), "error_signal": 1.0},  # values grow as returns do
    "input_shift": {"input_mean": then(0.0, 2.0), "input_std": 1.0},
}


def rules(made):
    return {finding.rule: finding for finding in judge(made)}


def long(before, after):
    return then(before, after, looks=9)


#: Rules about the beginning, about a single moment, or about more looks than these: they have tests of their own.
APART = {"nonfinite", "overshooting", "update_burst", "ascending", "runaway", "alike_units", "blocked_output",
         "unscaled_input", "unscaled_target", "unscaled_weights", "extreme_rate", "rate_jump", "starved_rate",
         "collapsed_objective",
         "rising_loss", "not_learned_again"}  # fmt: skip


def test_every_rule_is_tested():
    assert set(ALARMS) == set(HEALTHY) == set(RULES) - APART


@pytest.mark.parametrize("rule", ALARMS)
def test_what_lasts_alarms_at_its_place_and_since_its_step(rule):
    figures, site, level = ALARMS[rule]
    finding = rules(history(**figures(long)))[rule]
    assert (finding.site, finding.level) == (site, level)
    assert finding.since == (10 if rule == "nonfinite_at_once" else 10 * (LOOKS - 9 + 1))
    assert finding.reason


#: Rules that hold for good once they held.
FOR_GOOD = ("nonfinite_input", "nonfinite_at_once", "nonfinite_suddenly")


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
    ("cosine", "update", "error", "alarms"),
    [
        (-0.9, 0.05, 1.0, True),
        (-0.5, 0.05, 1.0, False),  # edge of stability
        (-0.9, 0.01, 1.0, False),  # short steps
        (-0.9, 0.05, [0.9**look for look in range(24)], False),  # it works
        ([0.1] * 14 + [-0.9] * 10, 0.05, 1.0, False),  # not for long
    ],
)
def test_steps_that_undo_each_other(cosine, update, error, alarms):
    made = many(24, gradient_cosine__a=cosine, update_ratio__a=update, error_signal=error)
    assert ("overshooting" in rules(made)) is alarms


@pytest.mark.parametrize(
    ("update", "dead", "found"),
    [
        (1e-3, 1.0, {"update_burst", "thrown_weights"}),
        (1e-3, 0.1, set()),  # nothing came of it
        (0.1, 1.0, {"thrown_weights"}),  # steps were long before
    ],
)
def test_a_burst_is_a_long_step_after_usual_ones_that_left_damage(update, dead, found):
    updates = [update] * 8 + [0.9] + [update] * 3
    made = history(update_ratio__a=updates, dead__a=[0.1] * 8 + [dead] * 4)
    assert set(rules(made)).intersection({"update_burst", "thrown_weights"}) == found


GROWING = [1.5**look for look in range(LOOKS)]
AWAY = {"update_ratio__a": [1e-3 * one for one in GROWING], "gradient_cosine__a": 0.9, "output_size": GROWING}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"error_signal": 1.0}, {"ascending"}),
        ({"error_signal": GROWING}, {"runaway"}),
        ({"error_signal": [0.9**look for look in range(LOOKS)]}, set()),  # it works
        ({"error_signal": GROWING, "gradient_cosine__a": -0.9}, set()),  # steps that are too long turn back
        ({"error_signal": GROWING, "update_ratio__a": 1e-3}, set()),  # values grow as returns do
        ({"error_signal": 1.0, "output_size": 1.0}, set()),
        ({"error_signal": 1.0, "output_size": [1.2**look for look in range(LOOKS)]}, set()),  # seven times: a warm-up
    ],
)
def test_what_runs_away(changes, found):
    assert set(rules(history(**AWAY | changes))).intersection({"ascending", "runaway"}) == found


def test_what_ran_away_until_numbers_ended():
    ended = {name: [*values[:5], *[None] * (LOOKS - 5)] for name, values in AWAY.items() if isinstance(values, list)}
    ended |= {"error_signal": [*GROWING[:5], *[None] * (LOOKS - 5)], "gradient_cosine__a": [0.9] * 5 + [None] * 7}
    assert "runaway" in rules(history(**ended, nonfinite__a=[None] * 5 + [1.0] * 7))


@pytest.mark.parametrize(
    ("rank", "spread", "alarms"),
    [(1.0, 1.0, True), (1.2, 1.0, False), (then(9.0, 1.0), 1.0, False), (1.0, 1e-3, False)],
)
def test_units_that_were_alike_from_the_beginning(rank, spread, alarms):
    made = history(effective_rank=rank, output_size=1.0, output_spread=spread, **NORMS)
    assert ("alike_units" in rules(made)) is alarms


@pytest.mark.parametrize(
    ("order", "dead", "alarms"),
    [(["a", "b", "end"], 1.0, True), (["a", "end", "b"], 1.0, False), (["a", "b", "end"], then(0.1, 1.0), False)],
)
def test_an_activation_behind_the_last_layer(order, dead, alarms):
    made = history(dead__end=dead, **NORMS)
    made.set_order(order)
    assert ("blocked_output" in rules(made)) is alarms


@pytest.mark.parametrize(
    ("mean", "dead", "alarms"),
    [(300.0, 1.0, True), (300.0, 0.1, False), (3.0, 1.0, False), (then(1.0, 300.0), 1.0, False)],
)
def test_inputs_of_another_scale_and_damage(mean, dead, alarms):
    assert ("unscaled_input" in rules(history(input_mean=mean, input_std=1.0, dead__a=dead))) is alarms


@pytest.mark.parametrize(
    ("spread", "alarms"),
    [
        (then(1.0, 0.15, looks=5), False),  # drawn together for now
        (then(1.0, 0.3, looks=10), False),  # and not by much
        (then(1.0, 0.15, looks=10), True),
        (then(1.0, 0.05, looks=5), True),
        ([1.0, 1.0, *[0.1 + 0.025 * look for look in range(LOOKS - 2)]], False),  # spreading by what is learned
    ],
)
def test_outputs_that_draw_together_to_spread_anew(spread, alarms):
    assert ("shrinking_output" in rules(history(output_spread=spread, output_size=1.0))) is alarms


def test_steps_of_an_optimizer_that_normalises_them_do_not_end_numbers():
    figures = {
        "nonfinite__a": [None] * 3 + [1.0] * 9,
        "update_ratio__a": [0.1] * 3 + [None] * 9,
        "gradient_norm__a": 1.0,
    }
    assert "nonfinite_suddenly" not in rules(history(**figures))
    assert "nonfinite_suddenly" in rules(history(**figures, normalised_step__a=[0.9] * 3 + [None] * 9))


def test_frozen_layers_need_no_gradient():
    made = history(gradient_norm__a=0.0, gradient_norm__b=1.0)
    made.frozen = ["a"]
    assert "no_gradient" not in rules(made)


def test_long_steps_at_the_very_beginning_are_none_of_a_rate_too_high():
    assert "large_update" not in rules(history(update_ratio__a=[0.3] * 3 + [1e-3] * (LOOKS - 3)))
    assert "large_update" not in rules(history(update_ratio__a=[0.3] * 5 + [1e-3] * (LOOKS - 5)))
    assert "large_update" in rules(history(update_ratio__a=0.3))


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


@pytest.mark.parametrize(
    ("spread", "size", "alarms"),
    [
        (then(1.0, 0.05, looks=8), 1.0, True),
        (then(1.0, 0.1, looks=8), then(1.0, 0.1, looks=8), False),  # all of it shrank
        (1.0, then(1.0, 10.0, looks=8), False),  # a common part grew
    ],
)
def test_outputs_that_become_alike(spread, size, alarms):
    assert ("shrinking_output" in rules(history(output_spread=spread, output_size=size))) is alarms


@pytest.mark.parametrize(
    ("errors", "alarms"), [(then(1.0, 5.0, looks=7), True), (then(1.0, 1.2, looks=7), False), (None, True)]
)
def test_inputs_that_moved_are_no_matter_where_the_network_copes(errors, alarms):
    made = history(input_mean=then(0.0, 9.0, looks=7), input_std=1.0, error_signal=errors)
    assert ("input_shift" in rules(made)) is alarms


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


def test_long_first_steps_do_not_hide_a_burst():
    """An optimizer without a memory yet, such as Adagrad, begins with long steps."""
    updates = [0.2, 0.2, 0.1, *[1e-3] * 4, 3.0, *[1e-5] * 4]
    assert "update_burst" in rules(history(update_ratio__a=updates, dead__a=then(0.1, 1.0, looks=4)))
    often = [0.2, 0.2, 0.1, 1e-3, 0.2, *[1e-3] * 2, 3.0, *[1e-5] * 4]
    assert "update_burst" not in rules(history(update_ratio__a=often, dead__a=then(0.1, 1.0, looks=4)))


@pytest.mark.parametrize(("saturated", "alarms"), [(0.1, False), (then(0.1, 0.99), True)])
def test_moved_inputs_that_broke_something_count_where_the_error_had_not_fallen(saturated, alarms):
    moved = {"input_mean": then(0.0, 50.0), "input_std": 1.0, "error_signal": 1.0}
    assert ("input_shift" in rules(history(**moved, saturated__a=saturated))) is alarms


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


@pytest.mark.parametrize(
    ("losses", "alarms"),
    [
        ([1.0] * 20 + [0.01] * 20 + [1.0] * 30, True),
        ([1.0] * 20 + [0.01] * 20 + [1.0] * 6 + [0.01] * 20, False),  # a dip that recovered
        ([1.0] * 20 + [0.01] * 50 + [1.0] * 3, False),  # three looks
        ([1.0] * 20 + [1e-5] * 20 + [1e-3] * 30, False),  # next to nothing, all the same
        ([1.0] * 20 + [0.01, 0.3] * 30, False),  # of small batches, some of which are hard
        ([-1.0] * 20 + [-5.0] * 20 + [-0.1] * 30, False),  # a policy's, which has no scale
    ],
)
def test_a_loss_that_rises_again_and_stays(losses, alarms):
    made = History()
    for step, loss in enumerate(losses, start=1):
        made.add(step, {"loss/network": loss})
    assert ("rising_loss" in rules(made)) is alarms
    if alarms:
        # It rose at step 41, and the median of ten looks with the fifth of them.
        assert rules(made)["rising_loss"].since == 45


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


@pytest.mark.parametrize(
    ("rates", "dead", "alarms"),
    [
        (then(1e-3, 3e-2), then(0.1, 1.0), True),
        (then(1e-3, 3e-2), 0.1, False),  # no damage
        (then(1e-3, 5e-3), then(0.1, 1.0), False),  # five times as high
        ([0.0, 1e-3, 1e-2, *[1e-2] * (LOOKS - 3)], then(0.1, 1.0), False),  # a warm-up
    ],
)
def test_a_learning_rate_that_leaps(rates, dead, alarms):
    assert ("rate_jump" in rules_of(scheduled(rates, dead__a=dead))) == alarms


@pytest.mark.parametrize(
    ("error", "alarms"),
    [
        ([1.0] * 3 + [0.1] * 4 + [0.9] * 5, True),
        ([1.0] * 3 + [0.1] * 4 + [0.9] * 2 + [0.1] * 3, False),  # it recovers
        (1.0, False),  # nothing was learned yet that could be lost
    ],
)
def test_a_leap_that_loses_what_was_learned(error, alarms):
    assert ("rate_jump" in rules_of(scheduled(then(1e-3, 3e-2), error_signal=error))) == alarms


@pytest.mark.parametrize(("error", "alarms"), [(1.0, True), (then(1.0, 0.1), False)])
def test_long_steps_are_right_while_the_error_falls(error, alarms):
    assert ("large_update" in rules_of(history(update_ratio__a=then(1e-3, 0.1), error_signal=error))) == alarms


@pytest.mark.parametrize(
    ("error", "spread", "alarms"),
    [(then(1.0, 1e-3), then(1.0, 0.01), True), (1.0, then(1.0, 0.01), False), (then(1.0, 1e-3), 1.0, False)],
)
def test_an_objective_that_features_alike_fulfil(error, spread, alarms):
    found = rules_of(history(effective_rank=then(30.0, 1.2), error_signal=error, output_spread=spread, output_size=1.0))
    assert "rank_collapse" in found
    assert ("collapsed_objective" in found) == alarms


@pytest.mark.parametrize(("error", "alarms"), [(1.0, True), (then(1.0, 1e-3), False)])
def test_one_direction_is_enough_for_what_is_learned(error, alarms):
    assert ("rank_collapse" in rules_of(history(effective_rank=1.5, error_signal=error))) == alarms


@pytest.mark.parametrize(
    ("gain", "rule"), [(1.2, "nonfinite_suddenly"), (9.0, "nonfinite_at_once"), (None, "nonfinite_at_once")]
)
def test_numbers_that_end_at_once_are_of_the_weights_or_of_the_loss(gain, rule):
    found = rules_of(
        history(
            nonfinite__a=1.0, gradient_norm__a=math.inf, input_mean=0.0, weight_gain__a=[gain] + [None] * (LOOKS - 1)
        )
    )
    assert found & {"nonfinite_suddenly", "nonfinite_at_once"} == {rule}


def test_weights_that_stretch_much_together_are_not_of_a_usual_size():
    def found(layers):
        gains = {f"weight_gain__{layer}": [4.5] + [None] * (LOOKS - 1) for layer in layers}
        return rules_of(history(nonfinite__a=1.0, gradient_norm__a=math.inf, input_mean=0.0, **gains))

    assert "nonfinite_suddenly" in found("a")
    assert "nonfinite_suddenly" not in found("abcde")


@pytest.mark.parametrize(
    ("error", "size", "dead", "alarms"),
    [
        (1e5, 1.0, then(0.1, 1.0), True),
        (1e5, 1.0, 0.1, False),  # no damage
        (1e5, 1e3, then(0.1, 1.0), False),  # the outputs are as large
        (10.0, 1.0, then(0.1, 1.0), False),
    ],
)
def test_targets_of_another_scale_and_damage(error, size, dead, alarms):
    made = history(error_signal=error, output_size=size, dead__a=dead)
    assert ("unscaled_target" in rules_of(made)) == alarms


def test_a_cause_that_is_over_is_remembered_while_the_network_is_ill():
    """Long steps that ended when there was nothing left to move."""
    long = [1e-3] * 3 + [0.1] * 4 + [1e-3] * (LOOKS - 7)
    made = history(update_ratio__a=long, churn=0.8)
    found = judge(made)
    assert {finding.rule for finding in found} == {"policy_churn"}
    assert [(finding.rule, finding.since) for finding in passed(made, found)] == [("large_update", 40)]
    assert passed(made, []) == []
    spared = Thresholds(large_update=0.2)
    assert Report(found, made, thresholds=spared).passed == []
    assert Report(found, made).prescriptions[0].name == "lower_learning_rate"


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


def blocked():
    made = history(dead__end=0.97, **NORMS)
    made.set_order(["a", "b", "end"])
    return made


LOSSES = [1.0] * 20 + [0.01] * 20 + [0.5] * 30
ALIKE_AND_LEARNED = {"effective_rank": then(30.0, 1.2), "error_signal": then(1.0, 1e-3), "output_size": 1.0}


@pytest.mark.parametrize(
    ("rule", "made", "options"),
    [
        ("large_update", history(update_ratio__a=then(1e-3, 0.1), error_signal=then(1.0, 0.5)), {"learning": 0.6}),
        ("small_update", scheduled(then(1e-2, 2e-3), update_ratio__a=then(1e-3, 1e-7), error_signal=1.0),
         {"annealed": 0.3}),
        ("small_update", history(**SMALL), {"slow_looks": 13}),
        ("small_update", history(**SMALL | {"error_signal": then(1.0, 0.2, looks=10)}), {"learned": 0.3}),
        ("overshooting", many(24, gradient_cosine__a=-0.9, update_ratio__a=0.05, error_signal=1.0),
         {"long_step": 0.1}),
        ("ascending", history(**AWAY, error_signal=1.0), {"far": 1e3}),
        ("runaway", history(**AWAY, error_signal=GROWING), {"staying": 1e3}),
        ("collapsed_objective", history(**ALIKE_AND_LEARNED, output_spread=then(1.0, 0.01)), {"equal_outputs": 5e-3}),
        ("blocked_output", blocked(), {"blocked": 0.98}),
        ("shrinking_output", history(output_size=1.0, output_spread=then(1.0, 0.05)), {"shrunk": 0.01}),
        ("rate_jump", scheduled(then(1e-3, 3e-2), error_signal=[1.0] * 3 + [0.1] * 4 + [0.9] * 5), {"lost": 10}),
        ("rising_loss", many(len(LOSSES), loss=LOSSES), {"forgotten": 0.6}),
    ],
)  # fmt: skip
def test_what_decides_can_be_set(rule, made, options):
    assert rule in {finding.rule for finding in judge(made)}
    assert rule not in {finding.rule for finding in judge(made, Thresholds(**options))}


def test_when_weights_are_out_of_all_proportion_can_be_set():
    late = many(40, dead__a=[0.1] * 20 + [1.0] * 20, weight_norm__a=1.0, weight_gain__a=[9.0] + [math.nan] * 39)
    assert "unscaled_weights" not in rules(late)
    assert "unscaled_weights" in {finding.rule for finding in judge(late, Thresholds(absurd=1.5))}


FALLEN = [1.0] * 5 + [0.1] * 25


@pytest.mark.parametrize(
    ("after", "alarms"),
    [
        ([0.9] * 25, True),
        ([0.9] * 10, False),  # not for long enough
        ([0.5] * 25, False),  # some of it is kept
        ([1.0 - 0.02 * look for look in range(25)], False),  # it falls again
        ([1.0 - 0.012 * look for look in range(25)], False),  # slowly, and is high for all that
        ([0.1] * 25, False),
    ],
)
def test_an_error_that_is_back_for_good_was_not_learned_again(after, alarms):
    made = many(30 + len(after), error_signal=FALLEN + after, gradient_norm__a=1.0)
    found = [finding for finding in judge(made) if finding.rule == "not_learned_again"]
    assert bool(found) is alarms
    if alarms:
        assert found[0].since == 10 * 31  # the first look after the fall
        assert found[0].value == pytest.approx(0.9)
        assert not any(judge(made, Thresholds(back=0.95)))


def test_an_error_that_never_fell_is_not_one_that_came_back():
    assert "not_learned_again" not in rules(many(60, error_signal=1.0, gradient_norm__a=1.0))


def test_units_may_say_yes_or_no_once_the_error_has_fallen():
    assert "saturated_units" in rules(history(saturated__a=0.95, error_signal=then(1.0, 0.8)))
    assert "saturated_units" not in rules(history(saturated__a=0.95, error_signal=then(1.0, 0.5)))
    assert "saturated_units" in rules(history(saturated__a=0.95))  # an error that was not seen


def test_a_leap_of_the_rate_between_two_looks_is_a_jump():
    usual = {
        "weight_norm__a": 1.0,
        "effective_learning_rate__a": 1e-3,
        "error_signal": [1.0] * 3 + [0.1] * 4 + [0.9] * 5,
    }
    assert "rate_jump" not in rules(history(**usual, peak_learning_rate__a=1e-3))
    leaps = [1e-3] * 7 + [0.05] + [1e-3] * 4
    assert "rate_jump" in rules(history(**usual, peak_learning_rate__a=leaps))


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


def test_outputs_that_begin_next_to_nothing_may_grow():
    away = {name: value for name, value in AWAY.items() if name != "output_size"}
    small = [1e-3 * value for value in GROWING]
    assert "ascending" in rules(history(**away, output_size=GROWING, error_signal=1.0))
    assert "ascending" not in rules(history(**away, output_size=small, error_signal=1.0))


@pytest.mark.parametrize(("gain", "alarms"), [(0.01, True), (1.0, False)])
def test_tiny_first_weights_explain_what_shows_late(gain, alarms):
    made = many(40, dead__a=[0.1] * 20 + [1.0] * 20, weight_norm__a=1.0, weight_norm__b=1.0,
                weight_gain__a=[gain] + [math.nan] * 39, weight_gain__b=[gain] + [math.nan] * 39)  # fmt: skip
    assert ("unscaled_weights" in rules(made)) is alarms


def test_a_leap_that_ends_in_no_numbers_is_a_jump():
    leaps = [1e-3] * 8 + [0.05] + [1e-3] * 3
    broken = [None] * 8 + [1.0] * 4
    assert "rate_jump" in rules(history(weight_norm__a=1.0, peak_learning_rate__a=leaps, nonfinite__a=broken))
    assert "rate_jump" not in rules(history(weight_norm__a=1.0, peak_learning_rate__a=leaps))
