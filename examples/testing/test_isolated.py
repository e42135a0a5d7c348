"""The same tests, each in a session of its own: in any order, and at once (``pytest -n 2``)."""

import pytest

from dspy_bridge import Session, errors


def ask(session: Session, question: str) -> str:
    answer: str = session.program("question -> answer")(question=question).answer
    return answer


@pytest.mark.bridge(lm={"model": "scripted", "answers": [{"answer": "for Alice"}]})
def test_alice_gets_her_answer(bridge_session: Session) -> None:
    assert ask(bridge_session, "Who am I?") == "for Alice"
    assert len(bridge_session.history()["calls"]) == 1


@pytest.mark.bridge(lm=None)
def test_without_a_model_there_is_no_answer(bridge_session: Session) -> None:
    with pytest.raises(errors.LMNotConfigured):
        ask(bridge_session, "Who am I?")


def test_nobody_has_asked_anything_yet(bridge_session: Session) -> None:
    assert bridge_session.history()["calls"] == []
