"""Isolated interpreters as a service: sessions in, replies out.

The supervisor owns the sessions, the pool and the launcher, keeps the limits that span sessions,
and ends in order: :meth:`Supervisor.drain` lets what runs finish within a bound, then lets every
process go and waits for it. It knows processes and bytes; what a request means is its caller's affair.

While it serves it can be given other options (:meth:`Supervisor.reconfigure`) and a fresh launcher
(:meth:`Supervisor.renew`), whose workers then succeed all others between requests.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path

from session_supervisor.counters import Counters
from session_supervisor.crew import Crew
from session_supervisor.failures import (
    DeathCertificate,
    Overloaded,
    SessionLimit,
    ShuttingDown,
)
from session_supervisor.frames import Kind
from session_supervisor.guard import Guard
from session_supervisor.handle import WorkerHandle
from session_supervisor.inspector import Inspector
from session_supervisor.launchers.base import Launcher
from session_supervisor.leases import Leases
from session_supervisor.observer import Observer
from session_supervisor.options import SessionOptions, SupervisorOptions
from session_supervisor.os_facts import become_subreaper
from session_supervisor.pool import Pool
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Ending, Reaper
from session_supervisor.request import Request, Sink
from session_supervisor.residency import Residency
from session_supervisor.scratch import Scratch
from session_supervisor.session import Session
from session_supervisor.snapshot import Add
from session_supervisor.store import Store
from session_supervisor.timers import Timer
from session_supervisor.uids import Uids, lock_ids

logger = logging.getLogger(__name__)

_LEAVE_BOUND_S = 3.0


LauncherFactory = Callable[[Reactor, Reaper], Launcher]


class Supervisor:
    """See the module. One per process: it becomes the subreaper and takes SIGCHLD."""

    def __init__(
        self,
        reactor: Reactor,
        make_launcher: LauncherFactory,
        options: SupervisorOptions,
        observer: Observer,
        *,
        add: Add,
        store: Store | None = None,
    ) -> None:
        uids = options.hardening.uids
        lock = lock_ids(uids)  # first, because it may not be possible: then nothing has been begun
        become_subreaper()
        self.reactor = reactor
        self.options = options
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.observer = observer
        self.scratch = Scratch()
        self._guardian = Guard(self.scratch.root, lock)
        self._uids = Uids(reactor, self._guardian, uids, lock)
        self._reaper = Reaper(reactor, self._guardian.forget)
        self._reaper.watch(self._guardian.pid, self._guardian_ended)
        self.launcher = make_launcher(reactor, self._reaper)
        self.pool = Pool(reactor, self._reaper, self.launcher, options, self._guardian.remember, observer)
        self.residency = Residency(options.max_workers)
        self.leases = Leases(options.leases)
        self.inspector = Inspector(reactor, options.measure_every)
        self.store = store
        self.add = add
        self._numbers = itertools.count(1)
        self.waiting = 0
        """Requests that wait for a worker, in all sessions."""
        self._recycling = 0
        self._recycle_queue: collections.deque[Crew] = collections.deque()
        self._draining = False
        self._drain_timer: Timer | None = None
        self._coming: Launcher | None = None
        self._on_drained: Callable[[], None] | None = None
        self._ended = False
        self._drained = False

    # -- life ----------------------------------------------------------------------------------

    def start(self, on_ready: Callable[[], None], on_failed: Callable[[str], None]) -> None:
        """Begin; exactly one of the two is called once it is known whether workers can be started."""

        def ready() -> None:
            self.pool.fill()
            on_ready()

        self.launcher.start(ready, on_failed)

    def reconfigure(self, options: SupervisorOptions) -> None:
        """Keep to ``options`` from now on. What runs is left to run; sessions keep theirs
        (:meth:`Session.reconfigure`)."""
        self.options = options
        self.pool.resize(options)
        self.residency.resize(options.max_workers)
        self.leases.resize(options.leases)
        self._begin_waiting_recycles()

    def renew(self, make_launcher: LauncherFactory, done: Callable[[str | None], None]) -> None:
        """Have every worker come from a launcher made now: ``done(None)`` once it can launch, and the spares
        are being replaced; or ``done(reason)``, and the one there is goes on. Workers that serve sessions
        are left alone until :meth:`roll_over`. One at a time; never done once this drains."""
        coming = self._coming = make_launcher(self.reactor, self._reaper)

        def ready() -> None:
            self._coming = None
            relieved, self.launcher = self.launcher, coming
            self.pool.renew(coming)
            relieved.stop()
            done(None)

        def failed(reason: str) -> None:
            self._coming = None
            coming.stop()
            done(reason)

        coming.start(ready, failed)

    def roll_over(self) -> None:
        """Have each worker that an earlier launcher made replaced, between requests and a few at a time."""
        for session in self.sessions.values():
            if session.crew is not None:
                session.crew.renew()

    @property
    def outdated(self) -> int:
        """Workers of sessions that an earlier launcher made."""
        generation = self.pool.generation
        return sum(one.generation != generation for session in self.sessions.values() for one in session.workers)

    def abandon(self) -> None:
        """Instead of :meth:`start`: the guardian leaves and takes the scratch folder with it."""
        self._guardian.release()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def processes(self) -> int:
        """Its children that have not been reaped: the guardian, templates, and interpreters in every state,
        those on their way out included."""
        return self._reaper.watching

    def drain(self, done: Callable[[], None]) -> None:
        """Take no new request, let what is queued or runs finish within the bound, end all, then ``done``."""
        self._on_drained = done
        if self._drained:
            self.reactor.call_soon(done)
        if not self._draining:
            self._draining = True
            if self._coming is not None:
                self._coming.stop()
            self._drain_timer = self.reactor.call_later(self.options.drain_timeout, self._end_sessions)
        self._check_drained()

    def _check_drained(self) -> None:
        if all(session.at_rest for session in self.sessions.values()):
            self._end_sessions()

    def _end_sessions(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        remaining = list(self.sessions.values())
        waiting = len(remaining) + 1

        def one_ended() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                self.pool.stop(self._pool_stopped)

        for session in remaining:
            session.end(one_ended, ShuttingDown("the daemon is shutting down"), forget=False)
        one_ended()

    def _pool_stopped(self) -> None:
        self.launcher.stop()
        self.inspector.stop()
        if self.store is not None:
            self.store.close()
        self._wait_until(lambda: not self._uids.sweeping, self._swept)

    def _swept(self) -> None:
        self._uids.stop()
        self._guardian.release()
        self._wait_until(lambda: not self._reaper.watching, self._all_gone)

    def _all_gone(self) -> None:
        self._drained = True
        if self._on_drained is not None:
            self._on_drained()

    def _wait_until(self, condition: Callable[[], bool], done: Callable[[], None]) -> None:
        """At the end of all, for what cannot say when it has happened; within a bound."""
        deadline = time.monotonic() + _LEAVE_BOUND_S

        def check() -> None:
            if not condition() and time.monotonic() < deadline:
                self.reactor.call_later(0.005, check)
            else:
                done()

        check()

    def _guardian_ended(self, ending: Ending) -> None:
        if not self._ended:
            logger.warning("the guardian ended with code %d; starting another", ending.code)
            self._guardian.restart()
            self._reaper.watch(self._guardian.pid, self._guardian_ended)

    # -- sessions ------------------------------------------------------------------------------

    def open(
        self,
        session_id: str,
        certificate: Callable[[Path], bytes],
        *,
        options: SessionOptions | None = None,
        charter: bytes = b"",
        restored: bool = False,
    ) -> Session:
        """Make a session (cold; it wakes with its first request or ``ensure_live``).

        ``certificate(scratch)`` gives the birth certificate its workers are assigned with; ``scratch``
        is a folder of the session's own. ``charter`` is what a durable session is stored with. One that
        is ``restored`` existed before, and no limit keeps it out. Raises :class:`SessionLimit`,
        :class:`ShuttingDown`; ``KeyError`` if it exists.
        """
        if session_id in self.sessions:
            raise KeyError(session_id)
        if self._draining:
            raise ShuttingDown("the daemon is shutting down")
        if len(self.sessions) >= self.options.max_sessions and not restored:
            raise SessionLimit(f"{len(self.sessions)} sessions exist, as many as are allowed")
        options = options or self.options.session
        name, uid = self.scratch.new_name(), self._uids.take()
        session = Session(session_id, self, options, charter=charter, folder_name=name, uid=uid)
        session.birth = certificate(session.folder)
        self.sessions[session_id] = session
        self.counters.sessions += 1
        self.observer.session_opened(session_id, restored=restored)
        self.watch_use(session)
        return session

    def discard(self, session: Session) -> None:
        """End ``session`` in the background; its name is free at once."""
        del self.sessions[session.id]
        session.end(lambda: None)

    def watch_use(self, session: Session) -> None:
        """Have the session end once it has not been used for its time, counted from its last use."""
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        if session.options.ttl:
            left = max(0.0, session.last_used + session.options.ttl - time.monotonic())
            session.expiry = self.reactor.call_later(left, lambda: self._check_use(session))

    def _check_use(self, session: Session) -> None:
        if self.sessions.get(session.id) is not session or self._ended:
            return
        ttl = session.options.ttl
        left = session.last_used + ttl - time.monotonic()
        if left <= 0 and session.at_rest:
            logger.info("session %s was not used for %d s and ends", session.id, ttl)
            self.counters.expired += 1
            session.end(lambda: None)
        else:
            session.expiry = self.reactor.call_later(left if left > 0 else ttl, lambda: self._check_use(session))

    def submit(
        self,
        session: Session,
        body: bytes,
        sink: Sink,
        *,
        mutating: bool,
        timeout: float | None,
        label: str = "",
        retries: int = 0,
    ) -> Request:
        """Queue a request; its sink hears the rest. Nothing is raised: refusals reach the sink too."""
        request = Request(next(self._numbers), body, sink, mutating=mutating, label=label, retries=retries)
        self.counters.requests += 1
        if self._draining:
            request.finish_failed(ShuttingDown("the daemon is shutting down"))
        elif self.waiting >= self.options.queue_total:
            self.counters.overloads += 1
            request.finish_failed(Overloaded(f"{self.options.queue_total} requests are waiting already"))
        else:
            session.submit(request, timeout)
        return request

    # -- a session's surroundings --------------------------------------------------------------

    def may_recycle(self, crew: Crew) -> bool:
        if self._recycling < self.options.concurrent_recycles:
            self._recycling += 1
            return True
        if crew not in self._recycle_queue:
            self._recycle_queue.append(crew)
        return False

    def recycle_ended(self) -> None:
        self._recycling -= 1
        self.counters.recycles += 1
        self.reactor.call_soon(self._begin_waiting_recycles)

    def _begin_waiting_recycles(self) -> None:
        """Whoever waited may need it no longer: go on until one takes the place or nobody waits."""
        while self._recycle_queue and self._recycling < self.options.concurrent_recycles:
            self._recycle_queue.popleft().recycle_due()

    def worker_died(self, session: Session, certificate: DeathCertificate) -> None:
        self.counters.crashes += 1
        self.observer.worker_died(session.id, certificate)

    def session_rested(self, session: Session) -> None:
        self._check_drained()

    def session_ended(self, session: Session) -> None:
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
        self.observer.session_ended(session.id)
        name = session.folder_name
        if session.uid:
            self._uids.give_back(session.uid, lambda: self.scratch.remove_all(name))
        else:
            self.scratch.remove(name)

    def confine(self, session: Session, worker: WorkerHandle) -> None:
        if self.options.hardening:
            place, folder = self.scratch.place(session.folder_name), session.folder
            worker.send(Kind.CONFINE, 0, self.options.hardening.confinement(session.uid, place, folder).pack())
