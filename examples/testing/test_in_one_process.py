"""Tests of DSPy programs as one writes them first. Each passes alone; together they do not: DSPy's settings,
history and cache are the process's, and whichever test comes second meets what the first has left.
"""

import dspy
import pytest
from dspy.utils import DummyLM


def ask(question: str) -> str:
    return dspy.Predict("question -> answer")(question=question).answer


def test_alice_gets_her_answer() -> None:
    dspy.configure(lm=DummyLM([{"answer": "for Alice"}]))
    assert ask("Who am I?") == "for Alice"
    assert len(dspy.settings.lm.history) == 1


def test_without_a_model_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match="No LM is loaded"):
        ask("Who am I?")


def test_nobody_has_asked_anything_yet(capsys: pytest.CaptureFixture[str]) -> None:
    dspy.inspect_history(n=100)
    assert "for Alice" not in capsys.readouterr().out
