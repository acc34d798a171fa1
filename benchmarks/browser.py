"""A page as Chromium shows it, through Playwright: opened without a network, timed, scrolled, photographed.

Needs the system's Chromium (``apt-get install chromium``); Playwright's own download is not used.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MISSING = "no Chromium: install it with 'apt-get install chromium'"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
TIMEOUT_MS = 60_000

# A page marks a figure when it is drawn, and draws those near the screen only.
FIRST = "document.querySelector('.figure[data-drawn]') !== null"
SEEN = """document.readyState === "complete" &&
    Array.from(document.querySelectorAll(".figure:not([data-drawn])")).every(
        function (place) { return place.getBoundingClientRect().top >= innerHeight; })"""
NEXT = """(function () {
    const next = document.querySelector(".figure:not([data-drawn])");
    if (next) next.scrollIntoView({block: "center"});
    return next === null;
})()"""
FIGURES = "document.querySelectorAll('.figure').length"
PAINT = "(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime"
TIMING = "JSON.stringify(performance.getEntriesByType('navigation')[0].toJSON())"


class Screen:
    """One screen of a size and colour scheme, without a network; use :func:`open_screen`.

    Attributes:
        requests: addresses that were asked for.
        errors: what pages complained of.
    """

    def __init__(self, page: Page):
        self.page = page
        self._clock = page.context.new_cdp_session(page)
        self._clock.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(expression)

    def open(self, page: Path) -> dict[str, float]:
        """Open a page and wait until the figures on the screen are drawn.

        Returns:
            ``paint_seconds`` and ``load_seconds``, from the start of the navigation to the first text and to the end of
            the load event, by the browser's own clock; ``first_figure_seconds`` and ``screen_seconds``, to the first
            figure and to the last one on the screen, by this process's; ``processor_seconds`` of the page's main
            thread until then; ``figures`` of the page.
        """
        started = time.monotonic()
        self.page.goto(page.absolute().as_uri(), wait_until="commit")
        self._waited("document.readyState === 'complete'")
        self._waited(f"{FIRST} || ({SEEN})")  # on a small screen the first figure may lie below
        first = time.monotonic() - started
        self._waited(SEEN)
        seconds = time.monotonic() - started
        return {
            "paint_seconds": self._waited(PAINT) / 1000,
            "load_seconds": json.loads(self.evaluate(TIMING))["loadEventEnd"] / 1000,
            "first_figure_seconds": first,
            "screen_seconds": seconds,
            "processor_seconds": self.processor_seconds(),
            "figures": float(self.evaluate(FIGURES)),
        }

    def scroll(self) -> dict[str, float]:
        """Scroll from figure to figure until all are drawn: ``scroll_seconds`` that this took."""
        started = time.monotonic()
        self._waited(NEXT)
        return {"scroll_seconds": time.monotonic() - started}

    def processor_seconds(self) -> float:
        """What the page's main thread has computed so far."""
        metrics = {one["name"]: one["value"] for one in self._clock.send("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def picture(self, path: Path) -> None:
        """The whole page with all its figures as PNG."""
        self.evaluate("dispatchEvent(new Event('beforeprint'))")
        self.page.screenshot(path=path, full_page=True)

    def _waited(self, expression: str) -> Any:
        """The first value of an expression that is true."""
        return self.page.wait_for_function(expression, timeout=TIMEOUT_MS, polling=10).json_value()


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """The system's Chromium with an empty profile, closed at the end."""
    if CHROMIUM is None:
        raise SystemExit(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_screen(browser: Browser, width: int, height: int = 900, *, dark: bool = False) -> Iterator[Screen]:
    """A screen of a browser; one narrower than 600 pixels is a phone's."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        is_mobile=width < 600,
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    try:
        yield Screen(context.new_page())
    finally:
        context.close()
