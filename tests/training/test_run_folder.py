import json

import pytest

from stablegrad.errors import StablegradError
from stablegrad.studies.processes import last_metrics
from stablegrad.training.run_folder import RunFolder

SUMMARY = {"status": "finished", "final_return": 1.5, "seconds": {"optimizer": 1.0}, "layers": ["head"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_return": "high"}, "final_return should be a number, found 'high'"),
        ({"wall_seconds": [1]}, "wall_seconds should be a number"),
        ({"parameters": True}, "parameters should be a number"),
        ({"seconds": [1.0]}, "seconds should be an object"),
        ({"seconds": {"optimizer": "x"}}, "seconds.optimizer should be a number"),
        ({"relearning": {"mean_epochs": {}}}, "relearning.mean_epochs should be a number"),
        ({"health": "fine"}, "health should be an object"),
        ({"layers": [1]}, "layers should be names"),
    ],
)
def test_a_summary_of_another_shape_is_one_line(tmp_path, change, message):
    folder = RunFolder(tmp_path)
    folder.summary_path.write_text(json.dumps({**SUMMARY, **change}))
    with pytest.raises(StablegradError, match=message):
        folder.read_summary()


def test_a_number_that_is_none_is_missing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.summary_path.write_text(json.dumps({**SUMMARY, "final_return": float("nan")}))
    assert folder.read_summary() == {**SUMMARY, "final_return": None}
    folder.metrics_path.write_text('{"step": 1, "a": NaN, "b": 2, "c": 1e999, "d": null}\n')
    assert folder.read_metrics() == [{"step": 1, "b": 2}] == [last_metrics(folder)]


@pytest.mark.parametrize(
    "line", ["[1]", "null", '{"step": 2, "a": "x"}', '{"a": 1}', '{"step": NaN}', '{"step": 2', "\0"]
)
def test_a_damaged_line_of_metrics_is_named_and_the_last_whole_one_found(tmp_path, line):
    folder = RunFolder(tmp_path)
    whole = '{"step": 1, "train/return": 3}\n'
    folder.metrics_path.write_text(f"{whole}{line}\n")
    with pytest.raises(StablegradError, match=r"metrics\.jsonl' line 2 is not JSON of metrics: "):
        folder.read_metrics()
    assert last_metrics(folder) == {"step": 1, "train/return": 3}
    folder.metrics_path.write_text(f"{whole}{line}")  # as a kill leaves it
    assert folder.read_metrics() == [{"step": 1, "train/return": 3}]
