"""The closed list of error codes: the one place that defines what can go wrong on the wire.

Every failure a host can see carries one of these codes, whether it arose in the daemon or in a
worker. A code's meaning, its JSON-RPC number and whether repeating the request can help are data
(:data:`ERRORS`); the documentation and ``bridge-cli schema`` are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspy_bridge import jsonlib


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One row of the list.

    ``retryable``: the same request, sent again unchanged, may succeed. ``rpc``: the integer code
    a JSON-RPC 2.0 host receives instead; fixed for ever once released.
    """

    code: str
    retryable: bool
    rpc: int
    meaning: str


_ROWS: Final = (
    ErrorSpec("parse_error", False, -32700, "The frame is not JSON."),
    ErrorSpec("invalid_request", False, -32600, "The frame is JSON but not a request of this protocol."),
    ErrorSpec("frame_too_large", False, -32001, "The frame is longer than the announced max_frame; it was skipped."),
    ErrorSpec("duplicate_id", False, -32002, "A request with this id is still open on this connection."),
    ErrorSpec("unknown_command", False, -32601, "No command of this name exists."),
    ErrorSpec("invalid_args", False, -32602, "The arguments do not fit the command; details name each field."),
    ErrorSpec("session_not_found", False, -32003, "No session of this id exists and sessions are explicit here."),
    ErrorSpec("session_exists", False, -32004, "A session of this id exists already."),
    ErrorSpec("session_limit", True, -32005, "The daemon holds as many sessions as it is allowed to."),
    ErrorSpec("program_not_found", False, -32006, "The session has no program of this id."),
    ErrorSpec("program_exists", False, -32007, "The session already has a program of this id."),
    ErrorSpec("lm_not_configured", False, -32008, "The session has no language model, or lacks its key."),
    ErrorSpec("lm_error", False, -32009, "The language model's endpoint failed; details say how."),
    ErrorSpec("output_parse_error", False, -32010, "The language model's answer does not fit the signature."),
    ErrorSpec("execution_error", False, -32011, "The program raised an exception; details hold it."),
    ErrorSpec("unserializable_result", False, -32012, "The result holds a value that has no JSON form."),
    ErrorSpec("tool_error", False, -32013, "A tool failed."),
    ErrorSpec("host_call_failed", False, -32014, "A call to the host failed or was not answered in time."),
    ErrorSpec("timeout", True, -32015, "The request did not end within its timeout_ms."),
    ErrorSpec("cancelled", False, -32016, "The request was cancelled."),
    ErrorSpec("worker_crashed", True, -32017, "The interpreter died while it ran the request."),
    ErrorSpec("worker_start_failed", True, -32018, "No interpreter could be started for the session."),
    ErrorSpec("memory_limit", False, -32019, "The session went over its memory limit."),
    ErrorSpec("resource_limit", False, -32022, "The session went over another of its limits; details say which."),
    ErrorSpec("overloaded", True, -32000, "A queue is full; try again later."),
    ErrorSpec("shutting_down", True, -32020, "The daemon is draining and takes no new requests."),
    ErrorSpec(
        "version_conflict", False, -32023, "It has changed since the version if_version names; nothing was done."
    ),
    ErrorSpec("unsupported", False, -32021, "Not possible here; the message says what would make it so."),
    ErrorSpec("internal", False, -32603, "A fault of the bridge itself; please report it."),
)

ERRORS: Final[Mapping[str, ErrorSpec]] = {row.code: row for row in _ROWS}


class BridgeError(Exception):
    """A failure on its way to the host. Raised by anything that serves a request.

    ``code`` is a key of :data:`ERRORS` (``KeyError`` otherwise: an unlisted code is a bug).
    ``retryable`` overrides the row's default where one case differs. ``details`` must be JSON-able.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retryable = ERRORS[code].retryable if retryable is None else retryable

    def to_wire(self) -> dict[str, Any]:
        """The ``error`` object of a reply: ``{"code", "message", "retryable", "details"}``."""
        return {
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
            "details": self.details,
        }

    def encode(self) -> bytes:
        """The error object as JSON: how a worker names its reason through channels that know bytes only."""
        return jsonlib.dumps(self.to_wire())

    @classmethod
    def decode(cls, text: str) -> BridgeError | None:
        """The inverse of :meth:`encode`; None for any other text."""
        try:
            wire = jsonlib.loads(text)
        except jsonlib.JSONDecodeError:
            return None
        if not isinstance(wire, dict) or wire.get("code") not in ERRORS:
            return None
        return cls(wire["code"], wire["message"], details=wire["details"], retryable=wire["retryable"])


def limit_error(limit: str, message: str) -> BridgeError:
    """The error for a session that went over ``limit``, a field of :class:`session_supervisor.limits.Limits`."""
    code = "memory_limit" if limit == "memory" else "resource_limit"
    return BridgeError(code, message, details={"limit": limit})
