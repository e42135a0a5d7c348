"""Who said what to whom: frames of both sides, put together to requests and what came of each.

The recorded conversation and the replayed one are read by the same code; request by request they correspond,
because the host says the same in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.envelope import BadFrame, Call, CallId, HostAnswer, Said

NO_REQUEST: Final = "(no request)"
"""Stands for the command of a frame that was none."""


@dataclass(slots=True)
class HostCall:
    """A call of a program to its host."""

    call_id: str
    content: dict[str, Any]

    @property
    def of(self) -> tuple[Any, Any]:
        return self.content["call"], self.content["name"]


@dataclass(slots=True, eq=False)
class Exchange:
    """One request and all that was said about it. ``number``: how many there were before, on any connection."""

    number: int
    connection: int
    id: CallId | None
    command: str = NO_REQUEST
    session_id: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    at: float = 0
    """When it was sent, in seconds."""
    events: list[dict[str, Any]] = field(default_factory=list)
    calls: list[HostCall] = field(default_factory=list)
    reply: dict[str, Any] | None = None

    @property
    def outcome(self) -> str:
        """``success``, the error's code, or ``no reply``."""
        if self.reply is None:
            return "no reply"
        error = self.reply.get("error")
        return "success" if self.reply["success"] else str(error.get("code") if isinstance(error, dict) else error)


@dataclass(frozen=True, slots=True)
class Heard:
    """One thing the daemon said, and its place among its like: the ``count`` th of that exchange."""

    said: Said
    exchange: Exchange | None
    count: int


class Conversation:
    """Everything said on every connection so far."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.notices: dict[int, list[dict[str, Any]]] = {}
        """What the daemon said of itself, by connection."""
        self._open: dict[tuple[int, CallId | None], list[Exchange]] = {}
        self._calls: dict[tuple[int, str], tuple[Exchange, int]] = {}

    def host_said(self, connection: int, body: bytes | None, at: float) -> Exchange | HostAnswer:
        """``body``: None for a frame nobody kept."""
        try:
            said = envelope.parse(body if body is not None else b"")
        except BadFrame as bad:
            return self._begin(Exchange(len(self.exchanges), connection, bad.call_id, at=at))
        if isinstance(said, HostAnswer):
            return said
        return self._begin(_asked(len(self.exchanges), connection, said, at))

    def _begin(self, exchange: Exchange) -> Exchange:
        self.exchanges.append(exchange)
        self._open.setdefault((exchange.connection, exchange.id), []).append(exchange)
        return exchange

    def daemon_said(self, connection: int, frame: dict[str, Any]) -> Heard:
        said = envelope.read_said(frame)
        if said.kind == "notice":
            notices = self.notices.setdefault(connection, [])
            notices.append(frame)
            return Heard(said, None, len(notices))
        waiting = self._open.get((connection, said.id))
        if not waiting:
            return Heard(said, None, 0)
        # The second of two requests with one id is refused while the first goes on.
        refused = said.kind == "reply" and (said.content.get("error") or {}).get("code") == "duplicate_id"
        exchange = waiting[-1 if refused else 0]
        if said.kind == "reply":
            exchange.reply = said.content
            waiting.remove(exchange)
            return Heard(said, exchange, 1)
        if said.kind == "event":
            exchange.events.append(said.content)
            return Heard(said, exchange, count_of(exchange, said.content["event"]))
        self._calls[connection, said.call_id] = (exchange, len(exchange.calls))
        exchange.calls.append(HostCall(said.call_id, said.content))
        return Heard(said, exchange, len(exchange.calls))

    def call(self, connection: int, call_id: str) -> tuple[Exchange, int] | None:
        """The exchange of a call to the host, and its place among the exchange's calls."""
        return self._calls.get((connection, call_id))

    def open_at(self, connection: int, request_id: Any) -> Exchange | None:
        """The request of that id which is not answered yet."""
        waiting = self._open.get((connection, request_id))
        return waiting[0] if waiting else None

    def latest_open(self) -> Exchange | None:
        """Of any connection."""
        return max((one[-1] for one in self._open.values() if one), key=lambda one: one.number, default=None)


def _asked(number: int, connection: int, call: Call, at: float) -> Exchange:
    return Exchange(number, connection, call.id, call.command, call.session_id, call.args, at)


def count_of(exchange: Exchange, event: str) -> int:
    """How many events of that name there were."""
    return sum(one["event"] == event for one in exchange.events)
