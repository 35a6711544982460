"""A headless Chromium to look at our pages with, spoken to over a pipe: no library, no port, no network.

    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        with open_browser() as browser:  # skips the test where there is no Chromium
            yield browser

    page = browser.open(path, width=1000, height=800)
    page.hover("#map", x=0.5, y=0.5)
    assert page.evaluate("document.title") == "..."
    assert page.complaints == [] and page.requests == [path.as_uri()]

The protocol is Chrome's DevTools protocol: JSON objects, each ended by a NUL, in on descriptor 3, out on descriptor 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = (
    60  # to wait for any one answer: a busy machine is slow, a hung browser must not hang the tests
)
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which root, as in a container, cannot have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-first-run",
    "--hide-scrollbars",
]
# Gives the browser our two pipes as descriptors 3 and 4, then becomes the browser, so that its pid is the one we know.
LAUNCHER = """\
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser of our own, gone at the end; skips the test where none is installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
        command = [sys.executable, "-S", "-c", LAUNCHER, str(their_in), str(their_out)]
        process = subprocess.Popen(
            [*command, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(their_in, their_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(their_in)
        os.close(their_out)
        try:
            yield Browser(our_in, our_out)
        finally:
            process.kill()  # its children end when it does
            process.wait()
            os.close(our_in)
            os.close(our_out)


@dataclass
class Browser:
    """Asks and waits for the answer; what happens meanwhile goes to the page that it concerns."""

    incoming: int
    outgoing: int
    unread: bytes = b""
    num_asked: int = 0
    pages: dict[str, Page] = field(default_factory=dict)  # by the protocol's session

    def open(self, path: Path, *, width: int = 1100, height: int = 900, dark: bool = False) -> Page:
        """Load an HTML file in a tab of its own."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.ask("Emulation.setEmulatedMedia", features=[scheme])
        page.resize(width, height)
        failure = page.ask("Page.navigate", url=path.resolve().as_uri()).get("errorText")
        assert failure is None, f"{path}: {failure}"
        deadline = time.monotonic() + SECONDS
        while not page.loaded:
            self.hear(deadline)
        return page

    def ask(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of one command. AssertionError with the browser's words when it refuses."""
        self.num_asked += 1
        number, deadline = self.num_asked, time.monotonic() + SECONDS
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        os.write(self.outgoing, json.dumps(message).encode() + b"\0")
        while (answer := self.hear(deadline)).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def hear(self, deadline: float) -> dict[str, Any]:
        """The browser's next message, noted by the page that it concerns."""
        while b"\0" not in self.unread:
            ready = select.select([self.incoming], [], [], max(0.0, deadline - time.monotonic()))[0]
            read = os.read(self.incoming, 1 << 20) if ready else b""
            assert read, (
                "the browser has ended"
                if ready
                else f"the browser has said nothing for {SECONDS} s"
            )
            self.unread += read
        raw, self.unread = self.unread.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw)
        if page := self.pages.get(message.get("sessionId", "")):
            page.note(message.get("method", ""), message.get("params", {}))
        return message


@dataclass
class Page:
    """One tab, with what went wrong in it and what it asked the world for."""

    browser: Browser
    session: str
    target: str
    complaints: list[str] = field(
        default_factory=list
    )  # console messages of any level, exceptions, log entries
    requests: list[str] = field(
        default_factory=list
    )  # addresses, its own among them; not data: and blob:
    loaded: bool = False

    def note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(params))
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            self.requests += [url] if not url.startswith(("data:", "blob:")) else []

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.ask(method, session=self.session, **params)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for. AssertionError when it throws."""
        found = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def resize(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """The size of the window in CSS pixels; `scale` is device pixels for each."""
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def hover(self, selector: str, *, x: float = 0.5, y: float = 0.5) -> None:
        """Move the mouse to a place in the first match: (0, 0) is its top left, (1, 1) its bottom right."""
        left, top = self._point(selector, x, y)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=top)

    def click(self, selector: str, *, x: float = 0.5, y: float = 0.5) -> None:
        left, top = self._point(selector, x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.ask(
                "Input.dispatchMouseEvent", type=kind, x=left, y=top, button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press a key that has a name, such as ArrowRight or Tab."""
        codes = {
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Tab": 9,
            "Enter": 13,
            "Escape": 27,
        }
        for kind in ("rawKeyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints, on A4."""
        options = {
            "paperWidth": 8.27,
            "paperHeight": 11.69,
            "preferCSSPageSize": True,
            "printBackground": False,
        }
        path.write_bytes(base64.b64decode(self.ask("Page.printToPDF", **options)["data"]))

    def close(self) -> None:
        self.browser.ask("Target.closeTarget", targetId=self.target)

    def _point(self, selector: str, x: float, y: float) -> tuple[float, float]:
        """A place in the window, scrolled to."""
        script = f"""(() => {{
            const found = document.querySelector({json.dumps(selector)});
            found.scrollIntoView({{block: "nearest", inline: "nearest", behavior: "instant"}});
            const box = found.getBoundingClientRect();
            return [box.left + {x} * box.width, box.top + {y} * box.height];
        }})()"""
        left, top = self.evaluate(script)
        return left, top
