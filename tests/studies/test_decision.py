import importlib.util
from pathlib import Path

import numpy as np
import pytest

from stablegrad.studies.decision import CERTAINTIES, MOST_SEEDS, certainty, decide
from stablegrad.studies.power import pairs_needed
from stablegrad.studies.statistics import mean_interval


def _load():
    specification = importlib.util.spec_from_file_location("evidence_of", Path(__file__).with_name("evidence_of.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.evidence_of


evidence_of = _load()


def codes(decision):
    return {risk.code for risk in decision.risks}


def criteria(decision, stage):
    found = next(one for one in decision.stages if one.name == stage)
    return {criterion.code: criterion for criterion in found.criteria}


def test_certainty_is_the_widest_interval_that_excludes_zero():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.normal(generator.uniform(-3, 3), 1, generator.integers(3, 8))
        expected = "cannot_tell"
        for name, confidence in reversed(CERTAINTIES.items()):
            low, high = mean_interval(values, confidence).interval
            if low > 0 or high < 0:
                expected = name
        assert certainty(list(values)) == expected
    assert certainty([]) == "none"
    assert certainty([5.0]) == certainty([5.0, 5.0]) == "few"  # two equal differences have no width, and prove nothing
    assert certainty([0.0, 0.0, 0.0]) == "equal"
    assert certainty([1.0, 1.0, 1.0]) == "practically_certain"


# Comparisons: one size


def test_a_clear_win_goes_on_to_a_bigger_network():
    decision = decide(evidence_of([[10.0, 12.0, 11.0]], [[50.0, 53.0, 50.5]]))
    assert (decision.answer, decision.verdict, decision.stage) == ("better", "go_on", "scale")
    assert decision.next_step == "bigger" and decision.next_seeds == 3
    assert decision.advantage.mean == pytest.approx(40.166666666666664) and decision.advantage.won == 3
    margin = criteria(decision, "trial")["improvement"]
    low, high = mean_interval([40, 41, 39.5]).interval
    assert margin.required == pytest.approx((high - low) / 2) and margin.met
    assert criteria(decision, "scale")["improvement"].required == pytest.approx(low)
    assert decision.next_seconds == pytest.approx(3 * (100 + 120))
    assert {"one_task", "one_size", "no_paper_budget", "one_machine"} == codes(decision)


def test_a_clear_loss_stops_at_the_probe():
    decision = decide(evidence_of([[50.0, 53.0, 50.5]], [[10.0, 12.0, 11.0]]))
    assert (decision.answer, decision.verdict, decision.stage, decision.next_step) == (
        "worse",
        "no_go",
        "probe",
        "stop",
    )
    assert [stage.state for stage in decision.stages] == ["failed", "later", "later"]
    assert decision.next_seconds is None


def test_a_likely_win_asks_for_as_many_seeds_as_its_scatter_needs():
    differences = [20.0, 60.0, 45.0]
    decision = decide(evidence_of([[0.0, 0.0, 0.0]], [differences]))
    assert decision.advantage.certainty == "likely" and decision.answer == "leans_better"
    assert (decision.verdict, decision.stage, decision.next_step) == ("go_on", "trial", "more_seeds")
    assert decision.next_seeds == pairs_needed(differences) == criteria(decision, "trial")["pairs"].required
    assert criteria(decision, "trial")["improvement"].met is None
    assert "few_seeds" in codes(decision)


def test_an_effect_that_needs_too_many_seeds_is_no_go():
    differences = [10.0, -9.0, 8.0, -8.5]
    assert pairs_needed(differences) is None or pairs_needed(differences) > MOST_SEEDS
    decision = decide(evidence_of([[0.0] * 4], [differences]))
    assert (decision.answer, decision.verdict, decision.stage) == ("unclear", "no_go", "trial")
    assert criteria(decision, "trial")["pairs"].required is None


def test_ties_are_told_as_ties():
    decision = decide(evidence_of([[500.0] * 3], [[500.0] * 3]))
    assert decision.answer == "equal" and decision.advantage.certainty == "equal"
    assert decision.advantage.seeds_needed is None
    assert decision.verdict == "no_go"  # no improvement that a probe could see


def test_negative_scores():
    decision = decide(evidence_of([[-200.0, -210.0, -190.0]], [[-90.0, -95.0, -80.0]]))
    assert decision.answer == "better" and decision.advantage.before_mean == -200 and decision.advantage.direction == 1


def test_no_finished_baseline():
    decision = decide(evidence_of([[None, None, None]], [[1.0, 2.0, 3.0]]))
    assert (decision.answer, decision.verdict, decision.next_step) == ("none", "wait", "finish")
    assert decision.advantage.mean is None and decision.advantage.interval is None
    assert decision.break_even.state == "unknown" and decision.costs[0].seconds is None
    assert decision.next_seconds is None  # no run of the baseline tells how long one takes
    assert {"unfinished", "fewer_than_three"} <= codes(decision)


@pytest.mark.parametrize(("pairs", "step"), [(1, "probe"), (2, "more_seeds")])
def test_one_and_two_seeds_are_a_first_look(pairs, step):
    decision = decide(evidence_of([[10.0] * pairs], [[50.0, 50.1][:pairs]]))
    assert decision.answer == "few" and decision.advantage.certainty == "few"
    assert "fewer_than_three" in codes(decision)
    assert decision.next_step == step and decision.next_seeds == 3
    assert decision.verdict == ("wait" if pairs == 1 else "go_on")
    assert (decision.advantage.interval is None) == (pairs == 1)


def test_runs_that_are_left_come_first_and_failed_ones_are_told():
    scores = evidence_of([[10.0, 12.0, 11.0, 9.0]], [[50.0, 53.0, 50.5, None]])
    decision = decide(scores)
    assert decision.verdict == "wait" and decision.next_step == "finish" and decision.next_seconds == 120
    failed = decide(evidence_of([[10.0, 12.0, 11.0, 9.0]], [[50.0, 53.0, 50.5, None]], failed={("stable", 0, 4)}))
    assert failed.verdict == "go_on" and failed.advantage.count == 3
    risk = next(risk for risk in failed.risks if risk.code == "failed")
    assert risk.values == {"count": 1, "runs": 8}


def test_a_candidate_that_collapses_more_often_does_not_pass():
    scores = ([[10.0, 12.0, 11.0]], [[50.0, 53.0, 50.5]])
    decision = decide(evidence_of(*scores, lost={("stable", 0): 2, ("baseline", 0): 1}))
    assert decision.verdict == "no_go" and criteria(decision, "probe")["steady"].observed == pytest.approx(2 / 3)
    assert {"collapse"} <= codes(decision)
    both = decide(evidence_of(*scores, lost={("stable", 0): 3, ("baseline", 0): 3}))  # all collapsed: no reason to stop
    assert both.verdict == "go_on" and sum(risk.code == "collapse" for risk in both.risks) == 2


@pytest.mark.parametrize(
    ("seconds", "changes", "state"),
    [
        ((100, 120), {"steps_share": 0.5, "whole_run_share": 0.4}, "reached"),
        ((100, 120), {"steps_share": 0.9, "whole_run_share": 0.4}, "missed"),
        ((100, 120), {"candidate_short": True}, "never"),
        ((100, 120), {"nothing_to_reach": True}, "nothing_to_reach"),
        ((100, 100), {}, "free"),
        ((100, 120), {}, "unknown"),
        ((None, 120), {"steps_share": 0.5}, "unknown"),
    ],
)
def test_break_even(seconds, changes, state):
    walls = dict(zip(("baseline", "stable"), seconds, strict=True))
    decision = decide(evidence_of([[10.0, 12.0, 11.0]], [[50.0, 53.0, 50.5]], seconds=walls, **changes))
    even = decision.break_even
    assert even.state == state
    if seconds[0] is None:
        assert even.time_ratio is None and even.allowed_share is None
    else:
        assert even.time_ratio == pytest.approx(seconds[1] / seconds[0])
        assert even.allowed_share == pytest.approx(seconds[0] / seconds[1])


def test_a_step_that_costs_too_much_stops_the_trial():
    scores = ([[10.0, 12.0, 11.0]], [[50.0, 53.0, 50.5]])
    dear = decide(evidence_of(*scores, seconds={"baseline": 100.0, "stable": 300.0}, whole_run_share=0.5))
    assert dear.verdict == "no_go" and dear.stage == "trial"
    time = criteria(dear, "trial")["time"]
    assert (time.required, time.observed, time.met) == (2.0, pytest.approx(3.0), False)


def test_budgets_and_machines():
    scores = ([[10.0, 12.0, 11.0]], [[50.0, 53.0, 50.5]])
    decision = decide(evidence_of(*scores, budget=500_000, paper_budget=50_000_000, machines=["one", "another"]))
    assert {"short_steps", "several_machines"} <= codes(decision)
    assert next(risk for risk in decision.risks if risk.code == "short_steps").values["share"] == 0.01
    assert "no_paper_budget" not in codes(decision)
    assert "short_steps" not in codes(decide(evidence_of(*scores, budget=9, paper_budget=9)))


# Studies: several sizes


def study(baseline_large, stable_large, stable_small=50.0, **changes):
    """Three seeds with a scatter of a point around these means; the small baseline is at 50."""
    around = np.array([-1.0, 0.2, 0.8])
    other = np.array([0.4, -1.1, 0.7])
    baseline = [list(50.0 + around), list(baseline_large + other)]
    return decide(evidence_of(baseline, [list(stable_small - around), list(stable_large + around[::-1])], **changes))


@pytest.mark.parametrize(
    ("baseline_large", "stable_large", "stable_small", "answer", "verdict", "step"),
    [
        (20.0, 90.0, 50.0, "pays", "go", "adopt"),
        (20.0, 50.0, 80.0, "falls_too", "no_go", "keep_small"),
        (20.0, 45.0, 50.1, "falls_too", "no_go", "stay_small"),
        (90.0, 20.0, 50.0, "worse", "no_go", "stop"),
        (90.0, 90.0, 50.0, "grows_anyway", "no_go", "stop"),
    ],
)
def test_answers_of_a_study(baseline_large, stable_large, stable_small, answer, verdict, step):
    decision = study(baseline_large, stable_large, stable_small)
    assert (decision.answer, decision.verdict, decision.next_step) == (answer, verdict, step)


def test_rescued_and_any_size():
    flat = [[50.0, 52.0, 48.0], [50.5, 51.0, 48.2]]
    rescued = decide(evidence_of([[50.0, 52.0, 48.0], [5.0, 6.0, 4.5]], flat))
    assert rescued.answer == "rescued" and rescued.growth["stable"].certainty == "cannot_tell"
    assert rescued.growth["baseline"].decisive == -1
    any_size = decide(evidence_of([[5.0, 6.2, 5.5], [5.5, 6.0, 5.4]], flat))
    assert any_size.answer == "any_size"
    # The candidate is better at every size, but growing it is not worth 30 seeds, or the seeds are asked for.
    needed = any_size.growth["stable"].seeds_needed
    if needed is not None and needed <= MOST_SEEDS:
        assert any_size.next_step == "more_seeds" and any_size.next_seeds == needed
    else:
        assert any_size.next_step == "keep_small"


def test_a_candidate_that_only_promises_when_small_is_not_dropped():
    small, large = [9.0, 9.0, 63.0], [9.0, 9.0, 40.0]
    unsure = decide(evidence_of([small, large], [[100.0, 30.0, 84.0], [71.0, 79.0, 70.0]]))
    needed = pairs_needed([91.0, 21.0, 21.0])
    assert not unsure.by_size[0].decisive and 3 < needed <= MOST_SEEDS
    assert unsure.advantage.decisive == 1 and unsure.verdict == "no_go"
    assert (unsure.next_step, unsure.next_seeds) == ("settle_small", needed)
    hopeless = decide(evidence_of([small, large], [[10.0, 7.0, 64.0], [71.0, 79.0, 70.0]]))
    assert hopeless.next_step != "settle_small"


def test_a_size_in_between_may_be_the_best():
    baseline = [[10.0, 11.0, 12.0], [10.0, 12.0, 11.0], [9.0, 11.0, 10.0]]
    decision = decide(evidence_of(baseline, [[30.0, 31.0, 32.0], [90.0, 92.0, 91.0], [60.0, 61.5, 61.0]]))
    assert decision.answer == "peaks" and decision.best_size == 1
    assert "peak" in codes(decision)
    rising = decide(evidence_of(baseline, [[30.0, 31.0, 32.0], [60.0, 61.5, 61.0], [90.0, 92.0, 91.0]]))
    assert rising.answer == "pays" and rising.best_size == 2 and "peak" not in codes(rising)


def test_the_small_form_of_a_study_goes_on_to_the_full_one():
    assert study(20.0, 90.0, form="small").next_step == "full_form"


def test_the_winner_of_several_is_told_as_such():
    decision = study(20.0, 90.0, passed_over=("kron", "multi_skip"))
    risk = next(risk for risk in decision.risks if risk.code == "best_of")
    assert risk.values == {"count": 3, "setting": "stable"}


def test_every_size_is_compared_and_every_number_names_its_cells():
    decision = study(20.0, 90.0)
    assert [effect.mean > 10 for effect in decision.by_size] == [False, True]
    assert decision.scaling.before.size == 0 and decision.scaling.after.size == 1
    assert all(criterion.cells for stage in decision.stages for criterion in stage.criteria)
