import pytest

from stablegrad.studies.study import Expectation
from stablegrad.studies.study_verdict import counts_in_words, study_verdict
from stablegrad.studies.table import Row, Table


def table(values, score="score", status="finished", tasks=("X",)):
    """values: (depth, setting) -> numbers by seed."""
    rows = tuple(
        Row(
            f"{task}{depth}{setting}", {"environment": task, "depth": depth, "setting": setting}, seed, status, None,
            {"score": value if status == "finished" else None}, task, 10,
        )
        for task in tasks
        for (depth, setting), own in values.items()
        for seed, value in enumerate(own)
    )  # fmt: skip
    axes = {"environment": tasks, "depth": ("small", "large"), "setting": tuple(dict.fromkeys(s for _, s in values))}
    return Table("agent", rows, axes, score, score or "wall_seconds")


FALLING = {
    ("small", "plain"): (10.0, 11.0, 12.0),
    ("small", "cure"): (10.1, 10.8, 12.3),
    ("large", "plain"): (1.0, 2.1, 2.9),
    ("large", "cure"): (9.9, 11.2, 11.9),
}


def test_it_says_what_is_best_where_and_what_falls():
    words = " ".join(study_verdict(table(FALLING)))
    assert "cure is best at 1 of 2 sizes (depth large): every paired difference has a 95% interval above 0." in words
    assert "cure is highest at 1 of 2 sizes (depth small), but not told from plain" in words
    assert "From depth small to large the score falls for plain (-9 [-9.25, -8.75])" in words
    assert "neither falls nor rises for sure for cure (-0.067 [" in words
    assert "Fewer than 3 seeds" not in words


def test_expectations_are_held_against_the_numbers():
    expected = [
        Expectation("plain falls with depth", "plain", "depth", falls=True),
        Expectation("cure falls with depth", "cure", "depth", falls=True),
        Expectation("plain does not fall with depth", "plain", "depth", falls=False),
        Expectation("cure above plain", "cure", other="plain"),
        Expectation("plain above cure", "plain", other="cure"),
    ]
    *_, first, second, third, fourth, fifth = study_verdict(table(FALLING), expected)
    assert first.startswith('Expected "plain falls with depth": holds (-9 [')
    assert '"cure falls with depth": is not shown' in second
    assert '"plain does not fall with depth": does not hold: it falls' in third
    assert "holds at 1 of 2 sizes; is not shown at depth small (" in fourth
    assert "holds at 0 of 2 sizes; does not hold at depth large (-" in fifth


def test_one_seed_claims_nothing():
    words = " ".join(study_verdict(table({key: own[:1] for key, own in FALLING.items()})))
    assert "is best" not in words and "falls" not in words and "Fewer than 3 seeds" in words
    expected = Expectation("plain falls with depth", "plain", "depth", falls=True)
    *_, said, _ = study_verdict(table({key: own[:1] for key, own in FALLING.items()}), [expected])
    assert "one seed cannot say" in said


@pytest.mark.parametrize(
    ("score", "status", "message"), [("score", "left", "No run has finished"), (None, "finished", "no score")]
)
def test_nothing_is_said_without_numbers(score, status, message):
    found = table(FALLING, score, status)
    assert len(study_verdict(found)) == 1 and message in study_verdict(found)[0]
    assert counts_in_words(table(FALLING, status="failed")) == "0 of 12 runs finished, 12 failed, 0 left"


def test_over_several_tasks_it_gives_the_gain_and_its_probability():
    words = " ".join(study_verdict(table(FALLING, tasks=("X", "Y"))))
    assert "Over 2 tasks cure differs from plain by +" in words and "better with a probability of" in words
