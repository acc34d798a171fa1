import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.errors import UsageError
from stablegrad.files import write_json
from stablegrad.studies.comparison import record_failure
from stablegrad.studies.equal_time import equal_time
from stablegrad.studies.kinds import make_config, with_learning_rate
from stablegrad.studies.runner import run_study, summarize_study, tune_study
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.table import read_table
from stablegrad.studies.tuned_comparison import tune_comparison
from stablegrad.studies.tuning import (
    TOLERANCE,
    TrialScore,
    at_an_end,
    best_trial,
    good_factors,
    rate_factors,
)
from stablegrad.studies.tuning_verdict import good_range, rates_in_words, tuned_cells, tuned_to, tuning_in_words
from stablegrad.training.config import default_run

STUDY = """
seeds = 2
report = ["final_return", "gradients/norm"]
[base]
algorithm = "pqn"
env = "CartPole-v1"
total_steps = 1000
[axes]
depth = ["small", "large"]
setting = [{name = "baseline"}, {name = "stable", preset = "stable"}]
[tune]
learning_rate_factors = [0.3, 1, 3]
seeds = 2
max_grad_norm = [1.0, 10.0]
"""


class Idle:
    """An executor that starts nothing: every run must be finished already, or time be up."""

    workers = 2

    def start(self, folder):
        raise AssertionError(f"{folder} should not start")

    def ended(self, timeout):
        return {}

    def stop(self):
        pass


class Failing(Idle):
    """An executor whose runs say at once that they cannot be run."""

    def __init__(self):
        self.running = []

    def start(self, folder):
        self.running.append(folder)

    def ended(self, timeout):
        ended, self.running = self.running, []
        return dict.fromkeys(ended, 2)


class Stopping(Idle):
    """An executor that never ends a run; SIGINT comes with the first word on its progress."""

    def start(self, folder):
        pass

    def interrupt(self, _):
        raise KeyboardInterrupt


def write_run(folder, run, score, wall=10.0, curve=()):
    """A run that ended with this score; text: it failed for that reason; None: it was not started."""
    if score is None:
        return
    run_folder = folder.run_folder(run)
    run_folder.path.mkdir(parents=True, exist_ok=True)
    write_json(run_folder.config_path, {"format": 1, **run.config.to_json(), "provenance": {}})
    if isinstance(score, str):
        write_json(run_folder.summary_path, {"status": "failed"})
        record_failure(run_folder, score)
        return
    summary = {"status": "finished", "final_return": score, "wall_seconds": wall, "parameters": 1000}
    write_json(run_folder.summary_path, summary)
    rows = [{"step": step, "wall_seconds": 1.0, "train/return": value} for step, value in curve]
    run_folder.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make(tmp_path, text=STUDY, score=None):
    """A study whose trials have the scores ``score(run)``."""
    file = tmp_path / "s.toml"
    file.write_text(text)
    folder = StudyFolder.open(tmp_path / "s", read_study(file), file)
    if score is not None:
        folder.trials.write()
        for run in folder.trials.study.runs:
            write_run(folder.trials, run, score(run))
    return folder


def parabola(run):
    """Best at x3 where small and at x0.3 where large, with the gradient clipped at 1, for both settings."""
    values = run.cell.values
    best = 3.0 if values["depth"] == "small" else 0.3
    miss = math.log(float(values["rate"][1:]) / best) ** 2
    return 100.0 - 10 * miss - (5 if values["max_grad_norm"] == "10.0" else 0) + run.seed / 1000


def test_every_cell_tries_every_combination_on_seeds_of_its_own(tmp_path):
    study = make(tmp_path).study
    trials = study.trials()
    assert (len(study.cells), len(trials.cells), trials.seeds) == (4, 4 * 6, (1001, 1002))
    assert list(trials.cells[0].values) == ["depth", "setting", "rate", "max_grad_norm"]
    assert trials.cells[0].name == "depth=small_setting=baseline_rate=x0.3_max_grad_norm=1.0"
    for cell in trials.cells:
        own = next(one for one in study.cells if one.values.items() <= cell.values.items()).config.agent
        factor = float(cell.values["rate"][1:])
        assert cell.config.agent.optimizer.initial_learning_rate == pytest.approx(
            factor * own.optimizer.initial_learning_rate
        )
        assert cell.config.agent.max_grad_norm == float(cell.values["max_grad_norm"])
        assert cell.config.agent.torso == own.torso


def test_each_cell_runs_with_its_best_trial_and_that_is_kept(tmp_path):
    folder = make(tmp_path, score=parabola)
    assert folder.to_be_tuned
    tuned = tune_study(folder, Idle(), 2)
    assert not tuned.to_be_tuned
    for before, after, found in zip(folder.study.cells, tuned.study.cells, tuned_cells(tuned.study), strict=True):
        factor = 3.0 if before.values["depth"] == "small" else 0.3
        assert tuned_to(found) == f"x{factor:g}, max_grad_norm 1.0"
        assert after.config.agent.max_grad_norm == 1.0
        rate = factor * before.config.agent.optimizer.initial_learning_rate
        assert after.config.agent.optimizer.initial_learning_rate == pytest.approx(rate)
        assert rates_in_words(found) in (f"{rate:.3g}", f"{rate:.2e}")
        assert (before.name, before.config.seed) == (after.name, after.config.seed)
        assert found.at_an_end and found.best.score == pytest.approx(100 + 1.0015)
    # What study.json holds is the same, and so is what the file opens again; no trial starts anew.
    assert StudyFolder.read(folder.directory).study == tuned.study
    again = StudyFolder.open(folder.directory, read_study(tmp_path / "s.toml"), tmp_path / "s.toml")
    assert again.study == tuned.study
    summary = summarize_study(again)
    assert [cell["tuned_to"] for cell in summary["cells"]] == ["x3, max_grad_norm 1.0"] * 2 + [
        "x0.3, max_grad_norm 1.0"
    ] * 2
    assert (
        "tried 3 learning rates (x0.3, x1, x3) by 2 values of max_grad_norm on seeds 1001, 1002" in summary["tuning"][0]
    )
    assert "for every cell: a better one may lie beyond" in summary["tuning"][1]
    (tmp_path / "s.toml").write_text(STUDY.replace("[0.3, 1, 3]", "[0.3, 1]"))
    with pytest.raises(UsageError, match=r"tune\.learning_rate_factors"):
        StudyFolder.open(folder.directory, read_study(tmp_path / "s.toml"), tmp_path / "s.toml")


def test_a_trial_that_failed_at_a_seed_cannot_win(tmp_path):
    def score(run):
        values = run.cell.values
        if values["setting"] == "stable":
            return "returned NaN"
        fails = values["rate"] == "x1" and run.seed == 1002
        return "returned NaN" if fails else {"x0.3": 5.0, "x1": 1000.0, "x3": 6.0}[values["rate"]]

    text = STUDY.replace("max_grad_norm = [1.0, 10.0]", "")
    folder = make(tmp_path, text, score)
    # What failed is tried once more, in vain.
    tuned = tune_study(folder, Failing(), 2)
    baseline, stable = tuned_cells(tuned.study)[:2]
    assert (tuned_to(baseline), baseline.failed, good_range(baseline)) == ("x3", 1, "x3")
    assert (tuned_to(stable), stable.failed, stable.best) == ("untuned", 6, None)
    assert tuned.study.cells[1].config == folder.study.cells[1].config
    assert "No trial of depth=small_setting=stable, depth=large_setting=stable" in tuning_in_words(tuned.study)[-1]


def test_a_study_whose_time_is_up_stays_untuned_and_goes_on(tmp_path):
    folder = make(tmp_path)
    assert tune_study(folder, Idle(), 2, max_seconds=0.0) is folder
    assert StudyFolder.read(folder.directory).to_be_tuned
    for run in folder.trials.study.runs:
        write_run(folder.trials, run, parabola(run))
    assert not tune_study(folder, Idle(), 2).to_be_tuned


def test_the_page_of_a_tuned_study_says_what_was_found(tmp_path):
    from stablegrad.reports import write_study_report

    folder = tune_study(make(tmp_path, score=parabola), Idle(), 2)
    for run in folder.study.runs:
        write_run(folder, run, 50.0 + run.seed, curve=[(500, 1.0), (1000, 2.0)])
    run_study(folder, Idle(), 2)
    page = write_study_report(folder.directory).read_text()
    for words in (
        "What every cell is tuned to",
        "x3, max_grad_norm 1.0 (at an end)",
        "At equal steps and at equal time",
    ):
        assert words in page
    assert (folder.directory / "figures/tuning.svg").exists()


def test_returns_at_equal_time_are_those_of_the_curves_at_that_time(tmp_path):
    folder = make(tmp_path, STUDY.split("[tune]")[0])
    for run in folder.study.runs:
        slow = run.cell.values["setting"] == "stable"
        # The return is the step; a step of stable takes twice as long.
        write_run(
            folder, run, 1000.0, wall=20.0 if slow else 10.0, curve=[(step, step) for step in range(100, 1001, 100)]
        )
    rows = equal_time(folder, read_table(folder))
    assert [(row.size, row.setting, row.seconds, row.after.value) for row in rows] == [
        ("depth small", "baseline", 10.0, 1000.0), ("depth small", "stable", 10.0, 500.0),
        ("depth large", "baseline", 10.0, 1000.0), ("depth large", "stable", 10.0, 500.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[0.3, 1, 3]", "[0.3, 1, 0.3]"), "learning_rate_factors should be a list of distinct numbers above 0"),
        (("[0.3, 1, 3]", "[0, 1]"), "numbers above 0"),
        (("[0.3, 1, 3]", "3"), "numbers above 0, got 3"),
        (("seeds = 2\nmax", "seeds = [2, 3]\nmax"), "seed 2 is a seed of the study too"),
        (("seeds = 2\nmax", "seeds = 0\nmax"), "seeds should be a number of at least 1"),
        (("max_grad_norm = [1.0, 10.0]", "max_grad_nrm = [1]"), "option in [tune] 'max_grad_nrm'; did you mean"),
        (("max_grad_norm = [1.0, 10.0]", "max_grad_norm = [1.0, 1.0]"), "list of distinct values"),
        (("max_grad_norm = [1.0, 10.0]", "max_grad_norm = [-1.0, 1.0]"), "tune: "),
        (("max_grad_norm = [1.0, 10.0]", "depth = [1, 2]"), "is set in [tune] and in axis 'torso.depth'"),
        (("total_steps = 1000", "max_grad_norm = 1"), "is set in [base] and in [tune]"),
        (('"final_return", ', ""), "report should name the score to tune for: final_return"),
        (("setting = [", "rate = ["), "has an axis 'rate' already"),
        (("[0.3, 1, 3]\nseeds = 2\nmax_grad_norm = [1.0, 10.0]", "[1]"), "a cell would have 1 trial; try 2 to 100"),
        (("[1.0, 10.0]", "[1.0, nan]"), "tune: "),
        (("max_grad_norm = [1.0, 10.0]", "action_repeat = [1, 2]"), "'action_repeat' says what is learned, not how"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_table_is_said_in_a_line(tmp_path, change, message):
    file = tmp_path / "s.toml"
    assert change[0] in STUDY
    file.write_text(STUDY.replace(*change))
    with pytest.raises(UsageError) as error:
        read_study(file)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_learning_rates_of_all_networks_are_scaled_and_the_temperature_is_not():
    options = {"algorithm": "sac", "env": "Pendulum-v1", "actor.learning_rate": 1e-3}
    before = make_config(options)
    after = with_learning_rate(before, 0.5).agent
    for network in ("actor", "critic"):
        own = before.agent.optimizer_of(network).initial_learning_rate
        assert after.optimizer_of(network).initial_learning_rate == pytest.approx(0.5 * own)
    assert after.temperature_learning_rate == before.agent.temperature_learning_rate
    classifier = make_config({"algorithm": "relearn", "optimizer.learning_rate": 2e-3})
    assert with_learning_rate(classifier, 3.0).optimizer.learning_rate == pytest.approx(6e-3)


def test_factors_are_the_nearest_to_one():
    assert rate_factors(1) == (1.0,)
    assert rate_factors(2) == (1.0, 3.0)
    assert rate_factors(3) == (0.3, 1.0, 3.0)
    assert rate_factors(4) == (0.3, 1.0, 3.0, 10.0)
    assert rate_factors(7) == (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


lines = st.lists(st.one_of(st.none(), st.floats(-100, 100)), min_size=1, max_size=7)


@given(lines, st.floats(0, 200))
def test_the_good_range_is_the_longest_run_of_good_scores_around_the_best(scores, span):
    factors = rate_factors(len(scores))
    trials = [TrialScore({"rate": f"x{f:g}"}, f, score) for f, score in zip(factors, scores, strict=True)]
    best, found = best_trial(trials), good_factors(trials, span)
    known = [score for score in scores if score is not None]
    if not known:
        assert best is None and found is None and not at_an_end(trials)
        return
    assert best.score == max(known)
    tied = [trial.factor for trial in trials if trial.score == best.score]
    assert abs(math.log(best.factor)) == min(abs(math.log(factor)) for factor in tied)
    assert at_an_end(trials) == (len(scores) > 1 and best.factor in (factors[0], factors[-1]))
    low, high = (factors.index(end) for end in found)
    good = [score is not None and score >= best.score - TOLERANCE * span for score in scores]
    assert low <= factors.index(best.factor) <= high and all(good[low : high + 1])
    assert (low == 0 or not good[low - 1]) and (high == len(good) - 1 or not good[high + 1])


def test_a_comparison_is_tuned_from_its_trials(tmp_path):
    configs = {name: default_run("pqn", "CartPole-v1", name) for name in ("baseline", "stable")}
    with pytest.raises(UsageError, match="seed 1001 is one of those that tune-rate uses"):
        tune_comparison(tmp_path / "c", configs, [1, 1001], 3)
    for rates in (1, 21):
        with pytest.raises(UsageError, match="tune-rate must be from 2 to 20"):
            tune_comparison(tmp_path / "c", configs, [1], rates)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("")
    with pytest.raises(UsageError, match="is not empty and holds no tuned comparison"):
        tune_comparison(tmp_path / "other", configs, [1], 2)

    stopping = Stopping()
    with pytest.raises(KeyboardInterrupt):
        tune_comparison(tmp_path / "c", configs, [1], 3, executor=stopping, on_progress=stopping.interrupt)
    trials = StudyFolder.read(tmp_path / "c/tuning")
    assert len(trials.study.runs) == 2 * 3 * 2
    for run in trials.study.runs:
        values = run.cell.values
        score = {"x0.3": 1.0, "x1": 2.0, "x3": 3.0}[values["rate"]]
        write_run(trials, run, score if values["setting"] == "stable" else -abs(score - 2))
    tuned, sentences = tune_comparison(tmp_path / "c", configs, [1], 3, executor=Idle())
    rate = configs["stable"].agent.optimizer.initial_learning_rate
    assert tuned["stable"].agent.optimizer.initial_learning_rate == pytest.approx(3 * rate)
    assert tuned["baseline"] == configs["baseline"]
    assert "(x0.3, x1, x3) on seeds 1001, 1002" in sentences[0]
    assert "Found: baseline x1, a rate of 0.001; stable x3, a rate of " in sentences[0]
    assert sentences[1:] == [
        "The best rate is the lowest or the highest of those tried for stable: a better one may lie beyond."
    ]
    with pytest.raises(UsageError, match=r"holds other trials: .* Name another folder"):
        tune_comparison(tmp_path / "c", configs, [1], 4, executor=Idle())
