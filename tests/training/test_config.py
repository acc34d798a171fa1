import pytest

from stablegrad.training.config import provenance


@pytest.mark.parametrize(
    ("program", "recorded"),
    [
        ("/usr/lib/python3/site-packages/stablegrad/__main__.py", "stablegrad"),  # python -m stablegrad
        ("/usr/bin/stablegrad", "stablegrad"),
        ("/home/me/project/__main__.py", "__main__.py"),
        ("train.py", "train.py"),
    ],
)
def test_the_command_is_one_that_can_be_typed(monkeypatch, program, recorded):
    monkeypatch.setattr("sys.argv", [program, "train", "pqn"])
    assert provenance()["command"] == [recorded, "train", "pqn"]
