"""A headless Chromium, driven over its DevTools pipe: opens a page without a network, times it, takes pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
    "--hide-scrollbars",
)  # fmt: skip


class Browser:
    """One page of one browser; use :func:`open_browser`."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int):
        self.process = process
        self._write, self._read = write, read
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")

    def call(self, method: str, timeout: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + timeout
        while True:
            answer = self._next(end)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            self._buffer += os.read(self._read, 1 << 20)
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(message["params"]["exceptionDetails"].get("exception", {}).get("description")))
        if message.get("method") == "Runtime.consoleAPICalled" and message["params"]["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(one.get("value")) for one in message["params"]["args"]))
        # Here the browser itself complains, as of what the page's own policy forbids.
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])
        return message

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def look(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The size of the window and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path) -> dict[str, float]:
        """Open a page with the network cut off, and wait until the figures on the screen are drawn.

        Returns:
            ``paint_seconds`` and ``load_seconds``, from the start of the navigation to the first text and to the end of
            the load event, by the browser's own clock; ``first_figure_seconds`` and ``screen_seconds``, to the first
            figure and to the last one on the screen, by this process's (looked at every 10 ms); ``processor_seconds``
            of the page's main thread until then; ``figures`` of the page.
        """
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        started = time.monotonic()
        self.call("Page.navigate", url=page.absolute().as_uri())
        first = None
        while not self.evaluate(SEEN):
            if first is None and self.evaluate(FIRST):
                first = time.monotonic() - started
            self._wait(started, f"'{page}' was not drawn")
        seconds = time.monotonic() - started
        while (paint := self.evaluate(PAINT)) is None:
            self._wait(started, f"'{page}' was not painted")
        return {
            "paint_seconds": paint / 1000,
            "load_seconds": json.loads(self.evaluate(TIMING))["loadEventEnd"] / 1000,
            "first_figure_seconds": seconds if first is None else first,
            "screen_seconds": seconds,
            "processor_seconds": self.processor_seconds(),
            "figures": float(self.evaluate(FIGURES)),
        }

    def scroll(self) -> dict[str, float]:
        """Scroll from figure to figure until all are drawn: ``scroll_seconds`` that this took."""
        started = time.monotonic()
        while not self.evaluate(NEXT):
            self._wait(started, "the page was not drawn to its end")
        return {"scroll_seconds": time.monotonic() - started}

    def processor_seconds(self) -> float:
        """What the page's main thread has computed so far."""
        metrics = {one["name"]: one["value"] for one in self.call("Performance.getMetrics")["metrics"]}
        return float(metrics["TaskDuration"])

    def _wait(self, started: float, what: str) -> None:
        """A hundredth of a second; a minute after the start, an end."""
        if time.monotonic() - started > 60:
            raise TimeoutError(f"{what} within a minute; {self.errors}")
        time.sleep(0.01)

    def picture(self, path: Path) -> None:
        """The whole page with all its figures as PNG."""
        self.evaluate("dispatchEvent(new Event('beforeprint'))")
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(result["data"]))


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with an empty profile, closed at the end."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium found: apt-get install chromium")
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The pipe is on descriptors 3 and 4; a shell puts ours there.
        command = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        process = subprocess.Popen(
            ["bash", "-c", command, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Browser(process, to_browser[1], from_browser[0])
        finally:
            process.terminate()
            process.wait(20)
            for descriptor in (*to_browser, *from_browser):
                os.close(descriptor)
