import copy

import numpy as np

from stablegrad.studies import comparison_rows, summarize, verdict


def spoken(synthetic, directory, baseline, stable, **changes):
    """Verdict and rows of a comparison whose runs end at the given returns."""
    seeds = tuple(range(1, len(baseline) + 1))
    for setting, ends in (("baseline", baseline), ("stable", stable)):
        for seed, end in zip(seeds, ends, strict=True):
            key = f"{setting}/{seed}"
            if changes.get(key) != "missing":
                changes[key] = {"returns": np.linspace(-200, end, 150), **changes.get(key, {})}
    summary = summarize(synthetic.write_comparison(directory, seeds=seeds, **changes))
    return verdict(summary), comparison_rows(summary)


def test_a_clear_win(synthetic, tmp_path):
    sentences, rows = spoken(synthetic, tmp_path / "c", [10, 0, 5], [100, 90, 98])
    assert sentences[0].startswith("stable reached a higher final return than baseline: 96 against 5,")
    assert "stable won 3 of 3 pairs" in sentences[1]
    assert not any("Inconclusive" in sentence or "Fewer than" in sentence for sentence in sentences)
    assert ("Pairs won", "0 of 3", "3 of 3") in rows
    assert any("at most 67% of the steps of baseline" in sentence for sentence in sentences)
    assert any("stable was at the return at which baseline ended" in sentence for sentence in sentences)


def test_a_clear_loss_says_so(synthetic, tmp_path):
    sentences, rows = spoken(synthetic, tmp_path / "c", [100, 90, 98], [10, 0, 5])
    assert sentences[0].startswith("stable did worse than baseline")
    assert any("stable never reached the return at which baseline ended" in sentence for sentence in sentences)
    assert any(row[0].startswith("Steps to a return") and row[2] == "never" for row in rows)


def test_an_interval_around_zero_is_inconclusive(synthetic, tmp_path):
    sentences, _ = spoken(synthetic, tmp_path / "c", [0, 50, 100], [90, 20, 80])
    assert sentences[0].startswith("Inconclusive")
    assert not any("higher final return" in sentence or "did worse" in sentence for sentence in sentences)


def test_identical_returns_are_called_what_they_are(synthetic, tmp_path):
    sentences, _ = spoken(synthetic, tmp_path / "c", [0, 50, 100], [0, 50, 100])
    assert "exactly the same returns in every pair" in sentences[0]


def test_few_seeds_are_named(synthetic, tmp_path):
    two, _ = spoken(synthetic, tmp_path / "two", [0, 1], [100, 101])
    assert any(sentence.startswith("Fewer than 3 paired seeds") for sentence in two)
    one, rows = spoken(synthetic, tmp_path / "one", [0], [100])
    assert "One pair cannot tell an effect from chance." in one[0]
    assert any(sentence.startswith("Fewer than 3 paired seeds") for sentence in one)
    assert "(one value)" in rows[0][1]


def test_failed_and_unfinished_runs_are_said(synthetic, tmp_path):
    changes = {"baseline/1": {"status": "failed", "error": "NaN in layer head"}, "stable/2": {"status": "stopped"}}
    sentences, rows = spoken(synthetic, tmp_path / "c", [0, 0, 0], [10, 10, 10], **changes)
    assert "1 run failed and left out of all means: baseline seed 1 (NaN in layer head)." in sentences
    assert any(
        sentence.startswith("1 run not finished and left out of all means: stable seed 2.") for sentence in sentences
    )
    assert ("Finished runs", "2 of 3", "2 of 3") in rows


def test_nothing_yet(synthetic, tmp_path):
    changes = {"baseline/1": "missing", "stable/1": "missing"}
    sentences, rows = spoken(synthetic, tmp_path / "c", [0], [0], **changes)
    assert "nothing to compare" in sentences[0]
    assert ("Probability of improvement", "–", "–") in rows
    assert ("Peak memory", "–", "–") in rows


def test_a_cheaper_second_setting(synthetic, tmp_path):
    changes = {f"stable/{seed}": {"seconds_per_1000": 0.1} for seed in (1, 2, 3)}
    sentences, _ = spoken(synthetic, tmp_path / "c", [0, 1, 2], [10, 11, 13], **changes)
    assert any("takes no longer than one of baseline (0.50 times its time)" in sentence for sentence in sentences)


def test_words_leave_the_summary_alone(synthetic, tmp_path):
    summary = summarize(synthetic.write_comparison(tmp_path / "c"))
    before = copy.deepcopy(summary)
    verdict(summary), comparison_rows(summary)
    assert summary == before


def test_a_first_setting_that_learned_nothing_is_named(synthetic, tmp_path):
    sentences, _ = spoken(synthetic, tmp_path / "c", [-210, -250, -230], [100, 90, 98])
    assert "baseline ended no higher than it began: on average it learned nothing that lasted." in sentences
    sentences, _ = spoken(synthetic, tmp_path / "d", [0, 10, 5], [100, 90, 98])
    assert not any("no higher than it began" in sentence for sentence in sentences)
