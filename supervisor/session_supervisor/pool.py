"""Spare workers: forked ahead of need, so that a session's first request does not wait for a fork."""

from __future__ import annotations

import collections
import itertools
import logging
from collections.abc import Callable

from session_supervisor.failures import DeathCertificate, WorkerStartFailed
from session_supervisor.handle import WorkerHandle
from session_supervisor.launchers.base import Launcher
from session_supervisor.observer import Observer
from session_supervisor.options import SupervisorOptions
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from session_supervisor.request import Request
from session_supervisor.snapshot import Parts
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

Acquired = Callable[["WorkerHandle | WorkerStartFailed"], None]

_ATTEMPTS = 5
_REFILL_DELAY_S = 0.05
"""A fork right after a spare was taken would compete with the very request it was taken for."""
_REFILL_BACKOFF_S = 15.0


class _Wanted:
    """Somebody waits for a worker. ``failures``: how many launches made for it have failed. One that dies
    with its template takes many others along: only its own count against it."""

    __slots__ = ("acquired", "failures")

    def __init__(self, acquired: Acquired) -> None:
        self.acquired = acquired
        self.failures = 0


class Pool:
    """Keeps ``options.spares`` ready workers and hands them out, latest first.

    Owner of every worker from its launch until it is handed out, and again once it is given back.
    """

    def __init__(
        self,
        reactor: Reactor,
        reaper: Reaper,
        launcher: Launcher,
        options: SupervisorOptions,
        register: Callable[[int], None],
        observer: Observer,
    ) -> None:
        self._reactor = reactor
        self._reaper = reaper
        self._launcher = launcher
        self._options = options
        self._register = register
        self._observer = observer
        self._spares: list[WorkerHandle] = []
        self._starting: dict[WorkerHandle, Timer] = {}
        self._made_for: dict[WorkerHandle, _Wanted] = {}
        self._leaving: set[WorkerHandle] = set()
        self._wanted: collections.deque[_Wanted] = collections.deque()
        self._refill: Timer | None = None
        self._failures_in_row = 0
        self._on_empty: Callable[[], None] | None = None
        self._stopped = False
        self.generation = 1
        """Grows with each launcher; every worker has that of its launch."""
        self.started = 0
        """Workers that became ready, ever."""

    @property
    def spare_count(self) -> int:
        return len(self._spares)

    @property
    def starting_count(self) -> int:
        return len(self._starting)

    def fill(self) -> None:
        """Start as many workers as are missing."""
        self._refill = None
        if self._stopped:
            return
        missing = len(self._wanted) + self._options.spares - len(self._spares) - len(self._starting)
        for _ in range(missing):
            if not self._launch():
                break

    def acquire(self, acquired: Acquired) -> None:
        """Give ``acquired`` a ready worker, at once if a spare waits; it becomes the caller's own."""
        if self._stopped:
            acquired(WorkerStartFailed("the supervisor is stopping"))
        elif self._spares:
            acquired(self._spares.pop())
        else:
            wanted = _Wanted(acquired)
            self._wanted.append(wanted)
            if len(self._starting) < len(self._wanted):
                self._launch(wanted)
        self._schedule_refill(_REFILL_DELAY_S)

    def release(self, worker: WorkerHandle) -> None:
        """Take back a worker nobody needs any more, and see it off."""
        worker.owner = self
        self._leaving.add(worker)
        worker.retire()

    def resize(self, options: SupervisorOptions) -> None:
        """From now on keep to these."""
        self._options = options
        while len(self._spares) > options.spares:
            self.release(self._spares.pop(0))
        self.fill()

    def renew(self, launcher: Launcher) -> None:
        """Launch from ``launcher`` from now on, and replace whatever has not been handed out."""
        self._launcher = launcher
        self.generation += 1
        for worker in list(self._starting):
            self._starting.pop(worker).cancel()
            self._made_for.pop(worker, None)
            self._leaving.add(worker)
            worker.kill()
        spares, self._spares = self._spares, []
        for worker in spares:
            self.release(worker)
        self.fill()

    def stop(self, on_empty: Callable[[], None]) -> None:
        """Let every spare go; ``on_empty`` is called when none is left."""
        self._stopped = True
        self._on_empty = on_empty
        self._fail_wanted("the supervisor is stopping")
        for worker in self._spares:
            worker.retire()
        for worker in list(self._starting):
            worker.kill()
        self._leaving.update(self._spares)
        self._spares.clear()
        self._check_empty()

    # -- starting ------------------------------------------------------------------------------

    def _schedule_refill(self, delay: float) -> None:
        if self._refill is None and not self._stopped:
            self._refill = self._reactor.call_later(delay, self.fill)

    def _launch(self, wanted: _Wanted | None = None) -> bool:
        """Whether that could be begun."""
        try:
            grace = self._options.grace
            worker = WorkerHandle(self._reactor, self._reaper, self, grace, self._observer, self.generation)
        except OSError as exc:
            self._unprepared(wanted, f"the system gives no pipes for an interpreter: {exc}")
            return False
        if wanted is not None:
            self._made_for[worker] = wanted
        self._starting[worker] = self._reactor.call_later(self._options.start_timeout, worker.kill)

        def launched(result: int | WorkerStartFailed) -> None:
            if isinstance(result, WorkerStartFailed):
                worker.abandon()
                self._start_failed(worker, str(result))
            elif worker.launched(result):
                self._register(result)

        self._launcher.launch(worker.child_channel, worker.child_log, launched)
        return True

    def _unprepared(self, wanted: _Wanted | None, reason: str) -> None:
        """To try again at once would be in vain: whoever waits for this one is told, in the loop's next turn."""
        self._failures_in_row += 1
        if wanted is None:
            logger.error("a spare interpreter could not be started: %s", reason)
        elif wanted in self._wanted:
            self._wanted.remove(wanted)
            self._reactor.call_soon(lambda: wanted.acquired(WorkerStartFailed(reason)))
        self._schedule_refill(self._backoff)

    @property
    def _backoff(self) -> float:
        return min(0.1 * 2.0 ** min(self._failures_in_row, 10), _REFILL_BACKOFF_S)

    def _start_failed(self, worker: WorkerHandle, reason: str) -> None:
        if worker not in self._starting:  # it was let go before it was there
            self._leaving.discard(worker)
            self._check_empty()
            return
        self._starting.pop(worker).cancel()
        wanted = self._made_for.pop(worker, None)
        self._failures_in_row += 1
        if self._stopped:
            self._check_empty()
            return
        if wanted is not None and wanted in self._wanted:
            wanted.failures += 1
            if wanted.failures >= _ATTEMPTS:
                self._wanted.remove(wanted)
                message = f"{_ATTEMPTS} attempts to start an interpreter failed: {reason}"
                wanted.acquired(WorkerStartFailed(message))
        elif not self._wanted:
            logger.error("a spare interpreter could not be started: %s", reason)
        # A list, because a launcher may fail at once and thereby change who waits.
        for waiting in list(itertools.islice(self._wanted, len(self._starting), None)):
            self._launch(waiting)
        self._schedule_refill(self._backoff)

    def _fail_wanted(self, reason: str) -> None:
        wanted, self._wanted = self._wanted, collections.deque()
        for one in wanted:
            one.acquired(WorkerStartFailed(reason))

    def _check_empty(self) -> None:
        if self._on_empty is not None and not self._starting and not self._leaving:
            on_empty, self._on_empty = self._on_empty, None
            on_empty()

    # -- a worker's owner ----------------------------------------------------------------------

    def worker_ready(self, worker: WorkerHandle) -> None:
        self._starting.pop(worker).cancel()
        self._made_for.pop(worker, None)
        self._failures_in_row = 0
        self.started += 1
        if self._wanted:
            self._wanted.popleft().acquired(worker)
        else:
            self._spares.append(worker)

    def worker_dead(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        if worker in self._starting:
            detail = f": {certificate.last_output}" if certificate.last_output else ""
            self._start_failed(worker, f"the interpreter {certificate.describe()} before it was ready{detail}")
            return
        self._leaving.discard(worker)
        if worker in self._spares:
            self._spares.remove(worker)
            logger.warning("spare worker %d %s", worker.pid, certificate.describe())
            self._schedule_refill(_REFILL_DELAY_S)
        self._check_empty()

    def worker_printed(self, worker: WorkerHandle, data: bytes) -> None:
        logger.info("worker %d, of no session, printed: %s", worker.pid, data.decode(errors="replace").rstrip())

    def worker_assigned(self, worker: WorkerHandle) -> None:
        """A spare has been told nothing and has nothing to say; one that was let go may say it late."""
        if worker not in self._leaving:
            worker.kill()

    def worker_refused(self, worker: WorkerHandle, reason: str) -> None:
        worker.kill()

    def worker_stopped(self, worker: WorkerHandle, request: Request) -> None:
        """Spares have no requests."""

    def worker_finished(self, worker: WorkerHandle, request: Request, parts: Parts, reply: bytes) -> None:
        worker.kill()

    def worker_checkpoint(self, worker: WorkerHandle, parts: Parts) -> None:
        worker.kill()

    def worker_wants_lease(self, worker: WorkerHandle, granted: Callable[[], None]) -> None:
        worker.kill()

    def worker_released(self, worker: WorkerHandle) -> None:
        """It was let go before it could say so; its leases went with it."""

    def worker_holds(self, worker: WorkerHandle, memory: int) -> None:
        """It was asked before it was let go; of no interest now."""

    def worker_returned(self, worker: WorkerHandle, request: Request) -> None:
        worker.kill()
