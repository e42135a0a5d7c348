"""The endpoint fixture speaks what real clients read: plain, streamed, embedded, failing."""

from __future__ import annotations

import threading

import dspy
import pytest
from fixtures.openai_endpoint import Delay, Error, Fields, OpenAIEndpoint


def model(endpoint: OpenAIEndpoint, key: str = "key-123456") -> dspy.LM:
    return dspy.LM("openai/test", api_base=endpoint.url, api_key=key, cache=False, num_retries=0)


def test_a_streamed_answer_arrives_in_pieces_that_make_the_whole() -> None:
    with OpenAIEndpoint() as endpoint:
        endpoint.script(Fields({"answer": "one two three four five"}))
        lm = model(endpoint)
        with dspy.context(lm=lm):
            listener = dspy.streaming.StreamListener(signature_field_name="answer")
            program = dspy.streamify(
                dspy.Predict("question -> answer"), stream_listeners=[listener], async_streaming=False
            )
            pieces = list(program(question="count"))
        tokens = [piece.chunk for piece in pieces if isinstance(piece, dspy.streaming.StreamResponse)]
        assert len(tokens) > 1
        assert "".join(tokens).strip() == "one two three four five"
        assert pieces[-1].answer == "one two three four five"
        assert endpoint.requests[0].body["stream"] is True
        lm.close()


def test_two_keys_get_two_answers() -> None:
    with OpenAIEndpoint() as endpoint:
        answers = []
        for key in ("key-aaaaaa", "key-bbbbbb"):
            lm = model(endpoint, key)
            answers.append(lm("hi")[0])
            lm.close()
        assert answers == ["test asked with ...aaaaaa", "test asked with ...bbbbbb"]


def test_delays_overlap_and_the_peak_is_counted() -> None:
    with OpenAIEndpoint() as endpoint:
        endpoint.script(Delay(0.2), Delay(0.2), Delay(0.2))
        models = [model(endpoint) for _ in range(3)]
        threads = [threading.Thread(target=lm, args=("hi",)) for lm in models]
        for thread in threads:
            thread.start()
        endpoint.wait_for_requests(3)
        for thread in threads:
            thread.join(10)
        assert endpoint.peak_in_flight == 3
        for lm in models:
            lm.close()


def test_a_rate_limit_tells_when_to_come_back() -> None:
    with OpenAIEndpoint() as endpoint:
        endpoint.script(Error(429, "slow down", {"Retry-After": "7"}))
        lm = model(endpoint)
        with pytest.raises(dspy.utils.exceptions.LMRateLimitError) as limited:
            lm("hi")
        assert limited.value.retry_after == 7
        lm.close()


def test_closing_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with OpenAIEndpoint() as endpoint:
        lm = model(endpoint)
        lm("hi")
    lm.close()
    assert threading.active_count() == before
