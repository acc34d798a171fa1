import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.mathtext import MathTextParser

from stablegrad.cli.main import main
from stablegrad.files import write_json
from stablegrad.reports.charts import Dot, DotChart, GridChart, Line, LineChart, limits, log_ticks, tick_label
from stablegrad.reports.charts_page import page_figures
from stablegrad.reports.charts_picture import write_pictures
from stablegrad.reports.fonts import families
from stablegrad.reports.study_costs import cost_rows, pareto_frontier
from stablegrad.reports.study_figures import layout, study_charts
from stablegrad.reports.study_page import _apart, write_study_report
from stablegrad.studies.comparison import record_failure
from stablegrad.studies.study import read_study
from stablegrad.studies.study_folder import StudyFolder
from stablegrad.studies.table import read_table
from stablegrad.training.run_folder import RunFolder

PAPER = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
EPOCHS, RESHUFFLE = 6, 3

CLASSIFIERS = f"""
title = "Labels <script>alert(1)</script>"
claim = "stable learns again"
expect = ["baseline falls with depth", "stable above baseline"]
seeds = 3
report = ["relearning.mean_final_accuracy", "gradients/norm"]
[base]
algorithm = "relearn"
epochs = {EPOCHS}
reshuffle_every = {RESHUFFLE}
[axes]
depth = ["small", "large"]
width = [8, 16]
setting = [{{name = "baseline"}}, {{name = "stable", preset = "stable"}}]
"""

AGENTS = """
seeds = 3
[base]
algorithm = "pqn"
total_steps = 1000
[axes]
environment = ["Pong-v5", "Qbert-v5"]
depth = ["small", "medium"]
setting = [{name = "baseline", preset = "baseline"}, {name = "stable", preset = "stable"}]
"""


def finish(folder, run, score, seconds=10.0, gradient=1.0):
    """What a finished run leaves, with this score."""
    run_folder = RunFolder.create(folder.run_folder(run).path, run.config.to_json())
    value = {"status": "finished", "parameters": 100 * (1 + len(run.cell.name)), "wall_seconds": seconds}
    value |= {"peak_memory_bytes": 2**20, "seconds": {"optimizer": seconds / 4}}
    value |= {"final_return": score, "relearning": {"mean_final_accuracy": score}}
    write_json(run_folder.summary_path, value)
    with run_folder.metrics_path.open("w") as file:
        for epoch in range(1, EPOCHS + 1):
            row = {"step": 10 * epoch, "train/epoch": epoch, "train/accuracy": score * epoch / EPOCHS}
            row |= {"train/return": score * epoch, "gradients/norm": gradient, "speed/images_per_second": 50.0}
            file.write(json.dumps(row) + "\n")


def make(tmp_path, text, score):
    """A study whose runs have ``score(run)``; None: not started; text: failed for that reason."""
    file = tmp_path / "s.toml"
    file.write_text(text)
    folder = StudyFolder.open(tmp_path / "s", read_study(file), file)
    for run in folder.study.runs:
        value = score(run)
        if isinstance(value, str):
            record_failure(RunFolder.create(folder.run_folder(run).path, run.config.to_json()), value)
        elif value is not None:
            finish(folder, run, value, seconds=20.0 if run.cell.values["setting"] == "stable" else 10.0)
    return folder


def accuracy(run):
    values = run.cell.values
    if values["setting"] == "stable":
        return 0.9 + 0.01 * run.seed
    if values["depth"] == "large" and values["width"] == "16":
        return "out of memory" if run.seed < 3 else None
    return (0.5 if values["depth"] == "small" else 0.2) + 0.01 * run.seed


@pytest.fixture
def classifiers(tmp_path):
    return make(tmp_path, CLASSIFIERS, accuracy)


def charts_of(folder):
    return {chart.name: chart for chart in study_charts(folder, read_table(folder))}


def test_grids_show_every_cell_and_never_a_number_for_one_without_runs(classifiers):
    chart = charts_of(classifiers)["grid"]
    assert isinstance(chart, GridChart)
    score, gradient = chart.kinds
    assert (score.rows, score.columns) == (["depth small", "depth large"], ["8", "16"])
    assert [panel.title for panel in score.panels] == ["baseline", "stable"]
    values = [[cell.value for cell in line] for line in score.panels[0].cells]
    assert values == [pytest.approx([0.52, 0.52]), [pytest.approx(0.22), None]]
    assert score.panels[0].cells[1][1].note == "2 failed, 1 left"
    assert gradient.logarithmic and gradient.panels[1].cells[0][0].value == pytest.approx(1.0)
    assert "2 of 24 runs failed and 1 are left" in chart.note and "Fewer than" not in chart.note


def test_curves_are_means_over_seeds_with_the_reshuffles_marked(classifiers):
    chart = charts_of(classifiers)["relearning"]
    assert isinstance(chart, LineChart) and chart.shared_y
    assert [panel.title for panel in chart.panels] == [
        "depth small, width 8", "depth small, width 16", "depth large, width 8", "depth large, width 16",
    ]  # fmt: skip
    first, last = chart.panels[0], chart.panels[-1]
    assert list(first.marks) == [RESHUFFLE]
    assert list(first.lines[0].x) == [1, 2, 3, 4, 5, 6]
    assert first.lines[0].y == pytest.approx(0.52 * np.arange(1, 7) / 6)
    spread = np.std([0.51, 0.52, 0.53], ddof=1) / np.sqrt(3) * 4.3027  # Student's t, two degrees of freedom
    assert first.lines[0].high[-1] == pytest.approx(0.52 + spread, abs=1e-4)
    assert [line.name for line in last.lines] == ["stable"]


def test_sizes_ablations_and_costs(classifiers):
    charts = charts_of(classifiers)
    (panel,) = charts["parameters"].panels
    assert [len(line.x) for line in panel.lines] == [3, 4]
    assert list(panel.lines[1].x) == sorted(panel.lines[1].x)
    ablation = charts["ablation_setting"]
    assert isinstance(ablation, DotChart)
    largest, over = ablation.groups
    assert largest[0] == "largest: depth large, width 16" and [dot.label for dot in largest[1]] == [
        "stable",
        "baseline",
    ]
    assert largest[1][1].value is None and over[1][1].value is None  # a cell has no run: there is no mean over all
    rows = cost_rows(read_table(classifiers))
    assert [row["setting"] for row in rows].count("baseline") == 3
    stable = next(row for row in rows if row["setting"] == "stable")
    assert stable["ratio"].value == pytest.approx(2.0) and stable["optimizer"] == pytest.approx(0.25)


def test_scores_of_atari_games_are_normalised_and_compared_game_by_game(tmp_path):
    def score(run):
        better = run.cell.values["setting"] == "stable"
        return {"Pong-v5": -20.7 + 35.3 * better, "Qbert-v5": 163.9 + 13291.1 * better / 2}[
            run.cell.values["environment"]
        ]

    folder = make(tmp_path, AGENTS, score)
    charts = charts_of(folder)
    ((title, dots),) = charts["improvement"].groups
    assert title == "stable over baseline"
    assert [(dot.label, round(dot.value, 3)) for dot in dots] == [("Pong-v5", 1.0), ("Qbert-v5", 0.5)]
    assert dict(charts["aggregates"].groups)["mean"][1].value == pytest.approx(0.75)
    assert charts["learning_curves"].y_title.startswith("human-normalised")
    assert [panel.title for panel in charts["learning_curves"].panels] == ["depth small", "depth medium"]


def test_returns_of_other_environments_have_figures_of_their_own(tmp_path):
    text = AGENTS.replace("Pong-v5", "CartPole-v1").replace("Qbert-v5", "Acrobot-v1")
    charts = charts_of(make(tmp_path, text, lambda run: 10.0 * run.seed + (run.cell.values["setting"] == "stable")))
    assert {"grid_CartPole-v1", "grid_Acrobot-v1", "improvement"} <= charts.keys() and "aggregates" not in charts
    assert not charts["learning_curves"].shared_y
    assert "share of the range" in charts["improvement"].x_title
    assert charts["improvement"].groups[0][1][0].value == pytest.approx(1 / 21)


def test_one_and_two_seeds_are_said_on_every_figure(tmp_path):
    folder = make(tmp_path, CLASSIFIERS, lambda run: 0.1 * run.seed if run.seed < 3 else None)
    charts = charts_of(folder)
    assert charts and all("Fewer than 3 seeds" in chart.note for chart in charts.values())
    assert all(line.low is None for panel in charts["relearning"].panels for line in panel.lines)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_every_study_has_a_report_before_its_first_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = "digits" if "needs_data" in path.read_text() else None
    study = read_study(path, "full", data)
    folder = StudyFolder.open(tmp_path / "s", study, path)
    assert main(["report", str(folder.directory)]) == 0
    page = (folder.directory / "report.html").read_text()
    assert "No run has finished yet" in page and f"{len(study.runs)} left" in page
    assert not list((folder.directory / "figures").iterdir())


def test_lines_are_as_many_as_can_be_told_apart(tmp_path):
    path = next(path for path in PAPER if path.stem.startswith("row-13"))
    table = read_table(StudyFolder.open(tmp_path / "s", read_study(path), path))
    assert layout(table) == (("torso",), ("optimizer",))


def test_the_page_is_whole_escaped_and_links_what_is_there(classifiers, capsys):
    finished = classifiers.run_folder(classifiers.study.runs[0]).path
    (finished / "report.html").write_text("a run's report")
    assert main(["report", str(classifiers.directory), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["report"].endswith("report.html")
    page = (classifiers.directory / "report.html").read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("plotly.js v") == 1
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'src=|href="(http|/)', page)
    assert "21 of 24 runs finished, 2 failed, 1 left" in page and "stable is best at" in page
    assert "Expected &#34;stable above baseline&#34;: holds at 3 of 4 sizes; cannot be said yet at " in page
    links = [link for link in re.findall(r'href="([^"]+)"', page) if link.startswith("runs/")]
    assert len(links) == 23 and links[0].endswith("report.html")
    for link in re.findall(r'href="([^"#]+)"', page):
        assert (classifiers.directory / link.replace("%3D", "=")).exists(), link
    for name in ("grid", "relearning", "parameters", "pareto", "ablation_setting"):
        assert (classifiers.directory / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (classifiers.directory / f"figures/{name}.svg").read_bytes()


def test_the_page_draws_what_the_pictures_draw(classifiers):
    chart = charts_of(classifiers)["relearning"]
    (figure,) = page_figures(chart)
    data = json.loads(figure.json)["data"]
    drawn = [trace for trace in data if trace.get("hoverinfo") != "skip"]
    lines = [line for panel in chart.panels for line in panel.lines]
    assert len(drawn) == len(lines) == 7
    for trace, line in zip(drawn, lines, strict=True):
        assert trace["y"] == pytest.approx(list(line.y), rel=1e-3)
    narrow = json.loads(figure.narrow)
    assert narrow["xaxis2"]["domain"] == [0, 1] and figure.narrow_height > figure.height


def test_frontier_limits_and_ticks():
    assert pareto_frontier([(3, 5), (1, 1), (2, 1), (2, 4), (4, 5)]) == [(1, 1), (2, 4), (3, 5)]
    line = Line("a", "#000000", [1, 2], [0.0, 10.0], [-100.0, 9.0], [1.0, 11.0])
    low, high = limits([line])
    assert -6.5 < low < -5 and 11 < high < 12
    assert log_ticks(40e3, 500e3) == [50e3, 100e3, 200e3, 500e3] and log_ticks(1, 1e6) == [10.0**k for k in range(7)]
    assert len(log_ticks(4800, 8100)) >= 3
    assert [tick_label(value) for value in (0.5, 20, 50e3, 2e6)] == ["0.5", "20", "50k", "2M"]


def test_the_study_of_the_benchmark_can_be_read(tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "study_report.py"
    text = re.search(r'STUDY = """(.*?)"""', path.read_text(), re.DOTALL)
    (tmp_path / "b.toml").write_text(text.group(1))
    assert len(read_study(tmp_path / "b.toml").runs) == 200


@pytest.fixture
def no_fallbacks(monkeypatch):
    monkeypatch.setattr("stablegrad.reports.fonts.FALLBACKS", ())
    families.cache_clear()
    yield
    families.cache_clear()


def a_chart(title):
    return DotChart("dots", title, "", "", [("", [Dot(title, 1.0, None, "#000000")])], "score")


def test_letters_without_a_font_are_told_once_and_are_text_in_the_svg(tmp_path, no_fallbacks, recwarn, caplog):
    write_pictures(tmp_path, [a_chart("設定 of a study"), a_chart("設定")])
    assert not recwarn.list
    (record,) = caplog.records
    assert "no installed font has 定設: " in record.getMessage() and "\n" not in record.getMessage()
    assert "設定" in (tmp_path / "dots.svg").read_text()


def test_dollars_are_no_formulas_and_plain_letters_stay_outlines(tmp_path, no_fallbacks, recwarn, caplog, monkeypatch):
    chart = a_chart("costs $5 and \\frac{ $6")
    monkeypatch.setattr(MathTextParser, "parse", lambda *_, **__: pytest.fail("a name was taken for a formula"))
    write_pictures(tmp_path, [chart])
    assert not recwarn.list and not caplog.records and "<text" not in (tmp_path / "dots.svg").read_text()


def test_figures_of_axes_whose_names_differ_in_signs_have_files_of_their_own():
    charts = [dataclasses.replace(a_chart("x"), name=name) for name in ("a_b", "A_b", "a_b", "設" * 200, "設" * 201)]
    names = [chart.name for chart in _apart(charts)]
    assert names[:3] == ["a_b", "A_b-2", "a_b-3"] and len({name.casefold() for name in names}) == 5
    assert all(len(name.encode()) < 200 for name in names)


def test_a_damaged_run_leaves_the_report_whole(tmp_path):
    folder = make(tmp_path, CLASSIFIERS, lambda run: 0.1 * run.seed)
    first, second = (folder.run_folder(run) for run in folder.study.runs[:2])
    first.summary_path.write_text('{"status": "finished", "wall_seconds": "long"}')
    second.metrics_path.write_bytes(b"{}\n" + second.metrics_path.read_bytes())
    page = write_study_report(folder.directory).read_text()
    assert "1 failed" in page and "wall_seconds should be a number" in page
    assert "1 curves are left out, as their metrics cannot be read" in page
