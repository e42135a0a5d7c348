"""Every kind of program, batches and evaluation, over the wire."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.openai_endpoint import Delay, Error, Fields, OpenAIEndpoint, Text

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.protocol.session_commands import ProgramType

Frame = dict[str, Any]
QA = {"id": "qa", "signature": "question -> answer"}
ASK = {"inputs": {"question": "Where?"}}


@pytest.fixture(scope="module")
def allowing() -> Iterator[Client]:
    """A daemon whose operator allows imports and code."""
    client = Client.spawn(["--allow-import", "tests.support.custom_program", "--allow-local-interpreter"])
    yield client
    assert client.close() == 0


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as one:
        yield one


@pytest.fixture
def over_http(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> str:
    """The test's session, its model at the endpoint, with a program ``qa``."""
    configure(daemon, session, endpoint)
    return session


def configure(client: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    lm = {"model": "openai/m", "api_key": "k", "api_base": endpoint.url, "num_retries": 0}
    client.call("configure_lm", lm, session=session)
    client.call("create_program", {**QA, "on_exists": "replace"}, session=session)


def refusal(client: Client, session: str, command: str, args: Frame) -> Frame:
    with pytest.raises(CommandFailed) as failed:
        client.call(command, args, session=session)
    return failed.value.error


def run(client: Client, session: str, program: str, **inputs: Any) -> Frame:
    given = {"program_id": program, "inputs": inputs or {"question": "Where?"}}
    outputs: Frame = client.call("execute_program", given, session=session)["outputs"]
    return outputs


def make(client: Client, session: str, kind: str, options: Frame | None = None, **more: Any) -> str:
    args: Frame = {"id": kind, "program_type": kind, "options": options or {}, **more}
    client.call("create_program", args, session=session)
    return kind


# -- kinds -----------------------------------------------------------------------------------------


def test_react_v2_uses_the_models_own_function_calling(daemon: Client, session: str) -> None:
    tool = {"name": "search", "description": "Finds.", "args": {"properties": {"q": {"type": "string"}}}}
    daemon.call("configure_lm", {"model": "host"}, session=session)
    more: Frame = {"signature": "question -> answer", "tools": [tool], "adapter": "json"}  # which calls natively
    make(daemon, session, "react_v2", {"max_iters": 4}, **more)
    steps = [("search", {"q": "louvre"}), ("submit", {"answer": "Paris"})]
    seen: list[Frame] = []

    def serve(frame: Frame) -> Any:
        if frame["call"] == "tool":
            return "it is in Paris"
        seen.append(frame["args"])
        name, arguments = steps[len(seen) - 1]
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": f"call_{len(seen)}", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    daemon.on_call = serve
    try:
        assert run(daemon, session, "react_v2")["answer"] == "Paris"
    finally:
        daemon.on_call = None
    assert {one["function"]["name"] for one in seen[0]["tools"]} >= {"search", "submit"}
    assert "it is in Paris" in json.dumps(seen[1]["messages"])


@pytest.mark.parametrize("kind", ["best_of_n", "refine"])
def test_attempts_are_made_until_one_is_good_enough(
    daemon: Client, over_http: str, endpoint: OpenAIEndpoint, kind: str
) -> None:
    scores = {"Berlin": {"score": 0.2}, "Paris": {"score": 1.0}}
    judge = {"id": "judge", "signature": "answer -> score: float", "lm": {"model": "scripted", "answers": scores}}
    daemon.call("create_program", judge, session=over_http)
    options = {"program": "qa", "N": 3, "reward": {"program": "judge"}, "threshold": 1.0}
    make(daemon, over_http, kind, options)
    advice = [Fields({"discussion": "d", "advice": {"self": "be right"}})] if kind == "refine" else []
    endpoint.script(Fields({"answer": "Berlin"}), *advice, Fields({"answer": "Paris"}))
    assert run(daemon, over_http, kind) == {"answer": "Paris"}
    assert len(endpoint.requests) == 2 + len(advice)


def test_several_chains_are_compared(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    endpoint.on("accurately compare", Fields({"rationale": "r", "answer": "the verdict"}))
    endpoint.on("", Fields({"reasoning": "r", "answer": "an attempt", "rationale": "r"}))
    make(daemon, over_http, "multi_chain_comparison", {"M": 3}, signature="question -> answer")
    assert run(daemon, over_http, "multi_chain_comparison")["answer"]
    assert len(endpoint.requests) == 4


def test_an_ensemble_votes(daemon: Client, session: str) -> None:
    daemon.call("configure_lm", {"model": "scripted"}, session=session)
    for name, answer in (("a", "Paris"), ("b", "Rome"), ("c", "Paris")):
        lm = {"model": "scripted", "answers": [{"answer": answer}]}
        daemon.call("create_program", {**QA, "id": name, "lm": lm}, session=session)
    make(daemon, session, "ensemble", {"programs": ["b", "a", "c"], "vote": "answer"})
    assert run(daemon, session, "ensemble")["answer"] == "Paris"


def test_a_pipeline_feeds_outputs_to_inputs(daemon: Client, session: str) -> None:
    daemon.call("configure_lm", {"model": "scripted"}, session=session)
    for name, signature, answer in (
        ("find", "question -> place", {"place": "Paris"}),
        ("count", "city, language -> people: int", {"people": 2}),
    ):
        lm = {"model": "scripted", "answers": {"Paris" if name == "count" else "Where": answer}}
        daemon.call("create_program", {"id": name, "signature": signature, "lm": lm}, session=session)
    steps = [{"program": "find"}, {"program": "count", "inputs": {"city": "find.place"}}]
    signature = "question, language -> place, people: int"
    make(daemon, session, "pipeline", {"steps": steps}, signature=signature)
    daemon.call("recycle_session", session=session)
    outputs = run(daemon, session, "pipeline", question="Where is the Louvre?", language="fr")
    assert outputs == {"place": "Paris", "people": 2}
    other = {"model": "scripted", "answers": [{"place": "Rome"}]}
    replaced = {"id": "find", "signature": "question -> place", "lm": other, "on_exists": "replace"}
    daemon.call("create_program", replaced, session=session)  # what is made of it follows
    assert run(daemon, session, "pipeline", question="Where?", language="fr")["place"] == "Rome"
    for wrong, says in (
        ({"steps": [{"program": "count", "inputs": {"city": "find.place"}}]}, "there is no 'find.place'"),
        ({"steps": [{"program": "find", "inputs": {"town": "input.question"}}]}, "has no such input"),
        ({"steps": [{"program": "find"}]}, "no step has the output 'people'"),
        ({"steps": [{"program": "missing"}]}, "missing"),
        ({"steps": []}, "at least 1"),
    ):
        args = {"id": "x", "program_type": "pipeline", "signature": signature, "options": wrong}
        assert says in json.dumps(refusal(daemon, session, "create_program", args))


def test_custom_programs_come_from_allowed_packages_only(allowing: Client, daemon: Client, session: str) -> None:
    options = {"module": "tests.support.custom_program:Shout", "args": {"mark": "?!"}}
    args = {"id": "loud", "program_type": "custom", "signature": "question -> answer", "options": options}
    assert refusal(daemon, session, "create_program", args)["code"] == "unsupported"
    lm = {"model": "scripted", "answers": [{"answer": "Paris"}]}
    allowing.call("configure_lm", lm, session=session)
    for module, code in (
        ("os:getcwd", "unsupported"),
        ("tests.support.custom_program:Missing", "invalid_args"),
        ("tests.support.custom_program:not_a_program", "invalid_args"),
    ):
        wrong = {**args, "options": {"module": module}}
        assert refusal(allowing, session, "create_program", wrong)["code"] == code
    allowing.call("create_program", args, session=session)
    allowing.call("recycle_session", session=session)
    assert run(allowing, session, "loud") == {"answer": "PARIS?!"}
    metric = {"python": "tests.support.custom_program:brevity"}
    examples = [{"question": "a"}, {"question": "b"}]
    judged = {"program_id": "loud", "examples": examples, "metric": metric}
    found = allowing.call("evaluate_program", judged, session=session)
    assert found["results"][0]["feedback"] == "shorter is better"
    allowing.call("end_session", session=session)


def test_programs_that_write_code_run_it_where_the_operator_allows(
    allowing: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    configure(allowing, session, endpoint)
    code = "```python\nSUBMIT({'answer': str(6 * 7)})\n```"
    endpoint.script(Fields({"reasoning": "r", "generated_code": code}), Fields({"reasoning": "r", "answer": "42"}))
    make(allowing, session, "program_of_thought", signature="question -> answer")
    assert run(allowing, session, "program_of_thought")["answer"] == "42"
    allowing.call("end_session", session=session)


def test_a_flexible_program_runs_its_code_and_what_is_saved_of_it_is_its_code(
    allowing: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    configure(allowing, session, endpoint)
    make(allowing, session, "flex", signature="question -> answer")
    endpoint.script(Fields({"answer": "from its predictor"}))
    assert run(allowing, session, "flex")["answer"] == "from its predictor"
    state = allowing.call("save_program", {"program_id": "flex"}, session=session)["state"]
    assert "forward" in json.dumps(state)
    allowing.call("recycle_session", session=session)
    allowing.call("load_program", {"program_id": "flex", "state": state}, session=session)
    allowing.call("end_session", session=session)


def test_programs_that_write_code_say_what_they_need(daemon: Client, session: str, monkeypatch: Any) -> None:
    for kind in ("program_of_thought", "code_act", "rlm", "flex"):
        args = {"id": kind, "program_type": kind, "signature": "question -> answer"}
        error = refusal(daemon, session, "create_program", args)
        assert error["code"] == "unsupported"
        assert "Deno" in error["message"]
        assert "--allow-local-interpreter" in error["message"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"program_type": "react", "signature": "a -> b", "options": {"max_iter": 3}}, "did you mean 'max_iters'"),
        ({"program_type": "react", "signature": "a -> b", "options": {"tools": []}}, "cannot be set here"),
        ({"program_type": "predict", "signature": "a -> b", "tools": [{"name": "t"}]}, "uses no tools"),
        ({"program_type": "react", "signature": "a -> b", "tools": [{"name": "no spaces"}]}, "tools[0].name"),
        ({"program_type": "predict"}, "args.signature"),
        ({"program_type": "best_of_n", "options": {"program": "nope", "N": 2, "reward": "f1"}}, "nope"),
        ({"program_type": "best_of_n", "options": {"program": "qa", "N": 0, "reward": "f1"}}, "N"),
        ({"program_type": "best_of_n", "options": {"program": "qa", "N": 2, "reward": "magic"}}, "built in are"),
        ({"program_type": "ensemble", "options": {"programs": ["qa"]}, "signature": "a -> b"}, "args.signature"),
        ({"program_type": "prediction", "signature": "a -> b"}, "program_type"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(daemon: Client, session: str, args: Frame, says: str) -> None:
    daemon.call("create_program", QA, session=session)
    error = refusal(daemon, session, "create_program", {"id": "x", **args})
    assert error["code"] in ("invalid_args", "program_not_found")
    assert says in json.dumps(error)
    assert daemon.call("list_programs", session=session)["total_count"] == 1


def test_demos_and_adapter_of_a_program_reach_the_prompt(
    daemon: Client, over_http: str, endpoint: OpenAIEndpoint
) -> None:
    demos = [{"question": "2+2?", "answer": "four, as planted"}]
    args = {"id": "d", "signature": "question -> answer", "demos": demos, "adapter": "xml"}
    daemon.call("create_program", args, session=over_http)
    endpoint.script(Text("<answer>\nfine\n</answer>"))
    assert run(daemon, over_http, "d")["answer"] == "fine"
    prompt = json.dumps(endpoint.requests[-1].body)
    assert "four, as planted" in prompt
    assert "<answer>" in prompt


def test_every_kind_of_program_is_tested_here() -> None:
    import typing
    from pathlib import Path

    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for kind in typing.get_args(ProgramType):
        assert f'"{kind}"' in source, f"no test makes a {kind}"


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_is_ordered_and_its_failures_are_items(
    daemon: Client, over_http: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("q3", Error(500, "planted"))
    for n in (0, 1, 4):
        endpoint.on(f"q{n}", Delay(0.05 * (5 - n), Fields({"answer": f"of {n}"})))
    events: list[Frame] = []
    daemon.on_event = events.append
    inputs: list[Frame] = [{"question": f"q{n}"} for n in range(5)]
    inputs[2] = {"quest": "?"}
    asked = {"program_id": "qa", "inputs": inputs, "max_concurrency": 5}
    result = daemon.call("execute_batch", asked, session=over_http)
    daemon.on_event = None
    assert [one["index"] for one in result["results"]] == [0, 1, 2, 3, 4]
    assert [one.get("outputs", {}).get("answer") for one in result["results"]] == ["of 0", "of 1", None, None, "of 4"]
    assert result["results"][2]["error"]["code"] == "invalid_args"
    assert "inputs[2].question" in json.dumps(result["results"][2]["error"])
    assert result["results"][3]["error"]["code"] == "lm_error"
    assert (result["succeeded"], result["failed"], result["skipped"]) == (3, 2, 0)
    items = [one["data"] for one in events if one["event"] == "item"]
    assert sorted(items, key=lambda one: one["index"]) == result["results"]
    assert endpoint.peak_in_flight > 1


def test_a_batch_stops_at_the_first_failure_if_told_and_goes_on_where_it_was(
    daemon: Client, over_http: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("q1", Error(500, "planted"))
    endpoint.on("q", Fields({"answer": "fine"}))
    inputs = [{"question": f"q{n}"} for n in (0, 1, 2, 3)]
    asked: Frame = {"program_id": "qa", "inputs": inputs, "max_concurrency": 1, "stop_on_error": True}
    first = daemon.call("execute_batch", asked, session=over_http)
    assert (first["succeeded"], first["failed"], first["skipped"]) == (1, 1, 2)
    endpoint.on("q1", Fields({"answer": "mended"}))
    second = daemon.call("execute_batch", {**asked, "skip": [0]}, session=over_http)
    assert (second["succeeded"], second["failed"], second["skipped"]) == (3, 0, 1)
    assert second["results"][1]["outputs"]["answer"] == "mended"


def all_has_arrived(endpoint: OpenAIEndpoint) -> None:
    """A connection is taken after those before it: what somebody dead had sent has arrived when all are closed."""
    urllib.request.urlopen(f"{endpoint.url}/models", timeout=10).close()
    endpoint.wait_until(lambda: endpoint.open_connections == 0)


def test_a_killed_batch_calls_the_model_no_more(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    endpoint.on("q", Delay(0.2, Fields({"answer": "fine"})))
    inputs = [{"question": f"q{n}"} for n in range(40)]
    asked = {"program_id": "qa", "inputs": inputs, "max_concurrency": 4}
    number = daemon.start("execute_batch", asked, session=over_http)
    endpoint.wait_for_requests(6)
    daemon.call("cancel", {"request_id": number})
    assert daemon.reply(number)["error"]["code"] == "cancelled"
    all_has_arrived(endpoint)
    counted = len(endpoint.requests)
    assert run(daemon, over_http, "qa", question="q after")["answer"] == "fine"
    assert len(endpoint.requests) == counted + 1


# -- evaluation ------------------------------------------------------------------------------------

EXAMPLES = [
    {"question": "q0", "answer": "Paris"},
    {"question": "q1", "answer": "Rome"},
    {"question": "q2", "answer": "Berlin"},
    {"question": "q3", "answer": "Oslo"},
]


def scripted_answers(endpoint: OpenAIEndpoint) -> None:
    for n, answer in enumerate(("Paris", "the city of Rome", "Bonn")):
        endpoint.on(f"q{n}", Fields({"answer": answer}))
    endpoint.on("q3", Error(500))


@pytest.mark.parametrize(("metric", "score"), [("exact_match", 25.0), ("contains", 50.0), ("f1", 35.0)])
def test_built_in_metrics(daemon: Client, over_http: str, endpoint: OpenAIEndpoint, metric: str, score: float) -> None:
    scripted_answers(endpoint)
    events: list[Frame] = []
    daemon.on_event = events.append
    asked = {"program_id": "qa", "examples": EXAMPLES, "metric": metric}
    found = daemon.call("evaluate_program", asked, session=over_http)
    daemon.on_event = None
    assert found["score"] == pytest.approx(score, abs=3)
    assert (found["succeeded"], found["failed"]) == (3, 1)
    assert found["results"][3]["error"]["code"] == "lm_error"
    progress = [one["data"] for one in events if one["event"] == "progress"]
    assert [one["done"] for one in progress] == [1, 2, 3, 4]
    assert progress[-1]["score"] == found["score"]


def test_the_host_judges(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    scripted_answers(endpoint)
    daemon.on_call = lambda frame: {"score": len(frame["args"]["prediction"]["answer"]), "feedback": "by length"}
    asked = {"program_id": "qa", "examples": EXAMPLES[:2], "metric": {"host": "length"}}
    found = daemon.call("evaluate_program", asked, session=over_http)
    assert [one["score"] for one in found["results"]] == [5.0, 16.0]
    assert found["results"][0]["feedback"] == "by length"
    daemon.on_call = lambda frame: "splendid"
    found = daemon.call("evaluate_program", asked, session=over_http)
    daemon.on_call = None
    assert "is no score" in found["results"][0]["error"]["message"]


def test_a_program_judges(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    scripted_answers(endpoint)
    lm = {"model": "scripted", "answers": {"Paris": {"good": True}, "Rome": {"good": False}}}
    judge = {"id": "judge", "signature": "question, expected, answer -> good: bool", "lm": lm}
    daemon.call("create_program", judge, session=over_http)
    metric = {"program": "judge", "inputs": {"expected": "example.answer", "answer": "prediction.answer"}}
    asked = {"program_id": "qa", "examples": EXAMPLES[:2], "metric": metric}
    found = daemon.call("evaluate_program", asked, session=over_http)
    assert [one["score"] for one in found["results"]] == [1.0, 0.0]


# -- how many calls at once ------------------------------------------------------------------------


def test_calls_to_models_are_bounded_over_all_sessions_and_leases_of_the_dead_come_back() -> None:
    with OpenAIEndpoint() as endpoint, Client.spawn(["--max-lm-calls", "3"]) as client:
        endpoint.on("", Delay(0.05, Fields({"answer": "fine"})))

        def begin(name: str, count: int, about: str) -> int:
            configure(client, name, endpoint)
            inputs = [{"question": f"{about} {n}"} for n in range(count)]
            asked = {"program_id": "qa", "inputs": inputs, "max_concurrency": 8}
            return client.start("execute_batch", asked, session=name)

        opened = [begin(name, 8, "first") for name in ("a", "b")]
        dying = begin("c", 500, "of c")  # so many that it is still at it
        # It must hold a lease: a worker that dies before it has read a request leaves it to the next.
        endpoint.wait_until(lambda: any("of c " in str(one.body) for one in endpoint.requests))
        assert endpoint.peak_in_flight <= 3
        os.kill(client.call("session_info", session="c")["workers"][0]["pid"], signal.SIGKILL)
        assert client.reply(dying)["error"]["code"] == "worker_crashed"
        assert [client.finish(one)["succeeded"] for one in opened] == [8, 8]
        assert client.call("get_stats")["lm_calls"] == {"leased": 0, "waiting": 0, "limit": 3}
        for name in ("a", "b", "c"):
            client.call("end_session", session=name)
        all_has_arrived(endpoint)  # the dead one's last calls were still answered, beside three others
        endpoint.peak_in_flight = 0
        opened = [begin(name, 8, "second") for name in ("d", "e")]
        assert [client.finish(one)["succeeded"] for one in opened] == [8, 8]
        assert endpoint.peak_in_flight == 3


def test_one_session_can_be_bounded_by_itself(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> None:
    daemon.call("start_session", {"max_lm_calls": 2, "workers": 2}, session=session)
    configure(daemon, session, endpoint)
    endpoint.on("", Delay(0.03, Fields({"answer": "fine"})))
    inputs = [{"question": f"q{n}"} for n in range(6)]
    opened = [
        daemon.start("execute_batch", {"program_id": "qa", "inputs": inputs, "max_concurrency": 6}, session=session)
        for _ in range(2)
    ]
    for one in opened:
        assert daemon.finish(one)["succeeded"] == 6
    assert endpoint.peak_in_flight <= 2


# -- types with names ------------------------------------------------------------------------------

PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}


def test_a_session_names_types_once_and_its_signatures_use_them(daemon: Client, session: str) -> None:
    types = {"Person": {**PERSON, "required": ["name"]}, "People": "list[Person]", "Mood": "Literal['good', 'bad']"}
    assert daemon.call("define_types", {"types": types}, session=session)["types"] == [*types]
    answers = [{"people": [{"name": "Ann", "age": 7}], "mood": "good"}]
    daemon.call("configure_lm", {"model": "scripted", "answers": answers}, session=session)
    made = {"id": "who", "signature": "text: str, known: People -> people: People, mood: Mood"}
    daemon.call("create_program", made, session=session)
    daemon.call("recycle_session", session=session)
    outputs = run(daemon, session, "who", text="t", known=[{"name": "Bob"}])
    assert outputs == {"people": [{"name": "Ann", "age": 7}], "mood": "good"}
    wrong = {"program_id": "who", "inputs": {"text": "t", "known": [{"age": 3}]}}
    assert "known[0].name" in json.dumps(refusal(daemon, session, "execute_program", wrong))
    info = daemon.call("get_program_info", {"program_id": "who"}, session=session)
    assert "age" in json.dumps(info["fields"])


@pytest.mark.parametrize(
    ("types", "says"),
    [
        ({"person": "str"}, "person"),
        ({"Person": "os.system"}, "there is no type"),
        ({"Person": {"type": "fruit"}}, "args.types.Person"),
        ({"A": "list[B]", "B": "str"}, "there is no type 'B'"),
        ({"A": 7}, "types.A"),
    ],
)
def test_types_that_are_none_are_refused_and_nothing_changes(
    daemon: Client, session: str, types: Frame, says: str
) -> None:
    daemon.call("define_types", {"types": {"Kept": "int"}}, session=session)
    error = refusal(daemon, session, "define_types", {"types": {"New": "str", **types}})
    assert error["code"] == "invalid_args"
    assert says in json.dumps(error)
    assert daemon.call("define_types", {"types": {}}, session=session)["types"] == ["Kept"]
    assert daemon.call("define_types", {"types": {"Kept": None}}, session=session)["types"] == []
