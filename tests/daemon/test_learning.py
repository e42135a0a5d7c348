"""Compiling, saving, loading and looking at programs, over the wire."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from fixtures.openai_endpoint import Fields, OpenAIEndpoint

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.optimizers import find_optimizer

Frame = dict[str, Any]
QA = {"id": "qa", "signature": "question -> answer"}
TRAIN = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(4)]


@pytest.fixture
def endpoint() -> Iterator[OpenAIEndpoint]:
    with OpenAIEndpoint() as one:
        yield one


@pytest.fixture
def over_http(daemon: Client, session: str, endpoint: OpenAIEndpoint) -> Iterator[str]:
    lm = {"model": "openai/m", "api_key": "sk-never-shown", "api_base": endpoint.url, "num_retries": 0}
    daemon.call("configure_lm", lm, session=session)
    daemon.call("create_program", QA, session=session)
    yield session
    daemon.on_call = daemon.on_event = None


def refusal(client: Client, session: str, command: str, args: Frame) -> Frame:
    with pytest.raises(CommandFailed) as failed:
        client.call(command, args, session=session)
    return failed.value.error


def model_that_improves(frame: Frame) -> Any:
    """A model that answers rightly only under the instruction it proposes itself, and a metric that counts."""
    if frame["call"] == "tool":
        right = frame["args"]["prediction"]["answer"] == frame["args"]["example"]["answer"]
        return {"score": float(right), "feedback": "echo the number"}
    text = json.dumps(frame["args"]["messages"])
    last = frame["args"]["messages"][-1]["content"]
    wanted = last.rsplit("Respond with", 1)[-1]
    names = [name for name in re.findall(r"\[\[ ## (\w+) ## \]\]", wanted) if name != "completed"]
    if names == ["answer"]:
        number = last.rsplit("[[ ## question ## ]]", 1)[1].split("q", 1)[1][0]
        words = {"answer": ("a" if "the magic word" in text else "b") + number}
    else:  # whatever an optimizer wants written, it is told the same
        words = dict.fromkeys(names or re.findall(r"`(\w+)`", wanted), "Answer with the magic word.")
    if not names:
        return json.dumps(words)
    return "".join(f"[[ ## {name} ## ]]\n{text}\n\n" for name, text in words.items()) + "[[ ## completed ## ]]"


def prompt(client: Client, session: str, program: str) -> str:
    asked = {"program_id": program, "inputs": {"question": "q9"}}
    return json.dumps(client.call("preview_prompt", asked, session=session)["messages"])


# -- optimizers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["labeled_few_shot", "bootstrap_few_shot", "random_search"])
def test_optimizers_that_choose_demos(daemon: Client, over_http: str, endpoint: OpenAIEndpoint, optimizer: str) -> None:
    for row in TRAIN:
        endpoint.on(row["question"], Fields({"answer": row["answer"]}))
    options = {"num_candidate_programs": 2} if optimizer == "random_search" else {}
    args = {"program_id": "qa", "optimizer": optimizer, "trainset": TRAIN, "options": options}
    if optimizer != "labeled_few_shot":
        args["metric"] = "exact_match"
    events: list[Frame] = []
    daemon.on_event = events.append
    result = daemon.call("compile_program", args, session=over_http)
    assert (result["program_id"], result["status"], result["compiled_from"]) == ("qa-compiled", "compiled", "qa")
    if optimizer == "random_search":
        assert result["score"] == 100.0
        progress = [one["data"] for one in events if one["event"] == "progress" and one["data"]["score"] is not None]
        assert progress
        assert progress[-1]["best"] == 100.0
    daemon.call("recycle_session", session=over_http)  # what was learned is the session's state
    if optimizer != "random_search":  # which finds the program perfect as it is
        assert "a1" in prompt(daemon, over_http, "qa-compiled")
    assert "a1" not in prompt(daemon, over_http, "qa")
    assert daemon.call("list_programs", session=over_http)["total_count"] == 2


def test_one_demo_each_is_searched_for(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    for row in TRAIN:
        # What is asked, not what a demo before it has asked.
        endpoint.on(f"{row['question']}\n\nRespond with", Fields({"answer": row["answer"]}))
    args = {"program_id": "qa", "optimizer": "bootstrap_few_shot_optuna", "trainset": TRAIN, "metric": "exact_match"}
    args["options"] = {"num_candidate_programs": 2}
    result = daemon.call("compile_program", args, session=over_http)
    assert result["score"] == 100.0
    assert "[[ ## answer ## ]]\\na" in prompt(daemon, over_http, "qa-compiled")


def test_optimizers_take_turns(daemon: Client, session: str) -> None:
    daemon.call("configure_lm", {"model": "host"}, session=session)
    daemon.call("create_program", QA, session=session)
    daemon.on_call = model_that_improves
    parts = {
        "demos": {"optimizer": "bootstrap_few_shot", "options": {"max_labeled_demos": 0}},
        "words": {"optimizer": "gepa", "options": {"max_metric_calls": 30}},
    }
    args: Frame = {"program_id": "qa", "optimizer": "better_together", "trainset": TRAIN, "valset": TRAIN}
    args |= {"metric": {"host": "right"}, "options": {"optimizers": parts}}
    args["compile_options"] = {"strategy": "demos -> words"}
    result = daemon.call("compile_program", args, session=session)
    assert result["score"] == 100.0
    assert "magic word" in prompt(daemon, session, "qa-compiled")
    parts["words"]["optimizer"] = "better_together"
    error = refusal(daemon, session, "compile_program", {**args, "compiled_id": "x"})
    assert error["details"]["errors"][0]["path"] == "args.options.optimizers.words.optimizer"
    daemon.on_call = None


def test_progress_says_how_long_it_may_take(daemon: Client, session: str) -> None:
    daemon.call("configure_lm", {"model": "host"}, session=session)
    daemon.call("create_program", QA, session=session)
    events: list[Frame] = []
    daemon.on_event, daemon.on_call = events.append, model_that_improves
    args = {"program_id": "qa", "optimizer": "random_search", "trainset": TRAIN, "metric": {"host": "right"}}
    daemon.call("compile_program", {**args, "options": {"num_candidate_programs": 3}}, session=session)
    told = [one["data"] for one in events if one["event"] == "progress"]
    assert told[-1]["metric_calls"] >= 6 * len(TRAIN)
    assert told[-1]["estimated_rest_s"] == 0.0
    assert any(one["estimated_rest_s"] for one in told[:-1])
    daemon.on_event = daemon.on_call = None


def test_fine_tuning_is_refused_with_the_way_round_it(daemon: Client, over_http: str) -> None:
    args = {"program_id": "qa", "optimizer": "bootstrap_finetune", "trainset": TRAIN}
    error = refusal(daemon, over_http, "compile_program", args)
    assert error["code"] == "unsupported"
    assert "configure_lm" in error["message"]


@pytest.mark.parametrize(
    ("optimizer", "options", "compile_options"),
    [
        ("gepa", {"max_metric_calls": 40}, {}),
        ("copro", {"breadth": 2, "depth": 1}, {}),
        ("mipro_v2", {"auto": None, "num_candidates": 2}, {"num_trials": 2, "minibatch": False}),
        ("simba", {"bsize": 2, "max_steps": 1, "num_candidates": 2}, {}),
        ("infer_rules", {"num_candidates": 1}, {}),
    ],
)
def test_optimizers_that_write_instructions(
    daemon: Client, session: str, optimizer: str, options: Frame, compile_options: Frame
) -> None:
    daemon.call("configure_lm", {"model": "host"}, session=session)
    daemon.call("create_program", QA, session=session)
    daemon.on_call = model_that_improves
    metric = {"host": "right"}
    args = {"program_id": "qa", "compiled_id": "wise", "optimizer": optimizer, "trainset": TRAIN, "metric": metric}
    args |= {"options": options, "compile_options": compile_options}
    result = daemon.call("compile_program", args, session=session)
    assert result["program_id"] == "wise"
    assert result["lm_calls"] > 4
    if optimizer == "gepa":
        assert result["score"] == 100.0
        assert "magic word" in prompt(daemon, session, "wise")
    daemon.on_call = None


def test_a_compilation_cancelled_half_way_keeps_its_best(daemon: Client, session: str) -> None:
    daemon.call("configure_lm", {"model": "host"}, session=session)
    daemon.call("create_program", QA, session=session)
    best: list[float] = []

    def watch(frame: Frame) -> None:
        if frame["event"] == "progress" and frame["data"]["best"] is not None:
            best.append(frame["data"]["best"])

    daemon.on_event, daemon.on_call = watch, model_that_improves
    args = {"program_id": "qa", "compiled_id": "wise", "optimizer": "gepa", "trainset": TRAIN}
    args |= {"metric": {"host": "right"}, "options": {"max_metric_calls": 100_000, "skip_perfect_score": False}}
    number = daemon.start("compile_program", args, session=session)
    deadline = time.monotonic() + 20
    while 100.0 not in best:
        assert time.monotonic() < deadline
        assert number not in daemon._replies, daemon._replies
        with pytest.raises(Exception, match="did not answer"):
            daemon.reply(number, timeout=0.2)
    daemon.call("cancel", {"request_id": number})
    assert daemon.reply(number)["error"]["code"] == "cancelled"
    daemon.on_event = daemon.on_call = None
    assert "magic word" in prompt(daemon, session, "wise")


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ({"optimizer": "magic"}, "invalid_args", "there are labeled_few_shot"),
        ({"optimizer": "bootstrap_few_shot"}, "invalid_args", "needs a metric"),
        ({"optimizer": "labeled_few_shot", "options": {"kk": 3}}, "invalid_args", "what can: k"),
        ({"optimizer": "gepa", "metric": "f1", "options": {"log_dir": "/tmp"}}, "invalid_args", "log_dir"),
        ({"optimizer": "labeled_few_shot", "valset": TRAIN}, "invalid_args", "no validation set"),
        ({"optimizer": "labeled_few_shot", "compiled_id": "qa"}, "program_exists", "qa"),
        ({"optimizer": "labeled_few_shot", "program_id": "x"}, "program_not_found", "x"),
        ({"optimizer": "labeled_few_shot", "trainset": [{"answer": "a"}]}, "invalid_args", "trainset[0].question"),
    ],
)
def test_a_compilation_that_cannot_be_is_refused(
    daemon: Client, over_http: str, args: Frame, code: str, says: str
) -> None:
    error = refusal(daemon, over_http, "compile_program", {"program_id": "qa", "trainset": TRAIN, **args})
    assert error["code"] == code, error
    assert says in json.dumps(error)


def test_an_optimizer_whose_libraries_are_absent_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BridgeError) as refused:
        find_optimizer("mipro_v2")
    assert refused.value.code == "unsupported"
    assert "needs optuna and numpy" in refused.value.message


# -- save and load ---------------------------------------------------------------------------------


def test_what_is_saved_here_loads_in_plain_dspy_and_back(daemon: Client, session: str, folder: Path) -> None:
    daemon.call("start_session", {"cwd": str(folder), "lm": {"model": "scripted"}}, session=session)
    cot = {
        "id": "cot",
        "signature": {"instructions": "Be planted.", "inputs": [{"name": "q"}], "outputs": [{"name": "a"}]},
    }
    daemon.call("create_program", {**cot, "program_type": "chain_of_thought"}, session=session)
    daemon.call(
        "compile_program",
        {
            "program_id": "cot",
            "compiled_id": "c",
            "optimizer": "labeled_few_shot",
            "trainset": [{"q": "1", "a": "one"}],
        },
        session=session,
    )
    saved = daemon.call("save_program", {"program_id": "c", "path": "c.json"}, session=session)
    assert saved["state"] == json.loads((folder / "c.json").read_text())
    plain = dspy.ChainOfThought("q -> a")
    plain.load(folder / "c.json")
    assert plain.predict.signature.instructions == "Be planted."
    assert plain.predict.demos[0]["a"] == "one"
    plain.predict.demos.append(dspy.Example(q="2", a="two, made elsewhere"))
    plain.save(folder / "back.json")
    daemon.call("load_program", {"program_id": "cot", "path": "back.json"}, session=session)
    daemon.call("recycle_session", session=session)
    asked = {"program_id": "cot", "inputs": {"q": "3"}}
    shown = json.dumps(daemon.call("preview_prompt", asked, session=session)["messages"])
    assert "two, made elsewhere" in shown
    assert "Be planted." in shown


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({}, "it lacks"),
        ({"predict": {}}, "it lacks demos"),
        ({"demos": [], "train": [], "traces": [], "lm": None, "signature": {"fields": []}}, "has the fields []"),
        ({"demos": 7, "train": [], "traces": [], "lm": None, "signature": "s"}, "no predictor's state"),
    ],
)
def test_a_state_of_another_program_is_refused_and_changes_nothing(
    daemon: Client, over_http: str, state: Frame, says: str
) -> None:
    before = prompt(daemon, over_http, "qa")
    error = refusal(daemon, over_http, "load_program", {"program_id": "qa", "state": state})
    assert error["code"] == "invalid_args"
    assert says in error["message"]
    assert prompt(daemon, over_http, "qa") == before


def test_files_that_are_not_there_are_named(daemon: Client, over_http: str) -> None:
    error = refusal(daemon, over_http, "load_program", {"program_id": "qa", "path": "/no/such/file.json"})
    assert (error["code"], "No such file" in error["message"]) == ("invalid_args", True)
    error = refusal(daemon, over_http, "load_program", {"program_id": "qa"})
    assert "state or path" in error["message"]


# -- looking ---------------------------------------------------------------------------------------


def test_history_shows_prompts_and_answers_and_never_a_key(daemon: Client, over_http: str) -> None:
    for question in ("first?", "is sk-never-shown a key?"):
        daemon.call("execute_program", {"program_id": "qa", "inputs": {"question": question}}, session=over_http)
    calls = daemon.call("inspect_history", session=over_http)["calls"]
    assert [one["model"] for one in calls] == ["openai/m", "openai/m"]
    text = json.dumps(calls)
    assert "first?" in text
    assert "asked with" in text
    assert "sk-never-shown" not in text
    assert len(daemon.call("inspect_history", {"n": 1}, session=over_http)["calls"]) == 1


def test_usage_is_counted_by_program_and_outlives_the_interpreter(
    daemon: Client, over_http: str, endpoint: OpenAIEndpoint
) -> None:
    daemon.call("create_program", {**QA, "id": "other"}, session=over_http)
    results = [
        daemon.call("execute_program", {"program_id": one, "inputs": {"question": str(n)}}, session=over_http)
        for n, one in enumerate(("qa", "qa", "other"))
    ]
    daemon.call("recycle_session", session=over_http)
    usage = daemon.call("get_usage", session=over_http)
    assert {name: one["executions"] for name, one in usage["programs"].items()} == {"qa": 2, "other": 1}
    spent = sum(one["usage"]["openai/m"]["total_tokens"] for one in results)
    assert usage["total"]["openai/m"]["total_tokens"] == spent > 0


def test_a_prompt_is_previewed_without_a_call(daemon: Client, over_http: str, endpoint: OpenAIEndpoint) -> None:
    asked = {"program_id": "qa", "inputs": {"question": "planted?"}}
    seen = daemon.call("preview_prompt", asked, session=over_http)
    assert [one["role"] for one in seen["messages"]] == ["system", "user"]
    assert "planted?" in seen["messages"][1]["content"]
    assert seen["adapter"] == "ChatAdapter"
    assert endpoint.requests == []
    error = refusal(daemon, over_http, "preview_prompt", {**asked, "predictor": "nope"})
    assert error["code"] == "invalid_args"
