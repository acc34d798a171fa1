"""An algorithm of one's own, in one file that nothing in the package knows, goes everywhere that the package's go."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stablegrad.agents.catalogue import ALGORITHMS, find_algorithm
from stablegrad.cli.main import main
from stablegrad.errors import StablegradError, UsageError
from stablegrad.training.checkpoint import list_checkpoints, load_checkpoint
from stablegrad.training.run_folder import RunFolder

NAME = "random_search:ALGORITHM"
OPTIONS = ["--env", "CartPole-v1", "--threads", "1", "--quiet"]
STEPS = ["--total-steps", "6000", "--checkpoint-every", "2000", "--keep-checkpoints", "9"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    shutil.copy(Path(__file__).with_name("random_search.py"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(run):
    return load_checkpoint(list_checkpoints(Path(run) / "checkpoints")[-1])[0]


def test_it_trains_resumes_bit_for_bit_is_evaluated_reported_and_diagnosed(capsys):
    for run in ("whole", "cut"):
        assert main(["train", NAME, *OPTIONS, *STEPS, "--run-dir", run]) == 0
    summary = RunFolder("whole").read_summary()
    assert summary["algorithm"] == NAME
    assert summary["parameters"] == 10
    rows = RunFolder("whole").read_metrics()
    assert rows[-1]["search/best"] == max(row.get("search/best", 0) for row in rows)
    assert "values/reward" in rows[-1]

    RunFolder("cut").summary_path.unlink()
    for newer in list_checkpoints(Path("cut/checkpoints"))[1:]:
        shutil.rmtree(newer)
    assert main(["resume", "cut", "--quiet"]) == 0
    assert all(torch.equal(weights("whole")[name], tensor) for name, tensor in weights("cut").items())

    capsys.readouterr()
    assert main(["evaluate", "whole", "--episodes", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["episodes"] == 5
    assert main(["report", "whole"]) == 0
    assert Path("whole/report.html").stat().st_size > 10_000


def test_it_is_compared_and_studied(capsys):
    short = ["--total-steps", "700", "--seeds", "2"]
    assert main(["compare", NAME, *OPTIONS, *short, "--settings", "baseline", "baseline+noise=2"]) == 0
    (folder,) = Path("runs").glob("compare-*")
    assert folder.name == "compare-random_search-ALGORITHM-CartPole-v1"
    Path("study.toml").write_text(
        'seeds = 1\nreport = ["final_return", "values/reward"]\n'
        f'[base]\nalgorithm = "{NAME}"\nenv = "CartPole-v1"\ntotal_steps = 700\n'
        "[axes]\nnoise = [0.1, 1.0]\n"
    )
    assert main(["study", "run", "study.toml", "--dir", "study", "--quiet"]) == 0
    assert main(["report", "study"]) == 0
    assert (Path("study") / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pqm", "unknown algorithm 'pqm'; did you mean 'pqn'?"),
        ("random_search", "unknown algorithm"),
        ("random_search.py", "did you mean 'random_search:ALGORITHM'"),
        ("random_search:ALGORITM", "did you mean 'random_search:ALGORITHM'"),
        ("random_serch:ALGORITHM", "did you mean 'random_search'"),
        ("random_search:RandomSearch", "unknown algorithm 'random_search:RandomSearch'"),
        ("broken:ALGORITHM", "algorithm 'broken:ALGORITHM': its module raised ZeroDivisionError"),
        ("empty:ALGORITHM", r"names no Algorithm; expected empty:ALGORITHM = Algorithm\(...\)"),
    ],
)
def test_a_name_that_is_none_is_one_line(name, message):
    Path("broken.py").write_text("1 / 0\n")
    Path("empty.py").write_text("ALGORITHM = 1\n")
    with pytest.raises((UsageError, StablegradError), match=message) as caught:
        find_algorithm(name)
    assert "\n" not in str(caught.value)


def test_every_algorithm_of_the_catalogue_is_there():
    for name in ALGORITHMS:
        algorithm = find_algorithm(name)
        assert algorithm.title
        assert algorithm.config()
