"""Verdict, stage, open criteria, next step and command say the same, whatever the evidence."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablegrad.environments.references import References, references
from stablegrad.studies.decision import decide, deeper
from stablegrad.studies.next_command import next_command


def _load():
    path = Path(__file__).with_name("evidence_of.py")
    specification = importlib.util.spec_from_file_location("evidence_of", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.evidence_of


evidence_of = _load()
SCORE = st.one_of(st.none(), st.sampled_from([-50.0, 0.0, 10.0, 10.5, 11.0, 40.0, 42.0, 90.0, 93.0]))
AFTER_FAILURE = {"stop", "keep_small", "settle_small", "stay_small"}


@st.composite
def evidences(draw):
    sizes, seeds = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    table = st.lists(st.lists(SCORE, min_size=seeds, max_size=seeds), min_size=sizes, max_size=sizes)
    config = {"algorithm": "pqn", "env": "CartPole-v1", "preset": "baseline", "total_steps": 1000}
    changes = {
        "kind": draw(st.sampled_from(["comparison", "study"])) if sizes == 1 else "study",
        "depth": draw(st.sampled_from([1, "large", "xlarge", None])),
        "configs": {(name, size): config for name in ("baseline", "stable") for size in range(sizes)},
        "whole_run_share": draw(st.sampled_from([None, 0.5, 1.0])),
        "references": draw(st.sampled_from([None, References(5.0, 41.0, "solved"), References(5.0, None, "solved")])),
        "failed": draw(st.sampled_from([set(), {("stable", 0, 1), ("baseline", 0, 1)}])),
    }
    if changes["kind"] == "study":
        changes |= {"form": draw(st.sampled_from(["full", "small"])), "command": None, "study_file": "seeds = 3\n"}
    return evidence_of(draw(table), draw(table), **changes)


@settings(max_examples=300, deadline=None)
@given(evidences())
def test_all_parts_of_a_recommendation_agree(evidence):
    decision = decide(evidence)
    stages = {stage.name: stage for stage in decision.stages}
    stage, verdict, step = stages[decision.stage], decision.verdict, decision.next_step
    left = any(run.status == "left" for run in evidence.runs)
    waiting = [one for one in stage.criteria if one.met is None and one.code not in ("time", "steady")]
    one_size = len(evidence.sizes) == 1

    assert (verdict == "no_go") == (stage.state == "failed") == (step in AFTER_FAILURE)
    assert (step == "finish") <= left
    if verdict == "go":
        assert step in ("adopt", "full_form") and stage.state == "passed" and not waiting and not left
        # All that was measured of what comes before and of this stage holds.
        assert all(stages[name].state == "passed" for name in ("probe", "trial"))
    if step == "adopt":
        assert verdict == "go"
        solved = (
            evidence.references.solved(decision.means["stable", decision.best_size]) if evidence.references else None
        )
        assert solved is not False
    if verdict == "go_on":
        assert step in ("more_seeds", "bigger", "longer")
    assert all((one.state in ("open", "failed")) <= (one is stage) for one in decision.stages)  # "we are here" is there
    if verdict == "wait":
        assert step in ("finish", "probe")
    if step == "more_seeds":
        pairs = next(one for one in stage.criteria if one.code == "pairs")
        assert stage.state == "open" and waiting and decision.next_seeds >= pairs.observed
    if step == "bigger":
        assert decision.stage == "scale" and one_size and all(one.observed is None for one in stage.criteria)
        assert f"--torso.depth {deeper(evidence.depth)}" in next_command(evidence, decision)
    if decision.stage == "scale" and verdict in ("go", "no_go"):
        assert not one_size  # nothing is said of a stage that was not measured
    command = next_command(evidence, decision)
    assert ("train" in command.split()) <= (step in ("adopt", "longer", "keep_small", "stay_small"))


def test_less_bad_than_the_baseline_but_no_better_than_random_play_is_no_go():
    scores = ([[-600.0, -610.0, -605.0]], [[-500.0, -505.0, -503.0]])
    acrobot = references("final_return", {"Acrobot-v1"})
    decision = decide(evidence_of(*scores, references=acrobot))
    assert (decision.verdict, decision.stage, decision.next_step) == ("no_go", "probe", "stop")
    assert decide(evidence_of(*scores)).verdict == "go_on"


def test_known_references():
    lander = references("final_return", {"envpool:LunarLander-v3"})
    assert lander.random == pytest.approx(-190, abs=8) and (lander.target, lander.kind) == (200.0, "solved")
    assert references("train/return", {"CartPole-v1"}).target == 475.0
    assert references("final_return", {"Breakout-v5"}) == References(1.7, 30.5, "human")
    assert references("human_normalized_return", {"Breakout-v5", "Pong-v5"}) == References(0.0, 1.0, "human")
    assert references("final_return", {"Breakout-v5", "Pong-v5"}) is None
    assert references("final_return", {"mine:make_env"}) is None
    assert references("final_accuracy", {"None"}) is None
    assert lander.solved(199.0) is False and lander.solved(200.0) is True and lander.solved(None) is None
    assert References(1.7, 30.5, "human").solved(10.0) is None


def test_the_table_of_random_returns_is_what_its_script_measures():
    """CartPole's random play by gymnasium itself, a few games."""
    import gymnasium

    env = gymnasium.make("CartPole-v1")
    env.action_space.seed(0)
    lengths = []
    for seed in range(200):
        env.reset(seed=seed)
        steps, over = 0, False
        while not over:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            steps, over = steps + 1, terminated or truncated
        lengths.append(steps)
    assert references("final_return", {"CartPole-v1"}).random == pytest.approx(sum(lengths) / 200, abs=3)
    assert (Path(__file__).parents[2] / "benchmarks/random_returns.py").exists()
