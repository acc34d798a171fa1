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


def said_of(values, **options):
    """Of one depth: setting -> {seed: value}; a seed that another setting has and this one has not is left."""
    seeds = sorted({seed for own in values.values() for seed in own})
    rows = tuple(
        Row(
            name, {"setting": name}, seed, "finished" if seed in own else "left", None,
            {"score": own.get(seed)}, "X", 10,
        )
        for name, own in values.items()
        for seed in seeds
    )  # fmt: skip
    return " ".join(study_verdict(Table("agent", rows, {"setting": tuple(values)}, "score", "score"), **options))


def test_a_ranking_is_of_the_seeds_that_all_settings_have():
    """Unpaired means say the opposite: the one seed that cure lacks is plain's luckiest."""
    words = said_of({"plain": {1: 10.0, 2: 20.0, 3: 30.0, 4: 400.0}, "cure": {1: 15.1, 2: 25.2, 3: 35.3}})
    assert words.startswith("cure is best here: every paired difference has a 95% interval above 0 (of the 3 seeds")
    assert "includes 0" not in words


def test_nothing_is_compared_with_settings_that_have_no_score():
    alone = said_of({"plain": {1: 100.0}, "cure": {}})
    assert alone.startswith("There is a score of plain alone here, so nothing is compared.")
    assert said_of({"plain": {1: 1.0, 2: 2.0}, "cure": {3: 9.0}}).startswith("plain and cure share no seed here")
    three = said_of({"plain": {1: 1.0, 2: 2.0}, "cure": {1: 2.0, 2: 3.1}, "third": {}})
    assert "best" in three and "there is no score of third yet" in three


def test_without_an_interval_none_includes_zero():
    words = said_of({"plain": {1: 100.0}, "cure": {1: 101.0}})
    assert words.startswith("cure is highest here, but one seed cannot tell it from plain")
    assert "interval" not in words
    falling = " ".join(study_verdict(table({key: own[:1] for key, own in FALLING.items()})))
    assert "has one seed, which cannot say, for plain (-9, one seed)" in falling and "neither" not in falling
    above = Expectation("cure above plain", "cure", other="plain")
    assert "one seed cannot say at all runs (+1, one seed)" in said_of(
        {"plain": {1: 1.0}, "cure": {1: 2.0}}, expectations=[above]
    )


@pytest.mark.parametrize("error", [0.0, 1e-12, -1e-12])
def test_what_differs_by_rounding_is_equal(error):
    values = {seed: 100.0 + seed for seed in range(4)}
    words = said_of({"plain": values, "cure": {seed: value * (1 + error) for seed, value in values.items()}})
    assert words == "plain and cure are equal here."


def test_settings_of_one_mean_are_not_ranked():
    words = said_of({"plain": {1: 1.0, 2: 2.0, 3: 3.0}, "cure": {1: 3.0, 2: 2.0, 3: 1.0}, "bad": {1: -9, 2: -9, 3: -9}})
    assert words.startswith("plain and cure are best here: every paired difference")
    assert said_of({"plain": {1: 1.0, 2: 2.0}, "cure": {1: 2.0, 2: 1.0}}).startswith(
        "plain and cure have the same mean"
    )


def test_an_expectation_counts_the_sizes_it_cannot_judge():
    values = {**FALLING, ("large", "cure"): (None, None, None)}
    said = study_verdict(table(values), [Expectation("cure above plain", "cure", other="plain")])[-1]
    assert "holds at 0 of 2 sizes" in said and "cannot be said yet at depth large" in said
