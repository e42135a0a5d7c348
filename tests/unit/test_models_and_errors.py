"""The scripted model, building models, and what exceptions become."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import dspy
import pytest

from dspy_bridge.protocol.errors import ERRORS, BridgeError
from dspy_bridge.protocol.secrets import redacted, split_secrets
from dspy_bridge.protocol.session_commands import ProgramType
from dspy_bridge.worker.exceptions import to_bridge_error
from dspy_bridge.worker.models import build_lm
from dspy_bridge.worker.program_types import PROGRAM_TYPES
from dspy_bridge.worker.scripted import OBSERVER, ScriptedLM


def predict(lm: dspy.BaseLM, signature: Any = "question -> answer", adapter: Any = None, **inputs: Any) -> Any:
    with dspy.context(lm=lm, adapter=adapter or dspy.ChatAdapter(), callbacks=[OBSERVER]):
        return dspy.Predict(signature)(**(inputs or {"question": "why?"}))


def test_answers_are_served_in_order_and_the_last_repeats() -> None:
    lm = ScriptedLM(answers=[{"answer": "1"}, {"answer": "2"}])
    assert [predict(lm).answer for _ in range(3)] == ["1", "2", "2"]


def test_answers_are_found_by_the_longest_substring_of_the_prompt() -> None:
    lm = ScriptedLM(answers={"France": {"answer": "Paris"}, "South of France": {"answer": "Nice"}})
    assert predict(lm, question="Capital of France?").answer == "Paris"
    assert predict(lm, question="South of France?").answer == "Nice"
    assert predict(lm, question="Spain?").answer.startswith("scripted")


def test_made_up_values_fit_their_types_and_are_the_same_for_the_same_prompt() -> None:
    signature = dspy.Signature(
        "q -> a: int, b: list[float], c: bool, d: dict[str, int], e: str | None", custom_types={}
    )
    first, second = (predict(ScriptedLM(), signature, q="x").toDict() for _ in range(2))
    assert first == second
    assert predict(ScriptedLM(seed=1), signature, q="x").toDict() != first
    assert predict(ScriptedLM(), signature, q="other").toDict() != first


@pytest.mark.parametrize(
    "adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=lambda a: type(a).__name__
)
def test_every_adapter_reads_what_is_scripted_for_it(adapter: Any) -> None:
    answer = {"answer": "a < b & c", "n": 7}
    got = predict(ScriptedLM(answers=[answer]), dspy.Signature("q -> answer, n: int", custom_types={}), adapter, q="x")
    assert got.toDict() == answer


def test_it_answers_asynchronously_too() -> None:
    async def run() -> str:
        with dspy.context(lm=ScriptedLM(answers=[{"answer": "later"}], delay_ms=1), callbacks=[OBSERVER]):
            return str((await dspy.Predict("question -> answer").acall(question="x")).answer)

    assert asyncio.run(run()) == "later"


def test_its_place_in_the_list_can_be_carried_over() -> None:
    lm = ScriptedLM(answers=[{"answer": "1"}, {"answer": "2"}])
    predict(lm)
    other = ScriptedLM(answers=[{"answer": "1"}, {"answer": "2"}])
    other.set_state(lm.get_state())
    assert predict(other).answer == "2"


@pytest.mark.parametrize(
    ("status", "retryable"), [(400, False), (401, False), (402, False), (429, True), (500, True), (503, True)]
)
def test_a_scripted_failure_is_what_a_provider_would_raise(status: int, retryable: bool) -> None:
    lm = ScriptedLM(answers=[{"error": {"status": status, "message": "no"}}])
    with pytest.raises(dspy.utils.exceptions.LMError) as raised:
        predict(lm)
    error = to_bridge_error(raised.value)
    assert (error.code, error.details["status"], error.retryable) == ("lm_error", status, retryable)


def test_an_unreadable_answer_keeps_its_text() -> None:
    with pytest.raises(dspy.utils.exceptions.AdapterParseError) as raised:
        predict(ScriptedLM(answers=[{"text": "mumble"}]))
    error = to_bridge_error(raised.value)
    assert error.code == "output_parse_error"
    assert error.details["lm_response"] == "mumble"


def test_a_field_called_text_is_an_answer_not_raw_text() -> None:
    got = predict(ScriptedLM(answers=[{"text": "hello"}]), "question -> text")
    assert got.text == "hello"


def test_every_argument_reaches_dspys_model() -> None:
    lm = build_lm({"model": "openai/x", "api_key": "k", "temperature": 0.5, "max_tokens": 9, "top_p": 0.1})
    assert isinstance(lm, dspy.LM)
    assert lm.kwargs["temperature"] == 0.5
    assert lm.kwargs["top_p"] == 0.1


def test_a_key_may_come_from_the_environment() -> None:
    lm = build_lm({"model": "openai/x", "api_key_env": "KEY"}, environ={"KEY": "secret"})
    assert lm.kwargs["api_key"] == "secret"
    with pytest.raises(BridgeError) as refused:
        build_lm({"model": "openai/x", "api_key_env": "KEY"}, environ={})
    assert refused.value.code == "lm_not_configured"
    with pytest.raises(BridgeError, match="not both"):
        build_lm({"model": "openai/x", "api_key": "a", "api_key_env": "KEY"}, environ={"KEY": "b"})


def test_secrets_are_told_apart_and_hidden() -> None:
    config = {
        "model": "m",
        "api_key": "a",
        "headers": {"X": "b"},
        "aws_secret": "c",
        "max_tokens": 7,
        "api_key_env": "E",
    }
    public, secret = split_secrets(config)
    assert set(secret) == {"api_key", "headers", "aws_secret"}
    assert {**public, **secret} == config
    assert "a" not in redacted(config).values()
    assert redacted(config)["max_tokens"] == 7


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even my name")


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (ValueError("x" * 10_000_000), "execution_error"),
        (Rude(), "execution_error"),
        (KeyError("\ud800"), "execution_error"),
        (SystemExit(3), "execution_error"),
        (MemoryError(), "memory_limit"),
        (RecursionError(), "execution_error"),
        (ValueError("No LM is loaded. Please configure"), "lm_not_configured"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, BaseException) else one,
)
def test_whatever_is_raised_becomes_a_bounded_error(exc: BaseException, code: str) -> None:
    error = to_bridge_error(exc)
    assert error.code == code
    assert len(error.encode()) < 100_000


def test_an_error_tells_where_but_no_secret() -> None:
    try:
        raise ValueError("the key sk-123456 is wrong")
    except ValueError as exc:
        error = to_bridge_error(exc, secrets=["sk-123456"])
    assert "sk-123456" not in str(error.to_wire())
    assert "test_models_and_errors.py" in error.details["traceback"]
    assert error.details["type"] == "ValueError"


def test_an_error_survives_the_journey_as_bytes() -> None:
    error = BridgeError("timeout", "late", details={"a": 1})
    back = BridgeError.decode(error.encode().decode())
    assert back is not None
    assert back.to_wire() == error.to_wire()
    assert BridgeError.decode("just text") is None


def test_the_wire_and_the_worker_name_the_same_program_types() -> None:
    assert list(PROGRAM_TYPES) == list(ProgramType.__args__)


def test_error_codes_are_words_and_an_unlisted_one_is_a_bug() -> None:
    assert all(re.fullmatch(r"[a-z_]+", code) for code in ERRORS)
    with pytest.raises(KeyError):
        BridgeError("made_up", "x")
