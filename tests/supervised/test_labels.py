"""The schedule of reshuffles against slow loops and by its laws."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablegrad.errors import UsageError
from stablegrad.supervised.labels import (
    epochs_to_learn,
    phase_labels,
    phase_of,
    reshuffle_epochs,
    summarize_phases,
    summarize_relearning,
)
from stablegrad.supervised.seeds import Stream, seed_sequence, torch_seed


def test_the_papers_schedule():
    assert reshuffle_epochs(100, 20) == [20, 40, 60, 80]
    assert reshuffle_epochs(100, 0) == []
    assert reshuffle_epochs(100, 20, (5, 99)) == [5, 99]
    assert reshuffle_epochs(100, 20, ()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10), "reshuffle-every 10 never comes in 10 epochs"),
        ((10, 0, (10,)), "from 1 to 9"),
        ((10, 0, (0,)), "from 1 to 9"),
        ((10, 0, (5, 3)), "must ascend"),
        ((10, 0, (3, 3)), "must ascend"),
    ],
)
def test_a_reshuffle_that_never_comes_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        reshuffle_epochs(*arguments)


@given(epochs=st.integers(2, 60), every=st.integers(1, 59))
def test_phases_are_what_counting_finds(epochs, every):
    if every >= epochs:
        return
    reshuffles = reshuffle_epochs(epochs, every)
    phase = 0
    for epoch in range(epochs):
        if epoch and epoch % every == 0:
            phase += 1
        assert phase_of(epoch, reshuffles) == phase


@given(seed=st.integers(0, 2**40), phase=st.integers(1, 100), number=st.integers(1, 50))
def test_labels_of_a_phase_are_the_same_labels_in_another_order(seed, phase, number):
    labels = torch.arange(number) % 7
    shuffled = phase_labels(labels, seed, phase)
    assert torch.equal(shuffled.sort().values, labels.sort().values)
    assert torch.equal(shuffled, phase_labels(labels.clone(), seed, phase))
    assert phase_labels(labels, seed, 0) is labels


def test_every_phase_and_every_seed_has_an_order_of_its_own():
    labels = torch.arange(1000)
    orders = [phase_labels(labels, seed, phase) for seed in (0, 1, 2**32) for phase in (1, 2, 3)]
    for number, one in enumerate(orders):
        # A random permutation of 1,000 leaves one in its place on average; 10 or more are a chance of 1 in a million.
        assert (one == labels).sum() < 10
        assert all((one == other).sum() < 10 for other in orders[:number])


def test_streams_never_meet():
    seeds = [torch_seed(seed, stream, number) for seed in range(3) for stream in Stream for number in range(5)]
    # The words of a large seed could be read as the stream and the number of a small one.
    seeds.append(torch_seed((Stream.LABELS << 32) + 1, Stream.WEIGHTS, 0))
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_sequence(1, Stream.LABELS, 2).entropy == 1


@given(st.lists(st.floats(0, 1), max_size=30), st.floats(0.01, 1))
def test_epochs_to_learn_is_the_first_that_reaches_the_threshold(accuracy, threshold):
    found = None
    for epoch in range(len(accuracy), 0, -1):
        if accuracy[epoch - 1] >= threshold:
            found = epoch
    assert epochs_to_learn(accuracy, threshold) == found


def test_phases_in_numbers():
    accuracy = [0.5, 0.95, 0.9, 0.2, 0.4, 0.6, 0.3, 0.9, 0.99, 0.1]
    test_accuracy = [0.4, 0.8, 0.85] + [None] * 7
    phases = summarize_phases(accuracy, test_accuracy, [3, 6, 9], 12, 0.9)
    assert phases == [
        {
            "phase": 0,
            "labels": "true",
            "epochs": 3,
            "train_accuracy": 0.9,
            "test_accuracy": 0.85,
            "epochs_to_learn": 2,
        },
        {
            "phase": 1,
            "labels": "reshuffled",
            "epochs": 3,
            "train_accuracy": 0.6,
            "test_accuracy": None,
            "epochs_to_learn": None,
        },
        {
            "phase": 2,
            "labels": "reshuffled",
            "epochs": 3,
            "train_accuracy": 0.99,
            "test_accuracy": None,
            "epochs_to_learn": 2,
        },
    ]
    # The fourth phase is not over. One of two was learned, so there is no mean number of epochs.
    assert summarize_relearning(phases) == {
        "reshuffles": 2,
        "relearned": 1,
        "mean_final_accuracy": pytest.approx((0.6 + 0.99) / 2),
        "mean_epochs": None,
    }
    both = [phases[0], phases[2], {**phases[2], "epochs_to_learn": 3}]
    assert summarize_relearning(both)["mean_epochs"] == 2.5


def test_labels_that_stay_have_no_relearning():
    phases = summarize_phases([0.2, 0.4], [0.1, 0.3], [], 2, 0.9)
    assert [phase["test_accuracy"] for phase in phases] == [0.3]
    assert summarize_relearning(phases) == {
        "reshuffles": 0,
        "relearned": 0,
        "mean_final_accuracy": None,
        "mean_epochs": None,
    }
