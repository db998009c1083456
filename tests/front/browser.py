"""A real Chromium, driven over its debugging pipe by its own protocol, without a driver."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-quic "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync "
    "--disable-extensions --hide-scrollbars --remote-debugging-pipe"
)
KEYS = {"PageUp": 33, "PageDown": 34, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


class Browser:
    """One page of a headless Chromium; use it as a context manager.

    Attributes:
        requests: every URL that the page asked for.
        messages: what went to the console as a warning or an error, and uncaught exceptions.
    """

    def __init__(self, profile: Path, *, width: int = 1280, height: int = 900) -> None:
        self.profile, self.size = profile, (width, height)
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._next, self._rest, self._session = 0, b"", ""

    def __enter__(self) -> Self:
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{there} 4>&{back}'
        words = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={self.profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        target = self._until_page()
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.resize(*self.size)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session = ""
        with contextlib.suppress(OSError, EOFError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    # ------------------------------------------------------------------ what a user does

    def open(self, path: Path, seconds: float = 120.0) -> None:
        """Load a file and wait for its load event."""
        self.requests.clear()
        self.messages.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        loaded = "document.readyState === 'complete' && location.href !== 'about:blank'"
        self.wait(loaded, seconds)

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def press(self, key: str, times: int = 1) -> None:
        """Press a key where the focus is."""
        for _ in range(times):
            event = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            self.send("Input.dispatchKeyEvent", type="rawKeyDown", **event)
            self.send("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, x: float, y: float) -> None:
        """Click a point of the viewport."""
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.send("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def click_on(self, script: str) -> None:
        """Click the middle of the element that a script names, brought into view."""
        where = self.run(
            f"(() => {{const e = {script}; e.scrollIntoView({{block: 'center'}});"
            "const b = e.getBoundingClientRect();"
            "return [b.left + b.width / 2, b.top + b.height / 2]})()"
        )
        self.click(*where)

    # ------------------------------------------------------------------ what there is to see

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 120.0) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.02)
        raise TimeoutError(f"not within {seconds:g} s: {script}")

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the viewport, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    # ------------------------------------------------------------------ protocol

    def send(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol, and its answer."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": parameters}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data) :]
        return self._receive(lambda answer: answer.get("id") == message["id"])

    def _receive(self, wanted: Callable[[dict[str, Any]], bool]) -> Any:
        while True:
            while b"\0" not in self._rest:
                chunk = os.read(self._in, 1 << 16)
                if not chunk:
                    raise EOFError("the browser ended")
                self._rest += chunk
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            self._note(answer)
            if wanted(answer):
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                return answer["result"]

    def _note(self, answer: dict[str, Any]) -> None:
        kind, said = answer.get("method"), answer.get("params", {})
        if kind == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif kind == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description", details["text"]))
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(a.get("value")) for a in said["args"]))
        elif kind == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.messages.append(said["entry"]["text"])

    def _until_page(self) -> str:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            for target in self.send("Target.getTargets")["targetInfos"]:
                if target["type"] == "page":
                    return str(target["targetId"])
            time.sleep(0.05)
        raise TimeoutError("the browser opened no page")
