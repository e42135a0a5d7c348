"""``model: "local"``: a real small language model, end to end, where its extra is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.worker.local_model import MODEL_PACKAGE

installed = find_spec("xllamacpp") is not None and find_spec(MODEL_PACKAGE) is not None


@pytest.mark.local_model
@pytest.mark.skipif(not installed, reason="the real local model is NOT tested: pip install 'dspy-bridge[local]'")
def test_a_real_model_answers_through_the_whole_way(daemon: Client, session: str) -> None:
    daemon.call("configure", {"adapter": "json"}, session=session)
    daemon.call("configure_lm", {"model": "local", "max_tokens": 60}, session=session, timeout=60)
    daemon.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
    args = {"program_id": "qa", "inputs": {"question": "What colour is the sky?"}}
    reply = daemon.reply(daemon.start("execute_program", args, session=session), timeout=60)
    if reply["success"]:
        assert isinstance(reply["result"]["outputs"]["answer"], str)
        assert reply["result"]["usage"]["openai/local"]["completion_tokens"] > 0
    else:  # a model so small may miss the form; it must have said something all the same
        assert reply["error"]["code"] == "output_parse_error", reply
        assert reply["error"]["details"]["lm_response"]


DEMOS = [
    {"question": "What is the capital of Italy?", "answer": "Rome"},
    {"question": "What is the capital of Spain?", "answer": "Madrid"},
]


@pytest.mark.local_model
@pytest.mark.skipif(not installed, reason="the real local model is NOT tested: pip install 'dspy-bridge[local]'")
def test_programs_of_several_kinds_run_on_a_real_model(daemon: Client, session: str) -> None:
    """What it says is its own affair; that it gets through every path, or fails with a code that says why, is ours."""
    daemon.call("configure", {"adapter": "json"}, session=session)
    daemon.call("configure_lm", {"model": "local", "max_tokens": 60}, session=session, timeout=60)
    signature = "question -> answer"
    options = {"programs": ["qa", "cot"], "vote": "answer"}
    for args in (
        {"id": "qa", "signature": signature, "demos": DEMOS},
        {"id": "cot", "signature": signature, "program_type": "chain_of_thought"},
        {"id": "both", "program_type": "ensemble", "options": options},
    ):
        daemon.call("create_program", args, session=session)
    asked = {"inputs": {"question": "What is the capital of France?"}, "stream": True}
    for program in ("qa", "cot", "both"):
        number = daemon.start("execute_program", {"program_id": program, **asked}, session=session)
        reply = daemon.reply(number, timeout=60)
        assert reply["success"] or reply["error"]["code"] == "output_parse_error", reply
    batch = {"program_id": "qa", "inputs": [{"question": "Who are you?"}, asked["inputs"]], "max_concurrency": 2}
    results = daemon.call("execute_batch", batch, session=session, timeout=60)["results"]
    assert all(one["success"] or one["error"]["code"] == "output_parse_error" for one in results), results
    compiled = {"program_id": "qa", "optimizer": "bootstrap_few_shot", "trainset": DEMOS, "metric": "contains"}
    assert daemon.call("compile_program", compiled, session=session, timeout=60)["status"] == "compiled"
    assert daemon.call("get_usage", session=session)["total"]["openai/local"]["completion_tokens"] > 0


@pytest.mark.skipif(installed, reason="the extra is installed")
def test_without_its_extra_the_remedy_is_named(daemon: Client, session: str) -> None:
    with pytest.raises(CommandFailed, match="pip install 'dspy-bridge\\[local\\]'") as failed:
        daemon.call("configure_lm", {"model": "local"}, session=session)
    assert failed.value.code == "unsupported"
