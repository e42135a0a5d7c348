"""Real ``dspy.LM`` objects in sessions, against a real OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.openai_endpoint import Delay, Drop, Error, Fields, Garbage, OpenAIEndpoint, Text

from dspy_bridge.client import Client, CommandFailed

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as made:
        yield made


def start(client: Client, session: str, endpoint: OpenAIEndpoint, *, key: str = SECRET, **lm: Any) -> None:
    config = {"model": "openai/test", "api_base": endpoint.url, "api_key": key, "num_retries": 0, **lm}
    client.call("start_session", {"lm": config}, session=session)
    client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)


def ask(client: Client, session: str, question: str = "why?", **fields: Any) -> Any:
    args = {"program_id": "qa", "inputs": {"question": question}, **fields}
    return client.call("execute_program", args, session=session)


def test_two_sessions_with_equal_prompts_never_share_an_answer_or_a_key(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    other = f"{session}-other"
    with OpenAIEndpoint() as second:
        start(daemon, session, endpoint, key="key-of-alice")
        start(daemon, other, second, key="key-of-bobby")
        opened = [
            daemon.start("execute_program", {"program_id": "qa", "inputs": {"question": "same"}}, session=name)
            for name in (session, other, session, other)
        ]
        answers = [daemon.finish(number)["outputs"]["answer"] for number in opened]
        assert answers[0] == answers[2]
        assert answers[1] == answers[3]
        assert "-alice" in answers[0]
        assert "-bobby" in answers[1]
        assert {one.api_key for one in endpoint.requests} == {"key-of-alice"}
        assert {one.api_key for one in second.requests} == {"key-of-bobby"}
        daemon.call("end_session", session=other)


def test_equal_prompts_of_one_session_are_answered_from_its_memory(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint)
    first, second = ask(daemon, session), ask(daemon, session)
    assert first["outputs"] == second["outputs"]
    assert len(endpoint.requests) == 1
    assert first["usage"]
    assert second["usage"] == {}
    ask(daemon, session, config={"cache": False})
    assert len(endpoint.requests) == 2


def test_ten_requests_of_a_session_share_one_connection_which_ends_with_it(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint, cache=False)
    for _ in range(10):
        ask(daemon, session)
    assert endpoint.connections == 1
    daemon.call("end_session", session=session)


@pytest.mark.parametrize(
    ("behaviour", "status", "retryable"),
    [
        (Error(401, "bad key"), 401, False),
        (Error(429, "slow down", {"Retry-After": "3"}), 429, True),
        (Error(500, "oops"), 500, True),
        (Error(400, "no"), 400, False),
        (Drop(), None, True),
    ],
)
def test_a_failure_of_the_endpoint_is_an_lm_error_that_says_which(
    daemon: Client, session: str, endpoint: OpenAIEndpoint, behaviour: Any, status: int | None, retryable: bool
) -> None:
    start(daemon, session, endpoint)
    endpoint.script(behaviour)
    with pytest.raises(CommandFailed) as failed:
        ask(daemon, session)
    error = failed.value.error
    assert error["code"] == "lm_error"
    assert error["details"]["status"] == status
    assert error["retryable"] is retryable
    assert SECRET not in str(error)
    assert ask(daemon, session)["outputs"]["answer"]


def test_an_endpoint_that_answers_no_json_is_an_lm_error(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint)
    endpoint.script(Garbage())
    with pytest.raises(CommandFailed, match="lm_error"):
        ask(daemon, session)


def test_a_slow_endpoint_runs_into_the_models_timeout(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    start(daemon, session, endpoint, timeout=0.3)
    endpoint.script(Delay(20))
    with pytest.raises(CommandFailed) as failed:
        ask(daemon, session)
    assert failed.value.error["details"]["kind"] == "timeout"


def test_a_request_timeout_stops_a_model_call(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    start(daemon, session, endpoint)
    endpoint.script(Delay(30))
    args = {"program_id": "qa", "inputs": {"question": "why?"}}
    number = daemon.start("execute_program", args, session=session, timeout_ms=300)
    assert daemon.reply(number)["error"]["code"] == "timeout"
    assert ask(daemon, session)["outputs"]["answer"]


def test_an_answer_that_does_not_fit_is_shown_as_it_came(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint)
    endpoint.script(Text("I would rather not."), Text("Still not."))
    with pytest.raises(CommandFailed) as failed:
        ask(daemon, session)
    error = failed.value.error
    assert error["code"] == "output_parse_error"
    assert error["details"]["lm_response"] == "Still not."
    assert error["details"]["first_attempt"]["lm_response"] == "I would rather not."
    assert error["details"]["expected_fields"] == ["answer"]


def test_typed_outputs_come_back_as_json_of_their_types(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    start(daemon, session, endpoint)
    signature = {
        "inputs": [{"name": "user-name", "type": "string"}],
        "outputs": [
            {"name": "score", "type": "number"},
            {"name": "tags", "type": "list[str]"},
            {"name": "class", "type": 'Literal["a", "b"]'},
            {
                "name": "person",
                "type": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
            },
        ],
    }
    daemon.call("create_program", {"id": "typed", "signature": signature}, session=session)
    endpoint.script(Fields({"score": 0.5, "tags": ["x"], "field_class": "b", "person": {"age": 7}}))
    args = {"program_id": "typed", "inputs": {"user-name": "ann"}}
    outputs = daemon.call("execute_program", args, session=session)["outputs"]
    assert outputs == {"score": 0.5, "tags": ["x"], "class": "b", "person": {"age": 7}}


def test_request_over_program_over_session_model(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    start(daemon, session, endpoint)
    own = {"model": "openai/own", "api_base": endpoint.url, "api_key": SECRET}
    daemon.call("create_program", {"id": "own", "signature": "question -> answer", "lm": own}, session=session)
    args = {"program_id": "own", "inputs": {"question": "q"}}
    assert "own" in daemon.call("execute_program", args, session=session)["outputs"]["answer"]
    once = {"model": "openai/once", "api_base": endpoint.url, "api_key": SECRET}
    assert "once" in daemon.call("execute_program", {**args, "lm": once}, session=session)["outputs"]["answer"]
    assert "own" in daemon.call("execute_program", args, session=session)["outputs"]["answer"]
    assert "test" in ask(daemon, session)["outputs"]["answer"]


def test_config_of_a_request_reaches_the_model_and_is_gone_afterwards(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint, cache=False)
    ask(daemon, session, config={"temperature": 0.25, "max_tokens": 7})
    endpoint.script(Error(500))
    with pytest.raises(CommandFailed):
        ask(daemon, session, config={"temperature": 0.5})
    ask(daemon, session)
    assert [one.body.get("temperature") for one in endpoint.requests] == [0.25, 0.5, None]


def test_a_key_given_for_one_request_is_in_no_error(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    start(daemon, session, endpoint)
    endpoint.script(Error(401, f"the key {SECRET}-once is wrong"))
    once = {"model": "openai/x", "api_base": endpoint.url, "api_key": f"{SECRET}-once", "num_retries": 0}
    with pytest.raises(CommandFailed) as failed:
        ask(daemon, session, lm=once)
    assert SECRET not in str(failed.value.error)
    assert "the key ***" in failed.value.error["message"]


def test_a_literal_key_is_in_no_answer_and_survives_a_crash(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    start(daemon, session, endpoint)
    configured = daemon.call(
        "configure_lm", {"model": "openai/test", "api_base": endpoint.url, "api_key": SECRET}, session=session
    )
    said = [configured, daemon.call("session_info", session=session), daemon.call("get_stats")]
    said.append(daemon.call("get_program_info", {"program_id": "qa"}, session=session))
    assert SECRET not in str(said)
    daemon.call("recycle_session", session=session)
    ask(daemon, session)
    assert endpoint.requests[-1].api_key == SECRET


def test_a_session_has_several_models_by_name(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    for name in ("fast", "wise"):
        lm = {"model": f"openai/{name}", "api_key": f"key-of-{name}", "api_base": endpoint.url, "name": name}
        said = daemon.call("configure_lm", lm, session=session)
        assert said == {"status": "configured", "model": f"openai/{name}", "name": name}
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer", "lm": "fast"}, session=session)
    ask = {"program_id": "qa", "inputs": {"question": "?"}}

    def answer(**more: object) -> str:
        return str(daemon.call("execute_program", {**ask, **more}, session=session)["outputs"]["answer"])

    assert answer().startswith("fast asked with ...")
    assert answer(lm="wise").startswith("wise asked with ...")
    daemon.call("recycle_session", session=session)
    assert answer(config={"temperature": 0.3}).startswith("fast asked with ...f-fast")
    moved = {"model": "openai/faster", "api_key": "key-of-fast", "api_base": endpoint.url, "name": "fast"}
    daemon.call("configure_lm", moved, session=session)
    assert answer().startswith("faster asked with")
    for wrong, code in (
        ({"lm": "slow"}, "lm_not_configured"),
        ({"lm": {"model": "@fast", "temperature": 1.0}}, "invalid_args"),
        ({"lm": 7}, "invalid_args"),
    ):
        reply = daemon.reply(daemon.start("execute_program", {**ask, **wrong}, session=session))
        assert reply["error"]["code"] == code, reply
    document = daemon.call("export_session", session=session)["document"]
    assert "key-of" not in str(document)
    other = f"{session}-moved"
    moved_in = daemon.call("import_session", {"document": document}, session=other)
    assert moved_in["missing"] == ["lm:fast.api_key", "lm:wise.api_key"]
    daemon.call("end_session", session=other)
