import base64
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from stablegrad.diagnostics import Finding, History, Monitor, Report, judge
from stablegrad.diagnostics.page import view, write_diagnosis_page
from stablegrad.diagnostics.page_figures import MAX_LOOKS, NONFINITE_COLOUR, charts, heatmaps, short_name
from stablegrad.diagnostics.preflight import PreflightReport
from stablegrad.diagnostics.recorded import returns_of
from stablegrad.diagnostics.rules import Outcome, verdict_of
from stablegrad.diagnostics.trial import Trial
from stablegrad.pages import ZERO_COLOUR
from stablegrad.reports import write_run_report


def _load(name):
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


histories, Page = _load("histories"), _load("test_pages").Page
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


class Prescribed(Report):
    """A report with prescriptions of its own, whatever the catalogue holds."""

    prescriptions = property(lambda self: histories.prescriptions())


def report_of(history, kind=Report, **others):
    return kind(judge(history), history, **others)


def array(value):
    """Plotly's form of an array, or a plain list, as NumPy."""
    if isinstance(value, dict):
        shape = [int(side) for side in str(value.get("shape", "-1")).split(",")]
        return np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"]).reshape(shape)
    return np.array(value)


def cells(drawn):
    """(names, steps, raw figures [sites, looks], places on the colour scale) of a map."""
    (trace,) = (trace for trace in json.loads(drawn.figure.json)["data"] if trace["type"] == "heatmap")
    return trace["y"], array(trace["x"]), array(trace["customdata"]), array(trace["z"])


def by_title(drawn):
    return {one.title: one for one in drawn}


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    history = histories.history(12, 40, fading=0.6, zero_from=(4, 0.6), nonfinite_from=(7, 0.8))
    report = report_of(history, Prescribed, notes=["the head is compiled"], cost={"seconds": 3.0, "share": 0.0123})
    return report, Page(write_diagnosis_page(report, tmp_path_factory.mktemp("diagnosis") / "new" / "page.html"))


def test_the_verdict_stands_on_top_in_words_and_signs(sick):
    report, page = sick
    top = page.words[: page.words.index("Layer by layer")]
    assert report.verdict == "collapsed" and "✕ collapsed Part of this network no longer learns at all." in top
    assert f"✕ Collapsed: {report.findings[0].reason}" in top
    kinds = len({(finding.level, finding.rule) for finding in report.findings})
    assert f"{kinds - 3} more kinds of trouble" in top
    assert "The diagnosis itself took 3 s, 1.23% of the time that it watched." in top
    assert "23 layers and activations, 40 looks from 2 to 3,900 optimizer steps." in top


def test_the_worst_findings_are_sentences_that_count_their_like():
    def finding(rule, level, site):
        return Finding(rule, level, site, 1200, 0.5, 1.0, f"{rule} in '{site}' since step 1,200" if site else rule)

    dormant = [finding("dormant", "at risk", "") for _ in range(3)]
    found = [
        finding("dead", "collapsed", "a"),
        finding("dead", "collapsing", "b"),
        *dormant,
        finding("shift", "at risk", ""),
    ]
    sentences = view(Report(found, histories.history(3, 5))).sentences
    assert sentences[1:] == [
        "✕ Collapsed: dead in 'a' since step 1,200.",
        "▼ Collapsing: dead in 'b' since step 1,200.",
        "! At risk: dormant (since step 1,200, and 2 more like it).",
        "1 more kind of trouble in the table of findings.",
    ]


def test_every_layer_has_its_verdict_in_order(sick):
    report, page = sick
    titles = [a["title"] for tag, a in page.elements if tag == "li" and "title" in a]
    assert [title.rpartition(": ")[0] for title in titles] == report.history.order
    assert "layers before activations" not in page.words
    assert dict(title.rsplit(": ", 1) for title in titles) == report.layers()
    table = page.source[page.source.index('<table class="findings">') :]
    assert table[: table.index("</table>")].count("<code>") == len(report.findings)


def test_prescriptions_have_evidence_cost_and_code_by_stack(sick):
    _, page = sick
    for change in histories.prescriptions():
        assert change.title in page.words and change.why[1:] in page.words and change.cost in page.words
        for code in change.code.values():
            assert " ".join(code.split()) in page.words
    assert page.words.count("yes, it can be applied to a run as it goes") == 1
    assert "This change has no form for Stable-Baselines3" in page.words
    stacks = [a["id"] for tag, a in page.elements if tag == "input"]
    labels = [a["for"] for tag, a in page.elements if tag == "label"]
    assert stacks == labels == ["stack-1", "stack-2", "stack-3"]
    assert sum(a.get("class", "").startswith("code ") for tag, a in page.elements if tag == "div") == 2 * 3


def test_every_figure_has_a_title_a_unit_and_a_way_to_read_it(sick):
    _, page = sick
    plots = page.source.count('<div class="plot">')
    assert plots == len(page.figures) == 6 + 10
    assert page.words.count("How to read it:") == plots + 1  # and the strip of layers
    assert len(re.findall(r'<p class="soft unit">\w[^<]+\.</p>', page.source)) == plots
    for figure in page.figures:
        assert figure["layout"]["xaxis"]["title"]["text"] == "optimizer steps"
    assert "the head is compiled" in page.words


def test_the_page_needs_no_network(sick):
    _, page = sick
    assert not [tag for tag, attributes in page.elements if "src" in attributes or tag == "link"]
    assert page.source.count("plotly.js v") == 1


def test_a_map_shows_the_figures_and_marks_zero_and_not_finite(sick):
    report, _ = sick
    drawn = by_title(heatmaps(report.history))["Gradient norm by layer"]
    names, steps, raw, place = cells(drawn)
    series = report.history.series("gradient_norm")
    assert names == series.sites and steps.tolist() == series.steps.tolist()
    known = np.isfinite(series.values)
    np.testing.assert_allclose(raw.T[known], series.values[known], rtol=1e-6)
    assert np.isinf(raw[7, -1]) and (place[7, -8:] == 1).all() and (place[4, -16:] == 0).all()
    assert [label for _, label in drawn.scale.marks] == ["exactly zero", "not finite"]
    scale = json.loads(drawn.figure.json)["data"][1]["colorscale"]
    assert scale[0] == [0.0, ZERO_COLOUR] and scale[-1] == [1.0, NONFINITE_COLOUR]
    # Between the marks the place is linear in the logarithm, up to the ends of the scale.
    inside = (place > 0.11) & (place < 0.89)
    slope, intercept = np.polyfit(np.log10(raw[inside]), place[inside], 1)
    np.testing.assert_allclose(place[inside], slope * np.log10(raw[inside]) + intercept, atol=1e-5)
    assert slope > 0


def test_ticks_stand_where_their_colours_are():
    history = History()
    for step, exponent in enumerate(range(-20, 21), start=2):
        history.add(step, {"gradient_norm/a": 10.0**exponent, "gradient_norm/b": 1.0})
    (drawn,) = heatmaps(history)
    _, _, _, place = cells(drawn)
    # Six decades on either side of the median, and the ends say that there is more.
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    ticks = {int(label.lstrip("≤≥ ")[2:].translate(superscripts)): percent for percent, label in drawn.scale.ticks}
    labels = [label for _, label in drawn.scale.ticks]
    assert labels[0] == "≤ 10⁻⁶" and labels[-1] == "≥ 10⁶" and len(ticks) >= 5
    for exponent, percent in ticks.items():
        cell = place[0, exponent + 20]
        assert 0.1 + 0.8 * percent / 100 == pytest.approx(cell, abs=1e-6)
    assert place[0, 0] == place[0, 14] and place[0, -1] == place[0, -15]


def test_shares_and_cosines_have_fixed_scales_in_which_zero_is_a_value():
    history = History()
    for step in (2, 100, 200):
        history.add(step, {"dormant/a": 0.0, "dormant/b": 1.0, "gradient_cosine/l": -1.0 + step / 100})
    drawn = by_title(heatmaps(history))
    _, _, _, place = cells(drawn["Dormant units by activation"])
    np.testing.assert_allclose(place, [[0.1] * 3, [0.9] * 3], rtol=1e-6)
    _, _, _, place = cells(drawn["Cosine of consecutive gradients by layer"])
    np.testing.assert_allclose(place, [[0.108, 0.5, 0.9]], rtol=1e-5)
    assert all(one.scale.marks == [] for one in drawn.values())
    assert [label for _, label in drawn["Dormant units by activation"].scale.ticks] == ["0", "0.25", "0.5", "0.75", "1"]


def test_a_steady_network_has_no_dramatic_colours():
    history = History()
    for step in range(2, 30):
        history.add(step, {"gradient_norm/a": 1.0 + 0.01 * (step % 2), "gradient_norm/b": 1.1})
    _, _, _, place = cells(heatmaps(history)[0])
    assert np.ptp(place) < 0.05


def test_only_what_was_measured_is_drawn(tmp_path):
    history = History()
    history.add(2, {"gradient_norm/0": 1.0, "gradient_norm/2": 0.5, "churn/network": 0.1})
    page = Page(write_diagnosis_page(report_of(history), tmp_path / "page.html"))
    assert [one.title for one in (*heatmaps(history), *charts(history))] == ["Gradient norm by layer", "Policy churn"]
    assert len(page.figures) == 2
    for absent in ("What to change", "What could not be seen", "The diagnosis itself took", "Findings"):
        assert absent not in page.words
    assert "too early to tell" in page.words and "1 look at 2 optimizer steps" in page.words
    # Names that are numbers stay names: plotly would take them for places on the axis.
    assert cells(heatmaps(history)[0])[0] == ["0", "2"]
    assert page.figures[0]["layout"]["yaxis2"]["type"] == "category"


def test_an_empty_history_has_a_page(tmp_path):
    page = Page(write_diagnosis_page(Report([], History()), tmp_path / "page.html"))
    assert page.figures == [] and "… too early" in page.words and "too early to tell" in page.words


def test_two_hundred_layers_fit(tmp_path):
    report = report_of(histories.history(200, 12))
    drawn = heatmaps(report.history)[0]
    layout = json.loads(drawn.figure.json)["layout"]
    names, _, raw, _ = cells(drawn)
    assert raw.shape == (200, 12)
    ticks, labels = layout["yaxis"]["tickvals"], layout["yaxis"]["ticktext"]
    assert drawn.figure.height < 1200 and (ticks[1] - ticks[0]) * (drawn.figure.height - 64) / 200 >= 12
    assert max(map(len, labels)) <= 28 and len(set(labels)) == len(labels)
    assert names[50].startswith(histories.LONG)  # in full on hover
    assert not view(report).named
    page = Page(write_diagnosis_page(report, tmp_path / "page.html"))
    assert len(page.figures[-1]["data"]) == 200 and page.figures[-1]["layout"]["showlegend"] is False


def test_of_very_many_looks_the_ends_and_some_between_are_drawn():
    history = History()
    for look in range(3 * MAX_LOOKS):
        history.add(100 * look + 2, {"gradient_norm/a": 1.0 + look, "loss/network": 1.0 + look})
    _, steps, raw, _ = cells(heatmaps(history)[0])
    assert len(steps) == MAX_LOOKS and (steps[0], steps[-1]) == (2, history.rows[-1][0])
    np.testing.assert_allclose(raw[0], 1 + (steps - 2) / 100)
    (line,) = json.loads(charts(history)[0].figure.json)["data"]
    assert array(line["x"]).tolist() == steps.tolist()
    history = History([(step, figures | {"update_ratio/a": 0.1}) for step, figures in history.rows])
    assert (
        f"750 looks from 2 to 74,902 optimizer steps; the figures draw {MAX_LOOKS} of them"
        in view(report_of(history)).watched
    )


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z_]{1,12}[0-9]{0,2}|[0-9]{1,3}", fullmatch=True), min_size=1, max_size=12))
def test_short_names_fit_and_keep_their_ends(parts):
    name = ".".join(parts)
    short = short_name(name, 28)
    assert len(short) <= 28
    if len(name) <= 28:
        assert short == name
    else:
        head, *_, tail = short.split("…")
        assert head and tail and name.startswith(head) and name.endswith(tail)


def test_short_names_tell_deep_layers_apart():
    assert short_name(f"{histories.LONG}.2.blocks.3.linear", 28) == "actor…2.blocks.3.linear"
    assert short_name("x" * 40, 28) == "x" * 11 + "…" + "x" * 16


def test_what_a_log_axis_cannot_hold_is_marked():
    history = History()
    for step, value in enumerate([1.0, 1e-3, 0.0, 1e-6, math.inf], start=1):
        history.add(step, {"error_signal/network": value})
    (drawn,) = charts(history)
    figure = json.loads(drawn.figure.json)
    assert figure["layout"]["yaxis"]["type"] == "log" and figure["layout"]["yaxis"]["dtick"] == 1
    line, *marks = figure["data"]
    assert array(line["y"])[[0, 1, 3]].tolist() == [1.0, 1e-3, 1e-6]
    assert np.isnan(array(line["y"]).astype(float)[[2, 4]]).all()
    assert {mark["name"]: mark["x"] for mark in marks} == {"zero": [3], "not finite": [5]}


def test_lines_of_several_networks_are_named():
    history = History()
    history.add(2, {"churn/actor": 0.1, "churn/critic": 0.2})
    (drawn,) = charts(history)
    traces = json.loads(drawn.figure.json)["data"]
    assert [trace["name"] for trace in traces] == ["actor: one update", "critic: one update"]
    assert len({trace["line"]["dash"] for trace in traces}) == 2


def test_a_preflight_shows_relearning_and_its_trial(tmp_path):
    history = histories.history(3, 5)
    trial = [
        Trial("a", "LayerNorm", "go", "better", 0.5, 0.4, 0.6, 1.1, 1.0, 3).to_dict(),
        Trial("b", "Smaller net", "no-go", "worse", -0.1, -0.2, -0.05, 0.7, 0.5, 3).to_dict(),
        Trial("c", "Kron", "not tried", "no time was left").to_dict(),
    ]
    report = PreflightReport(
        judge(history),
        history,
        relearning={"network": [0.9, 0.4], "twin": [0.9, 0.95]},
        speed={"network": [0.5, 0.2], "twin": []},
        trial=trial,
    )
    page = Page(write_diagnosis_page(report, tmp_path / "page.html"))
    learned, speed = page.figures[:2]
    assert [(bar["name"], array(bar["y"]).tolist()) for bar in learned["data"]] == [
        ("this network", [0.9, 0.4]),
        ("a twin of two hidden layers", [0.9, 0.95]),
    ]
    assert [(bar["name"], array(bar["y"]).tolist()) for bar in speed["data"]] == [("this network", [0.5, 0.2])]
    assert "Does it keep learning?" in page.words
    assert "LayerNorm +0.50 (+0.40 to +0.60) 1.10 times ✓ go: better" in page.words
    assert "Smaller net -0.10 (-0.20 to -0.05) 0.70 times ✕ no-go" in page.words
    assert "Kron – – – not tried: no time was left" in page.words


def test_foreign_text_is_escaped(tmp_path):
    history = History()
    for step in (2, 100, 200, 300):
        history.add(step, {f"gradient_norm/{EVIL}": 0.0, "gradient_norm/head": 1.0, f"weight_norm/{EVIL}": 1.0})
    report = report_of(history, notes=[EVIL])
    assert report.findings
    page = Page(write_diagnosis_page(report, tmp_path / "page.html"))
    assert EVIL in page.words
    assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
    figures = json.dumps(page.figures)
    assert "&lt;img" in figures and "<img" not in figures


def test_a_diagnosed_run_has_the_same_sections_in_its_page(synthetic, tmp_path):
    folder = tmp_path / "run"
    layers, _ = histories.names(12)
    synthetic.write_run(folder, layers=layers)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # A look every second line, as a log interval may be shorter than that of the diagnosis.
    measured = histories.history(12, 60, fading=0.6)
    for row, (_, figures) in zip(rows[1::2], measured.rows, strict=False):
        row.update({key: value for key, value in figures.items() if not key.startswith("episode_return")})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:120]))
    summary = json.loads((folder / "summary.json").read_text())
    summary["health"] = {"verdict": "collapsing", "notes": ["no probe"]}
    (folder / "summary.json").write_text(json.dumps(summary))

    looks = History([(row["step"], measured.rows[index][1]) for index, row in enumerate(rows[1:120:2])])
    # The synthetic run's returns rise, which counts in its favour.
    expected = judge(looks, outcome=Outcome(*returns_of(rows[:120])))
    page = Page(write_run_report(folder))
    assert verdict_of(expected) != "healthy"
    assert f"Its network is {verdict_of(expected)}: see the diagnosis" in page.words
    # A run's summary names its layers, so where activations stand among them is not known.
    assert "next to the input first, layers before activations." in page.words
    assert "23 layers and activations, 60 looks from" in page.words and "environment steps" in page.words
    fading = [finding for finding in expected if finding.rule == "fading_gradient"]
    assert fading and fading[0].reason in page.words
    assert "no probe" in page.words and "Gradient norm by layer over time" not in page.words
    assert f"{summary['seconds']['diagnostics'] / summary['wall_seconds']:.2%} of the time" in page.words
    titles = [one.title for one in (*heatmaps(looks), *charts(looks)) if one.title != "Episode return"]
    assert [title in page.words for title in titles] == [True] * len(titles)


def test_a_real_monitor_saves_its_page(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, every=2, probe=torch.randn(32, 4), probe_every=4) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 4)).square().mean()
            loss.backward()
            optimizer.step()
            monitor.log(loss=loss)
        path = monitor.report().save_html(tmp_path / "page.html")
    page = Page(path)
    titles = re.findall(r"<h3>([^<]+)</h3>", page.source)
    assert len(titles) == len(page.figures)
    assert {"Gradient norm by layer", "Saturated values by activation", "Rank of the features", "Loss"} <= set(titles)
    assert "4 looks from 2 to 8 optimizer steps" in page.words
    assert page.figures[0]["data"][1]["y"] == ["0", "2", "4"]


def test_a_run_without_a_diagnosis_has_none_in_its_page(synthetic, tmp_path):
    synthetic.write_run(tmp_path / "run")
    page = Page(write_run_report(tmp_path / "run"))
    assert "Diagnosis" not in page.words and "Gradient norm by layer over time" in page.words
