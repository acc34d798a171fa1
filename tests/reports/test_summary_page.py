import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from stablegrad.cli.main import main
from stablegrad.environments.references import references
from stablegrad.errors import UsageError
from stablegrad.reports import write_summary_page
from stablegrad.reports.languages import LANGUAGES, Words
from stablegrad.reports.summary_chart import ChartSeries, score_chart
from stablegrad.reports.summary_page import _Page
from stablegrad.studies.decision import decide
from stablegrad.studies.evidence import read_evidence


def _evidence_of():
    path = Path(__file__).parents[1] / "studies" / "evidence_of.py"
    specification = importlib.util.spec_from_file_location("evidence_of", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.evidence_of


class Page(HTMLParser):
    """What a reader sees, and where the links lead."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.ids, self.links, self.text, self.open = [], [], [], [], []
        self.source = path.read_text()
        self.feed(self.source)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append((tag, values))
        self.ids.append(values.get("id"))
        if "href" in values:
            self.links.append(values["href"])
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        inside = set(self.open)
        if "sup" not in inside and not inside & {"style", "script"}:
            self.text.append(data)


@pytest.fixture(scope="module")
def study(synthetic, tmp_path_factory):
    directory = synthetic.write_study(tmp_path_factory.mktemp("summary") / "s")
    return directory, {language: Page(write_summary_page(directory, language)) for language in LANGUAGES}


def test_the_page_answers_in_both_languages(study):
    words, japanese = (study[1][language].words for language in LANGUAGES)
    assert "Yes: with stable, a bigger network scores higher." in words
    assert "Adopt" not in words and "The mechanism is shown on a stand-in task." in words
    growth = decide(read_evidence(study[0])).growth["baseline"]
    fell = f"baseline fell from {growth.before_mean:.1%} to {growth.after_mean:.1%} (practically certain)"
    assert f"From 50 thousand to 120 thousand parameters, {fell}." in words
    assert "stable is the best of 2 settings" in words and "not measured" in words
    assert "はい。stableであれば、ネットワークを大きくするほどスコアが上がります。" in japanese
    assert "次の一手" in japanese and '<html lang="ja">' in study[1]["ja"].source
    command = "stablegrad compare pqn --env LunarLander-v3 --torso.depth xlarge --seeds 3"
    assert command in words and command in japanese


def test_every_number_of_the_answer_leads_to_its_runs(study):
    directory, pages = study
    for page in pages.values():
        inner = {link[1:] for link in page.links if link.startswith("#")}
        assert inner and inner <= set(page.ids)
        files = [unquote(link) for link in page.links if not link.startswith("#")]
        assert files and all((directory / name).exists() for name in files)
        assert not any(Path(name).is_absolute() or "://" in name for name in files)
    # The advantage at the largest size comes from these two cells, which have these six runs.
    source = pages["en"].source
    marks = re.search(r"\+7\d\.\d points</a><sup>(.*?)</sup>", source)
    entries = [re.search(rf'<li id="{one}">(.*?)</li>', source).group(1) for one in re.findall(r'"#(s\d+)"', marks[1])]
    runs = [unquote(name) for entry in entries for name in re.findall(r'href="(.*?)"', entry)]
    names = [
        f"depth=xlarge_width=64_setting={name}-seed{seed}" for name in ("baseline", "stable") for seed in (1, 2, 3)
    ]
    assert runs == [f"runs/{name}/summary.json" for name in names]


def test_the_numbers_are_those_of_the_data(study):
    directory, pages = study
    decision = decide(read_evidence(directory))
    effect = decision.advantage
    low, high = effect.interval
    shown = f"{100 * effect.mean:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    assert shown in pages["en"].words
    assert f"{100 * effect.after_mean:.1f}%" in pages["en"].words
    assert f"more than {100 * effect.margin:.1f} points" in pages["en"].words
    assert "A step of stable takes 1.30 times as long, so it breaks even if it needs at most 77%" in pages["en"].words


def test_it_is_one_small_file_that_needs_no_network_and_prints(study):
    _, pages = study
    for page in pages.values():
        assert len(page.source) < 60_000
        assert not any("src" in values or tag in ("script", "link") for tag, values in page.tags)
        assert "default-src 'none'" in page.source
        for rule in ("@media (prefers-color-scheme: dark)", "@media print", "size: A4", "width=device-width"):
            assert rule in page.source
        assert not any(str(link).startswith("http") for link in page.links)


def test_nothing_from_outside_is_markup(synthetic, tmp_path):
    evil = "<script>alert(1)</script>"
    text = synthetic.STUDY.replace("Depth and cure", evil)
    page = Page(write_summary_page(synthetic.write_study(tmp_path / "s", text=text)))
    assert evil not in page.source and evil in page.words


def test_a_comparison_with_prices(synthetic, tmp_path, capsys):
    directory = synthetic.write_comparison(tmp_path / "c")
    price = ["--price-per-hour", "3600", "--currency", "USD"]
    assert main(["report", str(directory), "--summary", *price, "--json"]) == 0
    path = directory / "summary.html"
    assert json.loads(capsys.readouterr().out) == [{"folder": str(directory), "summary": str(path)}]
    page = Page(path)
    assert (
        "Is stable better than baseline here?" in page.words
        and "Yes: stable is better than baseline here." in page.words
    )
    assert "USD 60.00" in page.words  # 300,000 steps at 0.2 s a thousand, a second costing 1
    assert "3 of 3 runs of baseline at depth large, width 256 learned and then lost it again" in page.words
    assert "scale-up: the same comparison with a deeper network" in page.words
    assert main(["report", str(directory), "--summary"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "USD" not in Page(path).words


def test_energy_is_time_at_the_machines_draw(synthetic, tmp_path):
    """A run of the baseline takes a minute, as its price above says."""
    directory = synthetic.write_comparison(tmp_path / "c")
    page = Page(write_summary_page(directory, watts=6000.0))
    assert "Energy of a run100 Wh" in page.words
    assert "Energy is time at 6,000 W, as given" in page.words
    assert "Energy of a run2 kWh" in Page(write_summary_page(directory, watts=120_000.0)).words
    without = Page(write_summary_page(directory))
    assert "Energy of a runnot measured" in without.words and "Runs measure no energy" in without.words


def test_sources_link_to_a_runs_own_page_where_it_has_one(synthetic, tmp_path):
    directory = synthetic.write_comparison(tmp_path / "c")
    (directory / "runs/stable/seed-1/report.html").write_text("a page")
    links = Page(write_summary_page(directory)).links
    assert "runs/stable/seed-1/report.html" in links and "runs/stable/seed-2/summary.json" in links


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "jp", "--summary"], "unknown language 'jp'; did you mean 'ja'"),
        (["--language", "ja"], "are for --summary"),
        (["--summary", "--price-per-hour", "2"], "go together"),
        (["--summary", "--currency", "USD"], "go together"),
        (["--summary", "--price-per-hour", "-2", "--currency", "USD"], "at least 0"),
        (["--watts", "300"], "are for --summary"),
        (["--summary", "--watts", "0"], "watts must be above 0"),
    ],
)
def test_wrong_options_are_one_line(synthetic, tmp_path, capsys, arguments, message):
    directory = synthetic.write_comparison(tmp_path / "c")
    assert main(["report", str(directory), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (directory / "summary.html").exists()


def test_a_run_folder_is_no_place_for_a_decision(synthetic, tmp_path):
    synthetic.write_run(tmp_path / "run")
    with pytest.raises(UsageError, match="neither a comparison folder nor a study folder"):
        write_summary_page(tmp_path / "run")


PAIRS = {
    "no baseline": ([[None] * 3], [[1.0, 2.0, 3.0]]),
    "nothing": ([[None] * 3], [[None] * 3]),
    "one seed": ([[1.0]], [[2.0]]),
    "two seeds": ([[1.0, 2.0]], [[2.0, 3.5]]),
    "ties": ([[500.0] * 3], [[500.0] * 3]),
    "negative": ([[-20.0, -21.0, -19.0]], [[-5.0, -6.0, -4.5]]),
    "worse": ([[-5.0, -6.0, -4.5]], [[-20.0, -21.0, -19.0]]),
    "leans": ([[0.0] * 3], [[20.0, 60.0, 45.0]]),
    "sizes": ([[1.0, 2.0, 1.5], [0.5, 0.2, 0.6]], [[1.0, 2.1, 1.4], [5.0, 5.5, 5.2]]),
    "sizes, ties": ([[1.0] * 3] * 2, [[1.0] * 3] * 2),
    "sizes, worse": ([[1.0, 2.0, 1.5], [5.0, 5.5, 5.2]], [[1.0, 2.1, 1.4], [0.5, 0.2, 0.6]]),
    "sizes, unfinished": ([[1.0, 2.0, None]] * 2, [[1.0, 2.1, None], [None, None, None]]),
    "many sizes": ([[1.0, 2.0, 1.5]] * 9, [[float(k), k + 1.1, k + 0.7] for k in range(9)]),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", PAIRS)
def test_every_outcome_has_words(name, language, tmp_path, monkeypatch):
    """Also where there is no number: no value is left unfilled, and none is shown that is not there."""
    monkeypatch.setattr("stablegrad.pages.get_plotlyjs", str)
    monkeypatch.setattr("stablegrad.reports.summary_page.next_command", lambda *_: "a command")
    baseline, candidate = PAIRS[name]
    evidence = _evidence_of()(baseline, candidate, directory=tmp_path)
    monkeypatch.setattr("stablegrad.reports.summary_page.read_evidence", lambda _: evidence)
    page = Page(write_summary_page(tmp_path, language))
    assert "None" not in page.words and "nan" not in page.words and not re.search(r"\{\w+\}", page.words)
    rows = min(len(baseline), 6) if len(baseline) > 1 else 1
    assert page.source.count('<th scope="row">') >= rows
    assert page.source.count("<tbody>") == 3
    assert ("6" in re.findall(r"\b6\b", page.words)) or name != "many sizes"  # of nine sizes six are shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_of_the_money_and_every_step_has_words(language):
    evidence = _evidence_of()([[1.0, 2.0, 1.5]], [[5.0, 6.1, 5.4]])
    decision = decide(evidence)
    steps = (
        "finish",
        "probe",
        "more_seeds",
        "bigger",
        "full_form",
        "adopt",
        "keep_small",
        "settle_small",
        "stay_small",
        "stop",
    )
    for step in steps:
        page = _Page(evidence, replace(decision, next_step=step, next_seeds=3), Words(language), None, None, None)
        assert page._recommendation()
    for state in ("reached", "missed", "never", "nothing_to_reach", "unknown", "free"):
        changed = replace(decision.break_even, state=state, steps_share=0.5)
        page = _Page(evidence, replace(decision, break_even=changed), Words(language), 1.0, "USD", 300.0)
        assert all(page._cost_notes())


def test_no_text_is_without_use():
    """Every key is named in the page's code or template, or begins as one that is built there."""
    folder = Path(__file__).parents[2] / "src/stablegrad/reports"
    files = ("summary_page.py", "templates/summary.html", "languages/__init__.py")
    code = "".join((folder / name).read_text() for name in files)
    built = {found.partition("{")[0] for found in re.findall(r'f"([a-z_]+\.[^"]*\{[^"]*)"', code)}
    built |= {"criterion.", "break_even.", "recommend.", "unit."}
    for key in Words("en").texts:
        assert f'"{key}"' in code or f"'{key}'" in code or any(key.startswith(start) for start in built), key


def _heights(svg, pattern):
    return [float(value) for value in re.findall(pattern, svg)]


def test_the_chart_holds_every_run_the_means_and_the_references():
    series = [ChartSeries("a", "first", [[1.0, 2.0], []]), ChartSeries("b", "second", [[-3.0], [4.0, 5.0]])]
    lines = [("random <play>", -8.0), ("solved", 9.0)]
    svg = str(score_chart(["<1>", "2"], series, lines, "a picture", percent=False))
    assert svg.count("<circle") == 5 + 2  # runs, and the legend
    assert "&lt;1&gt;" in svg and "random &lt;play&gt;" in svg and 'role="img"' in svg
    heights = _heights(svg, r'circle class="\w+" cx="[\d.]+" cy="([\d.]+)" r="3.2"')
    assert heights[1] < heights[0] < heights[2]  # higher is further up
    random, solved = _heights(svg, r'class="reference" x1="\d+" x2="\d+" y1="([\d.]+)"')
    assert solved < min(heights) and random > max(heights)
    # Of 1 and 2 the mean is 1.5, and its 95% interval reaches 12.706 / 2 to each side.
    a_unit = heights[0] - heights[1]
    low, high = re.search(r'line class="first" x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', svg).groups()
    assert float(low) - float(high) == pytest.approx(12.706 * a_unit, rel=0.02)
    assert score_chart(["1"], [ChartSeries("a", "first", [[]])], [], "nothing", percent=True) is None
    assert score_chart(["1"], [ChartSeries("a", "first", [[0.0]])], [], "one value", percent=True) is not None


def test_a_page_says_what_a_score_is_worth(tmp_path):
    """Far better than the baseline, and still far from landing: no adoption."""
    values = {"tasks": ("LunarLander-v3",), "references": references("final_return", {"LunarLander-v3"})}
    command = ("stablegrad", "compare", "pqn", "--env", "LunarLander-v3", "--total-steps", "1000", "--dir", "there")
    baseline = [[-120.0, -140.0, -130.0]]
    better = [[30.0, 35.0, 33.7]]
    evidence = _evidence_of()(baseline, better, depth="xlarge", command=command, directory=tmp_path, **values)
    for language, parts in {
        "en": ("Go on · Small trial", "random play scores -188", "solved at 200", "with 32.9 the task is not solved"),
        "ja": ("ランダムに行動した場合のスコアは-188", "達成基準", "200"),
    }.items():
        shown = _Page(evidence, decide(evidence), Words(language), None, None, None).context()
        text = " ".join(str(shown[name]) for name in ("chip", "recommendation", "details", "chart"))
        assert all(part in text for part in parts)
        assert "Adopt" not in text
        assert shown["chart"].count('class="reference"') == 2
        assert shown["command"].count("--total-steps 5000") == 1 and "--total-steps 1000" not in shown["command"]
    landed = _evidence_of()(baseline, [[230.0, 235.0, 233.7]], depth="xlarge", **values)
    shown = _Page(landed, decide(landed), Words("en"), None, None, None).context()
    assert str(shown["chip"]) == "Go · Small trial"
    assert str(shown["recommendation"]) == "Adopt stable at depth 1, the one size that was tried."


def test_no_japanese_text_speaks_of_money_where_none_is_meant():
    about_money = ("cost.", "unit.money")
    for key, text in Words("ja").texts.items():
        if not key.startswith(about_money):
            assert not any(word in text for word in ("予算", "投資", "採算", "収益", "費用", "割に合")), key
