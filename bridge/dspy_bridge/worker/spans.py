"""What programs do, seen from inside: each model call, module and tool as one span, told to the daemon when it
ends.

A span says what was called, when and with what outcome, never with what: no inputs, outputs or texts of errors.
Its parent is the span it was called from, as far as Python's context reaches; in threads that DSPy starts itself
the request is all that is known.
"""

from __future__ import annotations

import contextvars
import sys
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from dspy.utils.callback import BaseCallback

from dspy_bridge.worker.host import Host

_CURRENT: contextvars.ContextVar[str | None] = contextvars.ContextVar("span", default=None)
_LOOK_BACK: Final = 256
"""Calls that other threads may have recorded since ours."""
_MAX_NAME: Final = 200


class _Open:
    __slots__ = ("kind", "name", "parent", "start")

    def __init__(self, kind: str, name: object) -> None:
        self.kind = kind
        self.name = str(name)[:_MAX_NAME]
        self.parent = _CURRENT.get()
        self.start = time.monotonic()


class Spans(BaseCallback):  # type: ignore[misc]
    """Called from any thread of a program."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: dict[str, _Open] = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._begin(call_id, _Open("lm", instance.model))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception, _usage(outputs) if exception is None else {})

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._begin(call_id, _Open("module", type(instance).__name__))

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._begin(call_id, _Open("tool", instance.name))

    def on_tool_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self._end(call_id, exception)

    def _begin(self, call_id: str, opened: _Open) -> None:
        self._open[call_id] = opened
        _CURRENT.set(_span_id(call_id))

    def _end(self, call_id: str, exception: BaseException | None, more: Mapping[str, Any] | None = None) -> None:
        opened = self._open.pop(call_id, None)
        if opened is None:
            return
        _CURRENT.set(opened.parent)
        args = {**(more or {}), "id": _span_id(call_id), "parent": opened.parent}
        if exception is not None:
            args["error"] = type(exception).__name__[:_MAX_NAME]
        self._host.trace([opened.kind, opened.name, opened.start, time.monotonic(), args])


def _span_id(call_id: str) -> str:
    return call_id[:16]


def _usage(outputs: Any) -> dict[str, Any]:
    """Tokens of the call that gave ``outputs``, from DSPy's history: the one place that has them."""
    history: list[dict[str, Any]] = sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY
    for entry in islice(reversed(history), _LOOK_BACK):
        if entry["outputs"] is outputs or entry["response"] is outputs:
            usage, response = entry["usage"] or {}, entry["response"]
            cached = getattr(response, "cache_hit", False) is True or (
                not usage and bool(getattr(response, "usage", None))
            )
            tokens = {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
            return {**{name: n for name, n in tokens.items() if n is not None}, "cache_hit": cached}
    return {}
