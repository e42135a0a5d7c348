"""What the daemon makes of what its supervisor tells: lines of its log, and the lives of its interpreters.

An interpreter's life is a row of stages: ``starting``, ``spare``, ``session <id>``. A stage is recorded when it ends;
the present ones are known here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence

from dspy_bridge.daemon.tracing import Span, Tracer
from session_supervisor.failures import DeathCertificate

logger = logging.getLogger(__name__)


class _Stage:
    __slots__ = ("end", "name", "session", "start")

    def __init__(self, name: str, start: float, session: str | None = None) -> None:
        self.name = name
        self.start = start
        self.session = session
        self.end: str | None = None
        """Why it is about to end, where that is known before."""


class Observation:
    """The supervisor's observer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._stages: dict[int, _Stage] = {}

    def running(self) -> Iterator[Span]:
        """The present stage of every interpreter, as if it ended now."""
        now = time.monotonic()
        for pid, stage in self._stages.items():
            args = {"end": None, "running": True}
            yield Span("worker", stage.name, stage.start, now, pid, stage.session, args)

    # -- sessions ------------------------------------------------------------------------------

    def session_printed(self, session_id: str, data: bytes) -> None:
        text = data.decode(errors="replace").rstrip()
        logger.info("session %s printed: %s", session_id, text, extra={"session": session_id})

    def session_opened(self, session_id: str, *, restored: bool) -> None:
        if not restored:
            self._tracer.instant("session started", session_id)

    def session_hibernated(self, session_id: str, workers: Sequence[int]) -> None:
        self._tracer.instant("hibernated", session_id)
        for pid in workers:
            self._ends_because(pid, "hibernated")

    def session_ended(self, session_id: str) -> None:
        self._tracer.instant("session ended", session_id)

    # -- workers -------------------------------------------------------------------------------

    def worker_launched(self, pid: int, asked_for: float) -> None:
        self._stages[pid] = _Stage("starting", asked_for)

    def worker_ready(self, pid: int) -> None:
        self._next(pid, _Stage("spare", time.monotonic()))

    def worker_assigned(self, pid: int, session_id: str) -> None:
        self._next(pid, _Stage(f"session {session_id}", time.monotonic(), session_id))

    def worker_replaced(self, pid: int, session_id: str) -> None:
        self._tracer.instant("recycled", session_id, pid)
        self._ends_because(pid, "recycled")

    def worker_died(self, session_id: str, certificate: DeathCertificate) -> None:
        facts = {"session": session_id, "worker": certificate.pid}
        said = (session_id, certificate.pid, certificate.describe())
        logger.warning("the interpreter of session %s (pid %d) %s", *said, extra=facts)
        self._tracer.instant("crashed", session_id, certificate.pid, end=certificate.describe())

    def worker_ended(self, certificate: DeathCertificate) -> None:
        stage = self._stages.pop(certificate.pid, None)
        if stage is not None:
            self._record(certificate.pid, stage, stage.end or certificate.describe())

    def _ends_because(self, pid: int, reason: str) -> None:
        if pid in self._stages:
            self._stages[pid].end = reason

    def _next(self, pid: int, stage: _Stage) -> None:
        before = self._stages.get(pid)
        if before is not None:
            self._record(pid, before, None)
        self._stages[pid] = stage

    def _record(self, pid: int, stage: _Stage, end: str | None) -> None:
        span = Span("worker", stage.name, stage.start, time.monotonic(), pid, stage.session, {"end": end})
        self._tracer.record(span)
