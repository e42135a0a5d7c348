"""From a host's frame to whoever answers it, and back.

Control commands are answered here and now; session commands go to their session as the host's own
bytes, and what the worker answers goes to the host as the worker's own bytes. Exactly one terminal
reply leaves for every request that had an id.
"""

from __future__ import annotations

import codecs
import itertools
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from dspy_bridge.daemon.connection import Connection
from dspy_bridge.daemon.failures import to_bridge_error
from dspy_bridge.daemon.options import refuse_daemon_options
from dspy_bridge.daemon.timings import Timings
from dspy_bridge.daemon.tracing import MAX_NAME, Asked, Tracer, from_worker
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.codec import TOO_LARGE, Decoded
from dspy_bridge.protocol.commands import Command, find
from dspy_bridge.protocol.envelope import BadFrame, Call, CallId, HostAnswer
from dspy_bridge.protocol.errors import BridgeError
from session_supervisor.failures import Failure, RequestTimedOut
from session_supervisor.request import Request
from session_supervisor.session import Session
from session_supervisor.supervisor import Supervisor
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

OpenRequests = dict[tuple[Connection, CallId], "OpenRequest"]


class OpenRequest:
    """A request that has not had its terminal reply: the sink its answers fall into."""

    __slots__ = (
        "_asked",
        "_decoder",
        "_host_calls",
        "_log_left",
        "_number",
        "_received",
        "_router",
        "_seq",
        "call",
        "connection",
        "deadline",
        "over",
        "request",
        "session",
    )

    def __init__(self, router: Router, connection: Connection, call: Call) -> None:
        self.call = call
        self.connection = connection
        self.deadline: Timer | None = None
        """Of a request the daemon itself answers; a session's requests have their own."""
        self.request: Request | None = None
        self.session: Session | None = None
        self.over = False
        """It has had its terminal reply."""
        self._router = router
        self._seq = 0
        self._received = time.monotonic()
        self._number = router.taken
        self._asked: Asked | None = None
        self._log_left = router.log_limit
        self._host_calls: list[str] = []
        self._decoder: codecs.IncrementalDecoder | None = None

    # -- the sink of a session command ---------------------------------------------------------

    def event(self, body: bytes) -> bool:
        self._send_event(body)
        return not self.connection.congested

    def output(self, data: bytes) -> None:
        if self._log_left <= 0 or self.connection.congested or not self.connection.knows_protocol:
            return
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._decoder.decode(data[: self._log_left])
        self._log_left -= len(data)
        if text:
            self._send_event(envelope.event_tail("log", {"text": text}))
        if self._log_left <= 0:
            self._send_event(envelope.event_tail("log", {"text": "", "truncated": True}))

    def trace(self, body: bytes) -> None:
        assert self.request is not None  # it runs
        span = from_worker(body, self._as_asked(self.request), self.request.worker)
        if span is not None:
            self._router.tracer.record(span)

    def _as_asked(self, request: Request | None) -> Asked:
        """Made once: records of one request have one."""
        if self._asked is None:
            call, name = self.call, self.call.command[:MAX_NAME]
            started, lane = (request.started_at, request.lane) if request is not None else (0.0, 0)
            self._asked = Asked(
                self._number, call.id, name, call.session_id, self._received, started, lane, call.traceparent
            )
        return self._asked

    def ask(self, body: bytes, answer: Callable[[bytes], None]) -> None:
        call_id = self._router.expect_answer(self, answer)
        self._host_calls.append(call_id)
        self.connection.send(envelope.host_call(call_id, self.call, body))

    def retried(self, failure: Failure) -> None:
        self._router.retries += 1
        self._asked = None  # it begins anew
        error = to_bridge_error(failure).to_wire()
        self._send_event(envelope.event_tail("status", {"status": "retried", "after": error}))

    def reply(self, body: bytes) -> None:
        if self.over:  # it timed out, was cancelled or failed while this was on its way
            return
        self.over = True
        if self.deadline is not None:
            self.deadline.cancel()
        self._router.close(self, self._host_calls)
        outcome = envelope.outcome(self.call, body)
        self._router.failed += outcome != "success"
        request = self.request
        if request is not None:
            self._router.latencies.add(time.monotonic() - self._received)
            if request.started_at:
                self._router.waits.add(request.started_at - self._received)
            self.request = None  # it holds this object: without the cycle both are freed at once
        self.connection.send(body)
        if self.session is not None:
            ended = request.decided_at if request is not None else time.monotonic()
            self._router.tracer.request(self._as_asked(request), request.worker if request else 0, ended, outcome)

    def fail(self, failure: Failure) -> None:
        self.error(to_bridge_error(failure))

    def on_writable(self, callback: Callable[[], None]) -> None:
        self.connection.when_writable(callback)

    # -- the same for whoever answers in the daemon --------------------------------------------

    def success(self, result: Any) -> None:
        self.reply(envelope.success(self.call.id, self.call.rpc, result))

    def error(self, error: BridgeError) -> None:
        self.reply(envelope.failure(self.call.id, self.call.rpc, error))

    def conclude(self, failure: Failure | None, result: Any) -> None:
        """Succeed with ``result``, unless there is a failure."""
        if failure is None:
            self.success(result)
        else:
            self.fail(failure)

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step towards the answer; whatever it raises is the answer."""
        try:
            step()
        except BridgeError as error:
            self.error(error)
        except Failure as failure:
            self.fail(failure)
        except Exception as exc:
            logger.exception("command %s failed in the daemon", self.call.command)
            self.error(BridgeError("internal", f"the daemon failed: {type(exc).__name__}: {exc}"))

    def _send_event(self, tail: bytes) -> None:
        self.connection.send(envelope.event(self.call.id, self.call.rpc, self._seq, tail))
        self._seq += 1


ControlHandler = Callable[[OpenRequest, Any], None]
"""Serves one control command: answers the request now or later. Raises :class:`BridgeError`."""


class Router:
    """See the module. ``session_for(session_id)`` finds or opens a session, or raises."""

    def __init__(
        self,
        supervisor: Supervisor,
        control: Callable[[OpenRequest, Command], None],
        session_for: Callable[[str], Session],
        tracer: Tracer,
        *,
        log_limit: int,
        has_adapter: Callable[[str], bool] = lambda _session_id: False,
    ) -> None:
        self._has_adapter = has_adapter
        self.log_limit = log_limit
        self.open: OpenRequests = {}
        self.tracer = tracer
        self.latencies = Timings()
        """From receipt to terminal reply, of the requests that went to a session."""
        self.waits = Timings()
        """The part of it they waited for an interpreter."""
        self.retries = 0
        """Requests that began again because their interpreter had died."""
        self.taken = 0
        """Requests so far."""
        self.failed = 0
        """Those of them that were answered with an error."""
        self._call_numbers = itertools.count(1)
        self._awaited: dict[tuple[Connection, str], Callable[[bytes], None]] = {}
        self._supervisor = supervisor
        self._control = control
        self._session_for = session_for

    def take(self, connection: Connection, frames: list[Decoded]) -> None:
        """Serve every frame a connection has read."""
        for frame in frames:
            if isinstance(frame, bytes):
                self._take_frame(connection, frame)
            else:
                error = (
                    BridgeError("frame_too_large", "the frame is longer than max_frame; it was skipped")
                    if frame is TOO_LARGE
                    else BridgeError("parse_error", "the input ended within a frame")
                )
                connection.send(envelope.failure(None, False, error))

    def _take_frame(self, connection: Connection, body: bytes) -> None:
        try:
            call = envelope.parse(body)
        except BadFrame as bad:
            connection.send(envelope.failure(bad.call_id, bad.rpc, bad.error))
            return
        if isinstance(call, HostAnswer):
            answer = self._awaited.get((connection, call.call_id))
            if answer is None:
                logger.info("dropped an answer to host call %r, which nobody waits for", call.call_id)
            else:
                answer(call.body)
            return
        key = (connection, call.id)
        if key in self.open:
            error = BridgeError("duplicate_id", f"a request with id {call.id!r} is still open")
            connection.send(envelope.failure(call.id, call.rpc, error))
            return
        self.taken += 1
        opened = OpenRequest(self, connection, call)
        self.open[key] = opened
        opened.attempt(lambda: self._dispatch(opened, body))

    def _dispatch(self, opened: OpenRequest, body: bytes) -> None:
        call = opened.call
        try:
            command = find(call.command)
        except BridgeError:
            if not self._has_adapter(call.session_id):
                raise
            command = find("call_tool")  # its interpreter knows whether there is such a tool
        timeout = call.timeout_ms / 1000 if call.timeout_ms is not None else None
        if command.where == "daemon" and not (call.command == "ping" and call.args.get("deep") is True):
            self._control(opened, command)
            if timeout is not None and not opened.over:
                late = RequestTimedOut(f"the request did not end within {call.timeout_ms} ms")
                opened.deadline = self._supervisor.reactor.call_later(timeout, lambda: opened.fail(late))
            return
        if command.name == "configure":
            refuse_daemon_options(call.args)  # its interpreter knows nothing of these
        opened.session = session = self._session_for(call.session_id)
        request = self._supervisor.submit(
            session,
            body,
            opened,
            mutating=command.mutating,
            timeout=timeout,
            label=call.command,
            retries=1 if call.retry else 0,
        )
        if not opened.over:
            opened.request = request

    def expect_answer(self, opened: OpenRequest, answer: Callable[[bytes], None]) -> str:
        """A call to the host is about to leave: its id. Answers reach ``answer`` while ``opened`` is open."""
        call_id = f"c-{next(self._call_numbers)}"
        self._awaited[opened.connection, call_id] = answer
        return call_id

    def close(self, opened: OpenRequest, host_calls: Iterable[str] = ()) -> None:
        """The request has had its terminal reply: its id may be used again, its calls are answered by nobody."""
        self.open.pop((opened.connection, opened.call.id), None)
        for call_id in host_calls:
            del self._awaited[opened.connection, call_id]

    def stop(self, opened: OpenRequest, reason: Failure) -> None:
        """End an open request with ``reason``: one of a session when its work has stopped."""
        if opened.session is not None and opened.request is not None:
            opened.session.stop(opened.request, reason)
        else:
            opened.fail(reason)

    def of(self, connection: Connection) -> list[OpenRequest]:
        """The open requests of one connection."""
        return [opened for (owner, _), opened in self.open.items() if owner is connection]
