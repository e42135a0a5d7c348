"""One session: its snapshot and what is known of it, whether or not a process serves it now.

Most sessions rest most of the time, and a resting one is this record and nothing more: some three
kilobytes. What it needs while it is awake (workers, a queue, recycling) is its :class:`~.crew.Crew`,
made with the first request and disbanded when the last worker has gone.

A change of a durable session is stored before it is acknowledged, and nothing that was read after
the change is said before that either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from session_supervisor.crew import Crew, Done
from session_supervisor.failures import Failure, NotStored, RequestTimedOut, SessionEnded
from session_supervisor.handle import WorkerHandle
from session_supervisor.options import SessionOptions
from session_supervisor.request import Request
from session_supervisor.snapshot import VOLATILE_PREFIX, Parts, Snapshot
from session_supervisor.states import COLD, ENDING, LIVE, SESSION_TRANSITIONS, Lifecycle
from session_supervisor.store import Change
from session_supervisor.surroundings import Surroundings
from session_supervisor.timers import Timer


class Session:
    """See the module. ``birth``: the certificate every worker of it is assigned with, opaque;
    ``charter``: what it can be opened from again after a restart, opaque. ``uid``: the account its workers
    run under, if it is not ours."""

    __slots__ = (
        "_ended",
        "_handed",
        "_recorded",
        "_stored",
        "_surroundings",
        "_unsaved",
        "_when_ended",
        "birth",
        "charter",
        "created",
        "crew",
        "expiry",
        "folder_name",
        "hibernations",
        "id",
        "last_used",
        "lifecycle",
        "options",
        "recoveries",
        "recycles",
        "refusal",
        "requests",
        "snapshot",
        "uid",
    )

    def __init__(
        self,
        session_id: str,
        surroundings: Surroundings,
        options: SessionOptions,
        *,
        charter: bytes = b"",
        folder_name: str = "",
        uid: int = 0,
    ) -> None:
        self.id = session_id
        self.birth = b""
        self.charter = charter
        self.options = options
        self.folder_name = folder_name
        self.uid = uid
        self.snapshot = Snapshot(surroundings.add)
        self.lifecycle = Lifecycle(SESSION_TRANSITIONS, COLD)
        self.created = time.time()  # for people; durations use the monotonic clock
        self.last_used = time.monotonic()
        self.requests = 0
        self.recycles = 0
        self.recoveries = 0
        self.hibernations = 0
        self.crew: Crew | None = None
        self.expiry: Timer | None = None
        """Runs out when it may have been unused for its time."""
        self.refusal: Failure | None = None
        """Why the next request is refused, once: what happened while nobody was there to be told."""
        self._surroundings = surroundings
        self._recorded = False  # whether the store knows of it
        self._stored = 0  # the version that is safe
        self._handed = 0  # the version the store has been given
        self._unsaved = 0  # changes the store has been given that are not safe yet
        self._when_ended: list[Callable[[], None]] | None = None
        self._ended = False

    @property
    def state(self) -> str:
        return self.lifecycle.state

    @property
    def folder(self) -> Path:
        """Its scratch folder, made when it wakes."""
        return self._surroundings.scratch.folder(self.folder_name)

    @property
    def workers(self) -> list[WorkerHandle]:
        """Those that serve it now."""
        return self.crew.workers if self.crew else []

    @property
    def queued(self) -> int:
        return self.crew.queued if self.crew else 0

    @property
    def in_flight(self) -> int:
        return self.crew.in_flight if self.crew else 0

    # -- requests ------------------------------------------------------------------------------

    def submit(self, request: Request, timeout: float | None) -> None:
        """Queue ``request``; ``timeout`` seconds from now it ends with ``RequestTimedOut``."""
        if self.state == ENDING:
            request.finish_failed(SessionEnded(f"session {self.id!r} is being ended"))
            return
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            request.finish_failed(refusal)
            return
        self.requests += 1
        self.touch()
        if timeout is not None:
            reason = RequestTimedOut(f"the request did not end within {timeout * 1000:.0f} ms")
            request.deadline = self._surroundings.reactor.call_later(timeout, lambda: self.stop(request, reason))
        self._awake().submit(request)

    def stop(self, request: Request, reason: Failure) -> None:
        """End ``request`` with ``reason``: at once if it waits, when its work has stopped if it runs."""
        if self.crew is not None:
            self.crew.stop(request, reason)

    def touch(self) -> None:
        """It has been used just now."""
        self.last_used = time.monotonic()

    def ensure_live(self, done: Done) -> None:
        """Call ``done`` once a worker serves the session, or with why none can."""
        if self.state == LIVE:
            done(None)
        elif self.state == ENDING:
            done(SessionEnded(f"session {self.id!r} is being ended"))
        else:
            self._awake().ensure_live(done)

    def recycle(self, done: Done) -> None:
        """Replace every worker by a fresh one at the same state; ``done`` when that has happened.
        A session without a worker has a fresh one coming anyway."""
        if self.crew is None or self.state != LIVE:
            done(None)
        else:
            self.crew.recycle(done)

    def reconfigure(self, birth: bytes, options: SessionOptions) -> None:
        """Keep to ``options`` from now on; workers it gets from now on are assigned with ``birth``."""
        self.birth, self.options = birth, options
        self._surroundings.watch_use(self)
        if self.crew is not None:
            self.crew.reconfigured()

    def _awake(self) -> Crew:
        if self.crew is None:
            self.crew = Crew(self, self._surroundings)
        return self.crew

    @property
    def at_rest(self) -> bool:
        """Nobody waits for anything of it."""
        return not self._unsaved and (self.crew is None or self.crew.at_rest)

    def disbanded(self) -> None:
        """Its crew is no more."""
        self.crew = None
        self._forget_deleted()
        self._check_ended()

    # -- state ---------------------------------------------------------------------------------

    def commit(self, parts: Parts, done: Done) -> None:
        """Take over a change and call ``done`` when it is as safe as this session's are, or with
        :class:`NotStored`. Without a change: when all before it is safe."""
        if parts:
            self.snapshot.apply(parts)
            if self.snapshot.mostly_deleted:
                self._forget_deleted()
        if not self.options.durable or self.state == ENDING:
            done(None)
            return
        version, handed = self.snapshot.version, self._handed
        # What an earlier change could not store goes with this one; without one, nobody is to be bothered.
        news = self.snapshot.since(handed, deleted=True) if parts or not self._recorded else {}
        news = {name: value for name, value in news.items() if not name.startswith(VOLATILE_PREFIX)}
        store = self._surroundings.store
        assert store is not None  # what is durable has a store
        if news or not self._recorded:
            self._recorded = True
            self._handed = version

            def stored(failure: NotStored | None) -> None:
                if failure is not None:
                    self._handed = self._stored  # the next change takes along what this one could not store
                elif handed <= self._stored:
                    self._stored = max(self._stored, version)
                self._safe(done, failure)

            change = Change(self.id, self.charter, self.created, version, news)
            self._unsaved += 1
            store.save(change, stored)
        elif self._unsaved:
            self._unsaved += 1
            store.after(lambda failure: self._safe(done, failure))
        else:
            done(None)

    def _forget_deleted(self) -> None:
        """Of parts that are gone, only who has not heard of it must still be told: a worker, or the store."""
        known = self.snapshot.version if self.crew is None else self.crew.catch_up()
        self.snapshot.forget_deleted(min(known, self._stored) if self.options.durable else known)

    def _safe(self, done: Done, failure: NotStored | None) -> None:
        self._unsaved -= 1
        done(failure)
        if self._surroundings.draining and self.at_rest:
            self._surroundings.session_rested(self)
        self._check_ended()

    def restored(self, parts: dict[str, bytes], version: int, *, recorded: bool) -> None:
        """Begin with this state; ``recorded``: the store has it already."""
        self.snapshot.restore(parts, version)
        if recorded:
            self._recorded = True
            self._handed = self._stored = version

    # -- ending --------------------------------------------------------------------------------

    def end(self, done: Callable[[], None], failure: Failure | None = None, *, forget: bool = True) -> None:
        """End it: what waits or runs fails with ``failure`` (default :class:`SessionEnded`); ``done``
        when no process is left. ``forget`` it in the store too, or leave it there for another day."""
        if self._when_ended is not None:
            self._when_ended.append(done)
            return
        self._when_ended = [done]
        self.lifecycle.to(ENDING)
        if self.crew is not None:
            self.crew.end(failure or SessionEnded(f"session {self.id!r} was ended"))
        if forget and self._recorded and self._surroundings.store is not None:
            self._unsaved += 1
            self._surroundings.store.remove(self.id, self._forgotten)
        self._check_ended()

    def _forgotten(self, failure: NotStored | None) -> None:
        self._unsaved -= 1
        self._check_ended()

    def _check_ended(self) -> None:
        if self.state == ENDING and self.crew is None and not self._unsaved and not self._ended:
            self._ended = True
            if self.expiry is not None:
                self.expiry.cancel()
            self._surroundings.session_ended(self)
            for done in self._when_ended or ():
                done()
