"""The warm copies of one session, and the requests that wait for them.

Requests wait in one queue, in the order they came. The head is put on a free worker that has been
brought up to the snapshot's version. While a request that may change the session runs, what came after
it waits, so that a host always reads its own writes; otherwise requests run on as many workers as the
session has. What a request changed is committed before its reply goes out.

A crew takes a place for each worker (:mod:`.residency`). When it rests it may be told to give way; it
is disbanded when nothing is left for it to do.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from session_supervisor.arrivals import Arrivals
from session_supervisor.failures import (
    DeathCertificate,
    Failure,
    WorkerStartFailed,
)
from session_supervisor.frames import Kind
from session_supervisor.handle import WorkerHandle
from session_supervisor.idleness import Idleness
from session_supervisor.leases import Leases
from session_supervisor.oversight import Oversight
from session_supervisor.request import Request
from session_supervisor.request_queue import RequestQueue
from session_supervisor.snapshot import Parts, encode_parts
from session_supervisor.states import COLD, DRAINING, ENDING, IDLE, LIVE, WAKING
from session_supervisor.succession import Succession
from session_supervisor.surroundings import Surroundings

if TYPE_CHECKING:
    from session_supervisor.session import Session

Done = Callable[["Failure | None"], None]

_TURN_S = 1.0
"""How long a session may keep its workers between requests while others wait for a place."""


class Crew:
    """See the module. ``workers``: those that serve."""

    def __init__(self, session: Session, surroundings: Surroundings) -> None:
        self.session = session
        self.workers: list[WorkerHandle] = []
        self._surroundings = surroundings
        self._succession = Succession(self, surroundings)
        self._leases = Leases(session.options.leases, surroundings.leases)
        self._oversight = Oversight(session, self._succession, surroundings)
        self._queue = RequestQueue(session, surroundings)
        self._mutation: Request | None = None
        # Every worker that is ours to see off: serving, arriving or being stopped.
        self._handles: set[WorkerHandle] = set()
        # Workers that have been replaced while they still ran requests.
        self._outgoing: set[WorkerHandle] = set()
        self._arrivals = Arrivals(self, surroundings)
        self._turn_began = 0.0
        self._idleness = Idleness(session, surroundings.reactor, self._hibernate_idle)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return sum(len(worker.in_flight) for worker in self._handles)

    def catch_up(self) -> int:
        """Bring up to date whoever has nothing else to do; the snapshot's version every worker has then."""
        version = self.session.snapshot.version
        for worker in self.workers:
            if worker.state == IDLE and worker.version < version:
                self.bring_up_to_date(worker)
        return min((worker.version for worker in self._handles), default=version)

    @property
    def at_rest(self) -> bool:
        """Nobody waits for anything of it."""
        return not (self._queue or self._arrivals.awaited or self._succession.awaited or self.in_flight)

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        if self._queue.admit(request):
            self._surroundings.residency.stir(self)
            self.pump()

    def stop(self, request: Request, reason: Failure) -> None:
        if self._queue.withdraw(request, reason):
            self.settle()
            return
        for worker in self._handles:
            if request.number in worker.in_flight:
                worker.interrupt(request, reason)
                return

    def pump(self) -> None:
        """Put on workers what can run now; take more workers where that would help."""
        while self._queue and self._mutation is None:
            worker = self._free_worker(alone=self._queue.head.mutating)
            if worker is None:
                if len(self.workers) + self._arrivals.count < self.session.options.workers:
                    self._arrivals.begin()
                return
            head = self._queue.take()
            if head.mutating:
                self._mutation = head
            if worker.version < self.session.snapshot.version:
                self.bring_up_to_date(worker)
            worker.serve(head)

    def _free_worker(self, *, alone: bool) -> WorkerHandle | None:
        """One that can take a request now, the least busy; ``alone``: one that runs no other."""
        free = [one for one in self.workers if (one.lifecycle.state == IDLE if alone else one.has_room)]
        return min(free, key=lambda one: len(one.in_flight), default=None)

    def bring_up_to_date(self, worker: WorkerHandle) -> None:
        """Tell it what has changed since it was last told."""
        snapshot = self.session.snapshot
        news = snapshot.since(worker.version)
        worker.version = snapshot.version
        worker.overtaken.update(worker.in_flight)
        worker.send(Kind.LOAD, snapshot.version, encode_parts(news))

    # -- waking --------------------------------------------------------------------------------

    def ensure_live(self, done: Done) -> None:
        self._arrivals.ensure_live(done)

    def place_granted(self) -> bool:
        """See :class:`.residency.Resident`."""
        return self._arrivals.place_granted()

    def assign(self, worker: WorkerHandle, replaces: WorkerHandle) -> None:
        """Have ``worker`` become the session, to succeed ``replaces``."""
        self._arrivals.assign(worker, replaces)

    def take_on(self, worker: WorkerHandle) -> None:
        """It is ours to see off from now on."""
        worker.owner = self
        worker.threads = self.session.options.threads
        self._handles.add(worker)

    def joined(self, worker: WorkerHandle) -> None:
        """One more serves."""
        self._begin_service(worker)
        self.workers.append(worker)
        if self.session.state == WAKING:
            self.session.lifecycle.to(LIVE)
            self._turn_began = time.monotonic()
        self._idleness.watch()
        self._arrivals.tell_live(None)
        self._succession.advance()
        self.pump()
        self.settle()

    def successor_ready(self, old: WorkerHandle, worker: WorkerHandle) -> None:
        """``worker`` can take the place of ``old``."""
        if self._succession.replaces(old):
            self._begin_service(worker)
            self._succession.ready(old, worker)
        else:
            # The one it was to replace has died, and that loss has been made good or is about to be;
            # or the session is ending.
            self._dismiss(worker)
            self.settle()

    def successor_failed(self, old: WorkerHandle, failure: WorkerStartFailed) -> None:
        """There is nobody to take the place of ``old``."""
        self._succession.failed(old, failure)

    def _begin_service(self, worker: WorkerHandle) -> None:
        self._succession.begin_service(worker)
        if self.session.options.measured:
            self._surroundings.inspector.watch(worker, self.session.folder, self._oversight.measured)

    def cannot_wake(self, failure: WorkerStartFailed) -> None:
        """Nobody serves, and nobody will: what waits fails."""
        self.fall_cold()
        self._queue.fail(failure)

    def fall_cold(self) -> None:
        """Nobody serves the session any more, or nobody is on the way to do so."""
        lifecycle = self.session.lifecycle
        if not self.workers and lifecycle.state == LIVE:
            lifecycle.to(COLD)
            if self._arrivals.count:
                lifecycle.to(WAKING)
        elif not self._arrivals.count and lifecycle.state == WAKING:
            lifecycle.to(COLD)

    # -- recycling -----------------------------------------------------------------------------

    def recycle(self, done: Done) -> None:
        """Replace every worker by a fresh one."""
        self._succession.recycle(done)

    def renew(self) -> None:
        """Replace what an earlier launcher made."""
        self._succession.renew(self._handles)

    def reconfigured(self) -> None:
        """The session's options are others now."""
        self._leases.resize(self.session.options.leases)
        self._idleness.reconfigured()

    def recycle_due(self) -> None:
        """A succession may begin that had to wait for others'."""
        self._succession.advance()

    def replace(self, old: WorkerHandle, successor: WorkerHandle) -> None:
        """``successor`` serves from now on where ``old`` did."""
        self.workers[self.workers.index(old)] = successor
        if old.in_flight:
            self._outgoing.add(old)
        else:
            self._dismiss(old)
        self.session.recycles += 1
        self._surroundings.observer.worker_replaced(old.pid, self.session.id)
        self.pump()

    def _dismiss(self, worker: WorkerHandle) -> None:
        """It has nothing to do here any more."""
        self._leases.drop(worker)
        self._surroundings.inspector.forget(worker)
        self._handles.discard(worker)
        self._surroundings.pool.release(worker)

    # -- resting and hibernation ---------------------------------------------------------------

    def settle(self) -> None:
        """Something has ended: what follows if nothing is left to do."""
        if not self.at_rest or self.session.crew is not self:
            return
        if self._arrivals.count:
            self._arrivals.withdraw()
            self.fall_cold()
        if self._surroundings.draining:
            self._surroundings.session_rested(self.session)
        if not self._handles and not self._arrivals.count and not self._succession.active:
            self._surroundings.residency.stir(self)
            self._idleness.stop()
            self.session.disbanded()
        elif self._may_hibernate():
            self._surroundings.residency.rest(self)

    def _may_hibernate(self) -> bool:
        under_way = self._arrivals.count or self._succession.active
        return self.session.state == LIVE and len(self._handles) == len(self.workers) and not under_way

    def give_way(self) -> None:
        """Hibernate: let every worker go. Only for a crew that rests."""
        self.session.hibernations += 1
        self._surroundings.counters.hibernations += 1
        pids = [worker.pid for worker in self.workers]
        self._surroundings.observer.session_hibernated(self.session.id, pids)
        self._release_workers()
        self.settle()

    def _release_workers(self) -> None:
        gone, self.workers = self.workers, []
        self.session.lifecycle.to(COLD)
        for worker in gone:
            self._dismiss(worker)
            self._surroundings.residency.give_back()

    def _yield_turn(self, worker: WorkerHandle) -> None:
        """With others waiting for a place, a session that never rests gives its own up now and then."""
        if not self._surroundings.residency.waiting or worker.state != IDLE or self._succession.replaces(worker):
            return
        if time.monotonic() - self._turn_began > _TURN_S and worker in self.workers:
            self.workers.remove(worker)
            self._dismiss(worker)
            self._succession.worker_lost(worker)
            self.fall_cold()
            self._surroundings.residency.give_back()

    def _hibernate_idle(self) -> bool:
        """See :class:`.idleness.Idleness`."""
        if self.session.crew is not self or not self.workers:
            return True
        if not self.at_rest or not self._may_hibernate():
            return False
        self._surroundings.residency.stir(self)
        self.give_way()
        return True

    # -- ending --------------------------------------------------------------------------------

    def end(self, failure: Failure) -> None:
        """The session ends: so does everything of it."""
        self._surroundings.residency.stir(self)
        self._arrivals.withdraw()
        self._queue.fail(failure)
        self._arrivals.tell_live(failure)
        self._succession.end(failure)
        for worker in list(self._handles):
            for request in worker.in_flight.values():
                request.stopping = request.stopping or failure
            worker.told_to_end = True
            if worker.in_flight or worker.state == DRAINING:
                worker.kill()
            else:
                worker.retire()
        self.settle()

    # -- a worker's owner ----------------------------------------------------------------------

    def worker_assigned(self, worker: WorkerHandle) -> None:
        self._arrivals.assigned(worker)

    def worker_refused(self, worker: WorkerHandle, reason: str) -> None:
        self._arrivals.refused(worker, reason)
        worker.kill()

    def worker_ready(self, worker: WorkerHandle) -> None:
        """Only a spare says this; saying it twice is a fault."""
        worker.kill()

    def worker_finished(self, worker: WorkerHandle, request: Request, parts: Parts, reply: bytes) -> None:
        session = self.session
        request.decided()
        if parts or session.options.durable:
            self._commit(worker, parts, functools.partial(self._acknowledge, request, reply))
        else:
            request.finish_with(reply)
        worker.overtaken.discard(request.number)
        if request is self._mutation:
            self._mutation = None
        self._after_request(worker)

    def worker_stopped(self, worker: WorkerHandle, request: Request) -> None:
        assert request.stopping is not None
        if request is self._mutation:
            self._mutation = None
        request.finish_failed(request.stopping)
        worker.overtaken.discard(request.number)
        self._after_request(worker)

    def _after_request(self, worker: WorkerHandle) -> None:
        if worker in self._outgoing:
            if not worker.in_flight:
                self._outgoing.discard(worker)
                self._dismiss(worker)
        else:
            self._succession.after_request(worker)
            self._yield_turn(worker)
        self.pump()
        self.settle()

    @staticmethod
    def _acknowledge(request: Request, reply: bytes, failure: Failure | None) -> None:
        if failure is None:
            request.finish_with(reply)
        else:
            request.finish_failed(failure)

    def worker_checkpoint(self, worker: WorkerHandle, parts: Parts) -> None:
        self._commit(worker, parts, lambda _failure: None)

    def _commit(self, worker: WorkerHandle, parts: Parts, done: Done) -> None:
        """Take over what ``worker`` has changed. It is as new as the snapshot then, if it was before, and if no
        news can have crossed its changes on the way: otherwise it is told again."""
        snapshot = self.session.snapshot
        current = worker.version == snapshot.version and not worker.overtaken
        self.session.commit(parts, done)
        if current:
            worker.version = snapshot.version

    def worker_wants_lease(self, worker: WorkerHandle, granted: Callable[[], None]) -> None:
        self._leases.ask(worker, granted)

    def worker_released(self, worker: WorkerHandle) -> None:
        self._leases.give_back(worker)

    def worker_holds(self, worker: WorkerHandle, memory: int) -> None:
        worker.memory = memory
        self._succession.holds(worker, memory)

    def worker_returned(self, worker: WorkerHandle, request: Request) -> None:
        """Serve it again, first: what it had changed died with the worker."""
        if request is self._mutation:
            self._mutation = None
        self._queue.put_back(request)

    def worker_printed(self, worker: WorkerHandle, data: bytes) -> None:
        self._surroundings.observer.session_printed(self.session.id, data)

    def worker_dead(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        self._surroundings.inspector.forget(worker)
        self._leases.drop(worker)
        self._handles.discard(worker)
        self._outgoing.discard(worker)
        if self._mutation is not None and not any(self._mutation.number in w.in_flight for w in self._handles):
            self._mutation = None
        if worker in self._arrivals:
            self._arrivals.died(worker, certificate)
        elif worker in self.workers:
            self._lost_worker(worker, certificate)
        else:
            self._succession.successor_lost(worker, certificate)
        self.pump()
        self.settle()

    def _lost_worker(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        self.workers.remove(worker)
        if self.session.state != ENDING:
            self.session.recoveries += 1
        if not worker.told_to_end:
            self._surroundings.worker_died(self.session, certificate)
        successor = self._succession.worker_lost(worker)
        if successor is not None:
            self.workers.append(successor)
            self._succession.advance()
        else:
            self._surroundings.residency.give_back()
        self.fall_cold()
