# SPDX-License-Identifier: BSD-3-Clause
"""A headless Chromium for tests, driven by the DevTools protocol over the library websockets.

One thread: events that come while an answer is awaited are collected. The process and its profile end with the block.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--no-first-run", "--no-default-browser-check", "--mute-audio", "--no-proxy-server",
    "--remote-debugging-port=0",
)  # fmt: skip


def program() -> str | None:
    """The path of a Chromium; None: there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Page:
    """A tab.

    Attributes:
        errors: of scripts and of the console.
        requests: addresses of all requests, also of websockets.
    """

    def __init__(self, connection: Any, target: str, session: str) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._connection, self._target, self._session, self._count = connection, target, session, 0
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, timeout: float = 10.0, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters, "sessionId": self._session}
        self._connection.send(json.dumps(message))
        end = time.monotonic() + timeout
        while True:
            answer = json.loads(self._connection.recv(timeout=max(0.0, end - time.monotonic())))
            if answer.get("id") == self._count and answer.get("sessionId") == self._session:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._collect(answer.get("method", ""), answer.get("params", {}))

    def _collect(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.errors.append(" ".join(str(value.get("value", "")) for value in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(event["url"])

    def resize(self, width: int, height: int, scale: float = 1.0, mobile: bool = False) -> None:
        """Set the size of the screen, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    def open(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str, timeout: float = 10.0) -> Any:
        """The value of an expression of JavaScript, which may be a promise."""
        answer = self.call("Runtime.evaluate", timeout, expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, timeout: float = 10.0) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + timeout
        check = (
            f"new Promise(done => {{ const end = Date.now() + 500; const look = () => {{ const value = ({expression}); "
            "if (value || Date.now() > end) done(value); else setTimeout(look, 20); }; look(); })"
        )
        value = None
        while not value and time.monotonic() < end:
            with contextlib.suppress(RuntimeError):  # the page is loaded again meanwhile
                value = self.evaluate(check)
        assert value, f"not within {timeout} s: {expression}"
        return value

    def text(self, selector: str) -> str:
        """The text of an element."""
        text: str = self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
        return text

    def wait_text(self, selector: str, expected: str) -> None:
        """Wait until there is such an element with this text."""
        self.wait(f"document.querySelector({json.dumps(selector)})?.textContent === {json.dumps(expected)}")

    def change(self, selector: str, value: str) -> None:
        """Set the value of a control, as a user does."""
        self.evaluate(
            f"(() => {{ const control = document.querySelector({json.dumps(selector)}); control.value = "
            f"{json.dumps(value)}; "
            "for (const kind of ['input', 'change']) control.dispatchEvent(new Event(kind)); })()"
        )

    def pixel(self, selector: str, y: float, x: float) -> list[int]:
        """Red, green, blue and alpha of a canvas at a fraction of its height and width, after what is to be drawn."""
        pixel: list[int] = self.evaluate(
            f"new Promise(requestAnimationFrame).then(() => {{ const canvas = document.querySelector('{selector}'); "
            "const read = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true }); read.drawImage("
            f"canvas, canvas.width * {x} | 0, canvas.height * {y} | 0, 1, 1, 0, 0, 1, 1); "
            "return [...read.getImageData(0, 0, 1, 1).data]; })"
        )
        return pixel

    def mouse(self, kind: str, x: float, y: float, **parameters: Any) -> None:
        """Dispatch an event of the mouse, such as mouseMoved, at these CSS pixels."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **parameters)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self, path: Path, full: bool = False) -> None:
        """Write the page as a PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A Chromium with tabs; use as a context manager."""

    def __enter__(self) -> Browser:
        from websockets.sync.client import connect

        found = program()
        assert found is not None
        self._open = contextlib.ExitStack()
        self._profile = tempfile.mkdtemp(prefix="chromium-")
        self._process = subprocess.Popen(
            [found, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._connection = self._open.enter_context(
                connect(self._address(), max_size=1 << 27, compression=None, proxy=None)
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):  # an orderly end, if it still answers
            self._call("Browser.close")
            self._process.wait(5)
        self._open.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)
        shutil.rmtree(self._profile, ignore_errors=True)

    @contextlib.contextmanager
    def page(self, width: int = 1280, height: int = 800) -> Iterator[Page]:
        """A tab of this size."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        try:
            page = Page(self._connection, target, session)
            page.resize(width, height)
            yield page
        finally:
            self._call("Target.closeTarget", targetId=target)

    def _address(self) -> str:
        """The address of the browser's own target, which it writes to its profile."""
        written = Path(self._profile) / "DevToolsActivePort"
        end = time.monotonic() + 20
        while time.monotonic() < end and self._process.poll() is None:
            lines: Sequence[str] = written.read_text().split("\n") if written.exists() else ()
            if len(lines) > 1 and lines[1]:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.02)
        raise RuntimeError("expected Chromium to write its port, found none within 20 s")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._connection.send(json.dumps({"id": 0, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=10))
            if answer.get("id") == 0 and "sessionId" not in answer:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
