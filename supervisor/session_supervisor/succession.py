"""How a crew's workers are replaced by fresh ones without anybody noticing.

A worker that is *due* (by its age, its count of requests, what it holds of memory, because the launcher
that made it has been relieved, or because somebody asked) serves on until a successor has become the
session and has loaded its snapshot; between two requests the one takes the place of the other. Each
worker draws its own limits, and only so many successions happen at once in the whole supervisor.

A limit of memory below what any interpreter of the session needs would replace workers for ever: when
several in a row have had to go soon after they began, the next ones are left alone for a while that
doubles each time, and the log says so.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from session_supervisor.failures import DeathCertificate, Failure, WorkerStartFailed
from session_supervisor.frames import Kind
from session_supervisor.handle import WorkerHandle
from session_supervisor.states import BUSY, IDLE, LIVE
from session_supervisor.surroundings import Surroundings

if TYPE_CHECKING:
    from session_supervisor.crew import Crew, Done

logger = logging.getLogger(__name__)

_SHORT_LIFE_S = 30.0
_STORM = 3
_LONGEST_PAUSE_S = 600.0


class Succession:
    """Belongs to one crew. See the module."""

    def __init__(self, crew: Crew, surroundings: Surroundings) -> None:
        self._crew = crew
        self._surroundings = surroundings
        # Workers being replaced, each with its successor once that is ready.
        self._successors: dict[WorkerHandle, WorkerHandle | None] = {}
        self._when_done: list[Done] = []
        self._short_lives = 0
        self._pause_until = 0.0

    @property
    def active(self) -> bool:
        """Somebody is being replaced, or waits to hear of it."""
        return bool(self._successors or self._when_done)

    @property
    def awaited(self) -> bool:
        return bool(self._when_done)

    def replaces(self, old: WorkerHandle) -> bool:
        """Whether ``old`` is being replaced."""
        return old in self._successors

    # -- when ----------------------------------------------------------------------------------

    def begin_service(self, worker: WorkerHandle) -> None:
        """``worker`` serves from now on: give it its limits."""
        worker.due = worker.generation != self._surroundings.pool.generation
        ttl, worker.max_served = self._crew.session.options.recycle.draw()
        if ttl:
            worker.expiry = self._surroundings.reactor.call_later(ttl, lambda: self._expired(worker))

    def _expired(self, worker: WorkerHandle) -> None:
        worker.due = True
        self.advance()

    def renew(self, workers: Iterable[WorkerHandle]) -> None:
        """Replace those of them that an earlier launcher has made, successors included."""
        for worker in workers:
            worker.due = worker.due or worker.generation != self._surroundings.pool.generation
        self.advance()

    def recycle(self, done: Done) -> None:
        """Replace every worker; ``done`` when that has happened."""
        self._surroundings.residency.stir(self._crew)
        self._when_done.append(done)
        for worker in self._crew.workers:
            worker.due = True
        self.advance()

    def grown(self, worker: WorkerHandle) -> None:
        """``worker`` may hold more than it should: have it collect its garbage, then see."""
        if not worker.due and worker.state == IDLE and time.monotonic() >= self._pause_until:
            worker.send(Kind.COLLECT)

    def holds(self, worker: WorkerHandle, memory: int) -> None:
        """What ``worker`` really holds."""
        limit = self._crew.session.options.recycle.growth
        if worker.due or worker.baseline is None or memory - worker.baseline <= limit:
            return
        if worker.age < _SHORT_LIFE_S:
            self._short_lives += 1
        else:
            self._short_lives = 0
        if self._short_lives >= _STORM:
            pause = min(2.0 ** min(self._short_lives - _STORM, 10), _LONGEST_PAUSE_S)
            self._pause_until = time.monotonic() + pause
            logger.warning(
                "session %s: %d interpreters in a row had to be replaced for their memory within %d s of their "
                "start; the limit of %d MiB is less than its programs need. The next is left alone for %d s",
                *(self._crew.session.id, self._short_lives, _SHORT_LIFE_S, limit >> 20, pause),
            )
        worker.due = True
        self.advance()

    # -- how -----------------------------------------------------------------------------------

    def advance(self) -> None:
        """Begin to replace workers that are due, as far as that is allowed now."""
        for worker in self._crew.workers:
            if worker.due and worker not in self._successors:
                if self._crew.session.state != LIVE or not self._surroundings.may_recycle(self._crew):
                    return
                self._surroundings.residency.stir(self._crew)
                self._successors[worker] = None
                self._surroundings.pool.acquire(functools.partial(self._arrived, worker))

    def _arrived(self, old: WorkerHandle, result: WorkerHandle | WorkerStartFailed) -> None:
        if old not in self._successors:  # the session has ended meanwhile
            if isinstance(result, WorkerHandle):
                self._surroundings.pool.release(result)
        elif isinstance(result, WorkerStartFailed):
            self.failed(old, result)
        else:
            self._crew.assign(result, replaces=old)

    def ready(self, old: WorkerHandle, successor: WorkerHandle) -> None:
        """The successor of ``old`` can serve."""
        self._successors[old] = successor
        self.swap(old)

    def failed(self, old: WorkerHandle, failure: WorkerStartFailed) -> None:
        """There is no successor for ``old``, which goes on if it lives; it is tried again later."""
        if old in self._successors:
            del self._successors[old]
            self._over(failure)

    def swap(self, old: WorkerHandle) -> bool:
        """Replace ``old`` now if its successor is ready and it is between requests (or runs several at once,
        and finishes those it has); whether it was."""
        successor = self._successors.get(old)
        if successor is None or (old.state != IDLE and not (old.threads > 1 and old.state == BUSY)):
            return False
        del self._successors[old]
        self._crew.replace(old, successor)
        self._over(None)
        self.advance()  # the successor may have become out of date before it came to serve
        return True

    def after_request(self, worker: WorkerHandle) -> None:
        """``worker`` is between two requests."""
        if worker.max_served and worker.served >= worker.max_served:
            worker.due = True
        if worker in self._successors:
            self.swap(worker)
        elif worker.due:
            self.advance()

    def worker_lost(self, worker: WorkerHandle) -> WorkerHandle | None:
        """A worker that served is gone; its successor, if one is ready, takes over at once."""
        if worker not in self._successors:
            self._tell(None)  # one that is gone is as good as one replaced
            return None
        successor = self._successors.pop(worker)
        self._over(None)
        return successor

    def successor_lost(self, successor: WorkerHandle, certificate: DeathCertificate) -> None:
        """One that was ready but not yet in place has died: the one it was to replace goes on."""
        for old, one in self._successors.items():
            if one is successor:
                self.failed(old, WorkerStartFailed(f"the fresh interpreter {certificate.describe()}"))
                return

    def end(self, failure: Failure) -> None:
        """The session ends: nothing is replaced any more."""
        for _ in range(len(self._successors)):
            self._surroundings.recycle_ended()
        self._successors.clear()
        waiting, self._when_done = self._when_done, []
        for done in waiting:
            done(failure)

    def _over(self, failure: Failure | None) -> None:
        self._surroundings.recycle_ended()
        self._tell(failure)
        self._crew.settle()

    def _tell(self, failure: Failure | None) -> None:
        """Answer whoever waits, once no worker is due any more (or the attempt failed)."""
        if self._when_done and (failure is not None or not any(worker.due for worker in self._crew.workers)):
            waiting, self._when_done = self._when_done, []
            for done in waiting:
                done(failure)
