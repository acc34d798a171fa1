"""The page of a run of ``stablegrad relearn``."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from stablegrad.cli.main import main
from stablegrad.files import write_json
from stablegrad.networks import TorsoConfig
from stablegrad.reports import write_run_report
from stablegrad.supervised import SupervisedConfig, train_supervised
from stablegrad.training.run_folder import RunFolder

_specification = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("test_pages.py"))
_pages = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_pages)
Page = _pages.Page

IMAGES, BATCHES = 1000, 10


def write_run(path, epochs_done, status=None, error=None, **changes):
    """A run of 6 epochs with reshuffles after 2 and 4, an epoch of 2 s; it learns the first reshuffle, in 2 epochs."""
    accuracies = [0.5, 0.95, 0.3, 0.92, 0.2, 0.4][:epochs_done]
    config = SupervisedConfig(epochs=6, reshuffle_every=2, **changes)
    folder = RunFolder.create(path, config.to_json())
    with folder.metrics_path.open("w") as file:
        for epoch, accuracy in enumerate(accuracies, start=1):
            row = {
                "step": BATCHES * epoch,
                "wall_seconds": 2.5 * epoch,
                "train/epoch": epoch,
                "train/accuracy": accuracy,
            }
            row |= {"gradients/norm": 1.0, "gradient_norm/torso.layers.0": 0.1 * epoch, "gradient_norm/head": 1.0}
            row |= {"speed/images_per_second": IMAGES / 2} | ({"test/accuracy": accuracy / 2} if epoch <= 2 else {})
            file.write(json.dumps(row) + "\n")
    if status is not None:
        write_json(
            folder.summary_path,
            {
                "status": status,
                "error": error,
                "parameters": 12345,
                "layers": ["torso.layers.0", "head"],
                "epochs": epochs_done,
                "updates": BATCHES * epochs_done,
                "wall_seconds": 2.5 * epochs_done,
                "final_accuracy": accuracies[-1] if accuracies else None,
                "relearning": {"reshuffles": 2, "relearned": 1, "mean_final_accuracy": 0.66, "mean_epochs": None},
                "seconds": {"update": 1.5 * epochs_done, "optimizer": 0.5 * epochs_done},
                "health": {"verdict": None},
                "peak_memory_bytes": 2**20,
            },
        )
    return path


def tables(page):
    """Rows of cells of every table."""
    found = re.findall(r"<table>.*?</table>", page.source, re.DOTALL)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
        for table in found
    ]


def test_a_finished_run_shows_facts_phases_accuracy_gradients_and_cost(tmp_path):
    page = Page(write_run_report(write_run(tmp_path / "run", 6, "finished")))
    facts, phases = tables(page)[:2]
    assert dict(facts) == {
        "State": "finished",
        "Epochs": "6 of 6",
        "Updates": "60",
        "Training accuracy, last epoch": "40.0%",
        "Test accuracy, last epoch with true labels": "47.5%",
        "Reshuffled labels learned again": "1 of 2",
        "Accuracy at the end of reshuffled phases, mean": "66.0%",
        "Parameters": "12,345",
        "Wall time": "15 s",
        "Images a second": "500",
        "Peak memory": "1 MiB",
    }
    assert phases[1:] == [
        ["true", "2", "95.0%", "47.5%", "2"],
        ["reshuffled, 1", "2", "92.0%", "–", "2"],
        ["reshuffled, 2", "2", "40.0%", "–", "never"],
    ]
    accuracy, gradients, cost = (figure for figure in page.figures if "data" in figure)
    lines = {trace["name"]: (trace["x"], trace["y"]) for trace in accuracy["data"]}
    assert lines["training accuracy"] == ([1, 2, 3, 4, 5, 6], [0.5, 0.95, 0.3, 0.92, 0.2, 0.4])
    assert lines["test accuracy (true labels)"] == ([1, 2], [0.25, 0.475])
    assert lines["learned: 90%"] == ([0, 6], [0.9, 0.9])
    assert [mark["x0"] for mark in accuracy["layout"]["shapes"]] == [2, 4]
    assert gradients["layout"]["xaxis"]["title"]["text"] == "epochs"
    # 1,000 images take 2 s in the batches, three quarters of it the update, and 0.5 s outside of them
    assert {bar["name"]: bar["x"][0] for bar in cost["data"]} == pytest.approx(
        {"update": 1.5, "optimizer": 0.5, "other": 0.5}
    )
    assert cost["layout"]["xaxis"]["title"]["text"] == "seconds per 1,000 images"
    assert "environment" not in page.words and "episode" not in page.words
    assert f"stablegrad resume {tmp_path / 'run'}" in page.words


@pytest.mark.parametrize(
    ("done", "status", "error", "third", "figures"),
    [
        (5, "failed", "training diverged in epoch 6", ["reshuffled, 2", "1 of 2", "20.0%", "–", "not yet"], 3),
        (3, "stopped", "stopped by SIGTERM after 30 updates", ["reshuffled, 2", "0 of 2", "–", "–", "–"], 3),
        (3, None, None, ["reshuffled, 2", "0 of 2", "–", "–", "–"], 2),
        (0, None, None, ["reshuffled, 2", "0 of 2", "–", "–", "–"], 0),
        (0, "failed", "out of memory", ["reshuffled, 2", "0 of 2", "–", "–", "–"], 0),
    ],
)
def test_runs_that_have_not_finished(tmp_path, done, status, error, third, figures):
    page = Page(write_run_report(write_run(tmp_path / "run", done, status, error)))
    assert f"This run is {status or 'unfinished'}." in page.words and (error or "") in page.words
    facts, phases = tables(page)[:2]
    assert dict(facts)["Epochs"] == f"{done} of 6"
    assert phases[3] == third
    assert sum("data" in figure for figure in page.figures) == figures
    assert ("No epoch has ended yet" in page.words) is (done == 0)
    assert ("no cost to show" in page.words) is (figures < 3)


def test_labels_that_stay_have_no_marks_and_no_words_about_them(tmp_path):
    folder = RunFolder.create(tmp_path / "run", SupervisedConfig(epochs=2, reshuffle_every=0).to_json())
    folder.metrics_path.write_text(json.dumps({"step": 5, "train/epoch": 1, "train/accuracy": 0.95}) + "\n")
    page = Page(write_run_report(folder.path))
    assert tables(page)[1][1:] == [["true", "1 of 2", "95.0%", "–", "1"]]
    assert "reshuffled, 1" not in page.words and "nothing to do with the images" not in page.words
    assert "shapes" not in page.figures[0]["layout"]


def test_foreign_text_is_escaped(tmp_path):
    run = write_run(tmp_path / "run", 3, "failed", _pages.EVIL, data=f"/data/{_pages.EVIL.replace('/', '|')}")
    page = Page(write_run_report(run))
    assert _pages.EVIL in page.words
    assert not any(tag == "img" for tag, _ in page.elements)


def test_every_command_on_a_real_run_answers(tmp_path, capsys):
    config = SupervisedConfig(
        data_limit=100,
        epochs=2,
        reshuffle_every=1,
        threads=1,
        torso=TorsoConfig(norm="none", width=16, out_features=16),
    )
    summary = train_supervised(config, tmp_path / "run", quiet=True)
    assert main(["report", str(tmp_path / "run")]) == 0
    page = Page(tmp_path / "run/report.html")
    assert f"{summary['final_accuracy']:.1%}" in page.words and "2 of 2" in page.words
    assert sum("data" in figure for figure in page.figures) == 3
    assert main(["diagnose", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("verdict: ")
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is a classifier's, which plays no episodes" in error
