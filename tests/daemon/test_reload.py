"""SIGHUP: other options and other code, while the daemon serves."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client, TransportError
from tests.support.host import Host

SERVE = [sys.executable, "-m", "dspy_bridge.cli", "serve"]
DEPLOYED = """
import os

from dspy_bridge.adapter import Adapter, tool

RELEASE = {release!r}


class Deployed(Adapter):
    @tool
    def work(self) -> dict:
        count = (self.session.get("count") or 0) + 1
        self.session.put("count", count)
        return {{"release": RELEASE, "count": count, "pid": os.getpid()}}
"""


class Deployment:
    """A folder with a ``bridge.toml`` and a module, and a daemon that serves them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.monkeypatch = monkeypatch
        self.release("one")
        self.configure("")

    def release(self, name: str) -> None:
        """Other code, of another length: a compiled file of the same second must not pass for it."""
        (self.folder / "deployed.py").write_text(DEPLOYED.format(release=name))

    def configure(self, text: str) -> None:
        (self.folder / "bridge.toml").write_text(text)

    def serve(self, *flags: str) -> Client:
        self.monkeypatch.chdir(self.folder)
        self.monkeypatch.setenv("XDG_CONFIG_HOME", str(self.folder))
        path = f"{self.folder}{os.pathsep}{os.environ['PYTHONPATH']}"
        self.monkeypatch.setenv("PYTHONPATH", path)
        return Client.spawn(["--log-file", str(self.log), *flags])


@pytest.fixture
def deployment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    made = folder / "deployment"
    made.mkdir()
    return Deployment(made, monkeypatch)


def hang_up(client: Client) -> None:
    assert client.process is not None
    client.process.send_signal(signal.SIGHUP)


def reloads(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.call("get_stats")["reload"]
    return found


def until(condition: Callable[[], Any], bound: float = 40.0) -> Any:
    deadline = time.monotonic() + bound
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def reload(client: Client) -> dict[str, Any]:
    """Have it reload, and wait for the end of that: what became of it."""
    before = reloads(client)["last"]
    hang_up(client)
    found: dict[str, Any] = until(lambda: (last := reloads(client)["last"]) != before and last)
    return found


def option(client: Client, name: str) -> dict[str, Any]:
    (found,) = (one for one in client.call("describe_options")["daemon"] if one["name"] == name)
    assert isinstance(found, dict)
    return found


# -- code ------------------------------------------------------------------------------------------


def test_requests_run_on_through_a_reload_and_meet_the_new_code_with_their_state(deployment: Deployment) -> None:
    names = [f"s{n}" for n in range(4)]
    with deployment.serve("--preload", "deployed", "--allow-import", "deployed", "--spares", "1") as client:
        for name in names:
            client.call("start_session", {"adapter": "deployed:Deployed"}, session=name)
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

        def work() -> None:
            for opened in [(name, client.start("work", session=name)) for name in names]:
                seen[opened[0]].append(client.finish(opened[1]))

        for _ in range(10):
            work()
        deployment.release("number two")
        hang_up(client)
        deadline = time.monotonic() + 60
        while {said[-1]["release"] for said in seen.values()} != {"number two"}:
            assert time.monotonic() < deadline
            work()
        newcomer = client.call("start_session", {"adapter": "deployed:Deployed"}, session="new")
        assert newcomer["status"] == "started"
        assert client.call("work", session="new")["release"] == "number two"
        assert reloads(client)["outdated_workers"] == 0
    for said in seen.values():
        assert [one["count"] for one in said] == list(range(1, len(said) + 1))
        releases = [one["release"] for one in said]
        assert releases == sorted(releases, key=["one", "number two"].index)  # never back
        assert len({one["pid"] for one in said}) == 2


def test_a_request_under_way_ends_where_it_began_and_a_session_at_rest_is_renewed_too(deployment: Deployment) -> None:
    with deployment.serve() as client:
        for name in ("busy", "resting"):
            client.call("configure_lm", {"model": "scripted", "delay_ms": 3_000}, session=name)
            client.call("create_program", {"id": "p", "signature": "q -> a"}, session=name)
        before = {one["session_id"]: one["workers"][0]["pid"] for one in client.call("list_sessions")["sessions"]}
        slow = client.start("execute_program", {"program_id": "p", "inputs": {"q": "?"}}, session="busy")
        until(lambda: client.call("session_info", session="busy")["in_flight"])
        assert reload(client)["success"]
        until(lambda: client.call("session_info", session="resting")["workers"][0]["pid"] != before["resting"])
        assert client.finish(slow)["program_id"] == "p"
        until(lambda: client.call("session_info", session="busy")["workers"][0]["pid"] != before["busy"])
        infos = client.call("list_sessions")["sessions"]
        assert [(one["programs"], one["recoveries"], one["recycles"]) for one in infos] == [(["p"], 0, 1)] * 2


def test_a_threaded_session_is_renewed_under_load(deployment: Deployment) -> None:
    source = DEPLOYED.replace("import Adapter, tool", "import ThreadSafeAdapter, thread_safe_method, tool")
    source = source.replace("(Adapter):", "(ThreadSafeAdapter):\n    __thread_safe__ = True\n")
    source = source.replace("    @tool\n", "    @thread_safe_method(lock=True)\n    @tool\n")
    (deployment.folder / "deployed.py").write_text(source.format(release="one"))
    with deployment.serve("--preload", "deployed", "--allow-import", "deployed") as client:
        client.call("start_session", {"adapter": "deployed:Deployed", "threads": 4}, session="a")
        opened = [client.start("work", session="a") for _ in range(8)]
        assert {client.finish(one)["release"] for one in opened} == {"one"}
        (deployment.folder / "deployed.py").write_text(source.format(release="number two"))
        hang_up(client)
        deadline = time.monotonic() + 60
        opened = [client.start("work", session="a") for _ in range(8)]
        while client.finish(opened.pop(0))["release"] == "one":
            assert time.monotonic() < deadline
            opened.append(client.start("work", session="a"))  # it is never without work
        for one in opened:
            client.finish(one)
        assert client.call("work", session="a")["release"] == "number two"
        assert client.call("session_info", session="a")["recoveries"] == 0


def test_a_preload_that_cannot_start_leaves_the_old_template_in_service(deployment: Deployment) -> None:
    with deployment.serve("--preload", "deployed", "--allow-import", "deployed", "--spares", "0") as client:
        template = client.call("get_stats")["launcher"]["template_pid"]
        deployment.configure("max-sessions = 5\n")
        (deployment.folder / "deployed.py").write_text("this is no Python\n")
        last = reload(client)
        assert not last["success"]
        assert "SyntaxError" in last["message"]
        assert client.call("get_stats")["launcher"]["template_pid"] == template
        assert option(client, "max_sessions")["from"] == "default"
        client.call("start_session", {"adapter": "deployed:Deployed"}, session="a")
        assert client.call("work", session="a")["release"] == "one"
        deployment.release("number two")
        assert reload(client)["success"]
        assert option(client, "max_sessions")["value"] == 5
        assert (reloads(client)["count"], reloads(client)["failed"]) == (1, 1)
    (said,) = (line for line in deployment.log.read_text().splitlines() if "the reload failed" in line)
    assert "everything is as it was" in said


def test_an_interpreter_of_an_impossible_name_fails_a_reload_and_not_the_next_one(deployment: Deployment) -> None:
    with deployment.serve() as client:
        deployment.configure('python = "a\\u0000b"\n')
        assert "would not start a template" in reload(client)["message"]
        deployment.configure("")
        assert reload(client)["success"]


def test_sessions_that_hibernate_wake_to_the_new_code(deployment: Deployment) -> None:
    with deployment.serve("--preload", "deployed", "--allow-import", "deployed", "--max-workers", "1") as client:
        for name in ("a", "b"):
            client.call("start_session", {"adapter": "deployed:Deployed"}, session=name)
            assert client.call("work", session=name)["count"] == 1
        deployment.release("number two")
        assert reload(client)["success"]
        for name in ("a", "b"):
            assert until(lambda name=name: client.call("work", session=name)["release"] == "number two")


# -- options ---------------------------------------------------------------------------------------


def test_what_can_change_is_applied_and_what_cannot_is_named(deployment: Deployment) -> None:
    deployment.configure("max-sessions = 10\nmax-frame = 100000\n")
    with deployment.serve("--spares", "1") as client:
        events: list[dict[str, Any]] = []
        client.on_event = events.append
        deployment.configure("max-sessions = 1\nmax-frame = 200000\nspares = 7\nlog-level = 'info'\n")
        last = reload(client)
        assert (last["changed"], last["needs_restart"]) == (["max_sessions", "log_level"], ["max_frame"])
        (told,) = events
        assert told == {"event": "reloaded", "changed": last["changed"], "needs_restart": ["max_frame"]}
        sessions, frame = option(client, "max_sessions"), option(client, "max_frame")
        assert (sessions["value"], sessions["change"], sessions["waiting"]) == (1, "reload", False)
        assert sessions["from"].endswith("bridge.toml")
        assert (frame["value"], frame["change"], frame["waiting"]) == (100_000, "restart", True)
        assert option(client, "spares")["value"] == 1  # the flag is still given
        assert client.call("hello")["max_frame"] == 100_000
        client.call("start_session", session="a")
        refused = client.reply(client.start("start_session", session="b"))
        assert refused["error"]["code"] == "session_limit"
    said = deployment.log.read_text()
    assert "options that need a restart of the daemon keep their values until then: max_frame" in said
    assert "reloaded; options changed: max_sessions, log_level" in said  # at the new level


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max-sessions = [", "bridge.toml: "),
        ("max-session = 3", "did you mean 'max-sessions'?"),
        ("max-sessions = 0", "Input should be greater than or equal to 1"),
        ("log-level = 'debug'\nspares = -1", "greater than or equal to 0"),
        ("log-file = '/nowhere/log'", "/nowhere"),
    ],
)
def test_a_broken_file_changes_nothing_and_is_explained(deployment: Deployment, text: str, says: str) -> None:
    deployment.configure("max-sessions = 10\n")
    deployment.monkeypatch.setenv("DSPY_BRIDGE_LOG_FILE", str(deployment.log))
    deployment.monkeypatch.chdir(deployment.folder)
    deployment.monkeypatch.setenv("XDG_CONFIG_HOME", str(deployment.folder))
    if "log-file" in text:
        deployment.configure(f"log-file = '{deployment.log}'\n")
        deployment.monkeypatch.delenv("DSPY_BRIDGE_LOG_FILE")
    with Client.spawn() as client:
        before = client.call("describe_options")
        template = client.call("get_stats")["launcher"]["template_pid"]
        deployment.configure(text)
        last = reload(client)
        assert not last["success"]
        assert says in last["message"]
        assert client.call("describe_options") == before
        assert client.call("get_stats")["launcher"]["template_pid"] == template
    assert says in deployment.log.read_text()


def test_sessions_follow_the_daemon_but_for_what_they_asked_for(deployment: Deployment) -> None:
    deployment.configure("queue-per-session = 50\n")
    env = {"MY_API_KEY": "sk-of-its-own"}
    with deployment.serve() as client:
        client.call("start_session", {"env": env, "lm": {"model": "scripted", "delay_ms": 60_000}}, session="follows")
        client.call("start_session", {"max_queue": 50, "lm": {"model": "scripted"}}, session="asked")
        deployment.configure("queue-per-session = 1\nidle-timeout-s = 0.2\nallow-import = 'tests.support'\n")
        assert reload(client)["success"]
        until(lambda: client.call("session_info", session="asked")["state"] == "cold")
        client.call("create_program", {"id": "p", "signature": "q -> a"}, session="follows")
        ask = ("execute_program", {"program_id": "p", "inputs": {"q": "?"}})
        opened = [client.start(*ask, session="follows") for _ in range(3)]
        assert client.reply(opened[2])["error"]["code"] == "overloaded"
        for one in opened[:2]:
            client.call("cancel", {"request_id": one})
        # What was not allowed when it was started is now; what it was started with is still there.
        custom = {"id": "c", "signature": "q -> a", "program_type": "custom", "options": {"module": "x.y:Z"}}
        refused = client.reply(client.start("create_program", custom, session="follows"))
        assert "--allow-import" in refused["error"]["message"]
        assert client.call("session_info", session="follows")["missing"] == []


def test_fewer_interpreters_are_let_go_and_more_are_made(deployment: Deployment) -> None:
    with deployment.serve() as client:
        for n in range(4):
            client.call("start_session", session=f"s{n}")
        deployment.configure("max-workers = 2\nspares = 0\n")
        assert reload(client)["success"]
        workers = until(lambda: (found := client.call("get_stats")["workers"])["live"] == 2 and found)
        assert workers["limit"] == 2
        until(lambda: client.call("get_stats")["workers"]["spare"] == 0)
        deployment.configure("spares = 3\n")
        assert reload(client)["success"]
        until(lambda: client.call("get_stats")["workers"]["spare"] == 3)


def test_the_log_can_be_moved_away(deployment: Deployment) -> None:
    deployment.configure("log-level = 'info'\n")
    with deployment.serve() as client:
        moved = deployment.log.rename(deployment.folder / "log.1")
        assert reload(client)["success"]
        client.call("ping")
    assert "reloaded; options changed: none" in deployment.log.read_text()
    assert "reloaded" not in moved.read_text()
    assert deployment.log.stat().st_mode & 0o777 == 0o600


# -- when ------------------------------------------------------------------------------------------


def test_being_asked_again_during_a_reload_means_one_more_afterwards(deployment: Deployment) -> None:
    with deployment.serve() as client:
        client.call("start_session", session="a")
        hang_up(client)
        until(lambda: reloads(client)["under_way"])
        for _ in range(10):
            hang_up(client)
            client.call("ping")  # each is taken by itself
        assert reloads(client)["count"] == 0
        until(lambda: not (now := reloads(client))["under_way"] and now["count"] == 2)
        assert client.call("ping", {"deep": True}, session="a")["status"] == "ok"
        until(lambda: reloads(client)["outdated_workers"] == 0)
        assert (reloads(client)["count"], reloads(client)["failed"]) == (2, 0)


def test_being_asked_before_it_is_ready_is_not_its_end() -> None:
    with Host() as host:
        until(lambda: b"session_supervisor" in _children(host.process.pid))
        host.process.send_signal(signal.SIGHUP)
        assert host.receive()["event"] == "ready"
        until(lambda: host.result("get_stats")["reload"]["count"] == 1)


def test_being_asked_while_it_ends_does_not_hold_it_up() -> None:
    with Host() as host:
        assert host.receive()["event"] == "ready"
        host.result("configure_lm", {"model": "scripted", "delay_ms": 1_500})
        host.result("create_program", {"id": "p", "signature": "q -> a"})
        host.send({"id": 1, "command": "execute_program", "args": {"program_id": "p", "inputs": {"q": "?"}}})
        until(lambda: host.result("session_info", session_id="default")["in_flight"])
        host.process.send_signal(signal.SIGHUP)  # a template is on its way when it is told to end
        until(lambda: host.result("get_stats")["reload"]["under_way"])
        host.process.send_signal(signal.SIGTERM)
        host.process.send_signal(signal.SIGHUP)
        assert host.reply_to(1)["success"]
        assert host.process.wait(15) == 0


def test_a_host_without_the_protocols_own_frames_hears_nothing_of_it() -> None:
    with Host("packet4", ["--no-ready"]) as host:
        assert host.result("ping")["status"] == "ok"
        host.process.send_signal(signal.SIGHUP)
        until(lambda: host.result("get_stats")["reload"]["count"])
        host.close_input()
        assert not any("event" in frame for frame in [*host.frames, *host.rest()])


def test_a_client_that_has_stopped_reading_unnoticed_does_not_stand_in_the_way_of_the_next_reload(folder: Path) -> None:
    path = folder / "s"
    with subprocess.Popen([*SERVE, "--socket", str(path)], stdin=subprocess.DEVNULL) as daemon:
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                deaf = stack.enter_context(socket.socket(socket.AF_UNIX))
                until(lambda deaf=deaf: deaf.connect_ex(str(path)) == 0)
                assert deaf.recv(1 << 16)
                deaf.shutdown(socket.SHUT_RD)
            client = stack.enter_context(Client.connect(str(path)))
            for count in (1, 2):
                daemon.send_signal(signal.SIGHUP)
                until(lambda count=count: not (now := reloads(client))["under_way"] and now["count"] == count)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(15) == 0


def test_a_service_manager_is_told_of_a_reload_and_of_its_end(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(folder / "notify"))
        told.settimeout(30)
        environ = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        command = [*SERVE, "--socket", str(folder / "s")]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environ) as daemon:
            assert told.recv(200) == b"READY=1"
            before = time.monotonic()
            daemon.send_signal(signal.SIGHUP)
            state, since = told.recv(200).decode().split("\n")
            assert state == "RELOADING=1"
            name, _, microseconds = since.partition("=")
            assert name == "MONOTONIC_USEC"
            assert before <= int(microseconds) / 1e6 + 0.001 <= time.monotonic() + 0.001
            assert told.recv(200) == b"READY=1"
            daemon.send_signal(signal.SIGTERM)
            assert told.recv(200) == b"STOPPING=1"
            assert daemon.wait(15) == 0


@pytest.mark.parametrize("flags", [[], ["--socket"]], ids=["stdio", "socket"])
def test_a_terminal_that_closes_ends_a_daemon_that_serves_it_and_no_other(folder: Path, flags: list[str]) -> None:
    path = folder / "s"
    master, slave = pty.openpty()
    command = [
        *SERVE,
        "--log-file",
        str(folder / "log"),
        "--log-level",
        "info",
        *flags,
        *([str(path)] if flags else []),
    ]

    def take_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=take_the_terminal
    ) as daemon:
        os.close(slave)
        if not flags:
            seen = b""
            while b'"ready"' not in seen:
                seen += os.read(master, 4096)
            os.close(master)
            assert daemon.wait(20) == 0
            return
        until(path.exists)
        client = until(lambda: _joined(path))
        os.close(master)
        with client:
            assert until(lambda: reloads(client)["count"]) == 1
            assert client.call("ping", {"deep": True}, session="a")["status"] == "ok"
            client.call("shutdown")
        assert daemon.wait(20) == 0


def _joined(path: Path) -> Client | None:
    try:
        return Client.connect(str(path))
    except TransportError:
        return None


def _children(pid: int) -> bytes:
    found = b""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += Path(f"/proc/{child}/cmdline").read_bytes()
    return found
