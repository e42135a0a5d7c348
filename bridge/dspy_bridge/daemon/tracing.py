"""What happened, as small records: the one place that everybody who watches a daemon reads from.

A record is made when something has ended, holds names, times and outcomes, and never arguments, inputs, outputs
or texts of errors. The latest are always kept (``get_trace``); listeners (a trace file, OpenTelemetry) get each as it
comes. With no listener a request costs two tuples and an append.
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dspy_bridge import jsonlib
from dspy_bridge.protocol.envelope import CallId

logger = logging.getLogger(__name__)

LATEST: Final = 2_000
_MAX_INT: Final = 2**63 - 1
"""What OpenTelemetry takes."""
MAX_NAME: Final = 200
"""Characters of a name a record holds."""
_FROM_WORKERS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "id": str,
    "parent": (str, type(None)),
    "input_tokens": int,
    "output_tokens": int,
    "cache_hit": bool,
    "error": str,
}


class CannotTrace(Exception):
    """What the operator asked for is not possible, and why. Raised at start by trace file and telemetry."""


class Asked(NamedTuple):
    """The request a record is of. ``number``: unique in the daemon's life; ``started``: when a worker
    began it (0: none did); ``lane``: which of those its worker runs at once."""

    number: int
    id: CallId
    command: str
    session: str
    received: float
    started: float
    lane: int
    traceparent: str | None


class Span(NamedTuple):
    """``kind``: ``request``; ``lm``, ``module`` or ``tool``, inside one; ``worker``, a stage of an
    interpreter's life; ``session``, an instant; ``counter``. Times are those of the monotonic clock."""

    kind: str
    name: str
    start: float
    end: float
    worker: int | None
    session: str | None
    args: Mapping[str, Any]
    asked: Asked | None = None


Listener = Callable[[Span], None]


class Tracer:
    """See the module."""

    def __init__(self) -> None:
        self.latest: collections.deque[Span] = collections.deque(maxlen=LATEST)
        self._listeners: list[Listener] = []
        self._outcomes: dict[str, Mapping[str, Any]] = {}  # shared: there are few, and many requests

    def listen(self, listener: Listener) -> None:
        """Have ``listener`` told of every record from now on, in the reactor's thread."""
        self._listeners.append(listener)

    def record(self, span: Span) -> None:
        self.latest.append(span)
        for listener in self._listeners:
            try:
                listener(span)
            except Exception:
                logger.exception("a listener has failed and is told no more")
                self._listeners = [one for one in self._listeners if one is not listener]

    def request(self, asked: Asked, worker: int, end: float, outcome: str) -> None:
        """A request has its outcome: ``success`` or an error code."""
        began = asked.started or asked.received
        args = self._outcomes.setdefault(outcome, {"outcome": outcome})
        self.record(Span("request", asked.command, began, end, worker or None, asked.session, args, asked))

    def instant(self, name: str, session: str, worker: int | None = None, **args: Any) -> None:
        now = time.monotonic()
        self.record(Span("session", name, now, now, worker, session, args))


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value[:MAX_NAME]
    return min(value, _MAX_INT) if isinstance(value, int) else value


def from_worker(body: bytes, asked: Asked, worker: int) -> Span | None:
    """What a worker says it did for ``asked``. A worker runs code of others: only what has the expected form
    is taken over, and None is returned for anything else."""
    try:
        kind, name, start, end, args = jsonlib.loads(body)
        start, end = max(float(start), asked.started), min(float(end), time.monotonic())
    except (ValueError, TypeError):
        return None
    if kind not in ("lm", "module", "tool") or not isinstance(name, str) or not isinstance(args, dict):
        return None
    if not start <= end:  # so said, because a time may be no number
        return None
    known = {name: args[name] for name, form in _FROM_WORKERS.items() if name in args and isinstance(args[name], form)}
    known = {name: _clipped(value) for name, value in known.items()}
    return Span(kind, name[:MAX_NAME], start, end, worker, asked.session, known, asked)
