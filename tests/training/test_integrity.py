import json
import random
import shutil
import subprocess

import pytest

from stablegrad.cli.main import main
from stablegrad.errors import StablegradError, UsageError
from stablegrad.training.integrity import altered_files, record_digest

TINY = ["--torso.width", "16", "--threads", "1", "--quiet"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of DQN, whose checkpoints list rows of its replay."""
    path = tmp_path_factory.mktemp("integrity") / "run"
    command = ["train", "dqn", "--env", "CartPole-v1", "--total-steps", "600", "--checkpoint-every", "200", *TINY]
    assert main([*command, "--learning-starts", "100", "--run-dir", str(path)]) == 0
    return path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def recorded(run):
    return [line.split("  ", 1)[1] for line in (run / "SHA256SUMS").read_text().splitlines()]


def test_the_record_is_of_all_that_was_written_and_sha256sum_agrees(run):
    assert altered_files(run) == []
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=run, check=True, capture_output=True)
    names = set(recorded(run))
    assert {"config.json", "metrics.jsonl", "summary.json"} < names
    assert any(name.startswith("checkpoints/experience/rows-") for name in names)
    on_disk = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert on_disk - names == {"SHA256SUMS", ".lock"} & on_disk


def test_every_edit_of_twenty_is_found_and_named(run):
    generator = random.Random(0)
    for number in range(20):
        name = recorded(run)[number % len(recorded(run))]
        before = (run / name).read_bytes()
        after = bytearray(before)
        kind = generator.choice(["flip", "append", "cut", "delete"])
        if kind == "flip":
            after[generator.randrange(len(after))] ^= 1 << generator.randrange(8)
        elif kind == "append":
            after += b"0"
        else:
            del after[generator.randrange(len(after)) :]
        (run / name).write_bytes(after)
        if kind == "delete":
            (run / name).unlink()
        assert altered_files(run) == [f"{name} is gone" if kind == "delete" else f"{name} was edited"]
        (run / name).write_bytes(before)
    assert altered_files(run) == []


def test_what_was_added_to_a_run_is_found(run):
    (run / "checkpoints/step-700").mkdir()
    (run / "checkpoints/step-700/model.safetensors").write_bytes(b"better")
    (run / "interventions.json").write_text("[]")
    assert altered_files(run) == [
        "checkpoints/step-700/model.safetensors was added", "interventions.json was added",
    ]  # fmt: skip


def test_using_a_run_does_not_alter_it(run, capsys):
    assert main(["report", str(run)]) == 0
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    assert main(["diagnose", str(run)]) == 0
    assert main(["resume", str(run)]) == 0
    assert altered_files(run) == []


def test_the_command_says_what_was_altered_and_finds_edits_of_the_record(run, capsys):
    assert main(["verify", str(run)]) == 0
    digest = record_digest(run)
    assert capsys.readouterr().out == f"{run}: as it ended   digest {digest}\n"
    assert main(["verify", str(run), "--digest", digest, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"run": str(run), "digest": digest, "altered": []}]

    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "final_return": 500.0}))
    assert main(["verify", str(run.parent)]) == 1
    assert "summary.json was edited" in capsys.readouterr().out
    # With the record made to fit, only its own digest tells.
    sums = subprocess.run(["sha256sum", *recorded(run)], cwd=run, check=True, capture_output=True, text=True).stdout
    (run / "SHA256SUMS").write_text(sums)
    assert main(["verify", str(run)]) == 0
    assert main(["verify", str(run), "--digest", digest]) == 1
    assert "SHA256SUMS was edited" in capsys.readouterr().out
    # Of several runs, one whose record was removed does not pass unseen.
    shutil.copytree(run, run.parent / "other")
    assert main(["verify", str(run.parent)]) == 0
    (run.parent / "other" / "SHA256SUMS").unlink()
    assert main(["verify", str(run.parent)]) == 1
    assert "other: it has no SHA256SUMS" in capsys.readouterr().out


def test_what_cannot_be_verified_is_said_in_a_line(run, tmp_path, capsys):
    with pytest.raises(UsageError, match="is no run folder: there is nothing of that name"):
        altered_files(tmp_path / "nothing")
    (run / "SHA256SUMS").write_text("abc\n")
    with pytest.raises(StablegradError, match="is no line of digest and file"):
        altered_files(run)
    (run / "SHA256SUMS").unlink()
    with pytest.raises(UsageError, match="the run is not finished, or an older version made it"):
        altered_files(run)
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
    assert "is no run folder" in capsys.readouterr().err
