"""Calls to language models, no more at once than the operator allows over all sessions."""

from __future__ import annotations

import contextlib
from typing import Any

from dspy.utils.callback import BaseCallback

from dspy_bridge.worker.host import Host


class LeasedCalls(BaseCallback):  # type: ignore[misc]
    """Each call waits in its own thread for a lease and gives it back when it has ended, well or not."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._held: dict[str, contextlib.ExitStack] = {}

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        stack = contextlib.ExitStack()
        stack.enter_context(self._host.lease())
        self._held[call_id] = stack

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        stack = self._held.pop(call_id, None)
        if stack is not None:
            stack.close()
