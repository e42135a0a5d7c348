"""What becomes of a daemon when the system has no more to give, or others will not wait for it."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client
from tests.support.host import Host, free_port

DESCRIPTORS = 60


def few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def test_without_descriptors_for_more_interpreters_each_request_has_one_answer_and_the_daemon_ends_in_order() -> None:
    sessions = [f"s{n}" for n in range(40)]
    with Host("lines", ["--idle-timeout-s", "0.2"], preexec_fn=few_descriptors) as host:
        assert host.receive()["event"] == "ready"
        host.send(*({"id": s, "command": "ping", "args": {"deep": True}, "session_id": s} for s in sessions))
        replies = [host.receive() for _ in sessions]
        assert Counter(one["id"] for one in replies) == dict.fromkeys(sessions, 1)
        codes = Counter(one["error"]["code"] for one in replies if not one["success"])
        assert set(codes) == {"worker_start_failed"}
        assert "pipes" in next(one["error"]["message"] for one in replies if not one["success"])
        # Once the others rest there are descriptors again, and nobody is the worse for it.
        deadline = time.monotonic() + 20
        for refused in [one["id"] for one in replies if not one["success"]]:
            while not host.ask("ping", {"deep": True}, session_id=refused)["success"]:
                assert time.monotonic() < deadline
        host.close_input()
        assert host.rest() == []
        assert host.process.wait(10) == 0


def test_clients_beyond_the_descriptors_wait_and_the_log_says_so_once_in_a_while(folder: Path) -> None:
    path, log = folder / "s", folder / "log"
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path), "--log-file", str(log)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=few_descriptors)
    clients: list[socket.socket] = []
    try:
        deadline = time.monotonic() + 30
        while len(clients) < DESCRIPTORS:
            assert time.monotonic() < deadline
            clients += connected(path)
        while "could not be accepted" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        began = time.monotonic()
        for one in clients[:-2]:
            one.close()
        clients = clients[-2:]
        for one in clients:
            one.settimeout(10)
            assert one.recv(1 << 16).startswith(b'{"event":"ready"')
        assert log.read_text().count("could not be accepted") < 3 + (time.monotonic() - began) / 0.4
    finally:
        for one in clients:
            one.close()
        process.terminate()
        assert process.wait(20) == 0


def test_a_metrics_port_without_descriptors_costs_nobody_anything(folder: Path) -> None:
    log, port = folder / "log", free_port()
    flags = ["--metrics-port", str(port), "--log-file", str(log), "--spares", "0"]
    with Host("lines", flags, preexec_fn=few_descriptors) as host, contextlib.ExitStack() as stack:
        assert host.receive()["event"] == "ready"
        host.send(*({"id": n, "command": "ping", "args": {"deep": True}, "session_id": f"s{n}"} for n in range(40)))
        for _ in range(40):
            host.receive()
        began = time.monotonic()
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(30)]
        for one in waiting:
            one.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        while "metrics port could not be accepted" not in log.read_text():
            assert time.monotonic() < began + 20
        for n in range(40):
            host.result("end_session", session_id=f"s{n}")
        assert waiting[-1].recv(1 << 16).startswith(b"HTTP/1.1 200 "), "once there are descriptors again"
        assert log.read_text().count("metrics port could not be accepted") < 3 + (time.monotonic() - began) / 0.4


def connected(path: Path) -> list[socket.socket]:
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(str(path))
    except OSError:
        one.close()
        return []
    return [one]


def test_a_file_in_the_sockets_place_is_not_touched(folder: Path) -> None:
    path = folder / "precious"
    path.write_text("precious")
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "no socket" in done.stderr
    assert path.read_text() == "precious"


def test_a_log_that_is_no_file_keeps_its_mode(folder: Path) -> None:
    pipe = folder / "pipe"
    os.mkfifo(pipe, 0o600)
    pipe.chmod(0o666)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with Client.spawn(["--log-file", str(pipe)]) as client:
        client.call("ping")
    os.close(reader)
    assert pipe.stat().st_mode & 0o777 == 0o666


# -- requests the daemon itself answers ------------------------------------------------------------


@pytest.fixture
def crowded(folder: Path) -> Any:
    """A daemon with one place for an interpreter, which is taken for as long as the test likes."""
    with Client.spawn(["--max-workers", "1"]) as client:
        client.call("configure_lm", {"model": "scripted", "delay_ms": 60_000}, session="busy")
        client.call("create_program", {"id": "p", "signature": "q -> a"}, session="busy")
        busy = client.start("execute_program", {"program_id": "p", "inputs": {"q": "?"}}, session="busy")
        yield client
        client.call("cancel", {"request_id": busy})


def test_a_session_that_could_not_be_started_in_time_is_not_started_later(crowded: Client) -> None:
    late = crowded.reply(crowded.start("start_session", session="late", timeout_ms=200))
    assert late["error"]["code"] == "timeout"
    crowded.call("end_session", session="busy")
    deadline = time.monotonic() + 10
    while crowded.call("list_sessions")["sessions"]:
        assert time.monotonic() < deadline


def test_a_session_that_others_have_used_outlives_the_start_that_came_too_late(crowded: Client) -> None:
    late = crowded.start("start_session", session="late", timeout_ms=200)
    crowded.call("set_state", {"key": "k", "value": 1}, session="late")
    asked = crowded.start("ping", {"deep": True}, session="late")
    assert crowded.reply(late)["error"]["code"] == "timeout"
    crowded.call("end_session", session="busy")
    assert crowded.reply(asked)["success"]
    assert crowded.call("get_state", {"key": "k"}, session="late")["value"] == 1


def test_the_start_of_a_session_can_be_cancelled(crowded: Client) -> None:
    opened = crowded.start("start_session", session="given up")
    assert crowded.call("cancel", {"request_id": opened})["status"] == "cancelling"
    assert crowded.reply(opened)["error"]["code"] == "cancelled"


def test_a_cancel_cannot_cancel_itself(daemon: Client) -> None:
    number = daemon.start("cancel", {"request_id": 0})
    again = daemon.start("cancel", {"request_id": number + 1})
    said = [daemon.reply(one) for one in (number, again)]
    assert [one["result"]["status"] for one in said] == ["not_found", "not_found"], said


# -- what is over is not kept ----------------------------------------------------------------------


def test_a_session_that_has_ended_is_not_kept_until_it_would_have_expired(folder: Path) -> None:
    with Client.spawn(["--session-ttl-s", "86400"]) as client:

        def sessions(count: int) -> float:
            for _ in range(count):
                client.call("set_state", {"key": "k", "value": "x" * 1_000_000}, session="s")
                client.call("end_session", session="s")
            held: float = client.call("get_stats")["memory_mb"]["daemon"]
            return held

        before = sessions(10)
        assert sessions(60) - before < 20, "a megabyte each"


def test_variables_that_are_gone_are_forgotten(daemon: Client, session: str) -> None:
    daemon.call("ping", {"deep": True}, session=session)  # an interpreter that hears nothing of them
    before = daemon.call("get_stats")["memory_mb"]["daemon"]
    for n in range(0, 12_000, 400):
        opened = [
            daemon.start(command, {"key": f"{n + m}" + "k" * 400, **more}, session=session)
            for m in range(400)
            for command, more in (("set_state", {"value": 1}), ("update_state", {"op": "delete"}))
        ]
        for one in opened:
            daemon.finish(one)
    assert daemon.call("get_stats")["memory_mb"]["daemon"] - before < 4, "12,000 names of 400 bytes are 5 MiB and more"
