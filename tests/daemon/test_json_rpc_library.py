"""JSON-RPC 2.0 as libraries speak it that nobody here wrote: one asks the daemon, one answers it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from jsonrpc import JSONRPCResponseManager
from jsonrpcclient import Error, Ok, parse_json, request_json

from dspy_bridge.protocol.errors import ERRORS
from tests.support.host import Host

Frame = dict[str, Any]


class Peer:
    """Requests and their answers through the libraries; what the daemon asks is dispatched to ``methods``."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.methods: dict[str, Any] = {}
        self.notified: list[Frame] = []

    def call(self, method: str, params: Frame | None = None) -> Ok | Error:
        self.host.send(request_json(method, params=params or {}).encode())
        while True:
            frame = self.host.receive()
            assert frame["jsonrpc"] == "2.0"
            if "method" not in frame:
                answer = parse_json(orjson.dumps(frame).decode())
                assert isinstance(answer, (Ok, Error))
                return answer
            if "id" in frame:
                self._serve(frame)
            else:
                self.notified.append(frame)

    def _serve(self, frame: Frame) -> None:
        answer = JSONRPCResponseManager.handle(orjson.dumps(frame).decode(), self.methods)
        self.host.send(answer.json.encode())

    def ask(self, method: str, params: Frame | None = None) -> Any:
        answer = self.call(method, params)
        assert isinstance(answer, Ok), answer
        return answer.result


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with Host("lines", ["--no-ready"]) as host:
        yield host


@pytest.fixture
def peer(host: Host) -> Iterator[Peer]:
    peer = Peer(host)
    yield peer
    peer.ask("end_session", {"session_id": "default"})


def test_a_library_makes_and_runs_a_program(peer: Peer) -> None:
    peer.ask("configure_lm", {"model": "scripted", "answers": [{"answer": "Paris"}]})
    peer.ask("create_program", {"id": "qa", "signature": "question -> answer"})
    asked = {"program_id": "qa", "inputs": {"question": "?"}, "stream": True}
    assert peer.ask("execute_program", asked)["outputs"] == {"answer": "Paris"}
    events = [one["params"] for one in peer.notified]
    assert {one["method"] for one in peer.notified} == {"event"}
    assert [one["seq"] for one in events] == list(range(len(events)))
    assert "".join(one["data"]["text"] for one in events if one["event"] == "token").strip() == "Paris"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no_such_command", {}, "unknown_command"),
        ("create_program", {"signature": 7}, "invalid_args"),
        ("execute_program", {"program_id": "none"}, "program_not_found"),
    ],
)
def test_a_library_reads_its_errors(peer: Peer, method: str, params: Frame, code: str) -> None:
    answer = peer.call(method, params)
    assert isinstance(answer, Error)
    assert answer.code == ERRORS[code].rpc
    assert answer.message
    assert answer.data["code"] == code


def test_a_library_serves_what_programs_ask_their_host(peer: Peer) -> None:
    asked: list[Frame] = []

    def host_call(**params: Any) -> str:
        asked.append(params)
        return "[[ ## answer ## ]]\nfrom the library\n\n[[ ## completed ## ]]"

    peer.methods["host_call"] = host_call
    peer.ask("configure_lm", {"model": "host/mine"})
    peer.ask("create_program", {"id": "qa", "signature": "question -> answer"})
    done = peer.ask("execute_program", {"program_id": "qa", "inputs": {"question": "?"}})
    assert done["outputs"] == {"answer": "from the library"}
    assert (asked[0]["call"], asked[0]["name"]) == ("lm", "mine")


def test_what_the_library_refuses_is_the_programs_error(peer: Peer) -> None:
    peer.ask("configure_lm", {"model": "host/mine"})
    peer.ask("create_program", {"id": "qa", "signature": "question -> answer"})
    answer = peer.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}})
    assert isinstance(answer, Error)
    assert answer.data["code"] == "host_call_failed"
    assert "Method not found" in answer.message
