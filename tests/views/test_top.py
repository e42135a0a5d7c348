"""``bridge-cli top``: what it shows of a daemon, in how much space, and how it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dspy_bridge.client import Client
from dspy_bridge.views import words
from dspy_bridge.views.top import Frame, Point, Sample, point
from tests.support.host import serving

CLI = [sys.executable, "-m", "dspy_bridge.cli"]


def session(name: str, **more: Any) -> dict[str, Any]:
    worker = {"pid": 4242, "state": "idle", "requests": 3, "age_s": 1.0, "memory_mb": more.pop("memory", 9.0)}
    return {
        "session_id": name,
        "state": "live",
        "workers": [worker],
        "requests": 0,
        "queued": 0,
        "in_flight": 0,
        "recycles": 0,
        "recoveries": 0,
        "hibernations": 0,
        "programs": [],
        "created_at": "2026-01-01T00:00:00.000+00:00",
        **more,
    }


def sample(*sessions: dict[str, Any], at: float = 100.0, total: int = 0, status: str = "ok", limit: int = 0) -> Sample:
    shares = {"p50": 1.5, "p90": 20.0, "p99": 1_234.0}
    stats = {
        "uptime_s": 3_725.0,
        "sessions": {"hibernations": 7},
        "requests": {
            "total": total,
            "waiting": 4,
            "waiting_limit": 1_000,
            "overloaded": 0,
            "latency_ms": shares,
            "queue_ms": shares,
        },
        "workers": {
            "live": 3,
            "limit": 8,
            "busy": 1,
            "spare": 2,
            "starting": 1,
            "sessions_waiting": 0,
            "crashes": 5,
            "recycles": 6,
        },
        "lm_calls": {"leased": 2, "waiting": 9, "limit": limit},
        "loop_lag_ms": {"p99": 0.4},
        "memory_mb": {"daemon": 30.0, "template": 110.0},
        "error_count": 11,
    }
    checks = [{"check": "queue", "status": status, "detail": "4 of at most 1000 requests wait"}]
    now = 1_767_225_600.0 + 90  # a minute and a half after the sessions were made
    return Sample(
        at, now, {"server_version": "9.8.7", "pid": 77}, stats, {"status": status, "checks": checks}, sessions
    )


def drawn(frame: Frame, width: int = 160, height: int = 40) -> str:
    console = Console(width=width, height=height, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(frame)
    return capture.get()


def names(text: str) -> list[str]:
    """Of the sessions shown, in order."""
    return re.findall(r"^(s-\w+) ", text, re.M)


def test_the_header_holds_the_daemons_figures() -> None:
    text = drawn(Frame(sample(limit=16)))
    for figure in (
        *("dspy-bridge 9.8.7", "● ok", "up 1 h 2 min", "pid 77", "loop lag p99 0.4 ms", "30.0 MiB, template 110.0 MiB"),
        *("live 3 of 8", "busy 1", "spare 2", "starting 1", "recycles 6", "crashes 5", "hibernations 7"),
        *("errors 11", "waiting 4 of 1,000", "p90 20.0 ms", "p99 1.23 s", "under way 2 of 16", "waiting 9"),
    ):
        assert figure in text, figure
    assert "no sessions" in text
    assert "LM calls" not in drawn(Frame(sample()))


def test_what_is_wrong_is_said_in_the_header() -> None:
    text = drawn(Frame(sample(status="degraded")))
    assert "● degraded" in text
    assert "queue: 4 of at most 1000 requests wait" in text


def test_rates_are_of_the_time_between_two_samples() -> None:
    before = sample(session("s-a", requests=10), at=100.0, total=100)
    after = sample(session("s-a", requests=30), session("s-new", requests=5), at=102.0, total=150)
    text = drawn(Frame(after, before, [point(before, None), point(after, before)]))
    assert "25.0/s" in text
    row = next(line for line in text.splitlines() if line.startswith("s-a"))
    assert " 10.0 " in row
    assert f" {words.UNKNOWN} " in next(line for line in text.splitlines() if line.startswith("s-new"))
    assert point(after, before) == Point(25.0, 1.5)
    assert point(before, None).rate is None


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("memory", ["s-big", "s-busy", "s-queue", "s-asleep"]),
        ("requests", ["s-busy", "s-asleep", "s-big", "s-queue"]),
        ("queue", ["s-queue", "s-big", "s-busy", "s-asleep"]),
        ("name", ["s-asleep", "s-big", "s-busy", "s-queue"]),
    ],
)
def test_sessions_come_in_the_order_asked_for(sort: str, order: list[str]) -> None:
    sessions = (
        session("s-busy", requests=90, memory=20.0),
        session("s-queue", queued=5),
        session("s-big", memory=500.0),
        session("s-asleep", state="cold", workers=[], requests=40),
    )
    assert names(drawn(Frame(sample(*sessions), sort=sort))) == order


def test_as_many_sessions_as_fit_are_shown_and_the_rest_is_counted() -> None:
    frame = Frame(sample(*(session(f"s-{number:03}") for number in range(500))), sort="name")
    text = drawn(frame, height=20)
    assert len(text.splitlines()) <= 20
    shown = names(text)
    assert shown[0] == "s-000"
    assert f"{500 - len(shown)} more sessions (sorted by name)" in text
    assert len(names(drawn(frame, height=200))) > len(shown)
    exact = Frame(sample(*(session(f"s-{number:03}") for number in range(len(shown) + 1))))
    assert "more sessions" not in drawn(exact, height=20)
    everyone = Frame(frame.sample, sort="name", all_rows=True)
    assert len(names(drawn(everyone, height=20))) == 500


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 250])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    history = [Point(float(number), 1.0) for number in range(300)]
    text = drawn(Frame(sample(session("s-" + "x" * 200, programs=["p" * 90])), None, history), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "s-xxx" in text


def test_names_cannot_move_the_cursor_or_be_taken_for_markup() -> None:
    text = drawn(Frame(sample(session("s-\x1b[2J\x07[bold]x[/bold]", programs=["\x1b]0;title\x07"]))), width=200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "s-\\x1b[2J\\x07[bold]x[/bold]" in text


def test_sparklines_rise_with_their_values_and_leave_gaps() -> None:
    assert words.sparkline([0, 1, None, 7], 10) == "▁▂ █"
    assert words.sparkline([5, 1, 2], 2) == "▅█"
    assert words.sparkline([0, 0], 2) == "▁▁"
    assert words.sparkline([], 5) == ""


# -- of a real daemon ------------------------------------------------------------------------------


@pytest.fixture
def socket(folder: Path) -> Iterator[str]:
    with serving(folder / "s") as path:
        yield path


def test_once_prints_every_session_as_plain_text(socket: str) -> None:
    with Client.connect(socket) as client:
        pids = [client.call("start_session", session=f"s-{number}")["worker_pid"] for number in range(3)]
        client.call("create_program", {"id": "qa", "signature": "q -> a"}, session="s-1")
        for arguments in (["--once"], []):  # without a terminal it is the same
            done = subprocess.run(
                [*CLI, "top", "--socket", socket, "--sort", "name", *arguments],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
            assert (done.returncode, done.stderr) == (0, "")
            assert "\x1b" not in done.stdout
            assert names(done.stdout) == ["s-0", "s-1", "s-2"]
            assert all(str(pid) in done.stdout for pid in pids)
            assert re.search(r"^s-1 .* qa$", done.stdout, re.M)
            assert "live 3 of" in done.stdout


def test_without_a_daemon_it_says_so(folder: Path) -> None:
    done = subprocess.run(
        [*CLI, "top", "--socket", str(folder / "none")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 3
    assert "no daemon listens" in done.stderr


def test_without_rich_it_names_the_remedy(folder: Path) -> None:
    code = "import sys; sys.modules['rich'] = None; from dspy_bridge.cli import main; main(['top'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "pip install 'dspy-bridge[top]'" in done.stderr


class Terminal:
    """``top`` in a terminal of its own; ``screen``: everything it has drawn."""

    def __init__(self, *arguments: str, interval: float = 0.1) -> None:
        self.screen = ""
        self._master, slave = pty.openpty()
        self.resize(100, 24)
        env = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        env.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [*CLI, "top", "--interval", str(interval), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            env=env,
        )
        os.close(slave)

    def resize(self, columns: int, lines: int) -> None:
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def until(self, condition: Callable[[str], Any], bound: float = 20.0) -> None:
        import select

        deadline = time.monotonic() + bound
        while not condition(self.screen):
            left = deadline - time.monotonic()
            assert left > 0, f"it was not shown in time: {self.screen[-2000:]!r}"
            if select.select([self._master], [], [], left)[0]:
                self.screen += self._read()

    def end(self, bound: float = 20.0) -> tuple[int, str]:
        """Its exit code and what it said on stderr; what it still draws is taken too."""
        deadline = time.monotonic() + bound
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it did not end in time"
            self.screen += self._read(0.05)
        self.screen += self._read(0.05)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read().decode()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self, bound: float = 0.0) -> str:
        import select

        if not select.select([self._master], [], [], bound)[0]:
            return ""
        try:
            return os.read(self._master, 1 << 16).decode(errors="replace")
        except OSError:  # nobody has the terminal open any more
            return ""


@pytest.mark.parametrize(("ends", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_in_a_terminal_it_follows_what_happens_until_interrupted(socket: str, ends: signal.Signals, code: int) -> None:
    with Terminal("--socket", socket) as terminal, Client.connect(socket) as client:
        terminal.until(lambda screen: "no sessions" in screen)
        client.call("start_session", session="s-late")
        terminal.until(lambda screen: "s-late" in screen)
        terminal.process.send_signal(ends)
        assert terminal.end() == (code, "")
        assert "\x1b[?1049l" in terminal.screen  # the terminal shows what it showed before


def test_a_terminal_of_a_new_size_is_filled_before_the_next_look(socket: str) -> None:
    with Terminal("--socket", socket, interval=60) as terminal:
        terminal.until(lambda screen: "no sessions" in screen)
        assert "recoveries" in terminal.screen  # a column for which a small terminal has no room
        seen = len(terminal.screen)
        terminal.resize(72, 12)
        terminal.until(lambda screen: "no sessions" in screen[seen:])
        assert "recoveries" not in terminal.screen[seen:]


def test_when_the_daemon_goes_away_it_gives_the_terminal_back_and_says_so(folder: Path) -> None:
    with serving(folder / "s") as path:
        terminal = Terminal("--socket", path)
        terminal.until(lambda screen: "no sessions" in screen)
    with terminal:
        code, said = terminal.end()
    assert code == 3
    assert said == "bridge-cli: the daemon has gone\n" or said.startswith("bridge-cli: the daemon takes no more")
    assert "\x1b[?1049l" in terminal.screen
