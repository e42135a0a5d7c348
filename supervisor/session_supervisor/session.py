"""One session: its snapshot, its queue, and the worker(s) that are its warm copies.

Requests wait in one queue, in the order they came. The head is put on a free worker that has been
brought up to the snapshot's version; a mutating request runs alone among its like. What a request
changed is applied to the snapshot before its reply goes out, so whatever is dispatched later runs
on an interpreter that knows it: a host always reads its own writes.

Waking, recycling and recovery are one mechanism: take a fresh worker from the pool, assign it, load
the snapshot, serve. A worker that is due for recycling serves until its successor is ready and is
replaced between two requests.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path

from session_supervisor.failures import (
    DeathCertificate,
    Failure,
    Overloaded,
    RequestTimedOut,
    SessionEnded,
    WorkerStartFailed,
)
from session_supervisor.frames import Kind
from session_supervisor.handle import WorkerHandle
from session_supervisor.options import RecyclePolicy
from session_supervisor.request import Request
from session_supervisor.snapshot import Parts, Snapshot, encode_parts
from session_supervisor.states import (
    COLD,
    DRAINING,
    ENDING,
    IDLE,
    LIVE,
    SESSION_TRANSITIONS,
    WAKING,
    Lifecycle,
)
from session_supervisor.surroundings import Surroundings

Done = Callable[["Failure | None"], None]


class Session:
    """See the module. ``birth``: the birth certificate every worker of it is assigned with, opaque."""

    def __init__(
        self,
        session_id: str,
        birth: bytes,
        surroundings: Surroundings,
        *,
        recycle: RecyclePolicy,
        workers: int = 1,
        queue_limit: int = 1_024,
        folder: Path,
    ) -> None:
        self.id = session_id
        self.birth = birth
        self.folder = folder
        self.snapshot = Snapshot()
        self.lifecycle = Lifecycle(SESSION_TRANSITIONS, COLD)
        self.created = time.time()  # for people; durations use the monotonic clock
        self.last_used = time.monotonic()
        self.requests = 0
        self.recycles = 0
        self.recoveries = 0
        self.workers: list[WorkerHandle] = []
        self._surroundings = surroundings
        self._recycle = recycle
        self._wanted_workers = workers
        self._queue_limit = queue_limit
        self._queue: collections.deque[Request] = collections.deque()
        self._mutation: Request | None = None
        self._handles: set[WorkerHandle] = set()
        self._arriving = 0
        # Workers being replaced, each with its successor once that is ready.
        self._successors: dict[WorkerHandle, WorkerHandle | None] = {}
        self._limits: dict[WorkerHandle, int] = {}
        self._when_live: list[Done] = []
        self._when_recycled: list[Done] = []
        self._when_ended: list[Callable[[], None]] = []
        # Workers being assigned, each with the one it is to replace (None: it adds to them).
        self._newcomers: dict[WorkerHandle, WorkerHandle | None] = {}

    @property
    def state(self) -> str:
        return self.lifecycle.state

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return sum(len(worker.in_flight) for worker in self._handles)

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Request, timeout: float | None) -> None:
        """Queue ``request``; ``timeout`` seconds from now it ends with ``RequestTimedOut``."""
        if self.state == ENDING:
            request.finish_failed(SessionEnded(f"session {self.id!r} is being ended"))
            return
        if len(self._queue) >= self._queue_limit:
            request.finish_failed(Overloaded(f"session {self.id!r} has {self._queue_limit} requests waiting already"))
            return
        self.requests += 1
        self.last_used = time.monotonic()
        if timeout is not None:
            reason = RequestTimedOut(f"the request did not end within {timeout * 1000:.0f} ms")
            request.deadline = self._surroundings.reactor.call_later(timeout, lambda: self.stop(request, reason))
        self._queue.append(request)
        self._surroundings.waiting += 1
        self._pump()

    def stop(self, request: Request, reason: Failure) -> None:
        """End ``request`` with ``reason``: at once if it waits, when its work has stopped if it runs."""
        with contextlib.suppress(ValueError):
            self._queue.remove(request)
            self._surroundings.waiting -= 1
            request.finish_failed(reason)
            return
        for worker in self._handles:
            if request.number in worker.in_flight:
                worker.interrupt(request, reason)
                return

    def _pump(self) -> None:
        while self._queue:
            head = self._queue[0]
            if head.mutating and self._mutation is not None:
                return
            worker = self._idle_worker()
            if worker is None:
                if len(self.workers) + self._arriving < self._wanted_workers:
                    self._wake()
                return
            self._queue.popleft()
            self._surroundings.waiting -= 1
            if head.mutating:
                self._mutation = head
            if worker.version < self.snapshot.version:
                self._bring_up_to_date(worker)
            worker.serve(head)

    def _idle_worker(self) -> WorkerHandle | None:
        for worker in self.workers:
            if worker.lifecycle.state == IDLE:
                return worker
        return None

    def _fail_queued(self, failure: Failure) -> None:
        waiting, self._queue = self._queue, collections.deque()
        self._surroundings.waiting -= len(waiting)
        for request in waiting:
            request.finish_failed(failure)

    def _bring_up_to_date(self, worker: WorkerHandle) -> None:
        news = self.snapshot.since(worker.version)
        worker.version = self.snapshot.version
        worker.send(Kind.LOAD, self.snapshot.version, encode_parts(news))

    # -- waking --------------------------------------------------------------------------------

    def ensure_live(self, done: Done) -> None:
        """Call ``done`` once a worker serves the session, or with why none can."""
        if self.state == LIVE:
            done(None)
        elif self.state == ENDING:
            done(SessionEnded(f"session {self.id!r} is being ended"))
        else:
            self._when_live.append(done)
            if not self._arriving:
                self._wake()

    def _wake(self) -> None:
        if self.state == COLD:
            self.lifecycle.to(WAKING)
        self._arriving += 1
        self._surroundings.pool.acquire(self._arrived)

    def _arrived(self, result: WorkerHandle | WorkerStartFailed) -> None:
        if self.state == ENDING:
            self._decline(result)
        elif isinstance(result, WorkerStartFailed):
            self._wake_failed(result)
        else:
            self._assign(result, None)

    @staticmethod
    def _decline(result: WorkerHandle | WorkerStartFailed) -> None:
        """It comes too late: let it go unassigned, still the pool's."""
        if not isinstance(result, WorkerStartFailed):
            result.retire()

    def _assign(self, worker: WorkerHandle, replaces: WorkerHandle | None) -> None:
        worker.owner = self
        self._newcomers[worker] = replaces
        self._handles.add(worker)
        worker.send(Kind.ASSIGN, 0, self.birth)
        if self.snapshot.version:
            self._bring_up_to_date(worker)

    def worker_assigned(self, worker: WorkerHandle) -> None:
        if self.state == ENDING:
            worker.retire()
            return
        old = self._newcomers.pop(worker)
        if old is None:
            self._arriving -= 1
        elif old in self._successors:
            self._start_limits(worker)
            self._successors[old] = worker
            self._swap(old)
            return
        elif len(self.workers) + self._arriving >= self._wanted_workers:
            worker.retire()  # the one it was to replace died, and that loss has been made good already
            return
        self._start_limits(worker)
        self.workers.append(worker)
        if self.state == COLD:
            self.lifecycle.to(WAKING)
        if self.state == WAKING:
            self.lifecycle.to(LIVE)
        self._tell_live(None)
        self._pump()

    def worker_refused(self, worker: WorkerHandle, reason: str) -> None:
        self._lost_newcomer(worker, WorkerStartFailed(reason))
        worker.kill()

    def _lost_newcomer(self, worker: WorkerHandle, failure: WorkerStartFailed) -> None:
        """A worker that never came to serve is gone or going."""
        old = self._newcomers.pop(worker)
        if old is None:
            self._wake_failed(failure)
        elif self._successors.pop(old, failure) is None:
            self._recycled(failure)

    def _wake_failed(self, failure: WorkerStartFailed) -> None:
        self._arriving -= 1
        if self.workers or self._arriving:
            return
        if self.state == WAKING:
            self.lifecycle.to(COLD)
        self._fail_queued(failure)
        self._tell_live(failure)

    def _tell_live(self, failure: Failure | None) -> None:
        waiting, self._when_live = self._when_live, []
        for done in waiting:
            done(failure)
        self._check_rested()

    # -- recycling -----------------------------------------------------------------------------

    def _start_limits(self, worker: WorkerHandle) -> None:
        ttl, max_requests = self._recycle.draw()
        if max_requests:
            self._limits[worker] = max_requests
        if ttl:
            worker.expiry = self._surroundings.reactor.call_later(ttl, lambda: self._expired(worker))

    def _expired(self, worker: WorkerHandle) -> None:
        worker.due = True
        self.recycle_due()

    def recycle(self, done: Done) -> None:
        """Replace every worker by a fresh one at the same state; ``done`` when that has happened."""
        if not self.workers:
            done(None)
            return
        self._when_recycled.append(done)
        for worker in self.workers:
            worker.due = True
        self.recycle_due()

    def recycle_due(self) -> None:
        """Begin to replace workers that are due, as far as recycles are allowed now."""
        for worker in self.workers:
            if worker.due and worker not in self._successors:
                if self.state != LIVE or not self._surroundings.may_recycle(self):
                    return
                self._successors[worker] = None
                self._surroundings.pool.acquire(functools.partial(self._successor_arrived, worker))

    def _successor_arrived(self, old: WorkerHandle, result: WorkerHandle | WorkerStartFailed) -> None:
        if self.state == ENDING:
            self._decline(result)
        elif isinstance(result, WorkerStartFailed):
            # The old one, if it still lives, goes on; it is tried again after its next request.
            if self._successors.pop(old, result) is None:
                self._recycled(result)
        else:
            self._assign(result, old)

    def _swap(self, old: WorkerHandle) -> None:
        """Replace ``old`` if its successor is ready and it is between requests."""
        successor = self._successors.get(old)
        if successor is None or old.state != IDLE:
            return
        del self._successors[old]
        self.workers[self.workers.index(old)] = successor
        old.retire()
        self.recycles += 1
        self._recycled(None)
        self._pump()

    def _recycled(self, failure: Failure | None) -> None:
        self._surroundings.recycle_ended()
        self._tell_recycled(failure)

    def _tell_recycled(self, failure: Failure | None) -> None:
        """Answer whoever waits, once no worker is due any more (or the attempt failed)."""
        if failure is not None or not any(worker.due for worker in self.workers):
            waiting, self._when_recycled = self._when_recycled, []
            for done in waiting:
                done(failure)
            self._check_rested()

    # -- ending --------------------------------------------------------------------------------

    def end(self, done: Callable[[], None], failure: Failure | None = None) -> None:
        """End it: what waits or runs fails with ``failure`` (default :class:`SessionEnded`); ``done``
        when no process is left."""
        self._when_ended.append(done)
        if self.state == ENDING:
            return
        self.lifecycle.to(ENDING)
        failure = failure or SessionEnded(f"session {self.id!r} was ended")
        self._fail_queued(failure)
        self._tell_live(failure)
        for _ in range(len(self._successors)):
            self._surroundings.recycle_ended()
        self._successors.clear()
        for done_recycling in self._when_recycled:
            done_recycling(failure)
        for worker in list(self._handles):
            for request in worker.in_flight.values():
                request.stopping = request.stopping or failure
            worker.told_to_end = True
            if worker.in_flight or worker.state == DRAINING:
                worker.kill()
            else:
                worker.retire()
        self._check_ended()

    def _check_ended(self) -> None:
        if self.state == ENDING and not self._handles:
            self._surroundings.session_ended(self)
            for done in self._when_ended:
                done()
            self._when_ended.clear()

    # -- a worker's owner ----------------------------------------------------------------------

    def worker_ready(self, worker: WorkerHandle) -> None:
        """Only a spare says this; saying it twice is a fault."""
        worker.kill()

    def worker_finished(self, worker: WorkerHandle, request: Request, parts: Parts) -> None:
        if parts:
            current = worker.version == self.snapshot.version
            self.snapshot.apply(parts)
            if current:
                worker.version = self.snapshot.version
        if request is self._mutation:
            self._mutation = None

    def worker_free(self, worker: WorkerHandle) -> None:
        limit = self._limits.get(worker)
        if limit is not None and worker.served >= limit:
            worker.due = True
        if worker in self._successors:
            self._swap(worker)
        elif worker.due:
            self.recycle_due()
        self._pump()
        self._check_rested()

    @property
    def at_rest(self) -> bool:
        """Nobody waits for anything of it."""
        return not (self._queue or self._when_live or self._when_recycled or self.in_flight)

    def _check_rested(self) -> None:
        # Asked after every request, of interest only at the end.
        if self._surroundings.draining and self.at_rest:
            self._surroundings.session_rested(self)

    def worker_returned(self, worker: WorkerHandle, request: Request) -> None:
        """Serve it again, first: it has had no effect yet."""
        if request is self._mutation:
            self._mutation = None
        self._queue.appendleft(request)
        self._surroundings.waiting += 1

    def worker_printed(self, worker: WorkerHandle, data: bytes) -> None:
        self._surroundings.session_printed(self, data)

    def worker_dead(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        self._handles.discard(worker)
        self._limits.pop(worker, None)
        if self._mutation is not None and not any(self._mutation.number in w.in_flight for w in self._handles):
            self._mutation = None
        if worker in self._newcomers:
            detail = f"; its last words: {certificate.last_output}" if certificate.last_output else ""
            reason = f"the interpreter {certificate.describe()} while it was assigned{detail}"
            self._lost_newcomer(worker, WorkerStartFailed(reason))
        elif worker in self.workers:
            self._lost_worker(worker, certificate)
        elif worker in self._successors.values():
            # Ready but not yet in place: the one it was to replace goes on.
            old = next(old for old, successor in self._successors.items() if successor is worker)
            del self._successors[old]
            self._recycled(WorkerStartFailed(f"the fresh interpreter {certificate.describe()}"))
        self._check_ended()
        self._pump()
        self._check_rested()

    def _lost_worker(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        self.workers.remove(worker)
        self.recoveries += 1
        if not worker.told_to_end:
            self._surroundings.worker_died(self, certificate)
        if worker in self._successors:
            successor = self._successors.pop(worker)
            if successor is not None:
                self.workers.append(successor)
            self._recycled(None)
        if not self.workers and self.state == LIVE:
            self.lifecycle.to(COLD)
        self._tell_recycled(None)  # a dead worker is as good as a replaced one
