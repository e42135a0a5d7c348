"""For ``--preload``: a program asked a question that begins with ``py:`` runs the rest of it as Python.

What a tool or module of a user may do wrong, a test can thus do wrong in a real session.
"""

from __future__ import annotations

from typing import Any

import dspy

_forward = dspy.Predict.forward


def _misbehave(self: Any, **kwargs: Any) -> Any:
    question = kwargs.get("question")
    if isinstance(question, str) and question.startswith("py:"):
        exec(question[3:], {"kept": kept})  # noqa: S102 - what this module is for
    return _forward(self, **kwargs)


kept: list[Any] = []
"""What a request wants to outlive itself."""

dspy.Predict.forward = _misbehave
