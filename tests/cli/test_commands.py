"""The command as a person meets it: exit codes, one line where something is wrong, files where they belong."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

from stablegrad.cli import compare, train
from stablegrad.cli.arguments import RunOptions, _options
from stablegrad.cli.main import COMMANDS, main
from stablegrad.studies.optimizer_cost import build_mlp, kill_half
from stablegrad.training.config import default_run

TINY = ["--torso.width", "16", "--num-envs", "8", "--num-steps", "8", "--num-minibatches", "4", "--threads", "1"]
TRAIN = ["train", "pqn", "--env", "CartPole-v1"]


def failure(capsys, arguments):
    code = main(arguments)
    captured = capsys.readouterr()
    assert captured.err.startswith("stablegrad: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    return code, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train"], "name the algorithm first"),
        (["train", "dqm", "--env", "CartPole-v1"], "unknown algorithm 'dqm'"),
        (["train", "pqn"], "name an environment"),
        (["train", "pqn", "--env", "LunarLandr-v3"], "did you mean 'LunarLander-v3'?"),
        (["train", "pqn", "--env", "Pendulum-v1"], "needs discrete actions; those of 'Pendulum-v1' are continuous"),
        (["train", "pqn", "--env", "nowhere.module:make"], "no module 'nowhere'"),
        ([*TRAIN, "--torso.kind", "multiskip"], "unknown torso 'multiskip'; did you mean 'multi_skip'?"),
        ([*TRAIN, "--torso.depth", "lrge"], "unknown torso depth 'lrge'; did you mean 'large'?"),
        ([*TRAIN, "--torso.dept", "3"], "did you mean '--torso.depth'?"),
        ([*TRAIN, "--optimizer.name", "adan"], "unknown optimizer 'adan'; did you mean 'adam'?"),
        ([*TRAIN, "--preset", "stabel"], "unknown preset 'stabel'; did you mean 'stable'?"),
        ([*TRAIN, "--preset", "stable+torso.dept=3"], "did you mean 'torso.depth'?"),
        ([*TRAIN, "--total-steps", "-5"], "total-steps must be at least 1, got -5"),
        ([*TRAIN, "--total-steps", "many"], "--total-steps should be a whole number, got 'many'"),
        ([*TRAIN, "--num-minibatches", "7"], "cannot be cut into 7 minibatches"),
        ([*TRAIN, "--atari.frame-stack", "4"], "'--atari.frame-stack'"),
        ([*TRAIN, "--device", "cuda:9"], "device 'cuda:9' is not there"),
        ([*TRAIN, "--max-grad-norm", "inf"], "max-grad-norm must be above 0 and finite"),
        ([*TRAIN, "--encoder.kind", "nature"], "needs image observations"),
        ([*TRAIN, "--device", "gpu"], "unknown device 'gpu'"),
        ([*TRAIN, "--run-dir", "/proc/no/run"], "cannot write run folder '/proc/no/run'"),
        (["resume", "nowhere"], "'nowhere' is no run folder"),
        (["evaluate", "nowhere"], "'nowhere' is no run folder"),
        (["report", "nowhere"], "nowhere"),
        (["envs", "--search", "nothing-of-that-name"], "no environment's name contains"),
        (["compare", "pqn", "--env", "CartPole-v1", "--settings", "baseline", "baseline"], "two different settings"),
        (["compare", "pqn", "--env", "CartPole-v1", "--seed", "3"], "--seed is for 'train'; compare takes --seeds N"),
        (["compare", "pqn", "--env", "CartPole-v1", "--preset=kron"], "--preset is for 'train'; compare takes --set"),
        ([*TRAIN, "--algorithm", "pqn"], "the algorithm stands first and is no option"),
        (["report", "--json"], "name at least one run folder"),
        ([*TRAIN, "--lr", "1e-3"], "unknown option of 'train pqn' '--lr'; did you mean '--optimizer.learning-rate'?"),
        ([*TRAIN, "--net-arch", "64"], "did you mean '--torso.width' and '--torso.depth'?"),
        (
            [*TRAIN, "--flurb"],
            "unknown option of 'train pqn' '--flurb'; 'stablegrad train pqn --help-all' lists them all",
        ),
        ([*TRAIN, "--total-steps", "2e5"], "should be a whole number, got '2e5'; did you mean 200000?"),
        ([*TRAIN, "--total-steps", "10M"], "did you mean 10000000?"),
        ([*TRAIN, "--seed", "1,2"], "--seed should be a whole number, got '1,2'"),
        ([*TRAIN, "--discount", "high"], "--discount should be a number, got 'high'"),
        ([*TRAIN, "--seed"], "--seed needs a value"),
        ([*TRAIN, "--quiet", "yes"], "unexpected 'yes' for 'train pqn': --quiet takes no value"),
        ([*TRAIN, "--json=yes"], "unexpected 'yes' for 'train pqn': --json takes no value"),
        ([*TRAIN, "more"], "unexpected 'more' for 'train pqn': options begin with --"),
        (["train", "pqn", "CartPole-v1"], "name an environment: --env CartPole-v1"),
        (["train", "pqn", "--env", "CartPole"], "did you mean 'CartPole-v1'?"),
        (["train", "pqn", "--env", "PongNoFrameskip-v4"], "did you mean 'Pong-v5'?"),
        (["train", "pqn", "--env", "ALE/Qbert-v5"], "did you mean 'Qbert-v5'?"),
        (["train", "pqn", "--env", "gym:CartPole-v1"], "did you mean 'CartPole-v1'?"),
        (["train", "pqn", "--env", "nowhere/walk.py"], "one of your own is named package.module:make_env"),
        (["resume"], "'stablegrad resume' needs PATH: The run's folder"),
        (["compare", "pqn", "--env", "CartPole-v1", "--seeds", "1,2,3"], "spaces between them: --seeds 1 2 3"),
        (
            ["compare", "pqn", "--env", "CartPole-v1", "--settings", "a,b"],
            "needs 2 values, with spaces between them: --se",
        ),
        (["diagnose", "a:b", "--input-shape", "4,84,84"], "spaces between them: --input-shape 4 84 84"),
        (["diagnose", "a:b", "--input-shape", "(4, 84, 84)"], "spaces between them: --input-shape 4 84 84"),
        (["--seed", "3"], "name a command first: stablegrad COMMAND --seed"),
        (["compare", "pqn", "--env", "CartPole-v1", "--seeds", "0"], "seed"),
        (
            ["compare", "pqn", "--env", "CartPole-v1", "--tune-rate", "1"],
            "tune-rate must be from 2 to 20 learning rates",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, error = failure(capsys, arguments)
    assert message in error
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_and_every_command_explains_itself(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert command in text
        try:
            code = main([command, "--help"])
        except SystemExit as stop:
            code = stop.code
        assert code in (0, None)
        assert len(capsys.readouterr().out) > 100
    assert main(["--version"]) == 0
    assert re.fullmatch(r"stablegrad \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_train_help_shows_the_defaults_of_the_environment_and_the_preset(capsys):
    with pytest.raises(SystemExit):
        main(["train", "pqn", "--env", "Breakout-v5", "--preset", "stable", "--help-all"])
    text = capsys.readouterr().out
    assert "--atari.sticky-actions" in text
    assert "multi_skip" in text
    assert "kron" in text


def test_help_shows_what_matters_first_and_says_how_to_see_the_rest(capsys):
    def shown(*command):
        with pytest.raises(SystemExit):
            main(list(command))
        return capsys.readouterr().out

    short, whole = shown("train", "pqn", "--help"), shown("train", "pqn", "--help-all")
    first = re.findall(r"^  (--[a-z.-]+)", short, re.MULTILINE)
    every = set(re.findall(r"^  (?:-h, )?(--[a-z][a-z0-9.-]*)", whole, re.MULTILINE))
    assert first[:3] == ["--env", "--preset", "--seed"] and first[-1] == "--run-dir" and len(first) <= 12
    assert f"{len(every) - 1 - len(first)} more options: stablegrad train pqn --help-all" in short
    assert len(short.splitlines()) < 40 and "{None}" not in whole and "(default: None)" not in whole
    # What tyro knows, the whole help shows, each with its text.
    known = _options(train.Arguments, train.Arguments(run=RunOptions.of(default_run("pqn", "CartPole-v1"))))
    assert {name for name in known if not re.search(r"(--|\.)no-", name)} <= every
    assert "--json                    Print the summary as JSON on the last line.\n" in whole
    # A command with few options shows them all.
    assert shown("evaluate", "--help") == shown("evaluate", "--help-all")
    assert "PATH" in shown("evaluate", "--help") and "more options" not in shown("evaluate", "--help")


def test_help_shows_no_option_that_is_refused(capsys):
    def options(*command):
        with pytest.raises(SystemExit):
            main([*command, "--help-all"])
        return set(re.findall(r"(?<=\s)--[a-z][a-z.-]*", capsys.readouterr().out))

    training, comparing = options("train"), options("compare")
    assert training - comparing == {"--preset", "--seed", "--run-dir"}
    assert comparing - training == {"--settings", "--seeds", "--tune-rate", "--dir", "--workers"}
    assert "--algorithm" not in training
    for command in ("train", "resume", "evaluate", "compare", "report", "envs", "quickstart", "bench"):
        assert "--json" in options(command)


def test_quickstart_is_a_comparison_and_passes_its_flags_on(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(compare, "run", lambda arguments: seen.append(arguments) or 0)
    assert main(["quickstart", "--dir", "there", "--json"]) == 0
    assert seen[0][:3] == ["pqn", "--env", "LunarLander-v3"]
    assert seen[0][-3:] == ["--dir", "there", "--json"]
    assert "stablegrad compare pqn --env LunarLander-v3" in capsys.readouterr().out
    main(["quickstart", "--quiet"])
    assert seen[1] == [*seen[0][:-3], "--dir", "runs/quickstart", "--quiet"]


def test_a_factory_is_asked_once_what_it_makes(capsys, monkeypatch, tmp_path):
    (tmp_path / "counted_env.py").write_text(
        "import gymnasium\n"
        "made = []\n"
        "def make_env():\n"
        "    made.append(gymnasium.make('CartPole-v1'))\n"
        "    return made[-1]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    command = ["train", "pqn", "--env", "counted_env:make_env", *TINY, "--total-steps", "100", "--eval-episodes", "2"]
    assert main([*command, "--run-dir", "run"]) == 0
    # One to describe it (five times before this was kept), 8 in the run's only segment, 2 to evaluate.
    assert len(sys.modules["counted_env"].made) == 1 + 8 + 2
    assert capsys.readouterr().err.endswith(" s elapsed\n")
    del sys.modules["counted_env"]


def test_train_evaluate_resume_report(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, *TINY, "--total-steps", "2000", "--preset", "stable", "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("finished: return ")
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name == "pqn-CartPole-v1-stable-seed1"

    assert main(["evaluate", str(run_dir), "--episodes", "5", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["episodes"] == 5
    assert first["human_normalized_score"] is None
    assert main(["evaluate", str(run_dir), "--episodes", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert main(["evaluate", str(run_dir), "--episodes", "5", "--seed", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) != first

    assert main(["resume", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert main(["report", str(run_dir)]) == 0
    assert (run_dir / "report.html").stat().st_size > 10_000
    capsys.readouterr()
    assert main(["report", str(run_dir), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"folder": str(run_dir), "report": str(run_dir / "report.html")}]
    assert main(["evaluate", str(run_dir), "--episodes", "2", "--max-episode-steps", "3"]) == 0
    captured = capsys.readouterr()
    assert "2 of the episodes had not ended after 3 steps and were cut there" in captured.out
    assert captured.err.startswith("evaluation: 2/2 episodes  mean return 3.0")
    assert main(["evaluate", str(run_dir), "--episodes", "2", "--quiet"]) == 0
    assert capsys.readouterr().err == ""

    code, error = failure(capsys, [*TRAIN, *TINY, "--preset", "stable"])
    assert code == 2
    assert "already holds a run" in error
    code, error = failure(capsys, ["evaluate", str(run_dir), "--episodes", "0"])
    assert code == 2
    (checkpoint,) = (run_dir / "checkpoints").iterdir()
    model = checkpoint / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-10])
    code, error = failure(capsys, ["evaluate", str(run_dir)])
    assert code == 1
    assert "model.safetensors was truncated or edited" in error


@pytest.fixture
def workspace(monkeypatch, tmp_path):
    """A folder with runs, a comparison, weights and a module, none of which is opened."""
    for folder, name in (("a", "config"), ("b", "config"), ("both", "comparison"), ("both/runs/x/seed-1", "config")):
        (tmp_path / "runs" / folder / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / folder / f"{name}.json").write_text("{}")
    (tmp_path / "model.zip").touch()
    (tmp_path / "mine").mkdir()
    text = "raise RuntimeError('was run')\ndef helper(): ...\ndef make_model(): ...\ndef make_walk(): ..."
    for module in ("nets.py", "mine/walk.py"):
        (tmp_path / module).write_text(text)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resume", "runs"],
            "'runs' is no run folder: it holds others; name one: runs/a, runs/b, runs/both/runs/x/seed-1",
        ),
        (["evaluate", "runs/both"], "it holds others; name one: runs/both/runs/x/seed-1"),
        (["diagnose", "runs"], "it holds others; name one: runs/a"),
        (
            ["diagnose", "runs/a/checkpoints"],
            "'runs/a/checkpoints' is no run folder: it lies in 'runs/a', which is one",
        ),
        (["evaluate", "runs/a/config.json"], "it lies in 'runs/a', which is one"),
        (["evaluate", "model.zip"], "'model.zip' is no run folder: it is a file"),
        (["resume", "runs/both/runs/x/seed-2"], "nothing of that name; did you mean 'runs/both/runs/x/seed-1'?"),
        (
            ["report", "runs"],
            "no folder of a run, a comparison or a study: it holds others; name one: runs/a, runs/b, runs/both",
        ),
        (
            ["report", "runs/a", "--summary"],
            "neither a comparison folder nor a study folder: it has no comparison.json",
        ),
        (["report", "runs", "--summary"], "it holds others; name one: runs/both"),
        (
            ["diagnose", "model.zip"],
            "'model.zip' is a file of weights; expected package.module:make_model, or a run folder",
        ),
        (["diagnose", "nets.py:make_model"], "did you mean 'nets:make_model'?"),
        (["diagnose", "nets.helper"], "did you mean 'nets:helper'?"),
        (["diagnose", "nets.py"], "did you mean 'nets:make_model'?"),
        (["diagnose", "./mine/walk.py:make_walk"], "did you mean 'mine.walk:make_walk'?"),
        (["diagnose", "mine.walk.helper"], "did you mean 'mine.walk:helper'?"),
        (
            ["train", "pqn", "--env", "mine/walk.py:make_walk"],
            "unknown environment 'mine/walk.py:make_walk'; did you mean 'mine.",
        ),
        (["train", "pqn", "--env", "nets.make_walk"], "did you mean 'nets:make_walk'?"),
        (["diagnose", "runs/a", "--device", "cpu"], "--device is for the trial of what is prescribed; add --verify"),
    ],
)
def test_what_was_meant_is_found_in_the_folder(capsys, workspace, arguments, message):
    code, error = failure(capsys, arguments)
    assert message in error
    assert code in (1, 2)


def test_a_videos_file_is_an_mp4(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, *TINY, "--total-steps", "100", "--run-dir", "run", "--quiet"]) == 0
    _, error = failure(capsys, ["evaluate", "run", "--video", "film.avi", "--quiet"])
    assert "a video is an MP4 file; name it 'film.mp4'" in error
    assert not (tmp_path / "film.avi").exists()


def test_evaluate_writes_a_video(capsys, monkeypatch, tmp_path):
    imageio = pytest.importorskip("imageio", reason="the extra 'video' is not installed")
    monkeypatch.chdir(tmp_path)
    assert main([*TRAIN, *TINY, "--total-steps", "200", "--quiet", "--run-dir", "run"]) == 0
    assert main(["evaluate", "run", "--episodes", "2", "--video", "game.mp4", "--json"]) == 0
    frames = imageio.mimread("game.mp4", memtest=False)
    returns = json.loads(capsys.readouterr().out.splitlines()[-1])["returns"]
    assert len(frames) in {int(value) for value in returns}
    assert frames[0].shape[2] == 3


def test_compare_trains_pairs_and_says_what_it_shows(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["compare", "pqn", "--env", "CartPole-v1", *TINY, "--total-steps", "700", "--seeds", "2", "--quiet"]
    command += ["--settings", "baseline", "stable+torso.depth=2", "--dir", "pair", "--tune-rate", "2"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "Every setting was tuned: it tried 2 learning rates (x1, x3) on seeds 1001, 1002" in output
    assert (tmp_path / "pair" / "tuning" / "report.html").exists()
    assert "tuning/report.html" in (tmp_path / "pair" / "report.html").read_text()
    # The commands that are named next work as they stand.
    for words in re.findall(r"^(?:Next:)?\s+stablegrad (.+?)   \(", output, re.MULTILINE):
        assert main(shlex.split(words)) == 0
    assert (tmp_path / "pair" / "summary.html").exists()
    capsys.readouterr()
    assert "Paired difference" in output
    assert "Fewer than 3 paired seeds" in output
    for setting in ("baseline", "stable+torso.depth=2"):
        for seed in (1, 2):
            assert (tmp_path / "pair" / "runs" / setting / f"seed-{seed}" / "summary.json").exists()
    assert (tmp_path / "pair" / "report.html").exists()
    assert list((tmp_path / "pair" / "figures").glob("*.png"))
    configs = [
        json.loads((tmp_path / "pair" / "runs" / setting / "seed-1" / "config.json").read_text())["agent"]["torso"]
        for setting in ("baseline", "stable+torso.depth=2")
    ]
    assert [config["kind"] for config in configs] == ["mlp", "multi_skip"]
    assert [config["width"] for config in configs] == [16, 16]
    assert configs[1]["depth"] == 2

    # Again: nothing is trained twice, the same figures come out.
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["difference"]["count"] == 2
    code, error = failure(capsys, [*command, "--discount", "0.9"])
    assert code == 2
    assert "discount" in error


def test_envs_lists_and_searches(capsys):
    assert main(["envs", "--search", "lunar"]) == 0
    assert "LunarLander-v3" in capsys.readouterr().out
    assert main(["envs", "--json"]) == 0
    names = [environment["env_id"] for environment in json.loads(capsys.readouterr().out)]
    assert len(names) > 1000
    assert {"Breakout-v5", "CartPole-v1"} <= set(names)


def test_the_module_and_debug(tmp_path):
    command = [sys.executable, "-m", "stablegrad", "resume", str(tmp_path / "nothing")]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr.count("\n") == 1
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert "Traceback" in debug.stderr


def test_bench_optimizers_measures_mlps_early_and_late_on_one_thread(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stablegrad.studies.optimizer_cost.LATE_STEPS", 3)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    command = ["bench", "optimizers", "--sizes", "mlp/3/8", "--rounds", "1", "--batch-size", "4", "--json"]
    try:
        assert main([*command, "--optimizers", "radam", "kron", "--dir", "cost"]) == 0
    finally:
        torch.set_num_threads(threads)
    output = capsys.readouterr().out
    (result,) = json.loads(output.splitlines()[-1])
    assert (result["size"], result["threads"], result["parameters"]) == ("mlp/3/8", 1, 64 * 8 + 8 + 72 + 90)
    for entry in result["optimizers"].values():
        assert {kind["rounds"] for kind in entry["kinds"].values()} == {10}
        assert entry["late_step_ms"] > 0
        assert entry["late_ratio"] > 0
    assert "late" in output


def test_the_late_steps_of_the_benchmark_have_dead_units():
    network = build_mlp(4, 16)
    kill_half(network)
    network(torch.randn(32, 64)).square().mean().backward()
    first, second = network[0], network[2]
    assert not first.weight.grad[::2].any()
    assert not second.weight.grad[:, ::2].any()
    assert first.weight.grad[1::2].any()


def test_bench_optimizers_measures_writes_and_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    command = ["bench", "optimizers", "--sizes", "1/16", "0/256", "--rounds", "2", "--batch-size", "4", "--json"]
    command += [
        "--optimizers",
        "radam",
        "adam",
        "kron",
        "kron_block_256",
        "heavyball",
        "--threads",
        "1",
        "--dir",
        "cost",
    ]
    assert main(command) == 0
    output = capsys.readouterr().out
    results = json.loads(output.splitlines()[-1])
    saved = json.loads((tmp_path / "cost" / "optimizers.json").read_text())
    assert saved["sizes"] == results
    assert (tmp_path / "cost" / "optimizers.png").read_bytes().startswith(b"\x89PNG")
    for result, size in zip(results, ("1/16", "0/256"), strict=True):
        entries = result["optimizers"]
        assert result["size"] == size
        assert entries["radam"]["ratio_radam"] == 1.0
        assert entries["radam"]["state_bytes"] == pytest.approx(2 * result["parameter_bytes"], rel=0.01)
        for name, shares in (
            ("kron", {"refresh": 0.1, "precondition": 0.9}),
            ("kron_block_256", {"refresh": 0.05, "precondition": 0.2375, "repeat": 0.7125}),
        ):
            kinds = entries[name]["kinds"]
            assert {kind: entry["share"] for kind, entry in kinds.items()} == pytest.approx(shares)
            assert entries[name]["step_ms"] == pytest.approx(sum(shares[kind] * kinds[kind]["ms"] for kind in shares))
            assert {entry["rounds"] for entry in kinds.values()} == {2}
        if importlib.util.find_spec("heavyball") is None:
            assert entries["heavyball"] == {"note": "not installed"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench"], "bench what? try: stablegrad bench optimizers"),
        (["bench", "optimisers"], "did you mean 'optimizers'"),
        (["bench", "optimizers", "--sizes", "small"], "a size is depth/width, as in small/small"),
        (["bench", "optimizers", "--sizes", "small/smal"], "did you mean 'small'"),
        (["bench", "optimizers", "--sizes", "mlp/1/16"], "an MLP's size is mlp/layers/width, both at least 2"),
        (["bench", "optimizers", "--sizes", "mlp/wide"], "an MLP's size is mlp/layers/width, both at least 2"),
        (["bench", "optimizers", "--optimizers", "krn"], "did you mean 'kron'"),
        (["bench", "optimizers", "--rounds", "0"], "rounds, batch-size and seconds must be above 0"),
    ],
)
def test_bench_says_in_one_line_what_is_wrong(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, error = failure(capsys, arguments)
    assert code == 2
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_what_takes_seconds_to_import_waits_until_it_is_needed():
    program = (
        "import sys; import stablegrad.cli.study_commands, stablegrad.cli.train, stablegrad.cli.relearn;"
        "from stablegrad.optimizers import OptimizerConfig; OptimizerConfig(name='kron');"
        "print(*{'torch._dynamo', 'envpool', 'matplotlib', 'scipy.stats'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
