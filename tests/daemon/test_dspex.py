"""A host written for the early DSPex bridge: its command line, its requests, the fields it reads."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.openai_endpoint import Fields, OpenAIEndpoint

from tests.support.host import Host

Frame = dict[str, Any]
QA = {
    "inputs": [{"name": "question", "description": "A question to answer"}],
    "outputs": [{"name": "answer", "description": "A concise answer"}],
}


class Old:
    """Sends what its GenServer sent: integer ids, a timestamp, everything in ``args``; takes only replies."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.last_id = 0

    def call(self, command: str, **args: Any) -> Frame:
        self.last_id += 1
        stamp = "2026-01-01T00:00:00Z"
        self.host.send({"id": self.last_id, "command": command, "args": args, "timestamp": stamp})
        frame = self.host.receive()
        # Its decoder knew nothing else: an integer id, success, and result or error.
        assert frame["id"] == self.last_id
        assert isinstance(frame["success"], bool)
        assert ("result" if frame["success"] else "error") in frame
        return frame

    def ask(self, command: str, **args: Any) -> Frame:
        frame = self.call(command, **args)
        assert frame["success"], frame
        result: Frame = frame["result"]
        return result


@pytest.fixture
def old() -> Any:
    with OpenAIEndpoint() as endpoint, Host("packet4", ["--no-ready", "--allow-import", "tests.support"]) as host:
        host_of_old = Old(host)
        host_of_old.endpoint = endpoint  # type: ignore[attr-defined]
        yield host_of_old


def scripted(old: Old) -> None:
    old.ask("configure_lm", model="scripted", answers=[{"answer": "Paris"}])


def test_the_fourteen_commands_answer_with_the_fields_it_reads(old: Old) -> None:
    ping = old.ask("ping")
    assert ping["status"] == "ok"
    assert isinstance(ping["uptime"], float)
    assert isinstance(ping["timestamp"], float)
    assert ping["dspy_available"]
    assert ping["gemini_available"]

    told = old.ask("configure_lm", model="gemini-1.5-flash", api_key="k", temperature=0.7, provider="google")
    assert told == {"status": "configured", "model": "gemini-1.5-flash", "provider": "google", "temperature": 0.7}
    scripted(old)

    made = old.ask("create_program", id="qa", signature=QA, modules=[], use_dynamic_signature=True)
    assert (made["program_id"], made["status"], made["program_type"]) == ("qa", "created", "predict")
    assert made["signature"]
    done = old.ask("execute_program", program_id="qa", inputs={"question": "?"}, options={"temperature": 0.1})
    assert done["outputs"] == {"answer": "Paris"}
    assert 0 < done["execution_time"] < 5

    made = old.ask("create_gemini_program", id="g", signature=QA, model="scripted")
    assert (made["program_id"], made["status"], made["type"], made["model_name"]) == (
        "g",
        "created",
        "gemini",
        "scripted",
    )
    done = old.ask("execute_gemini_program", program_id="g", inputs={"question": "?"})
    assert done["program_id"] == "g"
    assert done["outputs"]["answer"] in done["raw_response"]

    listed = old.ask("list_programs")
    assert listed["total_count"] == 2
    assert [one["id"] for one in listed["programs"]] == ["qa", "g"]
    assert {"created_at", "execution_count", "last_executed", "signature"} <= listed["programs"][0].keys()
    info = old.ask("get_program_info", program_id="qa")
    assert (info["program_id"], info["execution_count"]) == ("qa", 1)
    assert info["created_at"] <= info["last_executed"]

    stats = old.ask("get_stats")
    assert (stats["programs_count"], stats["error_count"]) == (2, 0)
    assert stats["command_count"] == old.last_id
    assert isinstance(stats["uptime"], float)
    assert stats["memory_usage"]["rss"] > 0
    assert {"vms", "percent"} <= stats["memory_usage"].keys()

    assert old.ask("delete_program", program_id="g") == {"program_id": "g", "status": "deleted"}
    cleaned = old.ask("cleanup")
    assert (cleaned["status"], cleaned["programs_removed"]) == ("cleaned", 0)
    reset = old.ask("reset_state")
    assert (reset["status"], reset["programs_cleared"]) == ("reset", 1)
    old.ask("create_program", id="qa", signature=QA, session_id="pooled")
    ended = old.ask("cleanup_session", session_id="pooled")
    assert (ended["status"], ended["session_id"], ended["programs_removed"]) == ("ended", "pooled", 1)

    assert old.ask("shutdown")["status"] == "shutting_down"
    assert old.host.process.wait(10) == 0


def test_a_gemini_program_runs_on_google_with_its_key(old: Old) -> None:
    # Google's own endpoint is not here: the model is what would be called, and the lack of its key is said.
    frame = old.call("create_gemini_program", id="g", signature=QA)
    assert frame["error"]["code"] == "lm_not_configured"
    assert "GEMINI_API_KEY" in frame["error"]["message"]
    old.ask("start_session", session_id="keyed", env={"GEMINI_API_KEY": "k"})
    made = old.ask("create_gemini_program", id="g", signature=QA, session_id="keyed")
    assert made["model_name"] == "gemini-1.5-flash"
    info = old.ask("get_program_info", program_id="g", session_id="keyed")
    assert info["lm"] == {"model": "gemini/gemini-1.5-flash", "api_key_env": "GEMINI_API_KEY"}


def test_a_provider_names_the_model_that_is_called(old: Old) -> None:
    endpoint: OpenAIEndpoint = old.endpoint  # type: ignore[attr-defined]
    endpoint.on("", Fields({"answer": "from the endpoint"}))
    old.ask("configure_lm", model="m", provider="openai", api_key="k", api_base=endpoint.url)
    old.ask("create_program", id="qa", signature=QA)
    assert (
        old.ask("execute_program", program_id="qa", inputs={"question": "?"})["outputs"]["answer"]
        == "from the endpoint"
    )
    assert endpoint.requests[0].body["model"] == "m"


def test_its_faults_are_gone(old: Old) -> None:
    scripted(old)
    # Errors inside successes; silence on bad input; another signature than the one asked for.
    assert old.call("configure_lm", api_key="k")["error"]["code"] == "invalid_args"
    old.host.send(b"not json")
    assert old.host.receive()["error"]["code"] == "parse_error"
    old.host.send({"id": 99})
    assert old.host.receive()["error"]["code"] == "invalid_request"
    assert old.call("create_program", id="x", signature={"inputs": [{"description": "nameless"}]})["success"] is False
    # An unknown kind was made a Predict, and types were ignored.
    assert old.call("create_program", id="x", signature=QA, program_type="magic")["error"]["code"] == "invalid_args"
    typed = {"inputs": [{"name": "n", "type": "integer"}], "outputs": [{"name": "answer", "type": "str"}]}
    old.ask("create_program", id="typed", signature=typed)
    assert "inputs.n" in old.call("execute_program", program_id="typed", inputs={"n": "x"})["error"]["message"]
    assert old.call("create_program", id="typed", signature=QA)["error"]["code"] == "program_exists"
    assert old.ask("get_stats")["error_count"] == 5


def test_nothing_comes_unasked_until_the_host_says_hello(old: Old) -> None:
    scripted(old)
    options = {"module": "tests.support.custom_program:Talkative"}
    old.ask("create_program", id="loud", program_type="custom", signature=QA, options=options)
    old.ask("execute_program", program_id="loud", inputs={"question": "?"})  # what it prints is not told
    old.ask("hello")
    old.host.send(
        {"id": 1000, "command": "execute_program", "args": {"program_id": "loud", "inputs": {"question": "?"}}}
    )
    assert old.host.receive()["event"] == "log"
    assert old.host.reply_to(1000)["success"]
