"""What a report says of itself: short in a console and a notebook, and no more than was seen."""

import html.parser
import json

import numpy as np
import pytest
import torch
from torch import nn

from stablegrad.diagnostics import Finding, History, Monitor, Report, Thresholds, judge
from stablegrad.diagnostics.page import view
from stablegrad.diagnostics.prescriptions import prescribe


def finding(rule="dead_units", level="collapsing", site="0", reason="all units are dead"):
    return Finding(rule, level, site, 100, 1.0, 0.8, reason)


def history(looks, layers=2, **figures):
    made = History()
    for look in range(1, looks + 1):
        made.add(10 * look, {f"gradient_norm/{layer}": 1.0 for layer in range(layers)} | figures)
    return made


def trained(steps, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(16, 4)
    with Monitor(model, optimizer, **options) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            (model(x) - x[:, :2]).square().mean().backward()
            optimizer.step()
    return monitor


class TestTooEarly:
    def test_three_steps_say_nothing(self):
        report = trained(3).report()
        assert report.verdict == "too early"
        assert set(report.layers().values()) == {"too early"}
        assert str(report).splitlines()[0] == "verdict: too early"
        assert "1 snapshot so far" in str(report) and "healthy" not in str(report)
        assert "healthy" not in repr(report)
        assert json.loads(json.dumps(report.to_dict()))["verdict"] == "too early"
        assert report.prescriptions == []

    @pytest.mark.parametrize("patience", [1, 3, 4])
    def test_it_takes_as_many_snapshots_as_a_rule_does(self, patience):
        thresholds = Thresholds(patience=patience)
        for looks in range(6):
            report = Report([], history(looks), thresholds=thresholds)
            assert report.verdict == ("healthy" if looks >= patience else "too early")
            # What a rule that needs no more finds from then on, it does not find before.
            found = judge(history(looks, **{"dead/1": 1.0}), thresholds)
            assert ("dead_units" in {one.rule for one in found}) is (looks >= patience)

    def test_what_was_found_is_said_however_early(self):
        report = Report([finding(site="0")], history(1))
        assert report.verdict == "collapsing" and report.doubts == []
        assert report.layers() == {"0": "collapsing", "1": "too early"}

    def test_what_changes_shows_later(self):
        limits = Thresholds()
        assert "what changes against" in str(Report([], history(limits.patience)))
        enough = limits.reference_looks + limits.patience
        assert Report([], history(enough)).doubts == []
        assert str(Report([], history(enough))) == "verdict: healthy"

    def test_a_page_marks_it(self):
        shown = view(Report([], history(1)))
        assert shown.verdict == "too early" and shown.counts == [("too early", 2)]
        assert "too early to tell" in shown.sentences[0] and "1 snapshot so far" in shown.sentences[1]

    def test_a_training_beside_that_was_hardly_seen(self):
        from stablegrad.diagnostics.report import beside_in_words

        few = beside_in_words(history(1), None)
        assert few == "a training with 1 look up to step 10, too few to judge it by itself"
        assert beside_in_words(history(9), None) == "a training with 9 looks up to step 90"


class TestRepr:
    def test_it_is_short_however_much_was_measured(self):
        large = history(400, layers=200)
        report = Report([finding(reason="x" * 10_000)] * 300, large, ["note"] * 100)
        assert repr(report).startswith("<Report: collapsing; 300 findings, first: xxx")
        assert len(repr(report)) < 400
        assert len(report._repr_html_()) < 10_000
        for one in (large, large.until(100), large.series("gradient_norm")):
            assert len(repr(one)) < 120

    def test_it_says_what_there_is(self):
        assert repr(Report([], history(3))) == "<Report: healthy; 0 findings; print(report) tells more>"
        assert "1 finding, first: all units are dead" in repr(Report([finding()], history(3)))
        assert repr(history(3)) == "<History: 3 rows, steps 10 to 30; metrics() lists what was measured>"
        assert repr(History()) == "<History: 0 rows; metrics() lists what was measured>"
        assert repr(history(3).series("gradient_norm")) == "<Series gradient_norm: 3 steps, 2 sites>"
        (first, *_) = prescribe([finding()])
        assert first.name in repr(first) and "import" not in repr(first)

    def test_what_holds_arrays_elsewhere(self):
        from stablegrad.studies.comparison import RunRecord
        from stablegrad.supervised.data import DataSet

        record = RunRecord("stable", 1, "finished", None, {"a": "b" * 1000}, [{"step": 1.0}] * 1000)
        images, labels = torch.zeros(50, 1, 8, 8, dtype=torch.uint8), torch.zeros(50, dtype=torch.long)
        for one in (record, DataSet("digits", images, labels, images, labels, 10)):
            assert len(repr(one)) < 120


class Texts(html.parser.HTMLParser):
    """Tags, and the text between them."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


class TestNotebook:
    def test_verdict_findings_and_the_first_change_with_its_code(self):
        report = Report([finding("vanishing_gradient", "collapsed", reason="no gradient is left")], history(5))
        shown = Texts(report._repr_html_())
        assert shown.open == [] and not {"script", "style", "link", "img"} & set(shown.tags)
        first = report.prescriptions[0]
        for text in ("✕ collapsed", "no gradient is left", first.title, first.why, first.code["torch"].strip()):
            assert text in shown.words

    def test_names_of_others_are_text(self):
        report = Report([finding(site="<b>", reason="'<img src=x onerror=alert(1)>' & co are dead")], history(5))
        assert "<img" not in report._repr_html_()
        assert "'<img src=x onerror=alert(1)>' & co are dead" in Texts(report._repr_html_()).words

    def test_colours_of_page_and_text_are_the_notebooks(self):
        source = Report([finding()], history(5))._repr_html_()
        # White text stands only on the badge's own colour.
        assert source.count("color:#fff") == 1 and "background:#fff" not in source

    def test_many_findings_are_counted(self):
        shown = Texts(Report([finding(site=str(n)) for n in range(12)], history(5))._repr_html_())
        assert shown.tags.count("li") == 5 and "7 more in report.findings" in shown.words

    def test_too_early(self):
        words = Texts(Report([], history(1))._repr_html_()).words
        assert "too early" in words and "1 snapshot so far" in words and "Try" not in words


def test_a_healthy_training_is_called_so_after_enough_steps():
    report = trained(60, every=5, probe_every=0).report()
    assert report.verdict == "healthy" and not np.isnan(report.history.series("gradient_norm").values).any()
