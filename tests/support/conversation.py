"""A conversation with a bit of everything, for recordings: ``python -m tests.support.conversation FILE`` makes
the one in ``fixtures/recordings``."""

from __future__ import annotations

import sys
from typing import Any

from tests.support.host import Host

Frame = dict[str, Any]
KEY = "sk-planted-0123456789"
SEARCH = {
    "name": "search",
    "description": "Finds.",
    "args": {"type": "object", "properties": {"q": {"type": "string"}, "token": {"type": "string"}}},
}


def written(**fields: str) -> str:
    """An answer as DSPy's chat adapter reads it."""
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items()), "[[ ## completed ## ]]"])


def _serve(host: Host, number: Any, answers: dict[str, list[Any]]) -> Frame:
    """Answer calls until the request is answered."""
    while True:
        frame = host.receive()
        if "call_id" in frame:
            answer = answers[frame["call"]].pop(0)
            host.send({"call_id": frame["call_id"], "success": True, "result": answer})
        elif frame.get("id") == number and "event" not in frame:
            return frame


def hold(host: Host) -> None:
    """Streaming, an error, a tool and a model of the host's, a cancel, two sessions, a malformed frame."""
    lm = {"model": "scripted", "api_key": KEY, "answers": [{"answer": "one two three"}, {"answer": "four"}]}
    qa = {"id": "qa", "signature": "question -> answer"}
    host.result("start_session", {"lm": lm, "env": {"SOME_TOKEN": KEY + "-env"}}, session_id="a")
    host.result("create_program", qa, session_id="a")
    ask = {"program_id": "qa", "inputs": {"question": "?"}}
    assert host.result("execute_program", {**ask, "stream": True}, session_id="a")["outputs"]
    assert host.ask("execute_program", {"program_id": "nope"}, session_id="a")["error"]["code"] == "program_not_found"
    host.send(b'{"id": 5, "command": ', b"[]")
    assert host.receive()["error"]["code"] == "parse_error"
    assert host.receive()["error"]["code"] == "invalid_request"

    made_up = host.result("start_session", {"lm": {"model": "host/mine"}})["session_id"]
    agent = {"id": "agent", "signature": "question -> answer", "program_type": "react", "tools": [SEARCH]}
    host.result("create_program", agent, session_id=made_up)
    host.send({"id": 9, "command": "execute_program", "session_id": made_up, "args": {**ask, "program_id": "agent"}})
    steps = [
        written(next_thought="look", next_tool_name="search", next_tool_args='{"q": "louvre", "token": "t"}'),
        written(next_thought="done", next_tool_name="finish", next_tool_args="{}"),
        written(reasoning="found", answer="Paris"),
    ]
    reply = _serve(host, 9, {"lm": steps, "tool": ["It is in Paris."]})
    assert reply["result"]["outputs"]["answer"] == "Paris", reply

    slow = {**ask, "stream": True, "lm": {"model": "scripted", "delay_ms": 60_000}}
    host.send({"id": 10, "command": "execute_program", "session_id": "a", "args": slow})
    while host.receive().get("data", {}).get("status") != "lm_called":
        pass
    assert host.result("cancel", {"request_id": 10})["status"] == "cancelling"
    host.reply_to(10)
    host.result("set_state", {"key": "password", "value": "hunter2-and-more"}, session_id="a")
    assert host.result("get_state", {"key": "password"}, session_id="a")["found"]
    assert host.ask("nope", {"said": f"hunter2-and-more and {KEY}"}, session_id=made_up)["success"] is False
    host.send({"jsonrpc": "2.0", "id": "rpc", "method": "execute_program", "params": {**ask, "session_id": "a"}})
    host.reply_to("rpc")
    host.result("end_session", session_id=made_up)


def main(file: str) -> None:
    with Host(arguments=["--record", file, "--spares", "1"]) as host:
        host.receive()
        hold(host)


if __name__ == "__main__":
    main(sys.argv[1])
