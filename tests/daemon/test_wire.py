"""What the daemon makes of a host's bytes, in both framings: good, odd and hostile."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.support.host import Host

FRAMINGS = ("lines", "packet4")


@pytest.fixture(scope="module", params=FRAMINGS)
def shared(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(request.param, ["--max-frame", str(1 << 20)]) as host:
        assert host.receive()["event"] == "ready"
        yield host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    yield shared
    assert shared.result("ping")["status"] == "ok", "the next request must work"


def test_the_first_frame_says_what_speaks(shared: Host) -> None:
    ready = shared.frames[0]
    assert ready["event"] == "ready"
    assert ready["protocol"] == 1
    assert ready["dspy_version"].startswith("3.")
    assert ready["max_frame"] == 1 << 20
    assert ready["framing"] == shared.framing


def refused(host: Host, body: bytes, code: str, number: Any = None) -> dict[str, Any]:
    host.send(body)
    frame = host.receive()
    assert frame["success"] is False
    assert frame["error"]["code"] == code, frame
    assert frame["id"] == number
    assert set(frame["error"]) == {"code", "message", "retryable", "details"}
    return frame["error"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"hello",
        b"{",
        b'{"id": 1,',
        b"\xff\xfe\xfd",
        b'{"id": 1, "command": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"id": NaN, "command": "ping"}',
        b"\x00\x01\x02",
        b'{"id":1,"command":"ping"}{"id":2,"command":"ping"}',
    ],
    ids=lambda b: repr(b[:12]),
)
def test_what_is_not_json_is_a_parse_error(host: Host, garbage: bytes) -> None:
    refused(host, garbage, "parse_error")


@pytest.mark.parametrize("body", [b"[]", b"7", b'"text"', b"null", b"true", b'[{"id":1,"command":"ping"}]'])
def test_json_that_is_no_object_is_an_invalid_request(host: Host, body: bytes) -> None:
    refused(host, body, "invalid_request")


@pytest.mark.parametrize("number", [b'""', b"null", b"1.5", b"true", b"[]", b"{}", b'"' + b"x" * 600 + b'"'])
def test_an_id_is_an_integer_or_a_short_string(host: Host, number: bytes) -> None:
    refused(host, b'{"id":' + number + b',"command":"ping"}', "invalid_request")


def test_a_request_without_an_id_is_refused(host: Host) -> None:
    refused(host, b'{"command":"ping"}', "invalid_request")


@pytest.mark.parametrize(
    "fields",
    [
        b'"command":7',
        b'"command":""',
        b'"x":1',
        b'"command":"ping","args":[]',
        b'"command":"ping","args":"x"',
        b'"command":"ping","session_id":7',
        b'"command":"ping","session_id":""',
        b'"command":"ping","session_id":"a\\u0000b"',
        b'"command":"ping","session_id":"a","args":{"session_id":"b"}',
        b'"command":"ping","timeout_ms":0',
        b'"command":"ping","timeout_ms":"soon"',
        b'"command":"ping","timeout_ms":-5',
    ],
)
def test_an_envelope_of_the_wrong_shape_is_refused_by_its_id(host: Host, fields: bytes) -> None:
    refused(host, b'{"id":5,' + fields + b"}", "invalid_request", 5)


def test_an_unknown_command_names_the_nearest(host: Host) -> None:
    error = refused(host, b'{"id":5,"command":"create_programm"}', "unknown_command", 5)
    assert "create_program" in error["message"]


def test_a_frame_over_the_limit_is_skipped_and_the_next_is_read(host: Host) -> None:
    before = psutil.Process(host.process.pid).memory_info().rss
    if host.framing == "lines":
        for _ in range(100):
            host.write(b"x" * (1 << 20))
        host.write(b"\n")
    else:
        host.write(struct.pack(">I", 100 << 20))
        for _ in range(100):
            host.write(b"x" * (1 << 20))
    frame = host.receive()
    assert frame["error"]["code"] == "frame_too_large"
    assert psutil.Process(host.process.pid).memory_info().rss - before < 32 << 20, "it must not be buffered"


def test_a_frame_just_within_the_limit_is_taken(host: Host) -> None:
    body = b'{"id":1,"command":"ping","pad":"' + b"x" * ((1 << 20) - 34) + b'"}'
    assert len(body) == 1 << 20
    host.send(body)
    assert host.receive()["success"]


def test_a_duplicate_id_is_refused_while_the_first_is_open(host: Host) -> None:
    host.send({"id": 9, "command": "start_session", "session_id": "dup"}, {"id": 9, "command": "ping"})
    codes = [frame.get("error", {}).get("code") for frame in (host.receive(), host.receive())]
    assert codes == ["duplicate_id", None]
    host.result("end_session", session_id="dup")


def test_ids_may_be_strings_and_are_given_back_as_they_came(host: Host) -> None:
    for number in ("a", "7", 7, -1, 2**53, "ü"):
        host.send({"id": number, "command": "ping"})
        assert host.receive()["id"] == number


def test_unknown_fields_of_the_envelope_are_ignored(host: Host) -> None:
    host.send({"id": 1, "command": "ping", "color": "blue", "traceparent": "00-0-0-00"})
    assert host.receive()["success"]


def test_lines_may_end_as_windows_writes_them_and_blank_ones_are_ignored(host: Host) -> None:
    if host.framing == "lines":
        host.write(b'\r\n\n  \n{"id":1,"command":"ping"}\r\n\r\n')
        assert host.receive()["success"]


def test_a_frame_may_come_byte_by_byte(host: Host) -> None:
    for byte in host.encode(b'{"id":1,"command":"ping"}'):
        host.write(bytes([byte]))
    assert host.receive()["id"] == 1


def test_a_late_answer_to_a_host_call_is_dropped_silently(host: Host) -> None:
    host.send({"call_id": "c-1", "success": True, "result": 1}, {"id": 2, "command": "ping"})
    assert host.receive()["id"] == 2


# configure_lm is not among them: it passes every further argument on to dspy.LM.
COMMANDS = [
    "hello",
    "ping",
    "list_commands",
    "start_session",
    "end_session",
    "cleanup_session",
    "list_sessions",
    "session_info",
    "recycle_session",
    "cancel",
    "get_stats",
    "configure",
    "create_program",
    "execute_program",
    "list_programs",
    "get_program_info",
    "delete_program",
    "clear_program",
    "reset_state",
    "cleanup",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_does_not_exist_is_named(host: Host, command: str) -> None:
    reply = host.ask(command, {"surely_not_an_argument": 1}, session_id="odd")
    assert reply["error"]["code"] == "invalid_args", reply
    assert any("surely_not_an_argument" in one["path"] for one in reply["error"]["details"]["errors"])


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("hello", {"protocol": "one"}, "args.protocol"),
    ("ping", {"deep": "yes"}, "args.deep"),
    ("start_session", {"env": {"A": 1}}, "args.env.A"),
    ("start_session", {"ttl_s": -1}, "args.ttl_s"),
    ("start_session", {"lm": {"model": ""}}, "args.lm.model"),
    ("start_session", {"cwd": "/nonexistent"}, "args.cwd"),
    ("cancel", {}, "args.request_id"),
    ("configure_lm", {}, "args.model"),
    ("configure_lm", {"model": 7}, "args.model"),
    ("configure_lm", {"model": "scripted", "temperature": "hot"}, "args.temperature"),
    ("configure_lm", {"model": "openai/"}, "lm"),
    ("configure_lm", {"model": "openai/x", "answers": []}, "lm.answers"),
    ("configure_lm", {"model": "openai/x", "callbacks": []}, "lm.callbacks"),
    ("configure", {"adapter": "yaml"}, "args.adapter"),
    ("configure", {"num_threads": 0}, "args.num_threads"),
    ("create_program", {"id": "x"}, "args.signature"),
    ("create_program", {"id": "", "signature": "a -> b"}, "args.id"),
    ("create_program", {"id": "x", "signature": 7}, "args.signature"),
    ("create_program", {"id": "x", "signature": "a b"}, "args.signature"),
    ("create_program", {"id": "x", "signature": "a -> b", "program_type": "magic"}, "args.program_type"),
    ("create_program", {"id": "x", "signature": "q: os.system -> a"}, "args.signature.inputs[0].type"),
    ("create_program", {"id": "x", "signature": {"inputs": [{"type": "str"}], "outputs": ["a"]}}, "inputs[0].name"),
    ("create_program", {"id": "x", "signature": "a -> b", "options": {"callbacks": 1}}, "args.options.callbacks"),
    ("execute_program", {"program_id": 7}, "args.program_id"),
    ("execute_program", {}, "args.program_id"),
    ("execute_program", {"program_id": "x", "inputs": []}, "args.inputs"),
]


@pytest.mark.parametrize(("command", "args", "path"), WRONG, ids=[f"{c}-{p}-{i}" for i, (c, _, p) in enumerate(WRONG)])
def test_a_wrong_argument_is_named_by_its_path(host: Host, command: str, args: dict[str, Any], path: str) -> None:
    reply = host.ask(command, args, session_id="wrong" if command != "start_session" else "never")
    assert reply["error"]["code"] == "invalid_args", reply
    assert any(path in one["path"] for one in reply["error"]["details"]["errors"]), reply


def test_json_rpc_is_answered_in_kind(host: Host) -> None:
    host.send({"jsonrpc": "2.0", "id": 1, "method": "ping"})
    reply = host.receive()
    assert reply["jsonrpc"] == "2.0"
    assert reply["result"]["status"] == "ok"
    host.send({"jsonrpc": "2.0", "id": 2, "method": "nope"})
    error = host.receive()["error"]
    assert error["code"] == -32601
    assert error["data"]["code"] == "unknown_command"
    host.send({"jsonrpc": "2.0", "id": 3, "method": "create_program", "params": {"signature": "a"}})
    assert host.receive()["error"]["code"] == -32602


def test_every_request_of_a_burst_is_answered_exactly_once(host: Host) -> None:
    numbers = list(range(1000, 3000))
    frames = [{"id": n, "command": "ping", "args": {"deep": True}, "session_id": f"b{n % 4}"} for n in numbers]
    seen: list[int] = []
    for start in range(0, len(frames), 500):
        host.send(*frames[start : start + 500])
        seen += [host.receive()["id"] for _ in range(500)]
    assert sorted(seen) == numbers
    for n in range(4):
        host.result("end_session", session_id=f"b{n}")
