"""How a crew comes by workers.

A place is claimed, a worker taken from the pool and assigned: it becomes the session and loads its snapshot.
It then adds to those that serve, or succeeds one of them. One that dies on the way has done nothing yet:
another is tried, but not for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_supervisor.failures import DeathCertificate, Failure, WorkerStartFailed
from session_supervisor.frames import Kind
from session_supervisor.handle import WorkerHandle
from session_supervisor.states import COLD, ENDING, WAKING
from session_supervisor.surroundings import Surroundings

if TYPE_CHECKING:
    from session_supervisor.crew import Crew, Done

_ATTEMPTS = 3


class Arrivals:
    """Belongs to one crew. See the module. ``count``: workers that are to add to those that serve, from the
    claim of a place on."""

    def __init__(self, crew: Crew, surroundings: Surroundings) -> None:
        self.count = 0
        self._crew = crew
        self._session = crew.session
        self._surroundings = surroundings
        # Workers being assigned, each with the one it is to replace (None: it adds to them).
        self._newcomers: dict[WorkerHandle, WorkerHandle | None] = {}
        self._stillbirths = 0  # in a row
        self._when_live: list[Done] = []

    def __contains__(self, worker: WorkerHandle) -> bool:
        """Whether it is being assigned."""
        return worker in self._newcomers

    @property
    def awaited(self) -> bool:
        """Somebody waits to hear that the session is live."""
        return bool(self._when_live)

    # -- the way -------------------------------------------------------------------------------

    def ensure_live(self, done: Done) -> None:
        """Call ``done`` once a worker serves, or with why none can."""
        self._when_live.append(done)
        if not self.count:
            self.begin()

    def begin(self) -> None:
        """One more is wanted."""
        if self._session.state == COLD:
            self._session.lifecycle.to(WAKING)
        self.count += 1
        self._surroundings.residency.claim(self._crew)

    def withdraw(self) -> None:
        """Those that wait for a place are not wanted any more."""
        self.count -= self._surroundings.residency.withdraw(self._crew)

    def place_granted(self) -> bool:
        """See :class:`.residency.Resident`."""
        if self._session.state == ENDING or not (self._crew.queued or self._when_live):
            # Whoever wanted it has given up meanwhile.
            self.count -= 1
            self._crew.fall_cold()
            self._crew.settle()
            return False
        self._surroundings.pool.acquire(self._arrived)
        return True

    def _arrived(self, result: WorkerHandle | WorkerStartFailed) -> None:
        if isinstance(result, WorkerStartFailed):
            self._failed(result)
        elif self._session.state == ENDING:
            self._surroundings.pool.release(result)
            self._failed(WorkerStartFailed("the session has ended"))
        else:
            self.assign(result, None)

    def assign(self, worker: WorkerHandle, replaces: WorkerHandle | None) -> None:
        """Have ``worker`` become the session; with ``replaces``, to succeed that one."""
        session = self._session
        self._newcomers[worker] = replaces
        self._crew.take_on(worker)
        self._surroundings.scratch.make(session.folder_name, session.uid)
        self._surroundings.confine(session, worker)
        worker.send(Kind.ASSIGN, 0, session.birth)
        self._surroundings.observer.worker_assigned(worker.pid, session.id)
        if session.snapshot.version:
            self._crew.bring_up_to_date(worker)

    def assigned(self, worker: WorkerHandle) -> None:
        """It is the session now."""
        if worker in self._newcomers:
            old = self._newcomers.pop(worker)
            self._stillbirths = 0
            if old is None:
                self.count -= 1
                self._crew.joined(worker)
            else:
                self._crew.successor_ready(old, worker)

    def tell_live(self, failure: Failure | None) -> None:
        """Answer whoever waits to hear that the session is live."""
        waiting, self._when_live = self._when_live, []
        for done in waiting:
            done(failure)

    # -- what may go wrong ---------------------------------------------------------------------

    def refused(self, worker: WorkerHandle, reason: str) -> None:
        """It cannot become the session, and another could not either."""
        self._lost(worker, WorkerStartFailed(reason))

    def died(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        """It has died on the way."""
        said = f"; its last words: {certificate.last_output}" if certificate.last_output else ""
        failure = WorkerStartFailed(f"the interpreter {certificate.describe()} while it was assigned{said}")
        self._stillbirths += 1
        if self._newcomers[worker] is None and self._stillbirths < _ATTEMPTS and self._session.state != ENDING:
            del self._newcomers[worker]
            self._surroundings.pool.acquire(self._arrived)
        else:
            self._lost(worker, failure)

    def _lost(self, worker: WorkerHandle, failure: WorkerStartFailed) -> None:
        if worker in self._newcomers:
            old = self._newcomers.pop(worker)
            if old is None:
                self._failed(failure)
            else:
                self._crew.successor_failed(old, failure)

    def _failed(self, failure: WorkerStartFailed) -> None:
        """A place was claimed in vain."""
        self.count -= 1
        self._surroundings.residency.give_back()
        if not self._crew.workers and not self.count:
            self._crew.cannot_wake(failure)
            self.tell_live(failure)
        self._crew.settle()
