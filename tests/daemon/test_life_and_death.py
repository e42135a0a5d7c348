"""How a daemon ends, is killed, and survives what is done to its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import MARKER, marked_processes, wait_until_gone
from tests.support.host import Host

SLOW = {"model": "scripted", "delay_ms": 60_000}


def start_busy(host: Host, session: str = "busy", seconds: float = 60) -> int:
    """A session with a request under way; its worker's pid."""
    pid: int = host.result(
        "start_session", {"lm": {"model": "scripted", "delay_ms": seconds * 1000}}, session_id=session
    )["worker_pid"]
    host.result("create_program", {"id": "p", "signature": "q -> a"}, session_id=session)
    host.send(
        {
            "id": "slow",
            "command": "execute_program",
            "args": {"program_id": "p", "inputs": {"q": "?"}, "stream": True},
            "session_id": session,
        }
    )
    while (frame := host.receive()).get("id") != "slow" or frame.get("event") != "status":
        pass  # its interpreter says that it has begun
    return pid


def ready(*arguments: str, **kwargs: Any) -> Host:
    host = Host("lines", arguments, **kwargs)
    assert host.receive()["event"] == "ready"
    return host


@pytest.fixture(scope="module")
def lasting() -> Iterator[Host]:
    """The host of a daemon that outlives the test."""
    with ready() as host:
        yield host


def test_the_end_of_input_ends_the_daemon_after_everything_is_answered() -> None:
    with Host() as host:
        host.send(
            *({"id": n, "command": "create_program", "args": {"id": f"p{n}", "signature": "a -> b"}} for n in range(50))
        )
        host.close_input()
        frames = host.rest()
        assert [frame["id"] for frame in frames[1:]] == list(range(50))
        assert host.process.wait(10) == 0


def test_a_session_that_is_being_started_at_the_end_of_input_is_still_answered() -> None:
    with Host("lines", ["--spares", "0"]) as host:
        host.send({"id": 1, "command": "start_session", "session_id": "a"})
        host.close_input()
        assert host.rest()[-1]["result"]["status"] == "started"


def test_a_last_line_without_a_newline_is_answered() -> None:
    with Host() as host:
        host.write(b'{"id":1,"command":"ping"}')
        host.close_input()
        assert [frame.get("id") for frame in host.rest()] == [None, 1]


def test_a_frame_cut_off_by_the_end_of_input_is_told() -> None:
    with Host("packet4") as host:
        host.write(b"\0\0\0\x20{")
        host.close_input()
        assert host.rest()[-1]["error"]["code"] == "parse_error"


@pytest.mark.parametrize("how", ["input", "sigterm", "sigint", "shutdown"])
@pytest.mark.parametrize("busy", [False, True])
def test_every_orderly_end_is_bounded_and_exits_0(how: str, busy: bool) -> None:
    with ready("--drain-timeout-s", "0.5") as host:
        if busy:
            start_busy(host)
        began = time.monotonic()
        if how == "input":
            host.close_input()
        elif how == "shutdown":
            assert host.result("shutdown") == {"status": "shutting_down"}
        else:
            host.process.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGINT)
        frames = host.rest()
        assert host.process.wait(10) == 0
        assert time.monotonic() - began < 5
        if busy:
            ends = [frame for frame in frames if frame.get("id") == "slow" and "success" in frame]
            assert [frame["error"]["code"] for frame in ends] == ["shutting_down"]


def test_work_that_ends_within_the_bound_is_answered_at_shutdown() -> None:
    with ready() as host:
        start_busy(host, seconds=0.4)
        host.process.send_signal(signal.SIGTERM)
        assert host.reply_to("slow")["success"]


def test_a_second_sigterm_ends_it_at_once() -> None:
    with ready("--drain-timeout-s", "60") as host:
        start_busy(host)
        host.process.send_signal(signal.SIGTERM)
        while host.ask("list_programs").get("error", {}).get("code") != "shutting_down":
            time.sleep(0.005)  # the signal has not been taken yet
        host.process.send_signal(signal.SIGTERM)
        assert host.process.wait(2) == 143


def test_kill_9_of_the_daemon_leaves_no_process_within_two_seconds() -> None:
    with ready("--spares", "3") as host:
        start_busy(host)
        host.result("start_session", session_id="idle")
        while len(marked_processes(os.environ[MARKER])) < 8:  # daemon, guardian, template, 2 sessions, 3 spares
            time.sleep(0.01)
        host.process.kill()
        host.process.wait()
        assert wait_until_gone(os.environ[MARKER], 2.0) == []


def test_kill_9_of_a_worker_ends_its_request_and_no_other_session_notices(lasting: Host) -> None:
    host = lasting
    pid = start_busy(host)
    other = host.result("start_session", {"lm": {"model": "scripted"}}, session_id="other")["worker_pid"]
    os.kill(pid, signal.SIGKILL)
    reply = host.reply_to("slow")
    assert reply["error"]["code"] == "worker_crashed"
    assert reply["error"]["details"]["signal"] == signal.SIGKILL
    assert host.result("session_info", session_id="other")["workers"][0]["pid"] == other
    assert host.result("list_programs", session_id="busy")["total_count"] == 1


def test_kill_9_of_the_template_goes_unnoticed(lasting: Host) -> None:
    host = lasting
    pid = host.result("start_session", session_id="live")["worker_pid"]
    template = host.result("get_stats")["launcher"]["template_pid"]
    os.kill(template, signal.SIGKILL)
    for n in range(6):
        host.result("start_session", session_id=f"new{n}")
    assert host.result("session_info", session_id="live")["workers"][0]["pid"] == pid
    assert host.result("get_stats")["launcher"]["template_pid"] != template


def test_a_preload_that_cannot_be_imported_is_a_clear_message_and_a_code_of_its_own() -> None:
    with Host("lines", ["--preload", "surely_missing_module"]) as host:
        frames = host.rest()
        assert frames[0]["event"] == "fatal"
        first = frames[0]["message"].splitlines()[0]
        assert "--preload surely_missing_module: ModuleNotFoundError: No module named" in first
        assert host.process.wait(10) == 3
        assert "surely_missing_module" in host.stderr()


def test_a_preload_that_leaves_a_thread_is_refused_by_name(folder: Path) -> None:
    module = (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), name='rogue', daemon=True).start()\n"
    )
    (folder / "rogue_preload.py").write_text(module)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}
    with Host("lines", ["--preload", "rogue_preload"], env=env) as host:
        assert "rogue" in host.rest()[0]["message"]
        assert host.process.wait(10) == 3


PRELOADS = {
    "configured": ("import dspy\ndspy.configure(num_threads=2)\n", "dspy.configure has been called"),
    "socket": ("import socket\nkeep = socket.create_server(('127.0.0.1', 0))\n", "a socket bound to"),
}


@pytest.mark.parametrize("name", ["configured", "socket"])
def test_a_template_that_is_not_virgin_names_the_culprit(folder: Path, name: str) -> None:
    source, culprit = PRELOADS[name]
    (folder / f"stain_{name}.py").write_text(source)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}
    with Host("lines", ["--preload", f"stain_{name}"], env=env) as host:
        assert str(culprit) in host.rest()[0]["message"]
        assert host.process.wait(10) == 3


def test_a_host_that_stops_reading_does_not_stop_the_daemon_reading(lasting: Host) -> None:
    host = lasting
    host.send(*({"id": n, "command": "list_commands"} for n in range(400)))  # tens of megabytes of answers
    host.send({"id": "last", "command": "ping"})
    numbers = [host.receive()["id"] for _ in range(401)]
    assert numbers == [*range(400), "last"]


def test_a_host_that_vanishes_takes_the_daemon_with_it() -> None:
    with ready() as host:
        start_busy(host)
        host._out.close()
        host.send({"id": 1, "command": "ping"})
        assert host.process.wait(10) == 0


def test_other_descriptors_serve_as_well_and_stdio_stays_free() -> None:
    to_daemon, from_daemon = os.pipe(), os.pipe()
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--fds", f"{to_daemon[0]},{from_daemon[1]}"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=(to_daemon[0], from_daemon[1])
    )
    os.close(to_daemon[0])
    os.close(from_daemon[1])
    with os.fdopen(to_daemon[1], "wb", 0) as host, os.fdopen(from_daemon[0], "rb") as answers:
        assert b'"ready"' in answers.readline()
        host.write(b'{"id":1,"command":"ping"}\n')
        assert b'"id":1' in answers.readline()
    assert process.wait(10) == 0
    assert process.stdout
    assert process.stdout.read() == b""
    process.stdout.close()


def test_requests_and_answers_may_be_files(folder: Path) -> None:
    requests, answers = folder / "in.jsonl", folder / "out.jsonl"
    requests.write_text('{"id":1,"command":"ping"}\n{"id":2,"command":"list_programs"}\n')
    with requests.open("rb") as stdin, answers.open("wb") as stdout:
        command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--no-ready"]
        assert subprocess.run(command, stdin=stdin, stdout=stdout, timeout=30, check=False).returncode == 0
    assert len(answers.read_text().splitlines()) == 2


def test_sessions_are_explicit_where_the_operator_wants_it() -> None:
    with ready("--explicit-sessions") as host:
        assert host.ask("list_programs", session_id="x")["error"]["code"] == "session_not_found"
        host.result("start_session", session_id="x")
        assert host.result("list_programs", session_id="x")["total_count"] == 0


def test_sessions_are_limited() -> None:
    with ready("--max-sessions", "1") as host:
        host.result("list_programs", session_id="a")
        error = host.ask("list_programs", session_id="b")["error"]
        assert (error["code"], error["retryable"]) == ("session_limit", True)


def test_the_spawn_launcher_serves_the_same() -> None:
    with ready("--launcher", "spawn", "--spares", "0") as host:
        host.result("start_session", {"lm": {"model": "scripted", "answers": [{"a": "spawned"}]}}, session_id="s")
        host.result("create_program", {"id": "p", "signature": "q -> a"}, session_id="s")
        result = host.result("execute_program", {"program_id": "p", "inputs": {"q": "?"}}, session_id="s")
        assert result["outputs"] == {"a": "spawned"}


def test_the_daemon_never_imports_dspy() -> None:
    with ready() as host:
        host.result("list_commands")
        maps = Path(f"/proc/{host.process.pid}/maps").read_text()
        assert psutil.Process(host.process.pid).memory_info().rss < 90 << 20
        assert "json_repair" not in maps


def test_what_modules_print_reaches_the_host_as_log_events_only(folder: Path) -> None:
    """Python, descriptor, C library and child process, 8 MB of it: nothing touches the wire."""
    module = (
        "import ctypes, os, subprocess, sys\n"
        "def shout():\n"
        "    print('from python')\n"
        "    os.write(1, b'from the descriptor\\n')\n"
        "    ctypes.CDLL(None).puts(b'from C')\n"
        "    subprocess.run(['echo', 'from a child'])\n"
        "    sys.stdout.write('{\"id\": 1}\\n' * (1 << 20))\n"
        "import dspy\n"
        "original = dspy.Predict.forward\n"
        "def forward(self, **kwargs):\n"
        "    if 'SHOUT' in os.environ: shout()\n"
        "    return original(self, **kwargs)\n"
        "dspy.Predict.forward = forward\n"
    )
    (folder / "noisy_preload.py").write_text(module)
    env = {**os.environ, "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}"}
    with Host("lines", ["--preload", "noisy_preload"], env=env) as host:
        host.receive()
        host.result("start_session", {"lm": {"model": "scripted"}, "env": {"SHOUT": "1"}}, session_id="default")
        host.result("create_program", {"id": "p", "signature": "q -> a"})
        first = len(host.frames)
        assert host.result("execute_program", {"program_id": "p", "inputs": {"q": "?"}})["outputs"]
        events = [frame for frame in host.frames[first:] if frame.get("event") == "log"]
        text = "".join(event["data"]["text"] for event in events)
        for source in ("from python", "from the descriptor", "from C", "from a child"):
            assert source in text
        assert [event["seq"] for event in events] == list(range(len(events)))
        assert events[-1]["data"]["truncated"] is True
        assert len(text) <= 1 << 20
