"""A headless Chromium for tests of HTML pages.

    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        with open_browser() as browser:  # skips the test if Chromium is not installed
            yield browser

    page = browser.open(path, width=1000, height=800)
    page.hover("#map", x=0.5, y=0.5)
    assert page.evaluate("document.title") == "..."
    assert page.console_messages == [] and page.requests == [path.as_uri()]

The browser is controlled by Chrome's DevTools protocol over a pipe, so no library, port or network
is needed. Messages are JSON objects, each followed by a NUL byte; the browser reads commands from
file descriptor 3 and writes answers and events to descriptor 4.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROGRAM_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# A busy machine may take long to answer, but a browser that hangs must not stop the tests.
TIMEOUT_SECONDS = 60
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # the sandbox does not work for root, for example in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-first-run",
    "--hide-scrollbars",
]
# Moves our two pipe ends to descriptors 3 and 4, then replaces itself by the browser, so that the
# process id that we know is the browser's. The ends are first copied to higher numbers, because
# they may have the numbers 3 and 4 themselves.
LAUNCHER = """\
import fcntl, os, sys
read_end, write_end = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(read_end, 3)
os.dup2(write_end, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEY_CODES = {
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
}


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser with an empty profile; skip the test if none is installed."""
    program = find_program()
    if program is None:
        pytest.skip("needs Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser_read_end, our_write_end = os.pipe()
        our_read_end, browser_write_end = os.pipe()
        launcher = [sys.executable, "-S", "-c", LAUNCHER]
        pipe_ends = [str(browser_read_end), str(browser_write_end)]
        process = subprocess.Popen(
            [*launcher, *pipe_ends, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(browser_read_end, browser_write_end),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
        )
        os.close(browser_read_end)
        os.close(browser_write_end)
        try:
            yield Browser(our_read_end, our_write_end)
        finally:
            process.kill()  # the browser's child processes end with it
            process.wait()
            os.close(our_read_end)
            os.close(our_write_end)


def find_program() -> str | None:
    """Return the path of an installed browser."""
    for name in PROGRAM_NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    return None


class NavigationError(Exception):
    """The page was left while the browser computed an answer."""


@dataclass
class Browser:
    """A running browser: sends commands and passes events on to the pages."""

    read_end: int
    write_end: int
    buffer: bytes = b""  # read, but not processed yet
    num_commands: int = 0
    pages: dict[str, Page] = field(default_factory=dict)  # by DevTools session

    def open(
        self, address: Path | str, *, width: int = 1100, height: int = 900, dark: bool = False
    ) -> Page:
        """Load an HTML file, or a page of a server on 127.0.0.1, in a new tab."""
        url = address if isinstance(address, str) else address.resolve().as_uri()
        target = self.send_command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send_command("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        page = Page(self, session, target)
        self.pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send_command(f"{domain}.enable")
        color_scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send_command("Emulation.setEmulatedMedia", features=[color_scheme])
        page.resize(width, height)
        answer = page.send_command("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not page.is_loaded:
            self._receive(deadline)
        return page

    def send_command(
        self, method: str, *, session: str | None = None, **params: Any
    ) -> dict[str, Any]:
        """Send a command and return its result.

        Raises AssertionError if the browser refuses it, and NavigationError if the page was left
        before the browser could answer.
        """
        self.num_commands += 1
        command_id = self.num_commands
        message: dict[str, Any] = {"id": command_id, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + TIMEOUT_SECONDS
        answer = self._receive(deadline)
        while answer.get("id") != command_id:
            answer = self._receive(deadline)
        if "navigated or closed" in answer.get("error", {}).get("message", ""):
            raise NavigationError(method)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Return the browser's next message, after the page that it belongs to has seen it."""
        while b"\0" not in self.buffer:
            self.buffer += self._read(deadline)
        raw_message, self.buffer = self.buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(raw_message)
        page = self.pages.get(message.get("sessionId", ""))
        if page is not None:
            page.handle_event(message.get("method", ""), message.get("params", {}))
        return message

    def _read(self, deadline: float) -> bytes:
        """Read what the browser has written, waiting for it until the deadline."""
        seconds_left = max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self.read_end], [], [], seconds_left)
        assert readable, f"the browser has not answered for {TIMEOUT_SECONDS} s"
        content = os.read(self.read_end, 1 << 20)
        assert content, "the browser has exited"
        return content


@dataclass
class Page:
    """One tab, with a record of its console messages and network requests."""

    browser: Browser
    session: str
    target: str
    # Console messages of any level, uncaught exceptions and log entries, as JSON.
    console_messages: list[str] = field(default_factory=list)
    # Requested addresses, including the page's own, but not data: and blob:.
    requests: list[str] = field(default_factory=list)
    is_loaded: bool = False

    def handle_event(self, event: str, params: dict[str, Any]) -> None:
        """Record an event of this page."""
        if event == "Page.loadEventFired":
            self.is_loaded = True
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console_messages.append(json.dumps(params))
        elif event == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                self.requests.append(url)

    def send_command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a DevTools command for this page and return its result."""
        return self.browser.send_command(method, session=self.session, **params)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, waiting for it if it is a promise.

        Raises AssertionError if the expression throws an exception.
        """
        answer = self.send_command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def resize(self, width: int, height: int, *, scale: float = 1.0) -> None:
        """Set the size of the window in CSS pixels, and the device pixels of each."""
        self.send_command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def emulate_print(self) -> None:
        """Show the page as it would be printed."""
        self.send_command("Emulation.setEmulatedMedia", media="print", features=[])

    def hover(self, selector: str, *, x: float = 0.5, y: float = 0.5) -> None:
        """Move the mouse over the first match: (0, 0) is its top left, (1, 1) its bottom right."""
        left, top = self._scroll_to(selector, x, y)
        self.send_command("Input.dispatchMouseEvent", type="mouseMoved", x=left, y=top)

    def click(self, selector: str, *, x: float = 0.5, y: float = 0.5) -> None:
        """Click on the first match; x and y as in `hover`."""
        left, top = self._scroll_to(selector, x, y)
        for event in ("mousePressed", "mouseReleased"):
            self.send_command(
                "Input.dispatchMouseEvent", type=event, x=left, y=top, button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press one of the keys in KEY_CODES."""
        for event in ("rawKeyDown", "keyUp"):
            self.send_command(
                "Input.dispatchKeyEvent",
                type=event,
                key=key,
                code=key,
                windowsVirtualKeyCode=KEY_CODES[key],
            )

    def insert_text(self, text: str) -> None:
        """Write a text where the focus is, as an input method or a paste does."""
        self.send_command("Input.insertText", text=text)

    def wait_until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true, also on the page that is loaded next."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        is_true = False
        while not is_true:
            assert time.monotonic() < deadline, f"still false: {expression}"
            with suppress(NavigationError):
                is_true = bool(self.evaluate(expression))
            time.sleep(0.02)

    def screenshot(self, path: Path) -> None:
        """Save the content of the window as PNG."""
        answer = self.send_command("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """Save the page as PDF in the format A4."""
        answer = self.send_command(
            "Page.printToPDF",
            paperWidth=8.27,
            paperHeight=11.69,
            preferCSSPageSize=True,
            printBackground=False,
        )
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Close the tab."""
        self.browser.send_command("Target.closeTarget", targetId=self.target)

    def _scroll_to(self, selector: str, x: float, y: float) -> tuple[float, float]:
        """Scroll to a point in the first match and return its position in the window."""
        script = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "nearest", inline: "nearest", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            return [box.left + {x} * box.width, box.top + {y} * box.height];
        }})()"""
        left, top = self.evaluate(script)
        return left, top
