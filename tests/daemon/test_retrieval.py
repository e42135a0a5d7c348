"""Programs that look things up by the nearness of vectors, and the embedders that make those."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import numpy
import pytest
from fixtures.openai_endpoint import Error, OpenAIEndpoint

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.worker.embedders import build_embedder
from dspy_bridge.worker.host import Host

Frame = dict[str, Any]
CORPUS = [
    "The Seine flows through Paris.",
    "A port is where ships are loaded.",
    "Elixir runs on the Erlang machine.",
    "Paris has a tower of iron.",
]


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as made:
        yield made


@pytest.fixture
def hosted(daemon: Client) -> Iterator[Client]:
    """The shared daemon, for a test that serves its calls."""
    yield daemon
    daemon.on_call = None


def refusal(client: Client, session: str, command: str, args: Frame) -> Frame:
    with pytest.raises(CommandFailed) as failed:
        client.call(command, args, session=session)
    return failed.value.error


def retriever(client: Client, session: str, corpus: Any = CORPUS, model: Frame | None = None, **options: Any) -> None:
    client.call("configure_embedder", model or {"model": "scripted"}, session=session)
    args = {"id": "look", "program_type": "retrieve", "options": {"corpus": corpus, **options}}
    client.call("create_program", args, session=session)


def look(client: Client, session: str, query: str, **inputs: Any) -> Any:
    args = {"program_id": "look", "inputs": {"query": query, **inputs}}
    return client.call("execute_program", args, session=session)["outputs"]


# -- looking up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["Which river is in Paris?", "Where are ships?", "elixir and erlang"])
def test_what_is_found_is_what_dspys_own_retriever_finds(daemon: Client, session: str, query: str) -> None:
    retriever(daemon, session, k=3)
    found = look(daemon, session, query)
    embedder = build_embedder({"model": "scripted"}, Host(None))
    index = dspy.retrievers.EmbeddingsWithScores(CORPUS, embedder, k=3)
    ((passages, _, scores),) = index._batch_forward([query])
    index.search_fn.close()
    assert found["passages"][0] == passages[0]
    assert found["scores"] == pytest.approx(scores)
    assert [CORPUS[at] for at in found["indices"]] == found["passages"]


def test_a_request_may_ask_for_another_number(daemon: Client, session: str) -> None:
    retriever(daemon, session)
    assert len(look(daemon, session, "Paris")["passages"]) == len(CORPUS)
    assert len(look(daemon, session, "Paris", k=1)["passages"]) == 1


def test_objects_are_found_by_some_of_their_fields(daemon: Client, session: str) -> None:
    rows = [{"title": "River", "text": "The Seine"}, {"title": "Tower", "text": "Of iron"}]
    retriever(daemon, session, rows, text=["title", "text"], k=1)
    assert look(daemon, session, "the iron tower")["passages"] == [rows[1]]


def test_a_corpus_comes_from_a_file_and_outlives_it(daemon: Client, session: str, folder: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"text": "apples"}\n{"text": "pears"}\n')
    daemon.call("start_session", {"cwd": str(folder)}, session=session)
    retriever(daemon, session, {"file": "corpus.jsonl"}, text="text", k=1)
    (folder / "corpus.jsonl").unlink()
    daemon.call("recycle_session", session=session)
    assert look(daemon, session, "pears")["passages"] == [{"text": "pears"}]


def test_a_corpus_is_embedded_once_whatever_becomes_of_the_interpreter(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    model = {"model": "openai/embed", "api_base": endpoint.url, "api_key": "sk-of-the-embedder", "caching": False}
    retriever(daemon, session, model=model, k=1)
    assert look(daemon, session, CORPUS[2])["passages"] == [CORPUS[2]]
    daemon.call("recycle_session", session=session)
    assert look(daemon, session, CORPUS[1])["passages"] == [CORPUS[1]]
    asked = [one.body["input"] for one in endpoint.requests]
    assert asked == [CORPUS, [CORPUS[2]], [CORPUS[1]]]
    assert {one.api_key for one in endpoint.requests} == {"sk-of-the-embedder"}
    document = daemon.call("export_session", session=session)["document"]
    assert "sk-of-the-embedder" not in str(document)
    other = daemon.call("import_session", {"document": document, "session_id": f"{session}-moved"})
    assert other["missing"] == ["embedder:default.api_key"]
    error = refusal(daemon, f"{session}-moved", "execute_program", {"program_id": "look", "inputs": {"query": "x"}})
    assert error["code"] == "lm_not_configured"
    daemon.call("end_session", session=f"{session}-moved")


def test_what_is_found_feeds_the_next_step(hosted: Client, session: str) -> None:
    retriever(hosted, session, k=1)
    hosted.call("configure_lm", {"model": "host"}, session=session)
    signature = "passages: list[str], question -> answer"
    hosted.call("create_program", {"id": "say", "signature": signature}, session=session)
    steps = [{"program": "look", "inputs": {"query": "input.question"}}, {"program": "say"}]
    steps[1]["inputs"] = {"passages": "look.passages"}
    spec = {"id": "rag", "program_type": "pipeline", "signature": "question -> answer", "options": {"steps": steps}}
    hosted.call("create_program", spec, session=session)
    prompts: list[str] = []

    def serve(frame: Frame) -> str:
        prompts.append(str(frame["args"]["messages"]))
        return "[[ ## answer ## ]]\nBEAM\n\n[[ ## completed ## ]]"

    hosted.on_call = serve
    args = {"program_id": "rag", "inputs": {"question": "What does Elixir run on?"}}
    outputs = hosted.call("execute_program", args, session=session)["outputs"]
    assert outputs == {"answer": "BEAM"}
    assert CORPUS[2] in prompts[0]
    assert CORPUS[1] not in prompts[0]


def test_a_reset_forgets_the_embedders(daemon: Client, session: str) -> None:
    retriever(daemon, session)
    look(daemon, session, "Paris")
    daemon.call("reset_state", session=session)
    spec = {"id": "look", "program_type": "retrieve", "options": {"corpus": CORPUS}}
    assert refusal(daemon, session, "create_program", spec)["code"] == "lm_not_configured"


def test_an_index_is_saved_and_loaded_as_dspy_states_are(daemon: Client, session: str) -> None:
    retriever(daemon, session, k=1)
    state = daemon.call("save_program", {"program_id": "look"}, session=session)["state"]
    daemon.call("load_program", {"program_id": "look", "state": state}, session=session)
    assert look(daemon, session, "ships")["passages"] == [CORPUS[1]]
    fewer = {"id": "fewer", "program_type": "retrieve", "options": {"corpus": CORPUS[:2]}}
    daemon.call("create_program", fewer, session=session)
    assert refusal(daemon, session, "load_program", {"program_id": "fewer", "state": state})["code"] == "invalid_args"


# -- embedders -------------------------------------------------------------------------------------


def test_the_host_embeds(hosted: Client, session: str) -> None:
    asked: list[Frame] = []

    def serve(frame: Frame) -> Any:
        asked.append(frame)
        return [[float("a" in text), float("b" in text)] for text in frame["args"]["texts"]]

    hosted.call("configure_embedder", {"model": "host/letters", "name": "letters"}, session=session)
    options = {"corpus": ["aaa", "bbb"], "embedder": "letters", "k": 1}
    hosted.on_call = serve
    spec = {"id": "look", "program_type": "retrieve", "options": options}
    hosted.call("create_program", spec, session=session)
    args = {"program_id": "look", "inputs": {"query": "b!"}}
    outputs = hosted.call("execute_program", args, session=session)["outputs"]
    assert outputs["passages"] == ["bbb"]
    assert [(one["call"], one["name"], one["args"]) for one in asked] == [
        ("tool", "letters", {"texts": ["aaa", "bbb"]}),
        ("tool", "letters", {"texts": ["b!"]}),
    ]


@pytest.mark.parametrize("answer", [[], [[1.0], [1.0, 2.0]], [[]], "vectors", [["a"], ["b"]], [1, 2]])
def test_a_host_that_answers_no_vectors_is_told_what_they_are(hosted: Client, session: str, answer: Any) -> None:
    hosted.call("configure_embedder", {"model": "host"}, session=session)
    hosted.on_call = lambda _frame: answer
    spec = {"id": "look", "program_type": "retrieve", "options": {"corpus": ["a", "b"]}}
    with pytest.raises(CommandFailed) as failed:
        hosted.call("create_program", spec, session=session)
    assert failed.value.error["code"] == "host_call_failed"
    assert "one array of numbers per text" in failed.value.error["message"]
    assert hosted.call("list_programs", session=session)["total_count"] == 0


def test_an_endpoint_that_fails_is_an_lm_error(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    model = {"model": "openai/embed", "api_base": endpoint.url, "api_key": "sk-wrong-key", "num_retries": 0}
    daemon.call("configure_embedder", model, session=session)
    endpoint.script(Error(401, "no such key sk-wrong-key"))
    error = refusal(
        daemon, session, "create_program", {"id": "look", "program_type": "retrieve", "options": {"corpus": ["a"]}}
    )
    assert (error["code"], error["details"]["status"], error["retryable"]) == ("lm_error", 401, False)
    assert "sk-wrong-key" not in str(error)


def test_the_scripted_embedder_brings_near_what_shares_words() -> None:
    embed = build_embedder({"model": "scripted"}, Host(None))
    one, near, far = embed(["red apple pie", "red apple", "blue sky"])
    assert numpy.dot(one, near) > numpy.dot(one, far)
    assert numpy.array_equal(embed(["red apple pie"])[0], one)


@pytest.mark.parametrize(
    ("command", "args", "code", "says"),
    [
        ("create_program", {"program_type": "retrieve", "options": {"corpus": ["a"]}}, "lm_not_configured", "embedder"),
        ("create_program", {"program_type": "retrieve", "options": {"corpus": []}}, "invalid_args", "corpus"),
        ("create_program", {"program_type": "retrieve", "options": {}}, "invalid_args", "corpus"),
        (
            "create_program",
            {"program_type": "retrieve", "options": {"corpus": [{"a": 1}]}},
            "invalid_args",
            "which fields",
        ),
        (
            "create_program",
            {"program_type": "retrieve", "options": {"corpus": [{"a": 1}], "text": "b"}},
            "invalid_args",
            "'b'",
        ),
        (
            "create_program",
            {"program_type": "retrieve", "signature": "a -> b", "options": {"corpus": ["a"]}},
            "invalid_args",
            "one of its own",
        ),
        (
            "configure_embedder",
            {"model": "openai/e", "api_key_env": "KEY_NOT_SET_HERE"},
            "lm_not_configured",
            "NOT_SET",
        ),
        ("configure_embedder", {"model": "openai/e", "batch_size": 0}, "invalid_args", "batch_size"),
    ],
)
def test_what_cannot_retrieve_is_refused(
    daemon: Client, session: str, command: str, args: Frame, code: str, says: str
) -> None:
    error = refusal(daemon, session, command, args)
    assert error["code"] == code
    assert says in error["message"]


# -- examples near to the input --------------------------------------------------------------------

EXAMPLES = [
    {"question": "What is the capital of France?", "answer": "Paris"},
    {"question": "What is the capital of Italy?", "answer": "Rome"},
    {"question": "How many legs has a spider?", "answer": "eight"},
]


@pytest.mark.parametrize("compiled", [True, False])
def test_each_call_is_shown_the_examples_nearest_to_it(daemon: Client, session: str, compiled: bool) -> None:
    daemon.call("configure_lm", {"model": "scripted"}, session=session)
    daemon.call("configure_embedder", {"model": "scripted"}, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    options = {"k": 1, "max_bootstrapped_demos": 0}
    if compiled:
        args: Frame = {"program_id": "qa", "compiled_id": "near", "optimizer": "knn_few_shot"}
        made = daemon.call("compile_program", {**args, "trainset": EXAMPLES, "options": options}, session=session)
        assert made["program_id"] == "near"
    else:
        options |= {"program": "qa", "examples": EXAMPLES}
        daemon.call(
            "create_program", {"id": "near", "program_type": "knn_few_shot", "options": options}, session=session
        )
    daemon.call("recycle_session", session=session)
    ask = {"program_id": "near", "inputs": {"question": "How many legs has a cat?"}}
    daemon.call("execute_program", ask, session=session)
    (call,) = daemon.call("inspect_history", {"n": 1}, session=session)["calls"]
    assert "spider" in str(call["messages"])
    assert "Italy" not in str(call["messages"])
