"""Makes ``docs/images``: what ``bridge-cli top`` and ``bridge-cli report`` show of a real daemon's busy half minute.

``python -m tests.docs.screenshots`` (needs a Chromium). Of the daemon's eight sessions one loses its interpreter,
one is recycled, some fall asleep, and some of their requests fail.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.terminal_theme import MONOKAI

from dspy_bridge.cli.top import sampled
from dspy_bridge.client import Client, TransportError
from dspy_bridge.views.report import report
from dspy_bridge.views.top import Frame, Point, Sample, point
from dspy_bridge.views.trace import read
from tests.support.chromium import Page

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
KEY: Final = "sk-planted-in-every-session-0123456789"
"""Must be in no picture: nothing a request says is in a figure."""

_SECONDS: Final = 24.0
_TURN_S: Final = 0.25
_SESSIONS: Final = {
    "support-bot": ("answer", 120),
    "triage": ("classify", 35),
    "research": ("investigate", 700),
    "translator": ("translate", 60),
    "nightly-eval": ("grade", 250),
    "ann": ("qa", 90),
    "ben": ("qa", 150),
    "playground": ("draft", 400),
}
"""Each with its program, and how many milliseconds its model takes."""
_FLAGS: Final = ("--max-workers", "10", "--max-lm-calls", "4", "--idle-timeout-s", "2.5")


@contextmanager
def _daemon(folder: Path, trace: Path) -> Iterator[Client]:
    """It ends with the block."""
    path = folder / "bridge.sock"
    flags = ["--socket", str(path), "--trace-file", str(trace), *_FLAGS]
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", *flags]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while True:
            try:
                client = Client.connect(str(path))
                break
            except TransportError:
                assert time.monotonic() < deadline, "the daemon did not listen in time"
                time.sleep(0.05)
        with client:
            yield client
        process.terminate()
        process.wait(20)


def _set_up(client: Client) -> None:
    for name, (program, delay) in _SESSIONS.items():
        lm = {"model": "scripted", "delay_ms": delay, "cache": False, "api_key": KEY}
        workers = {"workers": 2} if name == "support-bot" else {}
        client.call("start_session", {"lm": lm, **workers}, session=name)
        client.call("create_program", {"id": program, "signature": "question -> answer"}, session=name)


def _ask(client: Client, name: str, number: int, *, lm: dict[str, Any] | None = None, **fields: Any) -> int:
    args: dict[str, Any] = {"program_id": _SESSIONS[name][0], "inputs": {"question": f"{KEY} {number}"}}
    if lm is not None:
        args["lm"] = lm
    return client.start("execute_program", args, session=name, **fields)


def _turn(client: Client, number: int) -> list[int]:
    """What the hosts ask for in one quarter of a second, louder and quieter in waves."""
    opened = []
    eager = ["support-bot", "triage", "translator"]
    for name in eager * (1 + (number // 12) % 2):
        opened.append(_ask(client, name, number))
    if number % 40 < 12:
        opened.append(_ask(client, "ann", number))
    if number % 50 > 30:
        opened.append(_ask(client, "ben", number))
    if number % 8 == 0:
        opened.append(_ask(client, "research", number))
    if number % 5 == 0:
        opened.append(_ask(client, "nightly-eval", number))
    if number % 34 == 6:
        opened.append(_ask(client, "playground", number, timeout_ms=200))  # its model takes twice as long
    if number % 19 == 7:
        refusing = {"model": "scripted", "answers": [{"error": {"status": 429, "message": "slow down"}}]}
        opened.append(_ask(client, "triage", number, lm=refusing))
    if number == 44:
        opened.append(client.start("recycle_session", session="translator"))
    return opened


def _live(client: Client) -> Frame:
    """Half a minute of the daemon's life, and what ``top`` shows at its end."""
    history: list[Point] = []
    previous: Sample | None = None
    opened: list[int] = []
    begun = time.monotonic()
    for number in itertools.count():
        if number * _TURN_S > _SECONDS:
            break
        opened += _turn(client, number)
        if number == 30:
            _kill_a_busy_worker(client, "support-bot")
        if number % 2 == 0:
            sample = sampled(client, 10)
            history.append(point(sample, previous))
            frame = Frame(sample, previous, history, "requests")
            previous = sample
        time.sleep(max(0.0, begun + (number + 1) * _TURN_S - time.monotonic()))
    for one in opened:
        client.reply(one)
    return frame


def _kill_a_busy_worker(client: Client, session: str) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for worker in client.call("session_info", session=session)["workers"]:
            if worker["state"] == "busy":
                os.kill(worker["pid"], signal.SIGKILL)
                return


def _picture_of_top(frame: Frame) -> str:
    console = Console(
        record=True, width=128, height=19, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    console.print(frame)
    console.print()
    svg = console.export_svg(title="bridge-cli top", theme=MONOKAI)
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.S)  # fonts that would be fetched from elsewhere


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace, page = folder / "trace.json", folder / "report.html"
        with _daemon(folder, trace) as client:
            _set_up(client)
            top = _picture_of_top(_live(client))
        page.write_text(report(read(trace), trace.name))
        assert KEY not in page.read_text()
        assert KEY not in top
        (IMAGES / "top.svg").write_text(top)
        with Page(1280, 900) as browser:
            browser.open(page)
            end = browser.run("document.querySelector('[aria-labelledby=h-latency]').getBoundingClientRect().bottom")
            (IMAGES / "report.png").write_bytes(browser.screenshot(height=round(end) + 8))


if __name__ == "__main__":
    main()
