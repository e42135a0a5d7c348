"""Records, and trace events made of them, without a daemon."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.daemon.chrome_trace import TraceEvents
from dspy_bridge.daemon.timings import Timings, percentiles
from dspy_bridge.daemon.trace_file import TraceFile
from dspy_bridge.daemon.tracing import LATEST, Asked, CannotTrace, Span, Tracer, from_worker
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.envelope import Call
from dspy_bridge.protocol.errors import BridgeError
from session_supervisor.reactor import Reactor

ASKED = Asked(7, "mine", "execute_program", "s", 10.0, 10.5, 1, None)


def inner(kind: str, name: str, start: float, end: float, parent: str | None = None) -> Span:
    return Span(kind, name, start, end, 42, "s", {"id": name, "parent": parent}, ASKED)


def lanes(*spans: Span) -> dict[str, int]:
    events = TraceEvents()
    return {e["name"]: e["tid"] for span in spans for e in events.of(span) if e["ph"] == "X"}


# -- records ---------------------------------------------------------------------------------------


def test_only_the_latest_records_are_kept() -> None:
    tracer = Tracer()
    for number in range(LATEST + 10):
        tracer.instant("session started", str(number))
    assert len(tracer.latest) == LATEST
    assert (tracer.latest[0].session, tracer.latest[-1].session) == ("10", str(LATEST + 9))


def test_a_listener_that_fails_costs_nobody_else_anything(caplog: pytest.LogCaptureFixture) -> None:
    tracer, heard = Tracer(), []

    def broken(span: Span) -> None:
        raise RuntimeError("of no use")

    tracer.listen(broken)
    tracer.listen(heard.append)
    tracer.instant("session started", "a")
    tracer.instant("session ended", "a")
    assert [span.name for span in heard] == ["session started", "session ended"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xff",
        b"7",
        b"[]",
        b'["lm","m",10.6,10.7]',
        b'["request","m",10.6,10.7,{}]',
        b'["lm",7,10.6,10.7,{}]',
        b'["lm","m","soon",10.7,{}]',
        b'["lm","m",10.7,10.6,{}]',
        b'["lm","m",10.6,null,{}]',
        b'["lm","m","nan",10.7,{}]',
        b'["lm","m","nan","nan",{}]',
        b'["lm","m",10.6,10.7,[]]',
    ],
)
def test_what_a_worker_says_in_another_form_is_left_out(said: bytes) -> None:
    assert from_worker(said, ASKED, 42) is None


def test_of_what_a_worker_says_only_what_is_known_is_taken_over() -> None:
    said = ["lm", "m" * 1000, 1.0, 1e12, {"input_tokens": 3, "output_tokens": "many", "prompt": "secret", "id": "x"}]
    span = from_worker(json.dumps(said).encode(), ASKED, 42)
    assert span is not None
    assert (span.start, span.name) == (ASKED.started, "m" * 200)
    assert span.end < 1e12
    assert span.args == {"id": "x", "input_tokens": 3}


@pytest.mark.parametrize("rpc", [False, True])
def test_the_outcome_of_a_reply_is_a_code_of_the_list_whatever_the_bytes_are(rpc: bool) -> None:
    call = Call("i", "ping", {}, "s", True, None, rpc)
    head = b'{"jsonrpc":"2.0","id":"i","error":' if rpc else b'{"id":"i","success":false'
    assert envelope.outcome(call, envelope.success("i", rpc, {})) == "success"
    assert envelope.outcome(call, envelope.failure("i", rpc, BridgeError("timeout", "late"))) == "timeout"
    for rest in (b"", b"7}", b'{"code":"sk-secret","data":{"code":"sk-secret"}}}', b',"error":{"code":["x"]}}'):
        assert envelope.outcome(call, head + rest) == "internal"


# -- trace events ----------------------------------------------------------------------------------


def test_calls_lie_under_the_call_they_were_made_from() -> None:
    found = lanes(inner("lm", "lm", 11, 12, "inner"), inner("module", "inner", 10.9, 12.1, "outer"))
    assert found == {"lm": 1, "inner": 1}
    chain = [
        inner("lm", "lm1", 11, 12, "outer"),
        inner("lm", "lm2", 13, 14, "outer"),
        inner("module", "outer", 10.9, 15),
    ]
    assert lanes(*chain) == {"lm1": 1, "lm2": 1, "outer": 1}


def test_calls_side_by_side_lie_on_lanes_of_their_own_and_never_in_one_they_do_not_belong_to() -> None:
    found = lanes(
        inner("lm", "lm b", 12, 18, "b"),
        inner("lm", "lm a", 11, 19, "a"),
        inner("module", "a", 10.5, 20),
        inner("module", "b", 10.6, 21),
    )
    assert found["lm b"] == found["b"] == 1
    assert found["lm a"] == found["a"] == 100


def test_however_many_calls_overlap_each_request_keeps_to_lanes_of_its_own() -> None:
    many = [inner("lm", str(n), 11 + n / 1000, 12 + n / 1000) for n in range(300)]
    taken = set(lanes(*many).values())
    assert {1, 100, 198} < taken
    assert max(taken) < 200, "there those of the next request begin"


def test_a_request_nobody_began_is_the_daemons() -> None:
    asked = ASKED._replace(started=0.0, lane=0)
    tracer = Tracer()
    tracer.request(asked, 0, 12.0, "overloaded")
    begun, ended, request = (e for e in TraceEvents().of(tracer.latest[0]) if e["ph"] != "M")
    assert request["pid"] == os.getpid() == begun["pid"]
    assert (begun["ph"], ended["ph"], begun["id"], ended["ts"] - begun["ts"]) == ("b", "e", 7, 2_000_000)
    assert request["args"] == {
        "session": "s",
        "id": "mine",
        "number": 7,
        "outcome": "overloaded",
        "queued_ms": 2000.0,
    }


# -- the file --------------------------------------------------------------------------------------


def test_a_disk_that_is_full_is_refused_at_start() -> None:
    reactor = Reactor()
    with pytest.raises(CannotTrace, match="No space left"):
        TraceFile(reactor, "/dev/full", {})
    reactor.close()


def test_a_disk_that_becomes_full_ends_the_trace_with_its_last_whole_event(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "trace.json"
    reactor = Reactor()
    file = TraceFile(reactor, str(path), {})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        file.take(inner("lm", "m", 11, 12))
        reactor.run_once(1.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "the trace ends here" in caplog.text
    assert path.read_bytes() == before
    file.take(inner("lm", "m", 11, 12))
    file.close()
    assert path.read_bytes() == before
    reactor.close()


def test_a_file_is_whole_after_every_write_and_written_by_one_daemon(folder: Path) -> None:
    path = folder / "trace.json"
    path.write_text("old and longer than anything new")
    path.chmod(0o644)
    reactor = Reactor()
    file = TraceFile(reactor, str(path), {"boot_id": "b"})
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(CannotTrace, match="another daemon"):
        TraceFile(reactor, str(path), {})
    file.take(inner("lm", "m", 11, 12))
    reactor.run_once(1.0)
    events: list[dict[str, Any]] = json.loads(path.read_text() + "]")
    assert [e["name"] for e in events] == ["dspy-bridge", "process_name", "m"]
    file.close()
    file.close()
    assert json.loads(path.read_text()) == events
    reactor.close()


# -- durations -------------------------------------------------------------------------------------


def test_durations_are_counted_in_buckets_that_add_up() -> None:
    timings = Timings()
    for milliseconds in range(1, 2_001):
        timings.add(milliseconds / 1000)
    found = timings.histogram()
    assert found["count"] == 2_000
    assert (found["buckets"]["0.001"], found["buckets"]["0.5"], found["buckets"]["300"]) == (1, 500, 2_000)
    assert found["sum_s"] == pytest.approx(2_001)
    assert timings.latest() == {"p50": 1501.0, "p90": 1901.0, "p99": 1991.0}


def test_there_are_no_percentiles_of_nothing() -> None:
    assert percentiles([]) == {50: None, 90: None, 99: None}
    assert Timings().latest() == {"p50": None, "p90": None, "p99": None}
