"""What returns say of an agent that has not learned: simulated curves, and runs."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.cli.main import main
from stablegrad.diagnostics import History, Thresholds, judge
from stablegrad.diagnostics.prescriptions import prescribe
from stablegrad.diagnostics.recorded import returns_of
from stablegrad.diagnostics.rules import Outcome, logged_outcome
from stablegrad.diagnostics.rules.outcome import judge_outcome
from stablegrad.training.run_folder import RunFolder

LANDER = {"budget": 100_000, "random": -188.0, "target": 200.0}


def outcome(returns, until=100_000, **against):
    return Outcome(np.linspace(1000, until, len(returns)).astype(int), np.asarray(returns, dtype=float), **against)


def found(returns, **options):
    return judge_outcome(outcome(returns, **options), History(), Thresholds())


def noisy(curve, spread=5.0, seed=0):
    return np.asarray(curve) + np.random.default_rng(seed).normal(0.0, spread, len(curve))


FLAT, RISE = np.full(100, -190.0), np.linspace(-190.0, 50.0, 100)
FALL = np.concatenate([np.linspace(-190.0, 150.0, 50), np.linspace(150.0, -120.0, 20), np.full(30, -120.0)])


@pytest.mark.parametrize("seed", range(5))
def test_curves_are_called_what_they_are(seed):
    for against in ({}, {"budget": 100_000}, LANDER):
        (flat,) = found(noisy(FLAT, seed=seed), **against)
        level = "collapsing" if "target" in against else "at risk"
        assert (flat.rule, flat.level, flat.site) == ("not_learned", level, "network")
        assert found(noisy(RISE, seed=seed), **against) == []
        (fallen,) = found(noisy(FALL, seed=seed), **against)
        assert fallen.rule == "fallen_back" and fallen.level == "collapsing"
        assert 150 > fallen.reference > 120 and 50_000 < fallen.since < 90_000


def test_the_way_from_random_play_to_solved_is_told():
    (little,) = found(noisy(np.linspace(-190.0, -125.0, 100), 2.0), **LANDER)
    assert (little.rule, little.level) == ("not_learned", "at risk")
    assert "13% of the way from random play (-188; solved: 200)" in little.reason
    (none,) = found(noisy(np.linspace(-190.0, -210.0, 100), 2.0), **LANDER)
    assert none.level == "collapsing" and "no better than random play (-188; solved: 200)" in none.reason
    # Without a target, what is far from solved has learned all the same.
    assert found(noisy(np.linspace(-190.0, -125.0, 100), 2.0), budget=100_000) == []
    # A human is no solution.
    (game,) = found(noisy(np.linspace(1.0, 2.0, 100), 0.1), budget=100_000, random=1.7, target=30.5, kind="human")
    assert "a human's: 30.5" in game.reason
    # A target that random play reaches says nothing.
    assert found(noisy(RISE), random=-200.0, target=-200.0) == []


def test_random_play_is_known_without_a_target():
    (finding,) = found(noisy(np.linspace(-190.0, -100.0, 100)), budget=100_000, random=-100.0)
    assert "hardly better than that of random play (-100)" in finding.reason


def test_it_is_too_early_before_half_of_the_budget_and_with_few_returns():
    assert found(noisy(FLAT), until=49_000, **LANDER) == []
    assert [one.rule for one in found(noisy(FLAT), until=51_000, **LANDER)] == ["not_learned"]
    assert found(noisy(FLAT)[:19]) == [] and found(noisy(FLAT)[:20]) != []
    assert found([]) == []


def test_a_dip_that_recovers_and_one_that_has_just_begun_are_let_pass():
    dip = np.concatenate([RISE[:50], np.full(15, -180.0), np.linspace(-180.0, 60.0, 35)])
    assert found(noisy(dip)) == []
    begun = np.concatenate([np.linspace(-190.0, 150.0, 92), np.full(8, -150.0)])
    assert found(noisy(begun), **LANDER) == []


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**31), offset=st.floats(-1e3, 1e3), scale=st.floats(0.1, 100.0))
def test_what_falls_back_does_so_in_any_units(seed, offset, scale):
    """Gains that stand out of the beginning's size; a constant added to every reward changes what stands out."""
    curve = offset + scale * noisy(FALL, seed=seed)
    first, best = curve[:3].mean(), curve.max()
    rules = [one.rule for one in found(curve)]
    if best - first > 0.5 * abs(first):
        assert rules == ["fallen_back"]
    assert rules in ([], ["fallen_back"], ["not_learned"])


def test_returns_are_those_that_a_loop_logs_or_a_run_writes_and_are_judged_on_request_alone():
    history, rows = History(), []
    for step, value in enumerate(noisy(FLAT).tolist(), start=1):
        history.add(step, {"episode_return/network": value})
        rows.append({"step": step, "train/return": value if step % 3 else None})
    assert judge(history) == []
    assert [one.rule for one in judge(history, outcome=logged_outcome(history))] == ["not_learned"]
    steps, returns = returns_of([*rows, {"step": 200, "loss/td": 1.0}, {"step": 300, "train/return": float("nan")}])
    assert steps.tolist() == [step for step in range(1, 101) if step % 3] and len(returns) == len(steps)


def test_what_has_not_learned_or_fell_back_is_given_skips_first_where_they_fit():
    """The quickstart's 22 plain layers fall back at a third and a tenth of the rate as well (docs/benchmarks.md)."""
    (flat,), (fallen,) = found(noisy(FLAT)), found(noisy(FALL))
    for one in (flat, fallen):
        assert prescribe([one], {"multi_skip", "lower_learning_rate", "kron"})[0].name == "multi_skip"
    assert prescribe([fallen], {"lower_learning_rate", "clip_gradients"})[0].name == "lower_learning_rate"
    json.dumps(flat.to_dict())


def test_a_run_that_has_not_learned_says_so_in_its_summary_in_diagnose_and_on_its_page(tmp_path, capsys):
    """A rate so small that nothing is learned; the same run says nothing before half of its budget."""
    options = ["--env", "CartPole-v1", "--num-envs", "4", "--num-steps", "8", "--num-minibatches", "2"]
    options += ["--torso.width", "8", "--torso.depth", "0", "--optimizer.learning-rate", "1e-12", "--threads", "1"]
    options += ["--epsilon-end", "1.0", "--log-every", "100", "--quiet"]
    run = tmp_path / "run"
    assert main(["train", "pqn", *options, "--total-steps", "6000", "--run-dir", str(run)]) == 0
    health = RunFolder(run).read_summary()["health"]
    assert "not_learned" in [one["rule"] for one in health["findings"]] and health["verdict"] == "collapsing"
    capsys.readouterr()
    assert main(["diagnose", str(run)]) == 0
    assert "it has not learned: the return is 2" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0
    assert "it has not learned" in (run / "report.html").read_text(encoding="utf-8")
