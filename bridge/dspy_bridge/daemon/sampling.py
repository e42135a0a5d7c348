"""Figures of the daemon over time, as records: interpreters, what waits, and what sessions' interpreters hold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from dspy_bridge.daemon.tracing import Listener, Span
from session_supervisor.handle import WorkerHandle
from session_supervisor.reactor import Reactor
from session_supervisor.supervisor import Supervisor
from session_supervisor.timers import Timer

_EVERY_S: Final = 1.0
_MEMORY_EVERY: Final = 5
"""Turns between two looks at memory, which take the kernel a while."""


def counts(supervisor: Supervisor) -> Iterator[Span]:
    """Now."""
    live = sum(len(session.workers) for session in supervisor.sessions.values())
    yield _counter("workers", None, {"live": live, "spare": supervisor.pool.spare_count})
    yield _counter("waiting", None, {"requests": supervisor.waiting})


def memory(supervisor: Supervisor, then: Callable[[list[Span]], None]) -> None:
    """Private memory of every interpreter of a session; ``then`` is called when all have been looked at."""
    workers = [worker for session in supervisor.sessions.values() for worker in session.workers]

    def looked(held: Mapping[WorkerHandle, int]) -> None:
        then([_counter("memory", worker.pid, {"MiB": round(size / 2**20, 2)}) for worker, size in held.items()])

    supervisor.inspector.ask(workers, looked)


def _counter(name: str, worker: int | None, values: Mapping[str, Any]) -> Span:
    now = time.monotonic()
    return Span("counter", name, now, now, worker, None, values)


class Sampler:
    """Tells ``take`` what has changed, once a second."""

    def __init__(self, reactor: Reactor, supervisor: Supervisor, take: Listener) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._take = take
        self._last: dict[tuple[str, int | None], Mapping[str, Any]] = {}
        self._turn = 0
        self._timer: Timer = reactor.call_later(0, self._sample)

    def close(self) -> None:
        """Sample no more."""
        self._timer.cancel()

    def _sample(self) -> None:
        self._timer = self._reactor.call_later(_EVERY_S, self._sample)
        for span in counts(self._supervisor):
            self._tell(span)
        self._turn += 1
        if self._turn % _MEMORY_EVERY == 0 and not self._supervisor.draining:
            memory(self._supervisor, self._looked)

    def _looked(self, spans: list[Span]) -> None:
        for span in spans:
            self._tell(span)
        known = {span.worker for span in spans}
        for name, worker in [*self._last]:
            if worker is not None and worker not in known:
                del self._last[name, worker]

    def _tell(self, span: Span) -> None:
        if self._last.get((span.name, span.worker)) != span.args:
            self._last[span.name, span.worker] = span.args
            self._take(span)
