"""The host as model and as toolbox: programs ask, the host answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from dspy_bridge.client import Client, CommandFailed
from tests.support.host import Host, serving

QA = {"id": "qa", "signature": "question -> answer"}
ASK = {"program_id": "qa", "inputs": {"question": "Where is the Louvre?"}}
Frame = dict[str, Any]


def written(**fields: str) -> str:
    """An answer as DSPy's chat adapter reads it."""
    sections = [f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


@pytest.fixture
def hosted(daemon: Client, session: str) -> Iterator[Client]:
    """The shared daemon, with a session whose model is this test."""
    daemon.call("configure_lm", {"model": "host/tester", "temperature": 0.5}, session=session)
    daemon.call("create_program", QA, session=session)
    yield daemon
    daemon.on_call = daemon.on_event = None


def test_the_hosts_model_gets_a_chat_completion_and_its_text_is_the_answer(hosted: Client, session: str) -> None:
    asked: list[Frame] = []

    def serve(frame: Frame) -> str:
        asked.append(frame)
        return written(answer="Paris")

    hosted.on_call = serve
    assert hosted.call("execute_program", ASK, session=session)["outputs"] == {"answer": "Paris"}
    (frame,) = asked
    assert (frame["call"], frame["name"], frame["session_id"]) == ("lm", "tester", session)
    assert [one["role"] for one in frame["args"]["messages"]] == ["system", "user"]
    assert "Louvre" in frame["args"]["messages"][1]["content"]
    assert (frame["args"]["model"], frame["args"]["temperature"]) == ("tester", 0.5)


@pytest.mark.parametrize("whole", [False, True], ids=["text and usage", "chat completion"])
def test_usage_the_host_reports_is_the_programs(hosted: Client, session: str, whole: bool) -> None:
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    text = written(answer="Paris")
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    hosted.on_call = lambda frame: {"choices": [message], "usage": usage} if whole else {"text": text, "usage": usage}
    result = hosted.call("execute_program", ASK, session=session)
    (used,) = result["usage"].values()
    assert (used["prompt_tokens"], used["completion_tokens"], used["total_tokens"]) == (11, 5, 16)


def test_an_agent_uses_tools_that_live_in_the_host(hosted: Client, session: str) -> None:
    tools = [
        {
            "name": "search",
            "description": "Finds.",
            "args": {"type": "object", "properties": {"q": {"type": "string"}}},
        },
        {"name": "add", "description": "Adds.", "args": {"properties": {"a": {"type": "integer"}, "b": {}}}},
    ]
    hosted.call(
        "create_program",
        {"id": "agent", "signature": "question -> answer", "program_type": "react", "tools": tools},
        session=session,
    )
    steps = [
        written(next_thought="look", next_tool_name="search", next_tool_args='{"q": "louvre"}'),
        written(next_thought="sum", next_tool_name="add", next_tool_args='{"a": 2, "b": 3}'),
        written(next_thought="broken", next_tool_name="search", next_tool_args='{"q": "fail"}'),
        written(next_thought="wrong", next_tool_name="add", next_tool_args='{"a": "two", "b": 3}'),
        written(next_thought="done", next_tool_name="finish", next_tool_args="{}"),
        written(reasoning="I looked", answer="Paris, 5"),
    ]
    used: list[tuple[str, Any]] = []
    prompts: list[str] = []

    def serve(frame: Frame) -> Any:
        if frame["call"] == "lm":
            prompts.append(frame["args"]["messages"][-1]["content"])
            return steps[len(prompts) - 1]
        used.append((frame["name"], frame["args"]))
        if frame["args"] == {"q": "fail"}:
            raise RuntimeError("the index is down")
        return {"found": "Paris"} if frame["name"] == "search" else frame["args"]["a"] + frame["args"]["b"]

    hosted.on_call = serve
    result = hosted.call("execute_program", {**ASK, "program_id": "agent"}, session=session)
    assert result["outputs"]["answer"] == "Paris, 5"
    assert used == [("search", {"q": "louvre"}), ("add", {"a": 2, "b": 3}), ("search", {"q": "fail"})]
    observed = result["outputs"]["trajectory"]
    assert observed["observation_0"] == '{"found":"Paris"}'
    assert observed["observation_1"] == "5"
    assert "the index is down" in observed["observation_2"]
    assert "Traceback" not in observed["observation_2"]
    assert observed["observation_3"] == "Error: Arg a is invalid: 'two' is not of type 'integer'"
    hosted.call("recycle_session", session=session)  # the tools are part of the session's state
    prompts.clear()
    assert hosted.call("execute_program", {**ASK, "program_id": "agent"}, session=session)["outputs"]["answer"]


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(hosted: Client, session: str) -> None:
    open_calls: list[Frame] = []
    number = hosted.start(
        "execute_batch",
        {"program_id": "qa", "inputs": [{"question": f"~{n}~"} for n in range(8)], "max_concurrency": 8},
        session=session,
    )
    while len(open_calls) < 8:  # all eight are waiting before the first is answered
        frame = hosted.receive(10)
        if "call_id" in frame:
            open_calls.append(frame)
    for frame in reversed(open_calls):
        asked = frame["args"]["messages"][-1]["content"].split("~")[1]
        answer = {"call_id": frame["call_id"], "success": True, "result": written(answer=f"of {asked}")}
        hosted.send(orjson.dumps(answer))
    results = hosted.finish(number)["results"]
    assert [one["outputs"]["answer"] for one in results] == [f"of {n}" for n in range(8)]


def test_a_host_that_fails_is_named(hosted: Client, session: str) -> None:
    def serve(frame: Frame) -> str:
        raise ValueError("out of quota")

    hosted.on_call = serve
    with pytest.raises(CommandFailed) as failed:
        hosted.call("execute_program", ASK, session=session)
    assert "out of quota" in failed.value.error["message"]
    assert failed.value.code == "host_call_failed"
    assert failed.value.error["details"]["why"] == "error"


@pytest.fixture(scope="module")
def opened() -> Iterator[Host]:
    with Host() as host:
        host.receive()
        yield host


@pytest.fixture
def host(opened: Host) -> Iterator[Host]:
    """One that speaks for itself, frame by frame, and has no session."""
    yield opened
    opened.result("end_session", session_id="default")


def test_a_host_that_says_nothing_is_not_waited_for_for_ever(host: Host) -> None:
    host.result("configure_lm", {"model": "host", "timeout": 0.3})
    host.result("create_program", QA)
    host.send({"id": 1, "command": "execute_program", "args": ASK})
    call = host.receive()
    reply = host.reply_to(1)
    assert "did not answer within 0.3 s" in reply["error"]["message"]
    # What comes late, or was never asked for, is dropped; the next request is served.
    for call_id in (call["call_id"], "c-999", 7, None):
        host.send({"call_id": call_id, "success": True, "result": written(answer="late")})
    assert host.result("ping")["status"] == "ok"
    host.send({"id": 2, "command": "execute_program", "args": ASK})
    again = host.receive()
    assert again["call_id"] != call["call_id"]
    host.send({"call_id": again["call_id"], "success": True, "result": written(answer="in time")})
    assert host.reply_to(2)["result"]["outputs"] == {"answer": "in time"}


def test_a_cancelled_requests_calls_die_with_it(host: Host) -> None:
    host.result("configure_lm", {"model": "host"})
    host.result("create_program", QA)
    host.send({"id": 1, "command": "execute_program", "args": ASK})
    call = host.receive()
    host.send({"id": 2, "command": "cancel", "args": {"request_id": 1}})
    assert host.reply_to(1)["error"]["code"] == "cancelled"
    host.send({"call_id": call["call_id"], "success": True, "result": written(answer="too late")})
    host.send({"id": 3, "command": "execute_program", "args": ASK})
    host.send({"call_id": host.receive()["call_id"], "success": True, "result": written(answer="fresh")})
    assert host.reply_to(3)["result"]["outputs"] == {"answer": "fresh"}


def test_a_json_rpc_host_is_asked_in_json_rpc(host: Host) -> None:
    host.send({"jsonrpc": "2.0", "id": 1, "method": "configure_lm", "params": {"model": "host"}})
    host.send({"jsonrpc": "2.0", "id": 2, "method": "create_program", "params": QA})
    host.send({"jsonrpc": "2.0", "id": 3, "method": "execute_program", "params": ASK})
    while "method" not in (frame := host.receive()):
        pass
    assert (frame["jsonrpc"], frame["method"], frame["params"]["call"]) == ("2.0", "host_call", "lm")
    assert frame["params"]["id"] == 3
    host.send({"jsonrpc": "2.0", "id": frame["id"], "result": written(answer="Paris")})
    assert host.reply_to(3)["result"]["outputs"] == {"answer": "Paris"}
    host.send({"jsonrpc": "2.0", "id": 4, "method": "execute_program", "params": ASK})
    host.send({"jsonrpc": "2.0", "id": host.receive()["id"], "error": {"code": 1, "message": "no more"}})
    assert "no more" in host.reply_to(4)["error"]["message"]


def test_a_host_that_leaves_ends_what_asks_it_and_the_session_serves_others(folder: Path) -> None:
    with serving(folder / "s") as path:
        leaving = Client.connect(path)
        leaving.call("configure_lm", {"model": "host"}, session="shared")
        leaving.call("create_program", QA, session="shared")
        leaving.start("execute_program", ASK, session="shared")
        assert "call_id" in leaving.receive(10)
        leaving.close()
        with Client.connect(path, on_call=lambda frame: written(answer="Paris, says another")) as staying:
            found = staying.call("execute_program", ASK, session="shared")
            assert found["outputs"] == {"answer": "Paris, says another"}
            assert staying.call("list_programs", session="shared")["programs"][0]["execution_count"] == 1


# -- streaming -------------------------------------------------------------------------------------


def test_what_the_host_streams_arrives_field_by_field(hosted: Client, session: str) -> None:
    events: list[Frame] = []
    hosted.on_event = events.append

    def serve(frame: Frame) -> str:
        text = written(reasoning="Because it is", answer="in Paris, by the river")
        for at in range(0, len(text), 5):
            piece = {"call_id": frame["call_id"], "event": "token", "data": {"text": text[at : at + 5]}}
            hosted.send(orjson.dumps(piece))
        return text

    hosted.on_call = serve
    hosted.call(
        "create_program",
        {"id": "cot", "signature": "question -> answer", "program_type": "chain_of_thought"},
        session=session,
    )
    asked = {**ASK, "program_id": "cot", "stream": True}
    result = hosted.call("execute_program", asked, session=session)
    tokens = [one["data"] for one in events if one["event"] == "token"]
    for field in ("reasoning", "answer"):
        pieces = [one["text"] for one in tokens if one["field"] == field]
        assert len(pieces) > 2
        assert "".join(pieces).strip() == result["outputs"][field]
    assert not any("whole" in one for one in tokens)
    assert [one["seq"] for one in events] == list(range(len(events)))
    assert {"module_started", "lm_called"} <= {one["data"]["status"] for one in events if one["event"] == "status"}
    events.clear()
    hosted.call("execute_program", {**asked, "stream": ["answer"]}, session=session)
    assert {one["data"]["field"] for one in events if one["event"] == "token"} == {"answer"}


def test_what_cannot_stream_comes_as_one_honest_event(daemon: Client, session: str) -> None:
    events: list[Frame] = []
    daemon.on_event = events.append
    lm = {"model": "scripted", "answers": [{"answer": "Paris", "score": 7}]}
    daemon.call("configure_lm", lm, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer, score: int"}, session=session)
    for adapter in ("chat", "json", "xml", "baml"):
        events.clear()
        daemon.call("configure", {"adapter": adapter}, session=session)
        daemon.call("execute_program", {**ASK, "stream": True}, session=session)
        texts: dict[str, str] = {}
        for one in events:
            if one["event"] == "token":
                texts[one["data"]["field"]] = texts.get(one["data"]["field"], "") + one["data"]["text"]
        assert {name: text.strip() for name, text in texts.items()} == {"answer": "Paris", "score": "7"}, adapter
    daemon.on_event = None


def test_a_field_that_does_not_exist_cannot_be_streamed(hosted: Client, session: str) -> None:
    with pytest.raises(CommandFailed, match="has no field 'anser'"):
        hosted.call("execute_program", {**ASK, "stream": ["anser"]}, session=session)
