"""Pages as Chromium shows them; skipped where there is none."""

import importlib.util
import re
from pathlib import Path

import pytest

from stablegrad.diagnostics import Report, judge
from stablegrad.reports import write_comparison_report, write_run_report, write_study_report, write_summary_page


def _load(path):
    specification = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


_browser = _load(Path(__file__).parents[2] / "benchmarks" / "browser.py")
pytestmark = pytest.mark.skipif(_browser.CHROMIUM is None, reason=_browser.MISSING)
_histories = _load(Path(__file__).with_name("histories.py"))
DRAWN = "document.querySelectorAll('.figure[data-drawn] .main-svg').length > 0 &&" + (
    "document.querySelectorAll('.figure:not([data-drawn])').length === 0"
)


def test_figures_are_drawn_near_the_screen_and_all_of_them_on_paper(synthetic, tmp_path, chromium):
    synthetic.write_run(tmp_path / "run")
    page = write_run_report(tmp_path / "run")
    with _browser.open_screen(chromium, 390, 300) as browser:
        opened = browser.open(page)
        assert opened["figures"] == 3 and not browser.evaluate(DRAWN)
        assert browser.page.pdf().startswith(b"%PDF")
        assert browser.evaluate(DRAWN)
        browser.open(page)
        browser.scroll()
        assert browser.evaluate(DRAWN)
        # Options and their values stand side by side, on a phone too.
        assert browser.evaluate(
            "Array.from(document.querySelectorAll('.scroll')).every(one => one.scrollWidth <= one.clientWidth)"
        )
        assert browser.errors == [] and {url.split(":")[0] for url in browser.requests} <= {"file", "data"}


#: Plots without a title, a unit or a way to read them that can be seen.
WORDLESS = """Array.from(document.querySelectorAll(".figure")).filter(function (figure) {
    const plot = figure.closest(".plot");
    const words = [["h3", /\\w/], [".unit", /\\w.*\\.$/], [".soft:last-child", /^How to read it: .{10,}\\.$/]];
    return !plot || words.some(function ([place, pattern]) {
        const found = plot.querySelector(place);
        return !found || !found.getClientRects().length || !pattern.test(found.textContent.trim());
    });
}).length"""
#: Words in and below figures that stand on other words of theirs, or outside of the figure or the screen.
ENTANGLED = """Array.from(document.querySelectorAll(".plot")).flatMap(function (plot) {
    const whole = plot.getBoundingClientRect(), spare = 3;
    const words = Array.from(plot.querySelectorAll(".main-svg text, .ticks span"))
        .filter(function (one) { return one.textContent.trim() && one.getClientRects().length; })
        .map(function (one) { return [one.textContent, one.getBoundingClientRect()]; });
    return words.filter(function ([, box], index) {
        return box.left < Math.max(0, whole.left - spare) || box.right > Math.min(innerWidth, whole.right + spare)
            || box.top < whole.top || box.bottom > whole.bottom
            || words.slice(index + 1).some(function ([, other]) {
                return box.left + spare < other.right && other.left + spare < box.right
                    && box.top + spare < other.bottom && other.top + spare < box.bottom;
            });
    }).map(function ([text]) { return plot.querySelector("h3").textContent + ": " + text; });
})"""
#: Words that stand out from what is behind them by less than 4.5 to 1 (WCAG 2, AA).
PALE = """(function () {
    const pen = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    function channels(colour) {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = colour;
        pen.fillRect(0, 0, 1, 1);
        return pen.getImageData(0, 0, 1, 1).data;
    }
    function luminance(colour) {
        const [red, green, blue] = Array.from(channels(colour)).map(function (channel) {
            const share = channel / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    }
    function paper(element) {
        while (channels(getComputedStyle(element).backgroundColor)[3] < 255) element = element.parentElement;
        return getComputedStyle(element).backgroundColor;
    }
    const pairs = new Map();
    for (const element of document.querySelectorAll("main *")) {
        const own = Array.from(element.childNodes).some(function (node) {
            return node.nodeType === Node.TEXT_NODE && node.textContent.trim();
        });
        if (!own || !element.getClientRects().length) continue;
        const style = getComputedStyle(element), svg = element instanceof SVGElement;
        // Numbers in grids stand on coloured cells: test_figures has those.
        const plot = svg && element.closest(".svg-container");
        if (plot && plot.querySelector(".heatmaplayer > *")) continue;
        pairs.set((svg ? style.fill : style.color) + " on " + paper(element), element.textContent.slice(0, 40));
    }
    return Array.from(pairs).filter(function ([colours]) {
        const [low, high] = colours.split(" on ").map(luminance).sort(function (a, b) { return a - b; });
        return (high + 0.05) / (low + 0.05) < 4.5;
    });
})()"""


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory):
    """Pages of a small network that stands still in one layer and breaks in another, and of a deep one that fades."""
    folder = tmp_path_factory.mktemp("diagnoses")
    found = {
        3: _histories.history(3, 40, zero_from=(1, 0.6), nonfinite_from=(2, 0.8)),
        200: _histories.history(200, 12, fading=0.05),
    }
    return {layers: Report(judge(one), one).save_html(folder / f"{layers}.html") for layers, one in found.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory, synthetic):
    """One page of every kind that has figures."""
    folder = tmp_path_factory.mktemp("pages")
    synthetic.write_run(folder / "run")
    synthetic.write_comparison(folder / "comparison")
    synthetic.write_study(folder / "study")
    return {
        "run": write_run_report(folder / "run"),
        "comparison": write_comparison_report(folder / "comparison"),
        "study": write_study_report(folder / "study"),
    }


@pytest.fixture(scope="module")
def chromium():
    with _browser.open_browser() as one:
        yield one


SIZES = pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["desktop", "phone"])
SCHEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


@SCHEMES
@SIZES
@pytest.mark.parametrize("layers", [3, 200])
def test_a_diagnosis_can_be_read_on_every_screen(diagnoses, chromium, layers, size, dark):
    with _browser.open_screen(chromium, *size, dark=dark) as browser:
        assert browser.open(diagnoses[layers])["figures"] == 16
        browser.scroll()
        assert browser.evaluate(WORDLESS) == 0
        assert browser.evaluate(ENTANGLED) == []
        _check_legible(browser, dark)


@SCHEMES
@SIZES
@pytest.mark.parametrize("kind", ["run", "comparison", "study"])
def test_reports_can_be_read_on_every_screen(pages, chromium, kind, size, dark):
    with _browser.open_screen(chromium, *size, dark=dark) as browser:
        assert browser.open(pages[kind])["figures"] > 0
        browser.scroll()
        _check_legible(browser, dark)
        if not dark:
            assert browser.page.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("kind", ["comparison", "study"])
def test_the_page_for_those_who_decide_is_two_sheets_of_paper(synthetic, chromium, tmp_path, kind, language):
    getattr(synthetic, f"write_{kind}")(tmp_path / "folder")
    page = write_summary_page(tmp_path / "folder", language)
    for width, dark in ((1280, False), (390, True)):
        with _browser.open_screen(chromium, width, dark=dark) as browser:
            browser.open(page)
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.evaluate(PALE) == [] and browser.errors == []
            sheets = len(re.findall(rb"/Type\s*/Page\b", browser.page.pdf(format="A4", prefer_css_page_size=True)))
            assert sheets == 2


def _check_legible(browser, dark):
    """All is drawn, nothing is cut, words stand out, nothing comes from a network."""
    assert browser.evaluate(DRAWN)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(20, 24, 29)") is dark and browser.evaluate(PALE) == []
    assert browser.errors == [] and {url.split(":")[0] for url in browser.requests} <= {"file", "data", "blob"}
