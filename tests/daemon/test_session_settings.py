"""``configure`` changes a session's settings, ``config`` those of one request."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.openai_endpoint import Delay, Fields, OpenAIEndpoint, Received, Text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dspy_bridge.client import Client, CommandFailed

Frame = dict[str, Any]
LM: Frame = {"model": "openai/session", "api_key": "k", "num_retries": 0, "cache": False}


def refusal(client: Client, session: str, command: str, args: Frame) -> Frame:
    with pytest.raises(CommandFailed) as failed:
        client.call(command, args, session=session)
    error: Frame = failed.value.error
    return error


def configure(client: Client, session: str, **args: Any) -> Frame:
    found: Frame = client.call("configure", args, session=session)
    return found


# -- configure -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ({"num_threads": 5, "max_errors": -1}, "invalid_args", "args.max_errors"),
        ({"num_threads": 5, "adapter": "yaml"}, "invalid_args", "args.adapter"),
        ({"num_threads": 5, "adapter": {"name": "two_step", "extraction_lm": ""}}, "invalid_args", "extraction_lm"),
        ({"num_threads": 5, "cache": "shared"}, "unsupported", "--shared-cache"),
        ({"num_thread": 5, "max_errors": 1}, "invalid_args", "did you mean 'num_threads'?"),
        ({"num_threads": 5, "if_version": 7}, "version_conflict", "at version 1, not 7"),
        ({"num_threads": 5, "max_workers": 5}, "invalid_args", "args.max_workers: is an option of the daemon"),
    ],
)
def test_one_bad_setting_changes_nothing(daemon: Client, session: str, args: Frame, code: str, says: str) -> None:
    before = configure(daemon, session, max_errors=9)
    error = refusal(daemon, session, "configure", args)
    assert error["code"] == code
    assert says in error["message"]
    assert configure(daemon, session) == before


def test_a_cache_that_cannot_be_opened_changes_nothing(folder: Path) -> None:
    (folder / "cache").write_text("a file where a folder should be")
    with Client.spawn(["--shared-cache", str(folder / "cache")]) as client:
        before = configure(client, "a", max_errors=9)
        assert refusal(client, "a", "configure", {"num_threads": 5, "cache": "shared"})["code"]
        assert configure(client, "a") == before


def test_an_option_of_the_daemon_is_known_as_one(daemon: Client, session: str) -> None:
    error = refusal(daemon, session, "configure", {"spares": 3, "framing": "lines", "max_memory_mb": 10})
    reasons = {one["path"]: one["reason"] for one in error["details"]["errors"]}
    assert "SIGHUP" in reasons["args.spares"]
    assert "restart" in reasons["args.framing"]
    assert "start_session takes one" in reasons["args.max_memory_mb"]


def test_the_version_counts_changes_and_nothing_else(daemon: Client, session: str) -> None:
    assert configure(daemon, session)["config_version"] == 0
    assert configure(daemon, session, num_threads=3)["config_version"] == 1
    assert configure(daemon, session, num_threads=3)["config_version"] == 1
    assert configure(daemon, session, num_threads=None)["config_version"] == 2
    assert configure(daemon, session, num_threads=None)["config_version"] == 2


def test_of_two_hosts_that_have_read_the_same_version_one_gets_its_way(daemon: Client, session: str) -> None:
    seen = configure(daemon, session, num_threads=3)["config_version"]
    opened = [daemon.start("configure", {"num_threads": n, "if_version": seen}, session=session) for n in range(10, 20)]
    replies = [daemon.reply(one) for one in opened]
    (won,) = (one["result"] for one in replies if one["success"])
    assert won["config_version"] == seen + 1
    lost = [one["error"] for one in replies if not one["success"]]
    assert [(one["code"], one["details"]) for one in lost] == [("version_conflict", {"config_version": seen + 1})] * 9
    assert configure(daemon, session)["settings"] == won["settings"]


def test_the_version_outlives_interpreters_and_goes_where_the_session_goes(folder: Path) -> None:
    flags = ["--state-dir", str(folder / "state"), "--max-workers", "1"]
    with Client.spawn(flags) as client:
        configure(client, "a", num_threads=3)
        configure(client, "a", num_threads=4)
        client.call("recycle_session", session="a")
        assert configure(client, "a")["config_version"] == 2
        (worker,) = client.call("session_info", session="a")["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        assert configure(client, "a", if_version=2, num_threads=5)["config_version"] == 3
        assert configure(client, "b")["config_version"] == 0  # the only place: a hibernates
        assert client.call("session_info", session="a")["state"] == "cold"
        document = client.call("export_session", session="a")["document"]
        client.call("import_session", {"document": document}, session="c")
        client.call("branch_session", {"branch_id": "d"}, session="a")
        for name in ("a", "c", "d"):
            assert configure(client, name)["config_version"] == 3
            assert configure(client, name)["settings"]["num_threads"] == 5
        bad = {**document, "parts": {**document["parts"], "settings.version": -1}}
        assert "settings.version" in refusal(client, "e", "import_session", {"document": bad})["message"]
    with Client.spawn(flags) as client:
        assert configure(client, "a")["config_version"] == 3


def test_a_reset_is_a_change_of_the_settings_too(daemon: Client, session: str) -> None:
    seen = configure(daemon, session, num_threads=3)["config_version"]
    daemon.call("reset_state", session=session)
    assert refusal(daemon, session, "configure", {"num_threads": 4, "if_version": seen})["code"] == "version_conflict"
    assert "num_threads" not in configure(daemon, session)["settings"]


def test_every_interpreter_of_a_session_is_as_born_after_a_reset(daemon: Client, session: str) -> None:
    lm = {"model": "scripted", "answers": [{"answer": "as born"}]}
    args = {"workers": 2, "lm": lm, "settings": {"num_threads": 7}}
    daemon.call("start_session", args, session=session)
    program = {"id": "qa", "signature": "question -> answer"}
    daemon.call("create_program", program, session=session)
    slow = {**lm, "answers": [{"answer": "another"}], "delay_ms": 300}
    daemon.call("configure_lm", slow, session=session)
    configure(daemon, session, num_threads=9)
    run = {"program_id": "qa", "inputs": {"question": "?"}}
    for opened in [daemon.start("execute_program", run, session=session) for _ in range(4)]:
        assert daemon.finish(opened)["outputs"] == {"answer": "another"}
    assert len(daemon.call("session_info", session=session)["workers"]) == 2
    daemon.call("reset_state", session=session)
    daemon.call("create_program", program, session=session)
    for opened in [daemon.start("execute_program", run, session=session) for _ in range(40)]:
        assert daemon.finish(opened)["outputs"] == {"answer": "as born"}
    deadline = time.monotonic() + 20
    seen = set()
    while len(seen) < 2:
        assert time.monotonic() < deadline
        for opened in [daemon.start("configure", {}, session=session) for _ in range(8)]:
            assert daemon.finish(opened)["settings"]["num_threads"] == 7
        workers = daemon.call("session_info", session=session)["workers"]
        seen |= {one["pid"] for one in workers if one["requests"] > 1}


# -- unknown names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "args", "path", "near"),
    [
        ("execute_program", {"program_id": "p", "input": {}}, "args.input", "inputs"),
        ("start_session", {"thread": 2}, "args.thread", "threads"),
        ("start_session", {"settings": {"num_thread": 2}}, "args.settings.num_thread", "num_threads"),
        ("configure", {"adapter": {"name": "json", "parallel_tool_call": True}}, "parallel_tool_call", "parallel_tool"),
        ("create_program", {"id": "p", "tools": [{"name": "t", "descripton": "d"}]}, "tools[0].descripton", "descript"),
        ("execute_batch", {"program_id": "p", "inputs": {"file": "f", "frist": 1}}, "args.inputs.frist", "first"),
        ("get_state", {"kee": "k"}, "args.kee", "key"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_nearest_at_its_place(
    daemon: Client, session: str, command: str, args: Frame, path: str, near: str
) -> None:
    error = refusal(daemon, session, command, args)
    assert error["code"] == "invalid_args"
    (reason,) = (one["reason"] for one in error["details"]["errors"] if one["path"].endswith(path))
    assert f"did you mean '{near}" in reason


def test_an_unknown_command_is_answered_with_the_nearest(daemon: Client) -> None:
    error = refusal(daemon, "any", "configur", {})
    assert (error["code"], "did you mean 'configure'?" in error["message"]) == ("unknown_command", True)


# -- config of a request ---------------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as endpoint:
        yield endpoint


def temperatures(requests: list[Received]) -> list[Any]:
    return sorted(one.body.get("temperature") for one in requests)


@pytest.fixture
def asking(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> str:
    """A session whose model is the endpoint, at temperature 0.25, and a program ``qa``."""
    lm = {**LM, "api_base": endpoint.url, "temperature": 0.25}
    daemon.call("configure_lm", lm, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    return session


def run(client: Client, session: str, program: str = "qa", question: str = "?", **more: Any) -> Frame:
    args = {"program_id": program, "inputs": {"question": question}, **more}
    found: Frame = client.call("execute_program", args, session=session)
    return found


def test_config_reaches_every_part_of_a_program_also_those_with_models_of_their_own(
    daemon: Client, asking: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("", Fields({"answer": "a", "verdict": "v"}))
    own = {**LM, "api_base": endpoint.url, "model": "openai/own", "temperature": 0.5}
    programs: list[Frame] = [
        {"id": "second", "signature": "answer -> verdict", "lm": own, "adapter": "json"},
        {
            "id": "both",
            "signature": "question -> verdict",
            "program_type": "pipeline",
            "options": {"steps": [{"program": "qa"}, {"program": "second", "inputs": {"answer": "qa.answer"}}]},
        },
        {"id": "own", "signature": "question -> answer", "lm": own},
        {"id": "vote", "program_type": "ensemble", "options": {"programs": ["qa", "own"]}},
    ]
    for one in programs:
        daemon.call("create_program", one, session=asking)
    for program in ("both", "vote"):
        asked = len(endpoint.requests)
        run(daemon, asking, program)
        run(daemon, asking, program, config={"temperature": 0.75, "seed": 5, "adapter": "xml"})
        run(daemon, asking, program)
        before, changed, after = (endpoint.requests[asked + at : asked + at + 2] for at in (0, 2, 4))
        assert temperatures(before) == temperatures(after) == [0.25, 0.5]
        assert temperatures(changed) == [0.75, 0.75]
        assert {one.body["model"] for one in changed} == {"session", "own"}
        assert all(one.body["seed"] == 5 for one in changed)
        assert all("<question>" in str(one.body["messages"]) for one in changed[:1])
        assert not any("[[ ##" in str(one.body["messages"]) for one in changed)


def test_config_reaches_what_tries_again_and_the_model_of_what_it_tries(
    daemon: Client, asking: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("", Fields({"answer": "a"}))
    own = {**LM, "api_base": endpoint.url, "model": "openai/own"}
    daemon.call("create_program", {"id": "own", "signature": "question -> answer", "lm": own}, session=asking)
    options = {"program": "own", "N": 2, "threshold": 1.0, "reward": {"host": "judge"}}
    daemon.on_call = lambda frame: 0.0
    try:
        best = {"id": "best", "program_type": "best_of_n", "options": options}
        daemon.call("create_program", best, session=asking)
        run(daemon, asking, "best", config={"max_tokens": 77})
    finally:
        daemon.on_call = None
    assert [one.body["model"] for one in endpoint.requests] == ["own", "own"]
    assert [one.body.get("max_tokens", one.body.get("max_completion_tokens")) for one in endpoint.requests] == [77, 77]


def test_config_reaches_every_item_of_a_batch_and_example_of_an_evaluation(
    daemon: Client, asking: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("", Fields({"answer": "a"}))
    rows = [{"question": str(n)} for n in range(12)]
    batch = {"program_id": "qa", "inputs": rows, "config": {"temperature": 0.75}, "max_concurrency": 4}
    assert daemon.call("execute_batch", batch, session=asking)["succeeded"] == 12
    judged = {"program_id": "qa", "examples": [{**one, "answer": "a"} for one in rows], "metric": "exact_match"}
    daemon.call("evaluate_program", {**judged, "config": {"temperature": 0.75}}, session=asking)
    assert temperatures(endpoint.requests) == [0.75] * 24
    run(daemon, asking)
    assert endpoint.requests[-1].body["temperature"] == 0.25


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("end", ["success", "error", "cancel", "timeout", "bad config"])
def test_what_a_request_changed_is_gone_after_it_however_it_ends(
    daemon: Client, session: str, endpoint: OpenAIEndpoint, end: str, threads: int
) -> None:
    endpoint.on("~quick~", Fields({"answer": "a"}))
    endpoint.on("~slow~", Delay(20, Fields({"answer": "late"})))
    endpoint.on("~broken~", Text("nothing of use"))
    lm = {**LM, "api_base": endpoint.url, "temperature": 0.25}
    daemon.call("start_session", {"threads": threads, "lm": lm}, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    settings = configure(daemon, session)["settings"]
    kind = {"success": "~quick~", "error": "~broken~"}.get(end, "~slow~")
    config: Frame = {"temperature": 0.75, "adapter": "xml", "track_usage": False, "max_errors": 1}
    if end == "bad config":
        config["num_threads"] = 0
    args = {"program_id": "qa", "inputs": {"question": kind}, "config": config}
    more = {"timeout_ms": 1_000} if end == "timeout" else {}
    opened = daemon.start("execute_program", args, session=session, **more)
    if end == "cancel":
        endpoint.wait_for_requests(1)
        daemon.call("cancel", {"request_id": opened})
    reply = daemon.reply(opened)
    codes = {"error": "output_parse_error", "cancel": "cancelled", "timeout": "timeout", "bad config": "invalid_args"}
    assert reply["success"] == (end == "success")
    assert end == "success" or reply["error"]["code"] == codes[end]
    for _ in range(2 * threads):  # every thread has had its turn
        assert run(daemon, session, question="~quick~")["usage"]
        last = endpoint.requests[-1].body
        assert last["temperature"] == 0.25
        assert "[[ ## answer ## ]]" in str(last["messages"])
    assert configure(daemon, session)["settings"] == settings


def test_requests_at_once_in_one_interpreter_have_each_their_own_config(
    daemon: Client, session: str, endpoint: OpenAIEndpoint
) -> None:
    endpoint.on("", Delay(0.05, Fields({"answer": "a"})))
    lm = {**LM, "api_base": endpoint.url}
    daemon.call("start_session", {"threads": 6, "lm": lm}, session=session)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    told: dict[str, Frame] = {}
    opened = []
    for n in range(24):
        name = f"~{n}~"
        told[name] = {"temperature": n / 100, "adapter": ("chat", "xml")[n % 2], "track_usage": bool(n % 3)}
        args: Frame = {"program_id": "qa", "config": told[name]}
        if n % 4:
            opened.append(daemon.start("execute_program", {**args, "inputs": {"question": name}}, session=session))
        else:
            rows = [{"question": name}] * 3
            opened.append(daemon.start("execute_batch", {**args, "inputs": rows}, session=session))
    results = [daemon.finish(one) for one in opened]
    assert endpoint.peak_in_flight > 1
    for n, result in enumerate(results):
        for one in result.get("results", [result]):
            assert bool(one["usage"]) == told[f"~{n}~"]["track_usage"], (n, one)
    for request in endpoint.requests:
        (name,) = (one for one in told if one in str(request.body["messages"]))
        assert request.body["temperature"] == told[name]["temperature"]
        assert ("<answer>" in str(request.body["messages"])) == (told[name]["adapter"] == "xml")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["configure", "run", "batch"]),
        st.sampled_from([None, "chat", "xml"]),
        st.sampled_from([None, True, False]),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_what_is_configured_lasts_and_what_is_in_a_config_does_not(
    daemon: Client, asking: str, endpoint: OpenAIEndpoint, steps: list[tuple[str, str | None, bool | None, bool]]
) -> None:
    endpoint.on("~fails~", Text("nothing of use"))
    endpoint.on("", Fields({"answer": "a"}))
    defaults: Frame = {"adapter": "chat", "track_usage": True}
    lasting = {**defaults, **configure(daemon, asking, adapter=None, track_usage=None)["settings"]}
    for command, adapter, usage, fails in steps:
        given: Frame = {"adapter": adapter, "track_usage": usage}
        effective = {name: defaults[name] if value is None else value for name, value in given.items()}
        if command == "configure":
            lasting |= effective
            assert configure(daemon, asking, **given)["settings"].items() >= effective.items()
            continue
        asked = len(endpoint.requests)
        inputs: Frame = {"question": "~fails~" if fails else "?"}
        rows = {"inputs": [inputs] * 2} if command == "batch" else {"inputs": inputs}
        name = "execute_batch" if command == "batch" else "execute_program"
        reply = daemon.reply(daemon.start(name, {"program_id": "qa", **rows, "config": given}, session=asking))
        assert reply["success"] == (command == "batch" or not fails)
        prompts = [str(one.body["messages"]) for one in endpoint.requests[asked:]]
        assert ("<answer>" in prompts[0]) == (effective["adapter"] == "xml")
        if not fails:
            entries = reply["result"].get("results", [reply["result"]])
            assert all(bool(one["usage"]) == effective["track_usage"] for one in entries)
        asked = len(endpoint.requests)
        plain = run(daemon, asking)
        assert bool(plain["usage"]) == lasting["track_usage"]
        assert ("<answer>" in str(endpoint.requests[asked].body["messages"])) == (lasting["adapter"] == "xml")


def test_null_in_a_config_is_the_default(daemon: Client, asking: str, endpoint: OpenAIEndpoint) -> None:
    endpoint.on("", Fields({"answer": "a"}))
    configure(daemon, asking, adapter="xml", track_usage=False)
    assert run(daemon, asking)["usage"] == {}
    assert run(daemon, asking, config={"track_usage": None, "adapter": None})["usage"]
    first, second = (str(one.body["messages"]) for one in endpoint.requests)
    assert "<answer>" in first
    assert "[[ ## answer ## ]]" in second
    error = refusal(
        daemon,
        asking,
        "execute_program",
        {"program_id": "qa", "inputs": {"question": "?"}, "config": {"session_id": "other"}},
    )
    assert error["code"] == "invalid_args"
