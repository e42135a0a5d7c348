"""One request on its way through the supervisor, and where its answer goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from session_supervisor.failures import Failure
from session_supervisor.timers import Timer


class Sink(Protocol):
    """Where a request's answers go. Implemented by the bridge; called in the reactor's thread.

    Exactly one of ``reply`` and ``fail`` is called, once, and nothing after it.
    """

    def event(self, body: bytes) -> bool:
        """Take one event. False: full, send no more before ``on_writable`` was called back."""

    def trace(self, body: bytes) -> None:
        """Take what the worker says it did for this request."""

    def output(self, data: bytes) -> None:
        """Take what the worker printed while it ran this request. Never blocks; may drop."""

    def ask(self, body: bytes, answer: Callable[[bytes], None]) -> None:
        """The worker asks whoever sent the request; ``answer`` takes what comes back, piece by piece. It
        may never be called, and does nothing once the request has ended."""

    def retried(self, failure: Failure) -> None:
        """The worker died of ``failure``; the request begins again on a fresh one."""

    def reply(self, body: bytes) -> None:
        """Take the worker's terminal reply."""

    def fail(self, failure: Failure) -> None:
        """The request ends without a reply of its worker."""

    def on_writable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when there is room again."""


class Request:
    """``number`` is the supervisor's own, unique for its life; ``body`` is what the worker gets.

    ``mutating``: it may change the session's snapshot; what came after it waits for it. ``label``:
    what its caller calls it, for death certificates. ``retries``: how often it may begin again on a
    fresh worker if one dies of it.
    ``stopping``: why it is being stopped, once it is; its worker's reply is then of no interest.
    ``worker`` (a pid), ``lane`` and ``started_at`` say where and since when it runs, or ran last; 0: it
    never did. Of the requests a worker runs at once no two have one lane. ``decided_at``: when its outcome
    was known.
    """

    __slots__ = (
        "body",
        "deadline",
        "decided_at",
        "label",
        "lane",
        "mutating",
        "number",
        "retries",
        "sink",
        "started_at",
        "stopping",
        "worker",
    )

    def __init__(
        self, number: int, body: bytes, sink: Sink, *, mutating: bool, label: str = "", retries: int = 0
    ) -> None:
        self.number = number
        self.body = body
        self.sink = sink
        self.mutating = mutating
        self.label = label
        self.retries = retries
        self.stopping: Failure | None = None
        self.worker = 0
        self.lane = 0
        self.started_at = 0.0
        self.decided_at = 0.0
        self.deadline: Timer | None = None

    def rewind(self) -> None:
        """The worker it ran on is no more: it waits again."""
        self.worker = self.lane = 0
        self.started_at = 0.0

    def decided(self) -> None:
        """Its outcome is known, though perhaps not said yet: time cannot change it any more."""
        self.decided_at = self.decided_at or time.monotonic()
        if self.deadline is not None:
            self.deadline.cancel()

    def finish_with(self, body: bytes) -> None:
        """End it with its worker's reply."""
        self.decided()
        self.sink.reply(body)

    def finish_failed(self, failure: Failure) -> None:
        """End it with ``failure``, or with the reason it was being stopped for, if it was."""
        self.decided()
        self.sink.fail(self.stopping or failure)
