"""What an operator may allow sessions to import: a program and a metric of their own."""

from __future__ import annotations

from typing import Any

import dspy


class Shout(dspy.Module):  # type: ignore[misc]
    def __init__(self, mark: str = "!") -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.mark = mark

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=self.answer(question=question).answer.upper() + self.mark)


class Talkative(Shout):
    def forward(self, question: str) -> dspy.Prediction:
        print("said aloud")
        return super().forward(question)


def brevity(example: Any, prediction: Any) -> dict[str, Any]:
    return {"score": 1 / len(prediction.answer), "feedback": "shorter is better"}


not_a_program = dict
