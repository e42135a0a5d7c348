"""A headless Chromium driven through its DevTools protocol, over a pair of pipes: no port, no further library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-breakpad", "--disable-dev-shm-usage"),
    *("--remote-debugging-pipe", "--hide-scrollbars", "--force-color-profile=srgb", "--no-zygote"),
]


class Page:
    """One tab. ``complaints``: what its console said; ``requests``: the URLs it asked for."""

    def __init__(self, width: int = 1280, height: int = 900, scale: float = 1.0) -> None:
        assert PROGRAM is not None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._buffer = b""
        self._folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        commands, self._write = os.pipe()
        self._read, replies = os.pipe()

        def ends() -> None:
            """The browser reads its commands from descriptor 3 and answers on 4."""
            taken, given = os.dup(commands), os.dup(replies)
            os.dup2(taken, 3)
            os.dup2(given, 4)

        self._process = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={self._folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            close_fds=False,
            preexec_fn=ends,
        )
        os.close(commands)
        os.close(replies)
        self._session: str | None = None
        self._target: str | None = None
        self.begin(width, height, scale)

    def begin(self, width: int = 1280, height: int = 900, scale: float = 1.0) -> None:
        """Close the tab and have another, which knows nothing of it."""
        self._session = None
        if self._target is not None:
            self.ask("Target.closeTarget", targetId=self._target)
        context = self.ask("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        self._target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.size(width, height, scale)
        self.complaints.clear()
        self.requests.clear()

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def media(self, *, scheme: str = "light", kind: str = "") -> None:
        """``kind``: "print", or as on a screen."""
        self.ask("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, file: Path) -> None:
        """Open a file, until it is loaded and its scripts have run."""
        self.ask("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + 30
        while self.run("location.protocol === 'file:' && document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page was not loaded in time"

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def hover(self, x: float, y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, x: float, y: float, to: float) -> None:
        """With the left button, sideways."""
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=to, y=y, **button)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=to, y=y, **button)

    def press(self, key: str, *, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, **more)

    def screenshot(self, *, height: int | None = None) -> bytes:
        """As PNG; from the top, ``height`` of it or what is seen."""
        size = self.run("[innerWidth, innerHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or size[1], "scale": 1}
        return base64.b64decode(self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"])

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 40
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        match event["method"]:
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(event["params"]))
            case "Page.javascriptDialogOpening":
                self.complaints.append(f"a dialog: {event['params']['message']}")

    def _receive(self, deadline: float) -> dict[str, Any]:
        while (end := self._buffer.find(b"\0")) < 0:
            left = deadline - time.monotonic()
            assert left > 0, "the browser did not answer in time"
            assert select.select([self._read], [], [], left)[0], "the browser did not answer in time"
            data = os.read(self._read, 1 << 20)
            assert data, "the browser has gone"
            self._buffer += data
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        self._session = None
        with contextlib.suppress(OSError, AssertionError):
            self.ask("Browser.close")
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # helpers that have not noticed yet
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
