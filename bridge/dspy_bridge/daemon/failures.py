"""From a failure of the supervisor to an error of the wire: the one place that knows both."""

from __future__ import annotations

import dataclasses
from typing import Final

from dspy_bridge.protocol.errors import BridgeError, limit_error
from session_supervisor import failures

_CODES: Final[dict[type[failures.Failure], str]] = {
    failures.WorkerCrashed: "worker_crashed",
    failures.WorkerStartFailed: "worker_start_failed",
    failures.RequestTimedOut: "timeout",
    failures.RequestCancelled: "cancelled",
    failures.Overloaded: "overloaded",
    failures.SessionLimit: "session_limit",
    failures.SessionEnded: "cancelled",
    failures.ShuttingDown: "shutting_down",
}


def to_bridge_error(failure: failures.Failure) -> BridgeError:
    """The error a host sees for ``failure``."""
    if isinstance(failure, failures.WorkerCrashed):
        return BridgeError("worker_crashed", str(failure), details=dataclasses.asdict(failure.certificate))
    if isinstance(failure, failures.WorkerStartFailed):
        refusal = BridgeError.decode(str(failure))  # a worker refused to become the session
        if refusal is not None:
            return refusal
    if isinstance(failure, failures.LimitExceeded):
        return limit_error(failure.limit, str(failure))
    if isinstance(failure, failures.NotStored):
        return BridgeError("internal", str(failure), retryable=True)
    return BridgeError(_CODES[type(failure)], str(failure))
