"""What a daemon records of its work, as get_trace and the trace file tell it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client, CommandFailed

Events = list[dict[str, Any]]
CLI = [sys.executable, "-m", "dspy_bridge.cli"]


def trace(client: Client, **args: Any) -> Events:
    events: Events = client.call("get_trace", args)["traceEvents"]
    return events


def of(events: Events, category: str, **wanted: Any) -> Events:
    return [e for e in events if e.get("cat") == category and wanted.items() <= {**e, **e["args"]}.items()]


def until(find: Callable[[], Any], bound: float = 20.0) -> Any:
    deadline = time.monotonic() + bound
    while not (found := find()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def prepare(client: Client, session: str, **lm: Any) -> None:
    client.call("configure_lm", {"model": "scripted", **lm}, session=session)
    client.call(
        "create_program", {"id": "p", "signature": "q -> a", "program_type": "chain_of_thought"}, session=session
    )


def run(client: Client, session: str) -> Any:
    return client.call("execute_program", {"program_id": "p", "inputs": {"q": "?"}}, session=session)


def within(inside: dict[str, Any], outside: dict[str, Any]) -> bool:
    starts = inside["ts"] >= outside["ts"]
    return starts and inside["ts"] + inside["dur"] <= outside["ts"] + outside["dur"]


# -- requests and interpreters ---------------------------------------------------------------------


def test_a_request_is_recorded_with_its_wait_its_work_and_its_outcome(daemon: Client, session: str) -> None:
    before = time.time()
    pid = daemon.call("start_session", session=session)["worker_pid"]
    assert daemon.reply(daemon.start("execute_program", {"program_id": "none", "inputs": {}}, session=session))
    daemon.call("list_programs", session=session)
    found = daemon.call("get_trace")
    events = found["traceEvents"]
    failed, listed = of(events, "request", session=session)
    assert (failed["name"], failed["args"]["outcome"]) == ("execute_program", "program_not_found")
    assert (listed["name"], listed["args"]["outcome"]) == ("list_programs", "success")
    assert (failed["pid"], failed["tid"]) == (pid, 1)
    assert failed["args"].keys() == {"session", "id", "number", "outcome", "queued_ms"}
    assert before * 1e6 <= failed["ts"] <= listed["ts"] <= time.time() * 1e6
    begun, ended = of(events, "queue", id=listed["args"]["number"])
    ready = daemon.call("hello")
    assert (begun["ph"], ended["ph"], begun["pid"], begun["name"]) == ("b", "e", ready["pid"], "list_programs")
    assert ended["ts"] == listed["ts"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert (names[pid], names[ready["pid"]]) == (f"worker {pid}", "dspy-bridge daemon")
    assert found["displayTimeUnit"] == "ms"
    assert found["otherData"]["boot_id"] == ready["boot_id"]
    assert found["otherData"]["server_version"] == ready["server_version"]


def test_an_interpreters_life_is_told_in_stages_the_present_one_as_running(daemon: Client, session: str) -> None:
    first = daemon.call("start_session", session=session)["worker_pid"]
    (present,) = of(trace(daemon), "worker", pid=first, name=f"session {session}")
    assert (present["args"]["running"], present["args"]["end"], present["tid"]) == (True, None, 0)
    second = daemon.call("recycle_session", session=session)["worker_pid"]
    os.kill(second, signal.SIGKILL)

    def both_gone() -> Events:
        ended = of(trace(daemon), "worker", name=f"session {session}")
        return ended if len(ended) == 2 and not any("running" in e["args"] for e in ended) else []

    lives = {e["pid"]: e["args"]["end"] for e in until(both_gone)}
    assert lives == {first: "recycled", second: "killed by signal 9"}
    events = trace(daemon)
    stages = [e["name"] for e in of(events, "worker", pid=first)]
    assert stages == ["starting", "spare", f"session {session}"]
    instants = {e["name"]: e for e in of(events, "session", session=session)}
    assert instants.keys() == {"session started", "recycled", "crashed"}
    assert (instants["recycled"]["pid"], instants["crashed"]["pid"]) == (first, second)
    assert all((e["ph"], e["s"]) == ("i", "p") for e in instants.values())
    daemon.call("end_session", session=session)
    assert of(trace(daemon), "session", session=session)[-1]["name"] == "session ended"


def test_hibernation_is_an_instant_and_the_end_of_an_interpreter() -> None:
    with Client.spawn(["--idle-timeout-s", "0.1"]) as client:
        pid = client.call("start_session", session="s")["worker_pid"]
        ended = until(lambda: of(trace(client), "worker", pid=pid, end="hibernated"))
        assert ended[0]["name"] == "session s"
        assert of(trace(client), "session", session="s")[-1]["name"] == "hibernated"


def test_a_request_that_never_ran_is_on_the_daemons_row() -> None:
    with Client.spawn() as client:
        prepare(client, "s", delay_ms=60_000)
        running = client.start("execute_program", {"program_id": "p", "inputs": {"q": "?"}}, session="s")
        waiting = client.start("list_programs", session="s")
        client.call("cancel", {"request_id": waiting})
        assert client.reply(waiting)["error"]["code"] == "cancelled"
        client.call("cancel", {"request_id": running})
        assert client.reply(running)["error"]["code"] == "cancelled"
        pid = client.call("hello")["pid"]
        (never,) = of(trace(client), "request", id=waiting)
        (stopped,) = of(trace(client), "request", id=running)
        assert (never["pid"], never["args"]["outcome"]) == (pid, "cancelled")
        assert never["args"]["queued_ms"] > 0
        assert (stopped["pid"] != pid, stopped["args"]["outcome"]) == (True, "cancelled")


def test_get_trace_takes_a_limit_and_shows_figures_of_now(daemon: Client, session: str) -> None:
    pid = daemon.call("start_session", session=session)["worker_pid"]
    events = trace(daemon, limit=0)
    assert not of(events, "request")
    figures = {(e["name"], e["pid"]): e["args"] for e in events if e["ph"] == "C"}
    own = daemon.call("hello")["pid"]
    assert figures["workers", own]["live"] >= 1
    assert figures["waiting", own] == {"requests": 0}
    assert figures["memory", pid]["MiB"] > 1
    daemon.call("list_programs", session=session)
    assert [e["name"] for e in of(trace(daemon, limit=1), "request")] == ["list_programs"]
    with pytest.raises(CommandFailed) as refused:
        daemon.call("get_trace", {"limit": -1})
    assert refused.value.code == "invalid_args"


# -- what programs do ------------------------------------------------------------------------------


def test_programs_are_not_watched_unless_that_is_asked_for(daemon: Client, session: str) -> None:
    prepare(daemon, session)
    run(daemon, session)
    assert not of(trace(daemon), "lm")


@pytest.fixture
def tracing() -> Any:
    with Client.spawn(["--trace-programs"]) as client:
        yield client


def test_model_calls_and_modules_are_of_their_request_and_within_it(tracing: Client) -> None:
    prepare(tracing, "s", delay_ms=5)
    run(tracing, "s")
    events = trace(tracing)
    (request,) = of(events, "request", name="execute_program")
    (call,) = of(events, "lm")
    outer, inner = sorted(of(events, "module"), key=lambda e: e["ts"])
    assert (call["name"], outer["name"], inner["name"]) == ("scripted", "ChainOfThought", "Predict")
    assert within(call, inner)
    assert within(inner, outer)
    assert within(outer, request)
    assert {e["args"]["number"] for e in (call, outer, inner)} == {request["args"]["number"]}
    assert {(e["pid"], e["tid"]) for e in (call, outer, inner)} == {(request["pid"], 1)}
    assert call["args"]["input_tokens"] > 0
    assert call["args"]["output_tokens"] > 0
    assert call["args"]["cache_hit"] is False
    assert (call["args"]["parent"], inner["args"]["parent"]) == (inner["args"]["id"], outer["args"]["id"])


def test_a_failed_call_says_which_kind_of_error_it_was(tracing: Client) -> None:
    prepare(tracing, "s", answers=[{"error": {"status": 500, "message": "SECRET WORDS"}}])
    with pytest.raises(CommandFailed):
        run(tracing, "s")
    events = trace(tracing)
    assert [e["args"]["error"] for e in of(events, "lm")] == ["LMServerError"]
    assert of(events, "request", name="execute_program")[0]["args"]["outcome"] == "lm_error"
    assert "SECRET" not in json.dumps(events)


def test_calls_of_a_batchs_threads_are_its_own_and_overlap_on_no_lane(tracing: Client) -> None:
    prepare(tracing, "s", delay_ms=20)
    inputs = [{"q": str(n)} for n in range(6)]
    tracing.call("execute_batch", {"program_id": "p", "inputs": inputs, "max_concurrency": 3}, session="s")
    events = trace(tracing)
    (request,) = of(events, "request", name="execute_batch")
    calls = of(events, "lm")
    assert {e["args"]["number"] for e in calls} == {request["args"]["number"]}
    assert len(calls) == 6
    by_id = {e["args"]["id"]: e for e in of(events, "module")}
    lanes: dict[int, Events] = {}
    for call in calls:
        assert by_id[call["args"]["parent"]]["name"] == "Predict"
        lanes.setdefault(call["tid"], []).append(call)
    for lane in lanes.values():
        ends = [(e["ts"], e["ts"] + e["dur"]) for e in sorted(lane, key=lambda e: e["ts"])]
        assert all(one[1] <= next_one[0] for one, next_one in itertools.pairwise(ends))


def test_calls_in_dspys_own_threads_are_of_the_request_too(tracing: Client) -> None:
    for threads, name in ((1, "one"), (2, "several")):
        tracing.call("start_session", {"threads": threads}, session=name)
        prepare(tracing, name, delay_ms=5)
        rows = [{"q": str(n), "a": "x"} for n in range(4)]
        optimizer = {"optimizer": "random_search", "metric": "contains", "trainset": rows}
        options = {"num_candidate_programs": 1, "max_bootstrapped_demos": 1}
        tracing.call("configure", {"num_threads": 2}, session=name)
        tracing.call("compile_program", {"program_id": "p", **optimizer, "options": options}, session=name)
        events = trace(tracing)
        (request,) = of(events, "request", name="compile_program", session=name)
        calls = of(events, "lm", pid=request["pid"])
        assert len(calls) >= 4
        assert {e["args"]["number"] for e in calls} == {request["args"]["number"]}


def test_requests_side_by_side_in_one_interpreter_have_rows_and_calls_of_their_own(tracing: Client) -> None:
    tracing.call("start_session", {"threads": 2}, session="s")
    prepare(tracing, "s", delay_ms=300)
    opened = [
        tracing.start("execute_program", {"program_id": "p", "inputs": {"q": str(n)}}, session="s") for n in range(2)
    ]
    for one in opened:
        assert tracing.reply(one)["success"]
    events = trace(tracing)
    requests = of(events, "request", name="execute_program")
    assert {e["tid"] for e in requests} == {1, 2}
    for request in requests:
        (call,) = (e for e in of(events, "lm") if e["args"]["number"] == request["args"]["number"])
        assert (call["tid"], within(call, request)) == (request["tid"], True)


def test_tools_are_recorded_by_name(tracing: Client) -> None:
    tool = {"name": "look_up", "description": "Look it up.", "args": {"properties": {"word": {"type": "string"}}}}
    answers = [
        {"next_thought": "t", "next_tool_name": "look_up", "next_tool_args": {"word": "SECRET"}},
        {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "r", "a": "done"},
    ]
    tracing.on_call = lambda frame: "found"
    tracing.call("configure_lm", {"model": "scripted", "answers": answers})
    tracing.call("create_program", {"id": "p", "signature": "q -> a", "program_type": "react", "tools": [tool]})
    tracing.call("execute_program", {"program_id": "p", "inputs": {"q": "?"}})
    events = trace(tracing)
    assert "look_up" in [e["name"] for e in of(events, "tool")]
    assert "SECRET" not in json.dumps(events)


def test_an_answer_of_the_cache_says_so(tracing: Client) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fixtures.openai_endpoint"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as endpoint:
        assert endpoint.stdin
        assert endpoint.stdout
        url = json.loads(endpoint.stdout.readline())["url"]
        tracing.call("configure_lm", {"model": "openai/m", "api_key": "k", "api_base": url})
        tracing.call("create_program", {"id": "p", "signature": "question -> answer"})
        for _ in range(2):
            tracing.call("execute_program", {"program_id": "p", "inputs": {"question": "?"}})
        endpoint.stdin.close()
    first, second = of(trace(tracing), "lm")
    assert (first["args"]["cache_hit"], second["args"]["cache_hit"]) == (False, True)
    assert first["args"]["output_tokens"] > 0


# -- the file --------------------------------------------------------------------------------------


def test_a_trace_file_has_everything_and_is_its_owners(folder: Path) -> None:
    path = folder / "trace.json"
    with Client.spawn(["--trace-file", str(path)]) as client:
        prepare(client, "s")
        run(client, "s")
        # Figures are sampled, and memory now and then.
        until(lambda: '"memory"' in path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    events = json.loads(path.read_text())
    assert events[0]["args"]["boot_id"]
    assert {"lm", "module", "request", "queue", "worker", "session"} <= {e.get("cat") for e in events}
    assert {e["name"] for e in events if e["ph"] == "C"} == {"workers", "waiting", "memory"}
    assert [e["args"]["end"] for e in of(events, "worker", name="session s")] == ["exited with code 0"]
    waiting = [e["args"] for e in events if e["name"] == "waiting"]
    assert all(one != two for one, two in itertools.pairwise(waiting)), "only what has changed"


def test_a_killed_daemon_leaves_a_trace_that_can_be_read(folder: Path) -> None:
    path = folder / "trace.json"
    client = Client.spawn(["--trace-file", str(path)])
    prepare(client, "s")
    run(client, "s")
    until(lambda: "execute_program" in path.read_text())
    os.kill(client.call("hello")["pid"], signal.SIGKILL)
    client.close()
    events = json.loads(path.read_text() + "]")
    assert of(events, "lm")


@pytest.mark.parametrize("path", ["/nowhere/at/all/trace.json", "/", "/dev/full"])
def test_a_trace_file_that_cannot_be_written_is_refused_at_start(path: str, folder: Path) -> None:
    done = subprocess.run(
        [*CLI, "serve", "--trace-file", path, "--socket", str(folder / "s")],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"--trace-file: {path}" in done.stderr
    assert not (folder / "s").exists()
