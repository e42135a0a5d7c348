"""Limits, retries, hibernation and pools as a host sees them."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client
from tests.support.host import serving

QA = {"id": "qa", "signature": "question -> answer"}
LM = {"model": "scripted", "answers": [{"answer": "well"}]}


@pytest.fixture(scope="module")
def rough() -> Iterator[Client]:
    """A daemon whose programs can be told to misbehave."""
    client = Client.spawn(["--preload", "tests.support.misbehaving", "--spares", "3"])
    yield client
    assert client.close() == 0


def begin(client: Client, session: str, **args: Any) -> None:
    client.call("start_session", {"lm": LM, **args}, session=session)
    client.call("create_program", QA, session=session)
    client.call("update_state", {"key": "n", "op": "incr"}, session=session)


def do(client: Client, session: str, code: str, **fields: Any) -> dict[str, Any]:
    args = {"program_id": "qa", "inputs": {"question": f"py:{code}"}}
    return client.reply(client.start("execute_program", args, session=session, **fields))


HOG = "kept.append([bytes(1 << 16) for _ in range(1 << 14)])"


@pytest.mark.parametrize(
    ("limit", "code", "error"),
    [
        ({"max_memory_mb": 64}, HOG, "memory_limit"),
        ({"max_memory_mb": 64}, "kept.append('x' * (1 << 30))", "memory_limit"),
        ({"max_cpu_s": 0.3}, "while True: pass", "resource_limit"),
        ({"max_open_files": 64}, "import os; kept.extend(os.dup(0) for _ in range(99))", "resource_limit"),
        ({"max_processes": 2}, "import subprocess as s; [s.Popen(['sleep', '9']) for _ in 'xyz']", "resource_limit"),
        ({"max_scratch_mb": 1}, "open('big', 'wb').write(bytes(9 << 20))", "resource_limit"),
    ],
    ids=["many small", "one large", "cpu", "files", "processes", "scratch"],
)
def test_each_limit_has_its_code_and_the_session_goes_on(
    rough: Client, request: pytest.FixtureRequest, folder: Path, limit: dict[str, Any], code: str, error: str
) -> None:
    name = request.node.name
    begin(rough, name, cwd=str(folder), **limit)
    refused = do(rough, name, code)
    assert refused["error"]["code"] == error, refused
    assert refused["error"]["details"]["limit"] in next(iter(limit))
    assert do(rough, name, "pass")["success"]
    assert rough.call("get_state", {"key": "n"}, session=name)["value"] == 1
    rough.call("end_session", session=name)


def test_limits_can_hold_for_every_session(folder: Path) -> None:
    flags = ["--preload", "tests.support.misbehaving", "--max-cpu-s", "0.3"]
    with Client.spawn(flags) as client:
        begin(client, "a")
        assert do(client, "a", "while True: pass")["error"]["details"] == {"limit": "cpu"}


@pytest.mark.parametrize(
    ("args", "path"),
    [
        ({"max_open_files": 3}, "args.max_open_files"),
        ({"workers": 0}, "args.workers"),
        ({"max_memory_mb": -1}, "args.max_memory_mb"),
        ({"idle_timeout": 3}, "args.idle_timeout"),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(daemon: Client, args: dict[str, Any], path: str) -> None:
    reply = daemon.reply(daemon.start("start_session", args, session="senseless"))
    assert reply["error"]["code"] == "invalid_args"
    assert reply["error"]["details"]["errors"][0]["path"] == path


def test_a_crash_carries_its_death_certificate(rough: Client, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    begin(rough, name)
    error = do(rough, name, "import os, sys; print('last words', flush=True); os._exit(3)")["error"]
    assert (error["code"], error["retryable"]) == ("worker_crashed", True)
    details = error["details"]
    assert (details["exit_code"], details["signal"]) == (3, None)
    assert details["last_command"] == "execute_program"
    assert "last words" in details["last_output"]
    assert details["peak_memory_mb"] > 10
    rough.call("end_session", session=name)


def test_a_request_that_says_it_may_is_retried_once(
    rough: Client, request: pytest.FixtureRequest, folder: Path
) -> None:
    name = request.node.name
    begin(rough, name)
    events: list[dict[str, Any]] = []
    rough.on_event = events.append
    mark = folder / "mark"
    code = f"import os, pathlib; p = pathlib.Path({str(mark)!r}); p.exists() or (p.touch(), os._exit(1))"
    assert do(rough, name, code, retry="if_idempotent")["success"]
    assert events[0]["event"] == "status"
    assert events[0]["data"]["status"] == "retried"
    assert events[0]["data"]["after"]["code"] == "worker_crashed"
    mark.unlink()
    assert do(rough, name, code)["error"]["code"] == "worker_crashed"
    assert do(rough, name, "import os; os._exit(1)", retry="if_idempotent")["error"]["code"] == "worker_crashed"
    assert do(rough, name, "pass", retry="always")["error"]["code"] == "invalid_request"
    rough.call("end_session", session=name)


def test_a_session_whose_memory_grows_gets_a_fresh_interpreter(rough: Client, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    begin(rough, name, max_growth_mb=32)
    pid = rough.call("session_info", session=name)["workers"][0]["pid"]
    wait_for(lambda: do(rough, name, "kept.append(bytearray(b'x' * (8 << 20)))")["success"] and recycled(rough, name))
    assert rough.call("session_info", session=name)["workers"][0]["pid"] != pid
    assert rough.call("get_state", {"key": "n"}, session=name)["value"] == 1
    rough.call("end_session", session=name)


def recycled(client: Client, session: str) -> bool:
    return bool(client.call("session_info", session=session)["recycles"])


def wait_for(condition: Callable[[], object], bound: float = 10.0) -> None:
    deadline = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"


# -- what is timed out has no further effect -------------------------------------------------------


def test_a_program_that_was_timed_out_writes_nothing_later(
    rough: Client, request: pytest.FixtureRequest, folder: Path
) -> None:
    name = request.node.name
    begin(rough, name)
    files = [folder / one for one in ("main", "thread", "child")]
    code = (
        "import subprocess, sys, threading, time, pathlib\n"
        f"main, thread, child = {[str(one) for one in files]!r}\n"
        "def later(path):\n"
        "    time.sleep(2)\n"
        "    pathlib.Path(path).touch()\n"
        "threading.Thread(target=later, args=(thread,), daemon=True).start()\n"
        "subprocess.Popen([sys.executable, '-c', 'import sys,time; time.sleep(2); open(sys.argv[1], \"w\")', child])\n"
        "try:\n"
        "    later(main)\n"
        "except BaseException:\n"
        "    later(main)\n"
    )
    timed_out = rough.start(
        "execute_program", {"program_id": "qa", "inputs": {"question": f"py:{code}"}}, session=name, timeout_ms=300
    )
    error = rough.reply(timed_out)["error"]
    assert (error["code"], error["retryable"]) == ("timeout", True)
    assert do(rough, name, "pass")["success"]
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert not any(file.exists() for file in files)
        time.sleep(0.1)
    assert timed_out not in rough._replies  # nobody saw a second answer
    rough.call("end_session", session=name)


# -- hibernation and pools -------------------------------------------------------------------------


def test_many_sessions_under_few_interpreters_each_answer_rightly(folder: Path) -> None:
    sessions = 60
    with Client.spawn(["--max-workers", "4"]) as client:
        for n in range(sessions):
            lm = {"model": "scripted", "answers": [{"answer": f"of {n}"}]}
            client.call("configure_lm", lm, session=f"s{n}")
            client.call("create_program", {"id": "p", "signature": f"q{n} -> answer"}, session=f"s{n}")
            client.call("set_state", {"key": "me", "value": n}, session=f"s{n}")
        asked = [
            client.start("execute_program", {"program_id": "p", "inputs": {f"q{n}": "?"}}, session=f"s{n}")
            for n in range(sessions)
        ]
        assert [client.finish(one)["outputs"]["answer"] for one in asked] == [f"of {n}" for n in range(sessions)]
        assert [client.call("get_state", {"key": "me"}, session=f"s{n}")["value"] for n in range(sessions)] == [
            *range(sessions)
        ]
        stats = client.call("get_stats")
        assert stats["workers"]["live"] <= stats["workers"]["limit"] == 4
        assert stats["sessions"]["hibernations"] >= sessions - 4
        assert stats["sessions"]["by_state"]["cold"] >= sessions - 4


def test_an_idle_session_gives_up_its_process_and_nobody_can_tell(folder: Path) -> None:
    with Client.spawn(["--idle-timeout-s", "0.3"]) as client:
        begin(client, "a")
        pid = client.call("session_info", session="a")["workers"][0]["pid"]
        wait_for(lambda: client.call("session_info", session="a")["state"] == "cold")
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        answer = client.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, session="a")
        assert answer["outputs"] == {"answer": "well"}
        assert client.call("session_info", session="a")["hibernations"] == 1


def test_a_session_ends_after_its_time_without_use(folder: Path) -> None:
    with Client.spawn([]) as client:
        begin(client, "short", session_ttl_s=0.5)
        begin(client, "long")
        wait_for(lambda: len(client.call("list_sessions")["sessions"]) == 1)
        assert client.call("get_stats")["sessions"]["expired"] == 1
        assert client.call("list_programs", session="short")["total_count"] == 0  # a new one of that name


def test_a_pool_of_four_serves_four_at_once_and_counts_every_execution(daemon: Client, session: str) -> None:
    slow = {"model": "scripted", "delay_ms": 150, "answers": [{"answer": "well"}]}
    daemon.call("start_session", {"lm": slow, "workers": 4}, session=session)
    daemon.call("create_program", QA, session=session)
    args = {"program_id": "qa", "inputs": {"question": "?"}}

    def run(count: int) -> float:
        began = time.monotonic()
        for one in [daemon.start("execute_program", args, session=session) for _ in range(count)]:
            assert daemon.finish(one)["outputs"] == {"answer": "well"}
        return time.monotonic() - began

    run(4)
    assert run(20) < 20 * 0.15 / 2  # one worker alone would take three seconds
    info = daemon.call("session_info", session=session)
    assert (info["capacity"], len(info["workers"])) == (4, 4)
    assert daemon.call("get_program_info", {"program_id": "qa"}, session=session)["execution_count"] == 24


def test_a_pool_sees_every_change_that_was_sent_before(daemon: Client, session: str) -> None:
    daemon.call("start_session", {"workers": 3}, session=session)
    args = {"program_id": "p", "inputs": {"a": "?"}}
    for n in range(15):
        opened = [
            daemon.start("configure_lm", {"model": "scripted", "answers": [{"b": str(n)}]}, session=session),
            daemon.start("create_program", {"id": "p", "signature": "a -> b", "on_exists": "replace"}, session=session),
        ]
        runs = [daemon.start("execute_program", args, session=session) for _ in range(4)]
        for one in opened:
            daemon.finish(one)
        assert [daemon.finish(one)["outputs"]["b"] for one in runs] == [str(n)] * 4


@pytest.mark.parametrize("changed", ["all", "nothing", "and configured again"])
def test_after_a_reset_every_interpreter_of_a_pool_is_as_the_session_was_born(
    daemon: Client, session: str, changed: str
) -> None:
    born = {"model": "scripted", "delay_ms": 300, "answers": [{"answer": f"as born {n}"} for n in range(3)]}
    settings = {"max_history_size": 7, "adapter": "json"}
    daemon.call("start_session", {"lm": born, "settings": settings, "workers": 2}, session=session)
    run = {"program_id": "qa", "inputs": {"question": "?"}}

    def both(command: str, args: dict[str, Any]) -> list[Any]:
        """What each of the two interpreters says: neither is free again before both are busy."""
        opened = [daemon.start(command, args, session=session) for _ in range(2)]
        return [daemon.finish(one) for one in opened]

    daemon.call("create_program", QA, session=session)
    if changed != "nothing":
        daemon.call("configure", {"max_history_size": 3, "adapter": "xml", "provide_traceback": True}, session=session)
        other = {**born, "answers": [{"answer": "changed"}]}
        daemon.call("configure_lm", other, session=session)
    for _ in range(4):
        both("execute_program", run)
    assert len(daemon.call("session_info", session=session)["workers"]) == 2
    daemon.call("reset_state", session=session)
    if changed == "and configured again":
        daemon.call("configure", {"track_usage": False}, session=session)
        daemon.call("configure_lm", born, session=session)
    daemon.call("create_program", QA, session=session)
    assert [one["outputs"] for one in both("execute_program", run)] == [{"answer": "as born 0"}] * 2
    previews = both("preview_prompt", {**run, "program_id": "qa"})
    assert {one["adapter"] for one in previews} == {"JSONAdapter"}
    histories = both("inspect_history", {"n": 100})
    assert [["as born 0" in call["outputs"][0] for call in one["calls"]] for one in histories] == [[True]] * 2


def test_a_setting_goes_back_to_dspys_default(rough: Client, request: pytest.FixtureRequest) -> None:
    name = request.node.name
    begin(rough, name)
    tell = "import dspy; raise ValueError(dspy.settings.num_threads, dspy.settings.max_errors)"

    def told() -> str:
        return str(do(rough, name, tell)["error"]["details"]["message"])

    default = told()
    rough.call("configure", {"num_threads": 3, "max_errors": 99}, session=name)
    assert told() == "(3, 99)"
    rough.call("configure", {"num_threads": None, "max_errors": None}, session=name)
    assert told() == default
    rough.call("end_session", session=name)


def test_a_full_queue_is_overloaded_at_once_and_counted(folder: Path) -> None:
    with Client.spawn(["--queue-total", "5"]) as client:
        slow = {"model": "scripted", "delay_ms": 500}
        begin(client, "a", lm=slow, max_queue=3)
        begin(client, "b", lm=slow, max_queue=3)
        args = {"program_id": "qa", "inputs": {"question": "?"}}
        opened = [client.start("execute_program", args, session=name) for name in "ab" for _ in range(6)]
        stats = client.call("get_stats")["requests"]
        assert (stats["waiting"], stats["waiting_limit"]) == (5, 5)
        replies = [client.reply(one) for one in opened]
        refused = [reply["error"] for reply in replies if not reply["success"]]
        assert len(refused) == stats["overloaded"] == 5
        assert {(one["code"], one["retryable"]) for one in refused} == {("overloaded", True)}
        assert client.call("get_stats")["requests"]["queue_ms"]["p99"] > 400


def test_a_thousand_increments_from_many_hosts_lose_none(folder: Path) -> None:
    with serving(folder / "s") as path:
        barrier = threading.Barrier(4)

        def count() -> None:
            with Client.connect(path) as client:
                barrier.wait(10)
                for _ in range(250):
                    client.call("update_state", {"key": "n", "op": "incr"}, session="shared")

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(count) for _ in range(4)]:
                one.result(30)
        with Client.connect(path) as client:
            assert client.call("get_state", {"key": "n"}, session="shared")["value"] == 1000


def test_a_stopped_interpreter_ends_with_its_requests_time(daemon: Client, session: str) -> None:
    daemon.call("start_session", {"lm": LM}, session=session)
    os.kill(daemon.call("session_info", session=session)["workers"][0]["pid"], signal.SIGSTOP)
    late = daemon.reply(daemon.start("ping", {"deep": True}, session=session, timeout_ms=200))
    assert late["error"]["code"] == "timeout"
    assert daemon.call("ping", {"deep": True}, session=session)["status"] == "ok"
