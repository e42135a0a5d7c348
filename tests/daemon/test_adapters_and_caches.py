"""How prompts are laid out, and whose answers a cache may give, against a real endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.openai_endpoint import Fields, OpenAIEndpoint, Text

from dspy_bridge.client import Client, CommandFailed

Frame = dict[str, Any]
ASK = {"program_id": "qa", "inputs": {"question": "Where?"}}


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as made:
        yield made


def model(endpoint: OpenAIEndpoint, name: str = "m", key: str = "k", **more: Any) -> Frame:
    return {"model": f"openai/{name}", "api_base": endpoint.url, "api_key": key, "num_retries": 0, **more}


def begin(client: Client, session: str, endpoint: OpenAIEndpoint, **lm: Any) -> None:
    client.call("configure_lm", model(endpoint, **lm), session=session)
    client.call("create_program", {"id": "qa", "signature": "question -> answer: int"}, session=session)


def answer(client: Client, session: str, **more: Any) -> Any:
    return client.call("execute_program", {**ASK, **more}, session=session)["outputs"]["answer"]


# -- adapters --------------------------------------------------------------------------------------


def test_a_named_model_reads_what_another_has_answered_freely(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    begin(daemon, session, endpoint, name="thinker")
    daemon.call("configure_lm", {**model(endpoint, "reader"), "name": "reader"}, session=session)
    daemon.call("configure", {"adapter": {"name": "two_step", "extraction_lm": "reader"}}, session=session)
    endpoint.script(Text("I would say it is forty-two, all told."), Fields({"answer": 42}))
    assert answer(daemon, session) == 42
    assert [one.body["model"] for one in endpoint.requests] == ["thinker", "reader"]
    assert "forty-two" in str(endpoint.requests[1].body["messages"])


def test_the_same_model_reads_it_where_no_other_is_named(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    begin(daemon, session, endpoint)
    endpoint.script(Text("Seven."), Fields({"answer": 7}))
    assert answer(daemon, session, config={"adapter": "two_step"}) == 7


def test_a_reader_that_is_not_configured_is_named(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    begin(daemon, session, endpoint)
    endpoint.script(Text("Seven."))
    with pytest.raises(CommandFailed) as failed:
        answer(daemon, session, config={"adapter": {"name": "two_step", "extraction_lm": "reader"}})
    assert failed.value.error["code"] == "lm_not_configured"
    assert "reader" in failed.value.error["message"]


@pytest.mark.parametrize(("fallback", "calls"), [(True, 2), (False, 1)])
def test_options_of_an_adapter_hold(
    daemon: Client, session: str, endpoint: OpenAIEndpoint, fallback: bool, calls: int
) -> None:
    begin(daemon, session, endpoint)
    adapter = {"name": "chat", "use_json_adapter_fallback": fallback}
    told = daemon.call("configure", {"adapter": adapter}, session=session)
    assert told["settings"]["adapter"] == adapter
    endpoint.script(Text("nothing of the kind"), Text("nor this"))
    with pytest.raises(CommandFailed) as failed:
        answer(daemon, session)
    assert failed.value.error["code"] == "output_parse_error"
    assert len(endpoint.requests) == calls


@pytest.mark.parametrize("adapter", ["chat", "json", "xml", "baml", "two_step"])
def test_every_adapter_gets_an_answer_and_survives_a_fresh_interpreter(
    daemon: Client, session: str, endpoint: OpenAIEndpoint, adapter: str
) -> None:
    begin(daemon, session, endpoint, cache=False)
    daemon.call("configure", {"adapter": adapter}, session=session)
    daemon.call("recycle_session", session=session)
    if adapter == "two_step":
        endpoint.script(Text("It is 5."), Fields({"answer": 5}))
    else:
        endpoint.script(Fields({"answer": 5}))
    assert answer(daemon, session) == 5


@pytest.mark.parametrize(
    ("adapter", "path"),
    [
        ("yaml", "args.adapter.name"),
        ({"name": "json", "use_json_adapter_fallback": True}, "args.adapter.use_json_adapter_fallback"),
        ({"name": "chat", "extraction_lm": "small"}, "args.adapter.extraction_lm"),
        ({"name": "chat", "fallback": True}, "args.adapter.fallback"),
    ],
)
def test_what_is_no_adapter_is_refused_and_nothing_changes(
    daemon: Client, session: str, adapter: Any, path: str
) -> None:
    before = daemon.call("configure", {}, session=session)["settings"]
    with pytest.raises(CommandFailed) as failed:
        daemon.call("configure", {"adapter": adapter, "num_threads": 3}, session=session)
    assert failed.value.error["code"] == "invalid_args"
    assert failed.value.error["details"]["errors"][0]["path"] == path
    assert daemon.call("configure", {}, session=session)["settings"] == before


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [True, False], ids=["reasons by itself", "reasons in its answer"])
def test_reasoning_is_streamed_as_it_comes(
    daemon: Client, session: str, endpoint: OpenAIEndpoint, native: bool
) -> None:
    name = "deepseek/deepseek-reasoner" if native else "openai/plain"
    daemon.call("configure_lm", {**model(endpoint), "model": name}, session=session)
    signature = "question -> thought: Reasoning, answer"
    daemon.call("create_program", {"id": "qa", "signature": signature}, session=session)
    thought = "The Louvre is a museum, and it stands in Paris."
    values = {"answer": "In Paris."} if native else {"thought": thought, "answer": "In Paris."}
    endpoint.script(Fields(values, thought=thought if native else ""))
    events: list[Frame] = []
    daemon.on_event = events.append
    outputs = daemon.call("execute_program", {**ASK, "stream": True}, session=session)["outputs"]
    daemon.on_event = None
    assert outputs["thought"]["content"].strip() == thought
    tokens = [one["data"] for one in events if one["event"] == "token"]
    for field, whole in (("thought", thought), ("answer", "In Paris.")):
        pieces = [one["text"] for one in tokens if one["field"] == field]
        assert len(pieces) > 1
        assert "".join(pieces).strip() == whole
    assert not any("whole" in one for one in tokens)


# -- caches ----------------------------------------------------------------------------------------


def test_a_session_tells_apart_the_endpoints_and_keys_of_one_models_name(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    with OpenAIEndpoint() as second:
        begin(daemon, session, endpoint)
        for where in (endpoint, second):
            where.on("", Fields({"answer": 1 if where is endpoint else 2}))
        assert answer(daemon, session) == 1
        assert answer(daemon, session, lm=model(second)) == 2
        assert answer(daemon, session, lm=model(endpoint, key="another")) == 1
        assert answer(daemon, session, lm=model(endpoint)) == 1
        assert [len(one.requests) for one in (endpoint, second)] == [2, 1]


def test_a_shared_cache_answers_other_sessions_with_the_same_endpoint_and_key_and_no_one_else(
    folder: Path, endpoint: OpenAIEndpoint
) -> None:
    flags = ["--shared-cache", str(folder / "answers")]
    endpoint.on("", Fields({"answer": 1}))

    def ask(client: Client, session: str, cache: Any, key: str = "k") -> int:
        """How often the endpoint was asked for this one answer."""
        before = len(endpoint.requests)
        client.call("start_session", {"settings": {"cache": cache}}, session=session)
        begin(client, session, endpoint, key=key)
        assert answer(client, session) == 1
        assert answer(client, session) == 1
        return len(endpoint.requests) - before

    with Client.spawn(flags) as client:
        assert ask(client, "a", "shared") == 1
        assert ask(client, "b", "shared") == 0
        assert ask(client, "another key", "shared", key="other") == 1
        assert ask(client, "its own memory", True) == 1
        assert ask(client, "none", False) == 2
    with Client.spawn(flags) as client:
        assert ask(client, "c", "shared") == 0
    kept = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert endpoint.url.encode() not in kept


def test_a_shared_cache_is_the_operators_to_offer(daemon: Client, session: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        daemon.call("configure", {"cache": "shared"}, session=session)
    assert failed.value.error["code"] == "unsupported"
    assert "--shared-cache" in failed.value.error["message"]
