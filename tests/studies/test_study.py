import json
from pathlib import Path

import pytest

from stablegrad.errors import StablegradError, UsageError
from stablegrad.studies import kinds, processes
from stablegrad.studies.study import FORMS, parse_expectation, read_study
from stablegrad.studies.study_folder import StudyFolder

PAPER = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))

DIGITS = """
title = "Depth and cure"
seeds = 2
report = ["relearning.mean_final_accuracy"]
[base]
algorithm = "relearn"
epochs = 4
reshuffle-every = 2
[axes]
depth = [1, "large"]
setting = [
  {name = "baseline"},
  {name = "stable, wide", preset = "stable", "torso.width" = 32},
]
[small]
seeds = [7]
[small.base]
epochs = 3
[small.axes]
depth = [1]
"""

AGENTS = """
[base]
algorithm = "pqn"
env = "CartPole-v1"
total_steps = 1000
look_every = 50
[axes]
width = [8, 16]
norm = ["layer", "none"]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="grid.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_a_file_is_expanded_cell_by_cell_and_run_seed_by_seed(write):
    study = read_study(write(DIGITS))
    assert [run.name for run in study.runs] == [
        f"depth={depth}_setting={setting}-seed{seed}"
        for seed in (1, 2)
        for depth in ("1", "large")
        for setting in ("baseline", "stable-wide")
    ]
    assert study.texts == {"title": "Depth and cure"}
    assert study.report == ("relearning.mean_final_accuracy",)
    last = study.runs[-1].config
    assert (last.epochs, last.reshuffle_every, last.seed, last.threads) == (4, 2, 2, 1)
    assert (last.torso.depth, last.torso.width, last.torso.kind) == ("large", 32, "multi_skip")
    assert (last.optimizer.name, last.preset) == ("kron", "stable")
    assert study.default_directory == Path("runs/grid")


def test_the_small_form_lies_over_the_full_one(write):
    study = read_study(write(DIGITS), "small")
    assert [run.name for run in study.runs] == ["depth=1_setting=baseline-seed7", "depth=1_setting=stable-wide-seed7"]
    assert study.cells[0].config.epochs == 3
    assert study.default_directory == Path("runs/grid-small")


def test_agents_have_the_options_of_their_command_line(write):
    study = read_study(write(AGENTS))
    assert len(study.cells) == 4
    config = study.cells[-1].config
    assert (config.agent.torso.width, config.agent.torso.norm) == (16, "none")
    assert (config.diagnosis.look_every, config.total_steps) == (50, 1000)
    assert study.report == ("final_return", "gradients/norm")


def test_what_is_expected_is_read_but_is_no_part_of_the_runs(write, tmp_path):
    file = write(
        DIGITS.replace("seeds = 2", 'seeds = 2\nexpect = ["stable,_wide above  baseline", "all falls with depth"]', 1)
    )
    study = read_study(file)
    above, falls = (parse_expectation(text, study.cells) for text in study.expect)
    assert (above.setting, above.other, above.axis) == ("stable-wide", "baseline", None)
    assert (falls.setting, falls.axis, falls.falls) == ("all", "depth", True)
    StudyFolder.open(tmp_path / "s", read_study(write(DIGITS)), file)
    assert StudyFolder.open(tmp_path / "s", study, file).study == study  # the same runs, of which more is said
    assert StudyFolder.read(tmp_path / "s").study.expect == study.expect
    content = json.loads((tmp_path / "s/study.json").read_text())
    del content["expect"]
    (tmp_path / "s/study.json").write_text(json.dumps(content))
    assert StudyFolder.read(tmp_path / "s").study == read_study(write(DIGITS))  # of an older version


def test_a_study_without_axes_is_one_cell(write):
    study = read_study(write('[base]\nalgorithm = "relearn"\n'))
    assert [run.name for run in study.runs] == ["all-seed1", "all-seed2", "all-seed3"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 2", "seds = 2", r"unknown key of a study 'seds'; did you mean 'seeds'\?"),
        ("[small]\nseeds", "[small]\nsed", r"unknown key in \[small\] 'sed'"),
        ("seeds = 2", "seeds = 0", "seeds should be a number of at least 1"),
        ("seeds = 2", "seeds = [1, 1]", "seeds should be a number of at least 1, or a list of distinct ones"),
        ("depth = [1", "dept = [1", r"unknown axis 'dept'; did you mean 'depth'\?"),
        ("depth = [1", "total_steps = [1", "unknown axis 'total_steps'"),  # of agents
        ("epochs = 4", "epoch = 4", r"unknown option in \[base\] 'epoch'; did you mean 'epochs'\?"),
        ("epochs = 4", 'epochs = "four"', "epochs should be int, got 'four', in depth=1_setting=baseline"),
        ("epochs = 4", "epochs = 0", "epochs must be at least 1, got 0"),
        ("epochs = 4", "epochs = 4\nseed = 1", "option 'seed' cannot be set in a study; a study has seeds"),
        (
            "epochs = 4",
            "epochs = 4\ndepth = 3",
            r"'torso.depth' is set in \[base\] and in axis 'torso.depth'; keep one",
        ),
        ('"torso.width" = 32', "depth = 3", "'torso.depth' is set in axis 'torso.depth' and in axis 'setting'"),
        ('"torso.width" = 32', '"torso.wide" = 32', "unknown option of 'stable-wide' in axis 'setting' 'torso.wide'"),
        (
            '"torso.width" = 32',
            '"torso.skip_blocks" = 3',
            "skip_blocks must be from 0 to the depth, 1; got 3, in depth=1",
        ),
        ('{name = "baseline"}', "{}", "axis 'setting': every value should be a table with a name"),
        ('{name = "baseline"}', "3", "axis 'setting': every value should be a table with a name, got 3"),
        ('{name = "baseline"}', '{name = "stable/wide"}', "axis 'setting' has the value 'stable-wide' twice"),
        ('preset = "stable", "torso.width" = 32', 'preset = "baseline"', "are the same runs; leave one out"),
        ('preset = "stable"', 'preset = "stabel"', r"unknown preset 'stabel'; did you mean 'stable'\?"),
        ('depth = [1, "large"]', "depth = []", "axis 'torso.depth' should be a list of at least one value"),
        ('depth = [1, "large"]', "depth = 1", "axis 'torso.depth' should be a list of at least one value, got 1"),
        ('depth = [1, "large"]', "depth = [1, 1]", "axis 'torso.depth' has the value '1' twice"),
        ('depth = [1, "large"]', 'depth = [1, "lrge"]', r"unknown torso depth 'lrge'; did you mean 'large'\?"),
        ('"relearn"', '"relern"', r"unknown algorithm 'relern'; did you mean 'relearn'\?"),
        ('algorithm = "relearn"', "", r"name the algorithm in \[base\]"),
        ('"relearning.mean_final_accuracy"', '"final_acuracy"', "did you mean 'final_accuracy'"),
        ('"relearning.mean_final_accuracy"', "", "report should be a list of figures"),
        ("seeds = 2", 'seeds = 2\nneeds_data = "CIFAR-10"', "this study needs data: --data FOLDER, with CIFAR-10"),
        ("seeds = 2", 'seeds = 2\nexpect = "x"', "expect should be a list of sentences"),
        ("seeds = 2", 'seeds = 2\nexpect = ["stable is better"]', "expect should say 'A falls with depth'"),
        (
            "seeds = 2",
            'seeds = 2\nexpect = ["basline falls with depth"]',
            r"unknown value of an axis in expect 'basline'; did you mean 'baseline'\?",
        ),
        ("seeds = 2", 'seeds = 2\nexpect = ["all falls with dpth"]', "unknown axis of sizes in expect 'dpth'"),
        ("seeds = 2", "seeds = 2\naxes = 3", "is not TOML"),
        ("[base]", "[base", "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(write, old, new, message):
    assert old in DIGITS
    with pytest.raises(UsageError, match=message) as caught:
        read_study(write(DIGITS.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
    assert "grid.toml" in str(caught.value)


def test_wrong_requests(write, tmp_path):
    with pytest.raises(UsageError, match=r"cannot read study file .*none.toml': No such file"):
        read_study(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="unknown form of a study 'tiny'"):
        read_study(write(DIGITS), "tiny")
    with pytest.raises(UsageError, match="a data folder is for studies of classifiers"):
        read_study(write(AGENTS), data="cifar")
    with pytest.raises(UsageError, match=r"name an environment: env = ID"):
        read_study(write(AGENTS.replace('env = "CartPole-v1"', "")))
    with pytest.raises(UsageError, match="unknown environment 'CartPole-v9'"):
        read_study(write(AGENTS.replace("CartPole-v1", "CartPole-v9")))
    missing = read_study(write(DIGITS), data=str(tmp_path / "cifar")).cells[0].config
    assert missing.data == str(tmp_path / "cifar")
    with pytest.raises(UsageError, match=r"no data set .*cifar"):
        kinds.needs(missing)


def test_the_folder_keeps_the_study_and_refuses_another(write, tmp_path):
    file = write(DIGITS)
    study = read_study(file)
    folder = StudyFolder.open(tmp_path / "s", study, file)
    assert (tmp_path / "s/study.toml").read_text() == DIGITS
    assert StudyFolder.read(tmp_path / "s").study == study
    assert StudyFolder.open(tmp_path / "s", study, file).study == study
    before = folder.path.read_bytes()
    changed = read_study(write(DIGITS.replace("epochs = 4", "epochs = 6").replace("seeds = 2", "seeds = 3")))
    with pytest.raises(
        UsageError, match=r"changed since it started: base.epochs: 6 asked for, 4 there; seeds: .*study resume"
    ):
        StudyFolder.open(tmp_path / "s", changed, file)
    assert folder.path.read_bytes() == before
    reworded = read_study(write(DIGITS.replace("Depth", "# of layers")))
    assert StudyFolder.open(tmp_path / "s", reworded, file).study == reworded  # words are no change


def test_folders_that_are_no_study(write, tmp_path):
    file = write(DIGITS)
    with pytest.raises(UsageError, match=r"is no study folder: it has no study\.json"):
        StudyFolder.read(tmp_path)
    with pytest.raises(UsageError, match="is not empty and holds no study"):
        StudyFolder.open(tmp_path, read_study(file), file)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write study folder"):
        StudyFolder.open(tmp_path / "file/s", read_study(file), file)


def test_two_processes_cannot_run_one_study(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "LOCK_SECONDS", 0.0)
    with (
        processes.locked(tmp_path, "study"),
        pytest.raises(UsageError, match="another process is running the study"),
        processes.locked(tmp_path, "study"),
    ):
        pytest.fail("two hold it")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_studies_can_be_read(path, form):
    study = read_study(path, form, data="folder" if "needs_data" in path.read_text() else None)
    assert {"title", "claim", "look_at"} <= study.texts.keys()
    assert study.runs
    if form == "small":
        assert all(
            getattr(cell.config, "data", "digits") in ("digits", str(Path("folder").absolute())) for cell in study.cells
        )


NAMED = """
seeds = 1
[base]
algorithm = "relearn"
width = 8
[axes]
"{axis}" = [ {{ name = "{first}" }}, {{ name = "{second}", preset = "stable" }} ]
"""


def named(write, axis="setting", first="baseline", second="stable"):
    return read_study(write(NAMED.format(axis=axis, first=first, second=second)))


@pytest.mark.parametrize("axis", ["../../elsewhere", "/etc/x", "a/b", ".hidden", "a\\\\b", "tab\\tand space", "設定"])
def test_an_axis_of_any_name_keeps_it_and_its_runs_stay_in_the_folder(write, tmp_path, axis):
    study = named(write, axis)
    text = axis.replace("\\\\", "\\").replace("\\t", "\t")
    assert list(study.cells[0].values) == [text]
    folder = StudyFolder(tmp_path / "s", study)
    for run in study.runs:
        path = folder.run_folder(run).path
        assert path.resolve().parent == (tmp_path / "s/runs").resolve() and "\t" not in path.name


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ("基準A", "提案A", ("基準A", "提案A")),
        ("🚀", "🐢", ("🚀", "🐢")),
        ("Größe\u3000eins", "naïve", ("Größe-eins", "naïve")),
        ("e\u0301t\u00e9", "ete", ("été", "ete")),
    ],
)
def test_names_of_any_language_stay_apart(write, first, second, labels):
    study = named(write, first=first, second=second)
    assert tuple(cell.values["setting"] for cell in study.cells) == labels
    assert len({cell.name for cell in study.cells}) == 2


@pytest.mark.parametrize(
    ("first", "second"), [("a b", "a/b"), ("Stable", "stable"), ("\u00e9", "e\u0301"), ("STRASSE", "straße")]
)
def test_names_whose_folders_would_be_one_are_refused_with_both(write, first, second):
    with pytest.raises(UsageError, match="would have one folder; change one of them") as caught:
        named(write, first=first, second=second)
    assert repr(first) in str(caught.value) and repr(second) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 1", "seeds = 20250101", r"at most 1000; one run of the seed 20250101 is seeds = \[20250101\]"),
        ("seeds = 1", "seeds = [18446744073709551616]", "distinct ones from 0 to 9223372036854775807"),
        ("seeds = 1", "seeds = true", "seeds should be a number of at least 1"),
        ('first"', "設" * 80 + '"', "would be too long"),
        ("width = 8", "width = 99999999999", "torso width must be at most 1,000,000"),
        ("width = 8", "depth = 100000", "torso depth must be at most 1,000"),
        ("width = 8", "epochs = 100000000\nreshuffle_every = 1", "reshuffles are too many"),
        ("width = 8", "epochs = -1", "epochs must be at least 1"),
        ("setting", "depth", "unknown torso depth 'first'"),
    ],
)
def test_numbers_and_names_without_bounds_are_one_line(write, old, new, message):
    text = NAMED.format(axis="setting", first="first", second="stable").replace(old, new, 1)
    with pytest.raises(UsageError, match=message):
        for cell in read_study(write(text)).cells:
            _ = cell.config.reshuffles


def test_a_grid_of_millions_is_refused_before_it_is_expanded(write):
    axes = "\n".join(f"{name} = {[*range(1, 101)]}" for name in ("width", "batch_size", "seed_of", "epochs"))
    text = '[base]\nalgorithm = "relearn"\n[axes]\n' + axes.replace("seed_of", "data_limit")
    with pytest.raises(UsageError, match="100,000,000 cells of 3 seeds; at most 10,000 cells"):
        read_study(write(text))


def test_a_file_of_a_windows_editor_is_read_and_kept_without_its_mark(tmp_path):
    file = tmp_path / "s.toml"
    file.write_bytes(b"\xef\xbb\xbf" + DIGITS.encode())
    folder = StudyFolder.open(tmp_path / "s", read_study(file), file)
    assert (folder.directory / "study.toml").read_text() == DIGITS
    file.write_bytes(DIGITS.encode("utf-16"))
    with pytest.raises(UsageError, match="is UTF-16 text; save it as UTF-8"):
        read_study(file)


def test_control_characters_of_a_title_are_no_orders_to_the_terminal(write):
    study = read_study(write(DIGITS.replace('title = "', 'title = "\\u001b[31m[red] ', 1)))
    assert study.texts["title"].startswith("[31m[red] ")


@pytest.mark.parametrize(
    "change",
    [
        {"cells": []},
        {"cells": None},
        {"seeds": "1"},
        {"seeds": [-1]},
        {"report": ["nothing"]},
        {"texts": []},
        {"expect": [1]},
        {"format": 2},
        {"specification": 1},
        {"more": 1},
    ],
)
def test_a_study_json_of_another_shape_is_one_line(write, tmp_path, change):
    file = write(DIGITS)
    folder = StudyFolder.open(tmp_path / "s", read_study(file), file)
    folder.path.write_text(json.dumps({**json.loads(folder.path.read_text()), **change}))
    with pytest.raises(StablegradError, match=r"study\.json'"):
        StudyFolder.read(folder.directory)


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/x", "a/b", "a\0b", 3])
def test_a_study_json_cannot_send_runs_elsewhere(write, tmp_path, name):
    file = write(DIGITS)
    folder = StudyFolder.open(tmp_path / "s", read_study(file), file)
    content = json.loads(folder.path.read_text())
    content["cells"][0]["name"] = name
    folder.path.write_text(json.dumps(content))
    with pytest.raises(StablegradError, match="names no folder"):
        StudyFolder.read(folder.directory)
