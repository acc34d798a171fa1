"""What a person reads while a trial runs."""

import pytest

from stablegrad.cli.trial_progress import TrialProgress, say_pairs
from stablegrad.studies import RunProgress


def runs(name, *steps):
    """Trainings of 1,000 steps with and without a change, two seeds."""
    settings = [(setting, seed) for seed in (1, 2) for setting in ("unchanged", name)]
    return [
        RunProgress(setting, seed, step, 1000, None, "finished" if step >= 1000 else "running" if step else "waiting")
        for (setting, seed), step in zip(settings, steps, strict=True)
    ]


def test_which_prescription_which_step_and_the_time_left(capsys):
    clock = iter([0.0, 0.0, 5.0, 20.0, 60.0])
    progress = TrialProgress(["layer_norm", "kron"], 6, lambda: next(clock))
    progress.update("layer_norm", runs("layer_norm", 0, 0, 0, 0))
    progress.update("layer_norm", runs("layer_norm", 500, 400, 0, 0))  # too soon for another line
    progress.update("layer_norm", runs("layer_norm", 1000, 1000, 500, 500))
    progress.update("kron", runs("kron", 1000, 250, 1000, 0))
    assert capsys.readouterr().err.splitlines() == [
        "layer_norm (1 of 2): 0 of 4 trainings done",
        "layer_norm (1 of 2): 2 of 4 trainings done, at step 500 and 500 of 1,000; about 20 s left of the trial",
        # 3.75 of 6 in 60 s: those without a change are shared, and layer_norm's second was half done when last seen.
        "kron (2 of 2): 2 of 4 trainings done, at step 250 of 1,000; about 36 s left of the trial",
    ]


def test_what_was_done_before_a_stop_took_no_time(capsys):
    clock = iter([0.0, 0.0, 30.0])
    progress = TrialProgress(["kron"], 4, lambda: next(clock))
    progress.update("kron", runs("kron", 1000, 1000, 0, 0))
    progress.update("kron", runs("kron", 1000, 1000, 500, 500))
    assert capsys.readouterr().err.splitlines()[-1].endswith("; about 30 s left of the trial")


@pytest.mark.parametrize(
    ("done", "line"),
    [
        (2, "2 of 5 pairs of trainings done; about 30 s left"),
        (5, "5 of 5 pairs of trainings done"),
    ],
)
def test_pairs_of_a_networks_trial(capsys, done, line):
    say_pairs(done, 5, 20.0)
    assert capsys.readouterr().err == f"{line}\n"
