"""Pages as Chromium shows them; skipped where there is none."""

import importlib.util
import shutil
from pathlib import Path

import pytest

from stablegrad.reports import write_run_report

CHROMIUM = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
_specification = importlib.util.spec_from_file_location(
    "browser", Path(__file__).parents[2] / "benchmarks" / "browser.py"
)
_browser = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_browser)
DRAWN = "document.querySelectorAll('.figure[data-drawn] .main-svg').length > 0 &&" + (
    "document.querySelectorAll('.figure:not([data-drawn])').length === 0"
)


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_figures_are_drawn_near_the_screen_and_all_of_them_on_paper(synthetic, tmp_path):
    synthetic.write_run(tmp_path / "run")
    page = write_run_report(tmp_path / "run")
    with _browser.open_browser() as browser:
        browser.look(390, 300)
        opened = browser.open(page)
        assert opened["figures"] == 3 and not browser.evaluate(DRAWN)
        browser.call("Page.printToPDF")
        assert browser.evaluate(DRAWN)
        browser.open(page)
        browser.scroll()
        assert browser.evaluate(DRAWN)
        assert browser.errors == [] and {url.split(":")[0] for url in browser.requests} <= {"file", "data"}
