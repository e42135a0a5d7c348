"""Several requests of one session at once, in the threads of one interpreter."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from fixtures.openai_endpoint import Delay, Fields, OpenAIEndpoint

from dspy_bridge import libraries
from dspy_bridge.cli import doctor
from dspy_bridge.client import Client, CommandFailed
from session_supervisor import os_facts

Frame = dict[str, Any]
MODULE = "tests.support.adapters"


@pytest.fixture
def session(allowing: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.node.name
    allowing.call("end_session", session=request.node.name)
    allowing.on_call = allowing.on_event = None


def start(client: Client, session: str, adapter: str = "Threaded", **more: Any) -> None:
    client.call("start_session", {"adapter": f"{MODULE}:{adapter}", "threads": 4, **more}, session=session)


def begin(client: Client, session: str, name: str, times: int = 1, **args: Any) -> list[int]:
    return [client.start("call_tool", {"name": name, "args": args}, session=session) for _ in range(times)]


def results(client: Client, opened: list[int]) -> list[Any]:
    return [client.finish(one)["result"] for one in opened]


def report(client: Client, session: str) -> Frame:
    found: Frame = client.call("list_tools", session=session)["thread_safety"]
    return found


# -- overlapping -----------------------------------------------------------------------------------


@pytest.mark.alone
def test_four_sleeps_of_a_second_take_little_more_than_one_and_pings_are_answered(
    allowing: Client, session: str
) -> None:
    start(allowing, session)
    began = time.monotonic()
    opened = begin(allowing, session, "sleep", 4, seconds=1)
    pings = []
    while time.monotonic() - began < 0.9:
        asked = time.monotonic()
        allowing.call("ping")
        pings.append(time.monotonic() - asked)
    threads = results(allowing, opened)
    assert time.monotonic() - began < 1.5
    assert len(set(threads)) == 4
    assert len(pings) > 20, "one that waited for a sleep to end would be the only one"
    assert sorted(pings)[len(pings) * 99 // 100] < 0.02
    info = allowing.call("session_info", session=session)
    assert len(info["workers"]) == 1


def test_a_client_that_does_not_read_holds_up_its_own_request_and_no_other(folder: Path) -> None:
    flags = ["--socket", str(folder / "s"), "--stdio", "--allow-import", "tests.support"]
    with Client.spawn(flags) as client, Client.connect(str(folder / "s")) as lazy:
        start(client, "s")
        (flood,) = begin(lazy, "s", "flood", items=3_000)  # some 30 MB, which the lazy one does not take
        deadline = time.monotonic() + 20
        while client.call("get_stats")["memory_mb"]["daemon"] < 20 and time.monotonic() < deadline:
            pass
        assert results(client, begin(client, "s", "sleep", 8, seconds=0.01))
        (late,) = begin(lazy, "s", "flood", items=3_000)
        client.call("ping", session="s")
        assert client.call("session_info", session="s")["in_flight"] == 2
        assert client.call("get_stats")["memory_mb"]["daemon"] < 60
        items: dict[int, int] = {flood: 0, late: 0}
        lazy.on_event = lambda frame: items.__setitem__(frame["id"], items[frame["id"]] + 1)
        for one in (flood, late):
            lazy.finish(one)
        assert items == {flood: 3_000, late: 3_000}


def test_a_request_that_is_held_up_can_be_stopped(folder: Path) -> None:
    flags = ["--socket", str(folder / "s"), "--stdio", "--allow-import", "tests.support"]
    with Client.spawn(flags) as client, Client.connect(str(folder / "s")) as lazy:
        start(client, "s")
        args = {"name": "flood", "args": {"items": 3_000}}
        flood = lazy.start("call_tool", args, session="s", timeout_ms=1_000)
        pid = client.call("session_info", session="s")["workers"][0]["pid"]
        deadline = time.monotonic() + 20
        while client.call("session_info", session="s")["in_flight"]:
            assert time.monotonic() < deadline
        assert lazy.reply(flood)["error"]["code"] == "timeout"
        assert client.call("session_info", session="s")["workers"][0]["pid"] == pid


def test_sixteen_threads_in_four_interpreters_serve_sixty_four_at_once(allowing: Client, session: str) -> None:
    start(allowing, session, threads=16, workers=4)
    opened = begin(allowing, session, "sleep", 64, seconds=1.5)
    deadline = time.monotonic() + 10
    while allowing.call("session_info", session=session)["in_flight"] < 64:
        assert time.monotonic() < deadline
    assert len(results(allowing, opened)) == 64


def test_what_comes_beyond_the_threads_waits_its_turn(allowing: Client, session: str) -> None:
    start(allowing, session, threads=2)
    opened = begin(allowing, session, "sleep", 3, seconds=0.3)
    info = allowing.call("session_info", session=session)
    assert (info["in_flight"], info["queued"]) == (2, 1)
    assert len(results(allowing, opened)) == 3


def test_a_change_of_the_session_runs_alone_and_in_its_turn(allowing: Client, session: str) -> None:
    start(allowing, session)
    opened = begin(allowing, session, "sleep", 2, seconds=0.2)
    changing = allowing.start("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    listing = allowing.start("list_programs", session=session)
    results(allowing, opened)
    assert allowing.finish(changing)["status"] == "created"
    assert allowing.finish(listing)["total_count"] == 1


# -- DSPy in threads -------------------------------------------------------------------------------


def test_programs_on_many_threads_keep_each_requests_model_and_config_to_themselves(
    allowing: Client, session: str
) -> None:
    with OpenAIEndpoint() as endpoint:
        for n in range(24):
            endpoint.on(f"~{n}~", Delay(0.05, Fields({"answer": str(n)})))
        lm = {"model": "openai/session", "api_base": endpoint.url, "api_key": "k", "num_retries": 0}
        allowing.call("start_session", {"threads": 8, "lm": lm}, session=session)
        allowing.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
        opened = []
        for n in range(24):
            args: Frame = {"program_id": "qa", "inputs": {"question": f"~{n}~"}, "config": {"max_tokens": 100 + n}}
            if n % 2:
                args["lm"] = {**lm, "model": f"openai/own-{n}", "api_key": f"key-{n}"}
            opened.append(allowing.start("execute_program", args, session=session))
        answers = [allowing.finish(one)["outputs"]["answer"] for one in opened]
        assert answers == [str(n) for n in range(24)]
        assert endpoint.peak_in_flight > 4
        for one in endpoint.requests:
            n = next(n for n in range(24) if f"~{n}~" in str(one.body["messages"][-1]))
            assert one.body.get("max_tokens", one.body.get("max_completion_tokens")) == 100 + n
            assert one.body["model"] == (f"own-{n}" if n % 2 else "session")
            assert one.api_key == (f"key-{n}" if n % 2 else "k")
    assert allowing.call("get_usage", session=session)["programs"]["qa"]["executions"] == 24


def test_host_calls_events_and_batches_of_several_threads_reach_their_own_requests(
    allowing: Client, session: str
) -> None:
    allowing.call("start_session", {"threads": 4, "lm": {"model": "host"}}, session=session)
    allowing.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    events: list[Frame] = []
    asked: list[Frame] = []

    def serve(frame: Frame) -> str:
        asked.append(frame)
        word = frame["args"]["messages"][-1]["content"].split("~")[1]
        return f"[[ ## answer ## ]]\n{word}\n\n[[ ## completed ## ]]"

    allowing.on_event, allowing.on_call = events.append, serve
    single = {"program_id": "qa", "stream": True}
    opened = {
        allowing.start("execute_program", {**single, "inputs": {"question": f"~{n}~"}}, session=session): str(n)
        for n in range(6)
    }
    inputs = [{"question": f"~b{n}~"} for n in range(6)]
    batch = allowing.start("execute_batch", {"program_id": "qa", "inputs": inputs}, session=session)
    for number, word in opened.items():
        assert allowing.finish(number)["outputs"] == {"answer": word}
        said = [one for one in events if one["id"] == number]
        assert [one["seq"] for one in said] == list(range(len(said)))
        assert "".join(one["data"]["text"] for one in said if one["event"] == "token").strip() == word
        assert [one["id"] for one in asked if one["args"]["messages"][-1]["content"].split("~")[1] == word] == [number]
    assert allowing.finish(batch)["succeeded"] == 6
    assert [one["id"] for one in asked if "~b" in one["args"]["messages"][-1]["content"]] == [batch] * 6


def test_the_raw_response_of_a_gemini_program_is_that_of_its_own_request(allowing: Client, session: str) -> None:
    allowing.call("start_session", {"threads": 4, "settings": {"disable_history": True}}, session=session)
    allowing.call("create_program", {"id": "g", "signature": "question -> answer"}, session=session)
    asked = {"program_id": "g", "inputs": {"question": "?"}}
    models = [{"model": "scripted", "answers": [{"answer": f"mine, {n}"}]} for n in range(40)]
    opened = [allowing.start("execute_gemini_program", {**asked, "lm": lm}, session=session) for lm in models]
    for n, done in enumerate([allowing.finish(one) for one in opened]):
        assert done["outputs"] == {"answer": f"mine, {n}"}
        assert f"mine, {n}\n" in done["raw_response"]


def test_what_a_thread_prints_belongs_to_its_request(allowing: Client, session: str) -> None:
    start(allowing, session)
    events: list[Frame] = []
    allowing.on_event = events.append
    opened = [begin(allowing, session, "sleep", seconds=0.1, say=f"I am {n}")[0] for n in range(4)]
    results(allowing, opened)
    said = {one["id"]: one["data"]["text"] for one in events if one["event"] == "log"}
    assert said == {number: f"I am {n}\n" for n, number in enumerate(opened)}


# -- stopping --------------------------------------------------------------------------------------


def test_a_cancelled_request_ends_and_its_neighbours_go_on(allowing: Client, session: str) -> None:
    allowing.call("start_session", {"threads": 4, "lm": {"model": "host"}}, session=session)
    allowing.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    ask = {"program_id": "qa", "inputs": {"question": "?"}}
    first, second = (allowing.start("execute_program", ask, session=session) for _ in range(2))
    calls = [one for one in (allowing.receive() for _ in range(2)) if "call_id" in one]
    assert len(calls) == 2
    allowing.call("cancel", {"request_id": first})
    (other,) = (one for one in calls if one["id"] == second)
    text = "[[ ## answer ## ]]\nstill here\n\n[[ ## completed ## ]]"
    allowing.send(orjson.dumps({"call_id": other["call_id"], "success": True, "result": text}))
    assert allowing.finish(second)["outputs"] == {"answer": "still here"}
    assert allowing.reply(first)["error"]["code"] == "cancelled"


def test_a_cancelled_request_that_waits_for_its_host_ends_and_its_interpreter_stays(
    allowing: Client, session: str
) -> None:
    allowing.call("start_session", {"threads": 2, "lm": {"model": "host"}}, session=session)
    allowing.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    (before,) = allowing.call("session_info", session=session)["workers"]
    ask = {"program_id": "qa", "inputs": {"question": "?"}}
    number = allowing.start("execute_program", ask, session=session)
    assert "call_id" in allowing.receive()
    allowing.call("cancel", {"request_id": number})
    assert allowing.reply(number)["error"]["code"] == "cancelled"
    (after,) = allowing.call("session_info", session=session)["workers"]
    assert after["pid"] == before["pid"]


def test_a_request_cancelled_while_it_waits_for_a_lease_leaves_it_to_others(folder: Path) -> None:
    with Client.spawn(["--max-lm-calls", "1"]) as client:
        slow = {"model": "scripted", "delay_ms": 700}
        client.call("start_session", {"threads": 3, "lm": slow}, session="s")
        client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session="s")
        ask = {"program_id": "qa", "inputs": {"question": "?"}}
        holds = client.start("execute_program", ask, session="s")
        waits = client.start("execute_program", ask, session="s")
        deadline = time.monotonic() + 10
        while client.call("get_stats")["lm_calls"]["waiting"] < 1:
            assert time.monotonic() < deadline
        client.call("cancel", {"request_id": waits})
        assert client.reply(waits)["error"]["code"] == "cancelled"
        assert client.finish(holds)["outputs"]
        assert client.reply(client.start("execute_program", ask, session="s", timeout_ms=10_000))["success"]


def test_an_interpreter_whose_own_code_fails_ends_and_leaves_no_request_unanswered(folder: Path) -> None:
    with Client.spawn(["--preload", "tests.support.misbehaving"]) as client:
        client.call("start_session", {"threads": 2, "lm": {"model": "scripted"}}, session="s")
        client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session="s")
        code = "import dspy_bridge.worker.app as app; app.to_bridge_error = None; raise ValueError"
        ask = {"program_id": "qa", "inputs": {"question": f"py:{code}"}}
        error = client.reply(client.start("execute_program", ask, session="s", timeout_ms=10_000))["error"]
        assert error["code"] == "worker_crashed"
        assert "TypeError" in error["details"]["last_output"]
        assert client.call("execute_program", {**ask, "inputs": {"question": "?"}}, session="s")["outputs"]


def test_a_thread_that_cannot_be_stopped_is_given_up_and_its_interpreter_replaced(
    allowing: Client, session: str
) -> None:
    start(allowing, session)
    (worker,) = allowing.call("session_info", session=session)["workers"]
    (long,) = begin(allowing, session, "sleep", seconds=2.5)
    args = {"name": "sleep", "args": {"seconds": 60}}
    stuck = allowing.start("call_tool", args, session=session, timeout_ms=100)
    assert allowing.reply(stuck, timeout=5)["error"]["code"] == "timeout"
    assert allowing.finish(long)["result"]  # the neighbour finishes
    (new,) = allowing.call("session_info", session=session)["workers"]
    assert new["pid"] != worker["pid"]
    assert results(allowing, begin(allowing, session, "total")) == [0]


def test_a_lone_thread_that_cannot_be_stopped_dies_with_its_interpreter(allowing: Client, session: str) -> None:
    start(allowing, session)
    (worker,) = allowing.call("session_info", session=session)["workers"]
    args = {"name": "sleep", "args": {"seconds": 60}}
    stuck = allowing.start("call_tool", args, session=session, timeout_ms=100)
    assert allowing.reply(stuck, timeout=5)["error"]["code"] == "timeout"
    with pytest.raises(ProcessLookupError):
        os.kill(worker["pid"], 0)
    assert results(allowing, begin(allowing, session, "total")) == [0]


def under_way(client: Client, session: str, name: str, value: int) -> int:
    """A request that has kept a value and is not done: what it prints says so."""
    said: list[str] = []
    client.on_event = lambda event: said.append(event["data"]["text"]) if event["event"] == "log" else None
    (number,) = begin(client, session, "keep", key=name, value=value)
    deadline = time.monotonic() + 20
    while f"{name}\n" not in said:
        assert time.monotonic() < deadline
        client.call("ping")
    return number


def test_a_cancelled_request_takes_nothing_along_of_what_was_kept(allowing: Client, session: str) -> None:
    start(allowing, session)
    neighbour = under_way(allowing, session, "neighbours", 1)
    cancelled = under_way(allowing, session, "own", 2)
    allowing.call("cancel", {"request_id": cancelled})
    assert allowing.reply(cancelled)["error"]["code"] == "cancelled"
    results(allowing, begin(allowing, session, "release"))
    results(allowing, [neighbour])
    allowing.call("recycle_session", session=session)
    kept = [results(allowing, begin(allowing, session, "kept", key=name)) for name in ("neighbours", "own")]
    assert kept == [[1], [2]]


def test_a_thread_that_was_given_up_takes_nothing_along_either(allowing: Client, session: str) -> None:
    start(allowing, session)
    (stuck,) = begin(allowing, session, "sleep", seconds=2.5)
    neighbour = under_way(allowing, session, "neighbours", 1)
    allowing.call("cancel", {"request_id": stuck})
    assert allowing.reply(stuck)["error"]["code"] == "cancelled"
    # Its thread comes back a second and a half later, and hands over what its neighbour has kept.
    document: Frame = {"parts": {}}
    deadline = time.monotonic() + 10
    while "adapter:neighbours" not in document["parts"]:
        assert time.monotonic() < deadline, "what the neighbour has kept was lost"
        document = allowing.call("export_session", session=session)["document"]
    allowing.call("cancel", {"request_id": neighbour})
    assert allowing.reply(neighbour)["error"]["code"] == "cancelled"


def test_a_crash_ends_every_request_of_its_interpreter_once(allowing: Client, session: str) -> None:
    start(allowing, session, threads=5)
    opened = begin(allowing, session, "sleep", 4, seconds=30)
    results(allowing, begin(allowing, session, "total"))  # it has read what was sent before this
    (worker,) = allowing.call("session_info", session=session)["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    assert {allowing.reply(one)["error"]["code"] for one in opened} == {"worker_crashed"}
    assert results(allowing, begin(allowing, session, "total")) == [0]


def test_recycling_under_load_cuts_no_request(allowing: Client, session: str) -> None:
    start(allowing, session, max_requests=25)
    pids: set[int] = set()
    deadline = time.monotonic() + 50
    waiting = begin(allowing, session, "sleep", 8, seconds=0.01)
    while len(pids) < 5:
        assert time.monotonic() < deadline
        allowing.finish(waiting.pop(0))
        waiting += begin(allowing, session, "sleep", seconds=0.01)
        pids |= {one["pid"] for one in allowing.call("session_info", session=session)["workers"]}
    results(allowing, waiting)
    info = allowing.call("session_info", session=session)
    assert info["recoveries"] == 0
    assert info["recycles"] >= 4


# -- what adapters share ---------------------------------------------------------------------------


def test_a_locked_adapter_loses_no_update(allowing: Client, session: str) -> None:
    start(allowing, session, threads=20)
    opened = begin(allowing, session, "add", 700) + begin(allowing, session, "add_locked", 300)
    assert sorted(results(allowing, opened)) == list(range(1, 1001))
    stats = results(allowing, begin(allowing, session, "stats"))[0]
    assert (stats["total_requests"], stats["active_requests"], stats["max_workers"]) == (1000, 0, 20)
    assert sum(stats["thread_utilization"].values()) == 1000


def test_thread_locals_are_a_threads_own(allowing: Client, session: str) -> None:
    start(allowing, session, threads=2)
    sums = results(allowing, begin(allowing, session, "mine", 40, value=1))
    assert max(sums) < 40
    assert sum(sums.count(n) for n in (1,)) == 2  # each of two threads began at one


# -- the checker -----------------------------------------------------------------------------------


def test_the_checker_finds_a_planted_race_and_a_forgotten_declaration(allowing: Client, session: str) -> None:
    start(allowing, session, "Racy", thread_safety_check=True)
    results(allowing, list(itertools.chain(*(begin(allowing, session, name, 4) for name in ("add", "forgotten")))))
    results(allowing, begin(allowing, session, "note", 4, value=1))
    found = report(allowing, session)
    assert (found["enabled"], found["strict_mode"], found["threads_seen"]) == (True, False, 4)
    accesses = {one["message"].split("'")[1]: one for one in found["concurrent_accesses"]}
    assert {"count", "seen"} <= accesses.keys()
    stacks = accesses["count"]["stacks"]
    assert len(stacks) == 2
    assert all("value = self.count" in stack or "self.count = value" in stack for stack in stacks.values())
    undeclared = [one["message"] for one in found["warnings"] if one["kind"] == "undeclared_method"]
    assert len(undeclared) == 1
    assert "'forgotten'" in undeclared[0]
    assert "@thread_safe_method" in undeclared[0]


def test_the_checker_is_silent_about_locked_and_read_only_code(allowing: Client, session: str) -> None:
    start(allowing, session, thread_safety_check="strict")
    opened = begin(allowing, session, "add", 40) + begin(allowing, session, "look", 8)
    opened += begin(allowing, session, "mine", 8, value=1) + begin(allowing, session, "add_locked", 8)
    results(allowing, opened)
    found = report(allowing, session)
    assert found["warnings"] == []
    assert found["methods_tracked"] == {"add": 40, "look": 8, "mine": 8, "add_locked": 8}


def test_strict_mode_fails_the_call_that_shows_the_race(allowing: Client, session: str) -> None:
    start(allowing, session, "Racy", thread_safety_check="strict")
    replies = [allowing.reply(one) for one in begin(allowing, session, "add", 4)]
    failed = [one["error"] for one in replies if not one["success"]]
    assert failed
    assert {one["code"] for one in failed} == {"tool_error"}
    assert "acquire_lock" in failed[0]["message"]
    assert failed[0]["details"]["thread_safety"][0]["stacks"]


def test_without_the_check_nothing_is_watched(allowing: Client, session: str) -> None:
    start(allowing, session, "Racy")
    results(allowing, begin(allowing, session, "add", 4))
    assert report(allowing, session) is None


def test_a_program_of_a_threaded_session_may_not_say_how_many(allowing: Client, session: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        allowing.call("start_session", {"threads": 0}, session=session)
    assert failed.value.code == "invalid_args"


# -- libraries and processors ----------------------------------------------------------------------


def test_a_library_that_is_not_thread_safe_is_named_with_the_way_to_use_it(allowing: Client, session: str) -> None:
    adapter = {"adapter": "tests.support.unsafe_adapter:Database"}
    allowing.call("start_session", {**adapter, "threads": 2}, session=session)
    found = report(allowing, session)
    assert [one["kind"] for one in found["warnings"]] == ["unsafe_library"]
    assert "a connection per thread" in found["warnings"][0]["message"]
    allowing.call("end_session", session=session)
    allowing.call("start_session", adapter, session=session)
    assert report(allowing, session) is None


@pytest.mark.alone
def test_threads_that_only_compute_are_told_that_they_take_turns(allowing: Client, session: str) -> None:
    allowing.call("start_session", {"adapter": "tests.support.unsafe_adapter:Database", "threads": 2}, session=session)
    (worker,) = allowing.call("session_info", session=session)["workers"]
    if worker["gil"] is False:
        pytest.skip("this Python is free-threaded: that it says so where it is not is NOT tested")
    events: list[Frame] = []
    allowing.on_event = events.append
    said, deadline = "", time.monotonic() + 30
    while not said:  # a processor others want too is not kept busy by these two alone
        assert time.monotonic() < deadline, "it was never told"
        results(allowing, begin(allowing, session, "burn", 2, seconds=0.8))
        said = "".join(one["data"]["text"] for one in events if one["event"] == "log")
    assert "this Python runs one thread at a time" in said
    assert "workers: 2" in said


def test_a_hundred_threads_of_one_interpreter_lose_no_update(allowing: Client, session: str) -> None:
    start(allowing, session, threads=100)
    assert sorted(results(allowing, begin(allowing, session, "add", 1000))) == list(range(1, 1001))


@pytest.mark.parametrize("launcher", ["fork", "spawn"])
def test_sessions_may_run_on_another_interpreter_than_the_daemon(folder: Path, launcher: str) -> None:
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nOTHER_PYTHON=1 exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Client.spawn(["--python", str(python), "--launcher", launcher, "--allow-import", "tests.support"]) as client:
        pid = client.call("start_session", {"adapter": f"{MODULE}:Plain"}, session="s")["worker_pid"]
        assert b"OTHER_PYTHON=1" in Path(f"/proc/{pid}/environ").read_bytes()
        (worker,) = client.call("session_info", session="s")["workers"]
        assert worker["python"] == platform.python_version()
        assert worker["gil"] is True or sys.version_info >= (3, 13)


def test_an_interpreter_that_lacks_the_package_is_named_at_the_start(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dspy_bridge.cli", "serve", "--python", "/no/such/python"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 3
    assert "/no/such/python" in done.stderr


def test_a_free_threaded_interpreter_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    # None is at hand: what such an interpreter says of itself is faked.
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert os_facts.gil_enabled() is False
    assert "free-threaded" in doctor._python().found
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: True, raising=False)  # an extension has switched it on
    assert os_facts.gil_enabled() is True
    assert "GIL" in doctor._python().found


def test_the_table_of_libraries_says_for_each_where_it_is_from() -> None:
    for row in libraries.table().values():
        assert row.verdict in ("safe", "conditional", "unsafe")
        assert row.why
        assert row.pattern
        assert row.source.startswith("https://") or row.source == "measured here"
        assert row.checked
