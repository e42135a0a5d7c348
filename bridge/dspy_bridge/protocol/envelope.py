"""The envelope: what a frame from the host asks for, and the frames that answer it.

The one place that knows both shapes of the wire, the bridge's own and JSON-RPC 2.0; everything else
sees a :class:`Call`. Used by the daemon, which needs the envelope only, and by the worker, which
serves the call and writes the reply the daemon then forwards without looking into it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final, Literal

from dspy_bridge import jsonlib
from dspy_bridge.protocol.errors import ERRORS, BridgeError

PROTOCOL_VERSION: Final = 1
MAX_ID: Final = 512
"""Characters in a string id or session id."""
DEFAULT_SESSION: Final = "default"

CallId = int | str


@dataclass(slots=True)
class Call:
    """One request. ``rpc``: it came as JSON-RPC 2.0 and is answered in kind. ``retry``: it may begin
    again, once, if its interpreter dies."""

    id: CallId
    command: str
    args: dict[str, Any]
    session_id: str
    session_given: bool
    timeout_ms: int | None
    rpc: bool
    traceparent: str | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class HostAnswer:
    """The host's answer to a call of a worker, or a piece of one. ``body`` is what the worker gets:
    ``{"success": true, "result"}``, ``{"success": false, "error"}`` or ``{"event", "data"}``."""

    call_id: str
    body: bytes


class BadFrame(Exception):
    """A frame that is no request. ``call_id`` is None where not even an id can be told.

    Raised by :func:`parse`.
    """

    def __init__(self, error: BridgeError, call_id: CallId | None, rpc: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.call_id = call_id
        self.rpc = rpc


def parse(body: bytes) -> Call | HostAnswer:
    """The request (or host's answer) in a frame. Raises :class:`BadFrame`."""
    try:
        frame = jsonlib.loads(body)
    except jsonlib.JSONDecodeError as exc:
        raise BadFrame(BridgeError("parse_error", f"the frame is not JSON: {exc}"), None, False) from None
    if type(frame) is not dict:
        kind = "a batch, which this daemon does not take" if type(frame) is list else type(frame).__name__
        message = f"a frame must be a JSON object, this is {kind}"
        raise BadFrame(BridgeError("invalid_request", message), None, False)
    rpc = frame.get("jsonrpc") == "2.0"
    if "call_id" in frame and "command" not in frame:
        return _host_answer(frame["call_id"], frame)
    if rpc and "method" not in frame and ("result" in frame or "error" in frame):
        return _host_answer(frame.get("id"), {**frame, "success": "error" not in frame})
    command, args = (frame.get("method"), frame.get("params")) if rpc else (frame.get("command"), frame.get("args"))
    call_id = frame.get("id")
    if type(call_id) is not int and (type(call_id) is not str or not call_id or len(call_id) > MAX_ID):
        message = f"id must be an integer or a string of 1 to {MAX_ID} characters"
        raise BadFrame(BridgeError("invalid_request", message), None, rpc)
    try:
        return _checked(frame, call_id, command, args, rpc)
    except BridgeError as error:
        raise BadFrame(error, call_id, rpc) from None


def _host_answer(call_id: Any, frame: dict[str, Any]) -> HostAnswer:
    """Bent into one shape: what the host leaves out must not keep its program waiting."""
    said: dict[str, Any]
    if isinstance(frame.get("event"), str):
        said = {"event": frame["event"], "data": frame.get("data")}
    elif frame.get("success") is True:
        said = {"success": True, "result": frame.get("result")}
    else:
        error = frame.get("error")
        if not isinstance(error, dict):
            error = {
                "message": error if isinstance(error, str) else "the host's answer says neither success nor why not"
            }
        said = {"success": False, "error": error}
    return HostAnswer(str(call_id)[:MAX_ID], jsonlib.dumps(said))


def _checked(frame: dict[str, Any], call_id: CallId, command: Any, args: Any, rpc: bool) -> Call:
    names = ("method", "params") if rpc else ("command", "args")
    if type(command) is not str or not command:
        raise BridgeError("invalid_request", f"{names[0]} must be a string that names a command")
    if args is None:
        args = {}
    elif type(args) is not dict:
        raise BridgeError("invalid_request", f"{names[1]} must be an object")
    outer, inner = frame.get("session_id"), args.get("session_id")
    if outer is not None and inner is not None and outer != inner:
        raise BridgeError("invalid_request", "session_id differs between the top level and the arguments")
    session_id = outer if outer is not None else inner
    given = session_id is not None
    if session_id is None:
        session_id = DEFAULT_SESSION
    elif type(session_id) is not str or not session_id or len(session_id) > MAX_ID or not session_id.isprintable():
        raise BridgeError("invalid_request", f"session_id must be a printable string of 1 to {MAX_ID} characters")
    timeout_ms = frame.get("timeout_ms")
    if timeout_ms is not None and (type(timeout_ms) is not int or not 0 < timeout_ms <= 86_400_000):
        raise BridgeError("invalid_request", "timeout_ms must be an integer from 1 to 86400000 (one day)")
    retry = frame.get("retry")
    if retry is not None and retry != "if_idempotent":
        raise BridgeError("invalid_request", 'retry must be "if_idempotent", or be left out')
    trace = frame.get("traceparent")
    traceparent = trace if isinstance(trace, str) and len(trace) <= MAX_ID else None
    return Call(call_id, command, args, session_id, given, timeout_ms, rpc, traceparent, retry is not None)


_second: tuple[int, str] = (0, "")
"""The last second a time stamp was made in, and how it reads: formatting one costs more than a reply."""


def timestamp() -> str:
    """Now, RFC 3339 in UTC with milliseconds."""
    global _second
    now = time.time_ns() // 1_000_000
    seconds, milliseconds = divmod(now, 1000)
    known = _second
    if known[0] != seconds:
        known = (seconds, datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"))
        _second = known
    return f"{known[1]}.{milliseconds:03d}Z"


def success(call_id: CallId, rpc: bool, result: Any) -> bytes:
    """The terminal reply with ``result`` (JSON-able; ``TypeError`` otherwise)."""
    if rpc:
        return jsonlib.dumps({"jsonrpc": "2.0", "id": call_id, "result": result})
    return jsonlib.dumps({"id": call_id, "success": True, "result": result, "timestamp": timestamp()})


def failure(call_id: CallId | None, rpc: bool, error: BridgeError) -> bytes:
    """The terminal reply with ``error``."""
    wire = error.to_wire()
    if rpc:
        coded = {"code": ERRORS[error.code].rpc, "message": error.message, "data": wire}
        return jsonlib.dumps({"jsonrpc": "2.0", "id": call_id, "error": coded})
    return jsonlib.dumps({"id": call_id, "success": False, "error": wire, "timestamp": timestamp()})


def event_tail(event: str, data: dict[str, Any]) -> bytes:
    """The part of an event only its maker knows. The daemon puts id and number before it
    (:func:`event`), because both the worker and the daemon itself make events of one request."""
    return jsonlib.dumps({"event": event, "data": data})[1:]


def is_failure(call: Call, reply: bytes) -> bool:
    """Whether a reply to ``call`` is an error, told by its first bytes."""
    head = b'{"jsonrpc":"2.0","id":%b,"error":' if call.rpc else b'{"id":%b,"success":false'
    return reply.startswith(head % jsonlib.dumps(call.id))


def outcome(call: Call, reply: bytes) -> str:
    """``success``, or the code of the error that a reply to ``call`` is: always one of the closed list."""
    if not is_failure(call, reply):
        return "success"
    try:
        error = jsonlib.loads(reply)["error"]
        code = (error["data"] if call.rpc else error)["code"]
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # an interpreter's bytes are forwarded as they are, and so may be anything
        return "internal"
    return code if isinstance(code, str) and code in ERRORS else "internal"


def event(call_id: CallId, rpc: bool, seq: int, tail: bytes) -> bytes:
    """The event frame number ``seq`` of a request, from its :func:`event_tail`."""
    head = b'{"id":%b,"seq":%d,' % (jsonlib.dumps(call_id), seq)
    if rpc:
        return b'{"jsonrpc":"2.0","method":"event","params":%b%b}' % (head, tail)
    return head + tail


def host_call_tail(call: str, name: str, args: dict[str, Any]) -> bytes:
    """The part of a call to the host that its maker knows; the daemon adds the rest (:func:`host_call`)."""
    return jsonlib.dumps({"call": call, "name": name, "args": args})[1:]


def host_call(call_id: str, request: Call, tail: bytes) -> bytes:
    """A worker's question to the host, which answers with the same ``call_id``."""
    head = b'"id":%b,"session_id":%b,' % (jsonlib.dumps(request.id), jsonlib.dumps(request.session_id))
    framed = b'{"jsonrpc":"2.0","id":%b,"method":"host_call","params":{%b%b}' if request.rpc else b'{"call_id":%b,%b%b'
    return framed % (jsonlib.dumps(call_id), head, tail)


@dataclass(frozen=True, slots=True)
class Said:
    """What a frame of the daemon says, in either shape. ``id``: the request it is about, if any."""

    kind: Literal["reply", "event", "call", "notice"]
    id: CallId | None
    content: dict[str, Any]
    """``{"success", "result" | "error"}``; ``{"event", "data"}``; ``{"call", "name", "args"}``; the frame itself."""
    call_id: str = ""


def read_said(frame: dict[str, Any]) -> Said:
    """The reading side of what is written above."""
    rpc = frame.get("jsonrpc") == "2.0"
    said = frame.get("params", {}) if rpc and "method" in frame else frame
    if "call" in said and "name" in said:
        content = {name: said.get(name) for name in ("call", "name", "args")}
        return Said("call", said.get("id"), content, str(frame["id"] if rpc else frame.get("call_id")))
    if "event" in said:
        if "seq" not in said:
            return Said("notice", None, frame)
        return Said("event", said.get("id"), {"event": said["event"], "data": said.get("data")})
    if "error" in frame:
        error = frame["error"].get("data") if rpc else frame["error"]
        return Said("reply", frame.get("id"), {"success": False, "error": error})
    return Said("reply", frame.get("id"), {"success": True, "result": frame.get("result")})


def daemon_event(event_name: str, data: dict[str, Any]) -> bytes:
    """An event of the daemon itself, of no request: ``{"event": ..., ...data}``."""
    return jsonlib.dumps({"event": event_name, **data})
