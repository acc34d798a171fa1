import sys

import pytest

from stablegrad.errors import UsageError
from stablegrad.studies.executors import make_executor
from stablegrad.studies.runner import run_study
from stablegrad.studies.study import StudyFolder, read_study

STUDY = """
seeds = 2
[base]
algorithm = "relearn"
data_limit = 64
epochs = 2
reshuffle_every = 1
width = 8
"""


def test_a_missing_ray_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray: pip install 'stablegrad\[ray\]'"):
        make_executor("ray")


def test_a_study_on_ray_ends_like_one_on_this_machine(tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is an extra")
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    folders = {name: StudyFolder.open(tmp_path / name, read_study(file), file) for name in ("local", "ray")}
    try:
        for name, folder in folders.items():
            executor = make_executor(name)
            assert run_study(folder, executor, 2)["finished"] == 2
    finally:
        ray.shutdown()
    assert folders["ray"].results_path.read_bytes() == folders["local"].results_path.read_bytes()
