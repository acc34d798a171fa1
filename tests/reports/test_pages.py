import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from stablegrad.errors import UsageError
from stablegrad.pages import _script_safe
from stablegrad.reports import write_comparison_report, write_run_report
from stablegrad.reports.page import option_rows
from stablegrad.studies import summarize, verdict

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, the text outside of scripts, and the figures' JSON."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.figures, self.open = [], [], [], []
        self.source = path.read_text()
        self.feed(self.source)
        self.words = " ".join(" ".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        while self.open and self.open[-1][0] != tag:
            self.open.pop()
        if self.open:
            self.open.pop()

    def handle_data(self, data):
        tag, attributes = self.open[-1] if self.open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json":
            self.figures.append(json.loads(data))
        elif tag not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def normal(synthetic, tmp_path_factory):
    directory = synthetic.write_comparison(tmp_path_factory.mktemp("reports") / "c")
    return directory, Page(write_comparison_report(directory))


def test_the_page_says_verdict_results_and_differences(normal):
    directory, page = normal
    summary = summarize(directory)
    for sentence in verdict(summary):
        assert sentence in page.words
    assert "+394 (+357 to +430)" in page.words
    assert page.words.index("stable reached a higher") < page.words.index("Results")
    differing = re.findall(r'<tr class="differs">.*?<code>(.*?)</code>', page.source)
    assert differing == ["preset", "agent.torso.kind", "agent.optimizer.name"]
    assert "stablegrad compare pqn --env LunarLander-v3 --torso.depth large" in page.words
    assert json.loads((directory / "comparison_summary.json").read_text()) == summary
    assert (directory / "figures/gradient_norms.png").exists()


def test_the_page_needs_no_network(normal):
    _, page = normal
    for tag, attributes in page.elements:
        assert "src" not in attributes, tag
        assert not (tag == "link" or str(attributes.get("href", "")).startswith("http")), tag
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'") and "http" not in policy
    assert page.source.count("plotly.js v") == 1  # inlined, once


def test_the_page_fits_phones_and_dark_rooms(normal):
    _, page = normal
    assert any(attributes.get("content") == "width=device-width, initial-scale=1" for _, attributes in page.elements)
    assert "@media (prefers-color-scheme: dark)" in page.source


def test_every_figure_has_axes_with_names_and_a_description(normal):
    _, page = normal
    assert len(page.figures) == 5
    described = [attributes for _, attributes in page.elements if attributes.get("class") == "figure"]
    assert len(described) == 5 and all(attributes["aria-label"] for attributes in described)
    for figure in page.figures:
        assert figure["layout"]["xaxis"]["title"]["text"]
    assert page.words.count("How to read it") == 4
    assert "<" not in "".join(re.findall('<script type="application/json">(.*?)</script>', page.source, re.DOTALL))


def test_the_heatmaps_share_one_scale(normal):
    _, page = normal
    maps = [trace for figure in page.figures for trace in figure["data"] if "zmin" in trace]
    assert len(maps) == 2
    assert maps[0]["zmin"] == maps[1]["zmin"] and maps[0]["zmax"] == maps[1]["zmax"]
    first = next(figure["layout"] for figure in page.figures if "zmin" in figure["data"][0])
    assert first["yaxis"]["ticktext"][0] == "encoder.0"
    assert first["yaxis"]["range"][0] > first["yaxis"]["range"][1]  # row 0 is on top
    assert "exactly zero" in page.words


def test_foreign_text_is_escaped_everywhere(synthetic, tmp_path):
    layers = [f"</script>{EVIL}", "head"]
    changes = {
        "baseline/1": {"status": "failed", "error": EVIL},
        "stable/1": {"layers": layers},
        "command": ["stablegrad", EVIL],
    }
    directory = synthetic.write_comparison(tmp_path / "c", seeds=(1,), env=EVIL, **changes)
    pages = [write_comparison_report(directory), write_run_report(directory / "runs/stable/seed-1")]
    for path in pages:
        page = Page(path)
        assert EVIL in page.words
        assert not any(tag == "img" or "onerror" in attributes for tag, attributes in page.elements)
        assert sum(tag == "script" and not attributes for tag, attributes in page.elements) == 2  # plotly.js and ours
        assert "alert" not in "".join(re.findall(r"<script>alert", page.source))
        names = json.dumps([figure["layout"]["yaxis"].get("ticktext") for figure in page.figures])
        assert "&lt;img" in names and "<img" not in names  # plotly reads a little HTML: it gets entities


def test_an_unfinished_comparison_has_a_page_too(synthetic, tmp_path):
    changes = {"baseline/1": {"status": None}, "stable/1": "missing"}
    page = Page(write_comparison_report(synthetic.write_comparison(tmp_path / "c", seeds=(1,), **changes)))
    assert "nothing to compare" in page.words
    assert "unfinished" in page.words and "waiting" in page.words
    empty = {f"{setting}/1": "missing" for setting in ("baseline", "stable")}
    page = Page(write_comparison_report(synthetic.write_comparison(tmp_path / "e", seeds=(1,), **empty)))
    assert "no return to show" in page.words and "No gradient norms" in page.words and page.figures == []


def test_run_page_of_a_finished_a_failed_and_a_new_run(synthetic, tmp_path):
    synthetic.write_run(tmp_path / "done")
    page = Page(write_run_report(tmp_path / "done"))
    assert "This run is finished." in page.words and "300,000 of 300,000" in page.words
    assert len(page.figures) == 3
    synthetic.write_run(tmp_path / "failed", status="failed", error="NaN in layer head")
    page = Page(write_run_report(tmp_path / "failed"))
    assert "This run is failed." in page.words and "NaN in layer head" in page.words
    assert len(page.figures) == 3  # a failed run has a cost as well
    synthetic.write_run(tmp_path / "alone", status="failed")  # not in a comparison: what stopped it is in its summary
    summary = json.loads((tmp_path / "alone" / "summary.json").read_text())
    (tmp_path / "alone" / "summary.json").write_text(json.dumps(summary | {"error": "NaN in layer torso"}))
    assert "NaN in layer torso" in Page(write_run_report(tmp_path / "alone")).words
    synthetic.write_run(tmp_path / "new", status=None, points=1, returns=np.zeros(1))
    page = Page(write_run_report(tmp_path / "new"))
    assert "This run is unfinished." in page.words and "no return to show" in page.words


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no run folder"):
        write_run_report(tmp_path)
    with pytest.raises(UsageError, match="no comparison folder"):
        write_comparison_report(tmp_path)


def test_json_cannot_end_its_script_element():
    assert _script_safe('{"a": "</script>\u2028"}') == '{"a": "\\u003c/script>\\u2028"}'


def test_option_rows_put_differences_first():
    rows = option_rows([{"a": 1, "b": {"c": 2.5, "d": None}}, {"a": 1, "b": {"c": 3, "d": None}, "e": "x"}])
    assert [(row.name, row.values, row.differs) for row in rows] == [
        ("b.c", ["2.5", "3"], True),
        ("e", ["–", "x"], True),
        ("a", ["1", "1"], False),
        ("b.d", ["null", "null"], False),
    ]
