"""The supervisor's end of one worker: what it is told and says, what is in flight on it, and how it is stopped.

A handle is one incarnation: it is made before the process exists and ends, once, with
``on_dead(certificate)``. Everything a worker said before it died is delivered before that.

:meth:`WorkerHandle.interrupt` climbs the ladder: interrupt the request in the interpreter, then
SIGTERM to the process group, then a dump of every thread's stack into the log, then SIGKILL to the
group. Each rung has a bound; a worker that reacts at a lower rung is killed right then, because
whatever its interrupted program left behind (threads, children) must have no further effect.
"""

from __future__ import annotations

import itertools
import logging
import signal
import time

from session_supervisor.channel import SupervisorChannel
from session_supervisor.failures import Failure, LimitExceeded, WorkerCrashed
from session_supervisor.frames import CALL_NUMBER, CorruptStream, Kind
from session_supervisor.hygiene import DUMP_SIGNAL, INTERRUPT_SIGNAL
from session_supervisor.observer import Observer
from session_supervisor.owner import WorkerOwner
from session_supervisor.process import Grace, WorkerProcess
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Ending, Reaper
from session_supervisor.request import Request
from session_supervisor.snapshot import Parts, decode_parts
from session_supervisor.states import (
    BUSY,
    DEAD,
    DRAINING,
    IDLE,
    STARTING,
    WORKER_TRANSITIONS,
    Lifecycle,
)
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

_DYING_S = 0.1
"""A process that is killed closes its channel a moment before it can be reaped."""


class WorkerHandle:
    """See the module. ``version``: the snapshot version the worker is at."""

    def __init__(
        self,
        reactor: Reactor,
        reaper: Reaper,
        owner: WorkerOwner,
        grace: Grace,
        observer: Observer,
        generation: int = 1,
    ) -> None:
        self.owner = owner
        self.generation = generation
        """Which of its pool's launchers made it."""
        self.version = 0
        self.served = 0
        self.due = False
        """Its session wants it replaced: by age, by count or by request."""
        self.told_to_end = False
        """Its end is our doing, not an accident."""
        self.facts = b""
        """What it says of itself, opaque."""
        self.threads = 1
        """How many requests it may run at once."""
        self.in_flight: dict[int, Request] = {}
        self.lifecycle = Lifecycle(WORKER_TRANSITIONS, STARTING)
        self.expiry: Timer | None = None
        self.max_served = 0
        """After so many requests its session wants it replaced (0: never)."""
        self.baseline: int | None = None
        """Bytes of private memory when it began to serve, where that is measured; :attr:`memory` is
        what it had when it was last looked at."""
        self.memory: int | None = None
        self.overtaken: set[int] = set()
        """Requests that were in flight when news was sent to it: what they change may have been changed before
        the news arrived there."""
        self._reactor = reactor
        self._grace = grace
        self._observer = observer
        self._spent = False
        self._last_label = ""
        self._last_sent: tuple[Kind, int] | None = None
        self._parts: dict[int, Parts] = {}
        self._held: set[int] = set()
        self._channel, self.child_channel = SupervisorChannel.pair(reactor)
        try:
            self._process = WorkerProcess(reactor, reaper)
        except OSError:
            self._channel.close()
            self.child_channel.close()
            raise

    # -- birth ---------------------------------------------------------------------------------

    def launched(self, pid: int) -> bool:
        """The process exists: listen to it and watch for its end. Whether that is still to come."""
        self._channel.listen(self._read)
        alive = self._process.begun(pid, self._read_log, self._exited)
        self._observer.worker_launched(pid, self._process.born)
        if self.state == DRAINING:
            self._process.kill()
        return alive

    def abandon(self) -> None:
        """There will be no process: release what was prepared for it."""
        self._close()
        self.lifecycle.to(DEAD)

    @property
    def child_log(self) -> int:
        """The end of its log pipe that is its own."""
        return self._process.child_log

    @property
    def pid(self) -> int:
        """0 before it exists."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """It exists and has not been reaped."""
        return self._process.alive

    @property
    def state(self) -> str:
        return self.lifecycle.state

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return self._process.age

    # -- talking to it -------------------------------------------------------------------------

    def send(self, kind: Kind, number: int = 0, body: bytes = b"") -> None:
        """Send one frame; what the pipe does not take now follows as it empties."""
        self._last_sent = (kind, number)
        self._channel.send(kind, number, body)

    @property
    def has_room(self) -> bool:
        """It can take another request now."""
        return self.lifecycle.state == IDLE or (self.lifecycle.state == BUSY and len(self.in_flight) < self.threads)

    def serve(self, request: Request) -> None:
        """Put ``request`` in flight on it."""
        if self.lifecycle.state == IDLE:
            self.lifecycle.to(BUSY)
        request.started_at = time.monotonic()
        request.worker = self.pid
        request.lane = self._free_lane() if self.in_flight else 1
        self.in_flight[request.number] = request
        self._last_label = request.label
        self.send(Kind.REQUEST, request.number, request.body)

    def _free_lane(self) -> int:
        taken = {request.lane for request in self.in_flight.values()}
        return next(lane for lane in itertools.count(1) if lane not in taken)

    # -- listening to it -----------------------------------------------------------------------

    def _read(self) -> bool:
        """Take one chunk; whether there was one."""
        try:
            frames = self._channel.read()
        except CorruptStream as exc:
            logger.warning("worker %d wrote what is no frame (%s); killing it", self.pid, exc)
            self.kill()
            return False
        except EOFError:
            if self.alive:  # most likely it is dying; if it is not, it is of no use without its channel
                self._drain()
                self._process.climb([(_DYING_S, self._process.kill)])
            return False
        for kind, number, body in frames or ():
            self._take(kind, number, body)
        return frames is not None

    def _take(self, kind: Kind, number: int, body: bytes) -> None:
        if kind is Kind.REPLY:
            self._finish(number, body)
        elif kind is Kind.PARTS:
            self._parts[number] = decode_parts(body)
        elif kind is Kind.CHECKPOINT:
            request = self.in_flight.get(number)
            if self.threads > 1 or (request is not None and request.stopping is None):
                self.owner.worker_checkpoint(self, decode_parts(body))
        elif kind is Kind.EVENT:
            request = self.in_flight.get(number)
            if request is not None and request.stopping is None:
                self._read_log()  # what it printed before this event comes before it
                if not request.sink.event(body):
                    self._pause(request)
        elif kind is Kind.PRINTED:
            request = self.in_flight.get(number)
            if request is not None and request.stopping is None:
                request.sink.output(body)
        elif kind is Kind.TRACE:
            request = self.in_flight.get(number)
            if request is not None:
                request.sink.trace(body)
        elif kind is Kind.CALL:
            self._ask(number, body)
        elif kind is Kind.LEASE:
            (call,) = CALL_NUMBER.unpack(body)
            self.owner.worker_wants_lease(self, lambda: self.send(Kind.ANSWER, call))
        elif kind is Kind.RELEASE:
            self.owner.worker_released(self)
        elif kind is Kind.READY:
            if self.lifecycle.state == STARTING:
                self.lifecycle.to(IDLE)
                self._observer.worker_ready(self.pid)
                self.owner.worker_ready(self)
        elif kind is Kind.ASSIGNED:
            self.facts = body
            self.owner.worker_assigned(self)
        elif kind is Kind.REFUSED:
            self.owner.worker_refused(self, body.decode(errors="replace"))
        elif kind is Kind.SPENT:
            self._spent = True
        elif kind is Kind.HOLDS:
            self.owner.worker_holds(self, number)

    def _ask(self, number: int, body: bytes) -> None:
        request = self.in_flight.get(number)
        if request is None or request.stopping is not None:
            return  # nobody would hear the answer
        (call,) = CALL_NUMBER.unpack_from(body)

        def answer(said: bytes) -> None:
            if number in self.in_flight:
                self.send(Kind.ANSWER, call, said)

        request.sink.ask(body[CALL_NUMBER.size :], answer)

    def _finish(self, number: int, body: bytes) -> None:
        request = self.in_flight.get(number)
        parts = self._parts.pop(number, {})
        if self.threads > 1 and (request is None or (request.stopping is not None and not request.mutating)):
            # Its reply is of no interest, but among the changes may be those of the requests beside it.
            if parts:
                self.owner.worker_checkpoint(self, parts)
            if request is not None:
                self._stopped(request)
            return
        if request is None:
            return
        if request.stopping is not None:
            # The interrupt reached it. Its reply and its changes are of no interest any more, and
            # what its program left running must not go on: the death of the worker ends the request.
            self.kill()
            return
        self._read_log()
        del self.in_flight[number]
        self.served += 1
        self.due = self.due or self._spent
        if self._spent and not self.in_flight:
            self.told_to_end = True
            self.kill()
        elif not self.in_flight and self.lifecycle.state == BUSY:
            self.lifecycle.to(IDLE)
        self.owner.worker_finished(self, request, parts, body)

    def _pause(self, request: Request) -> None:
        """Its reader is slow: leave what comes next in the pipe, where it holds the worker back; or hold back
        that request alone, if others run beside it."""
        if self.threads == 1 or request.mutating:
            self._channel.listen(None)
            request.sink.on_writable(lambda: self._channel.listen(self._read))
        elif request.number not in self._held:
            self._held.add(request.number)
            self.send(Kind.HOLD, request.number)
            request.sink.on_writable(lambda: self._let_go(request.number))

    def _let_go(self, number: int) -> None:
        self._held.discard(number)
        if self.state != DEAD:
            self.send(Kind.GO, number)

    def _read_log(self) -> bool:
        """Take what is in its log pipe; whether there was anything."""
        data = self._process.read_log()
        if data is None:
            return False
        for request in self.in_flight.values() if self.threads == 1 else ():
            if request.stopping is None:
                request.sink.output(data)
                return True
        self.owner.worker_printed(self, data)
        return True

    # -- stopping it ---------------------------------------------------------------------------

    def retire(self) -> None:
        """It is not needed any more: let it leave, and see to it that it does."""
        if self.state in (DRAINING, DEAD):
            return
        self.told_to_end = True
        self.lifecycle.to(DRAINING)
        self.send(Kind.STOP)
        self._process.climb([(self._grace.leave, self._process.kill)])

    def interrupt(self, request: Request, reason: Failure) -> None:
        """Stop ``request``, in flight here; it ends with ``reason`` when its work has stopped."""
        if request.stopping is not None:
            return
        request.stopping = reason
        if self.threads > 1:
            self._interrupt_thread(request)
            return
        self.told_to_end = True
        if self.state == DRAINING:
            return
        self.lifecycle.to(DRAINING)
        process = self._process
        process.signal(INTERRUPT_SIGNAL)
        process.climb(
            [
                (self._grace.interrupt, process.terminate),
                (self._grace.terminate, lambda: process.signal(DUMP_SIGNAL)),
                (self._grace.dump, process.kill),
            ]
        )

    def _interrupt_thread(self, request: Request) -> None:
        """Stop one of several requests. A thread that cannot be stopped is given up: its interpreter takes
        no more requests and ends with the last of its others."""
        self.send(Kind.CANCEL, request.number)

        def give_up() -> None:
            if request.number not in self.in_flight:
                return
            if len(self.in_flight) == 1:
                self.told_to_end = True
                self.kill()
            else:
                self._spent = True
                self._stopped(request)

        self._reactor.call_later(self._grace.interrupt + self._grace.terminate, give_up)

    def _stopped(self, request: Request) -> None:
        """A request that was one of several has stopped, or is not waited for any more."""
        del self.in_flight[request.number]
        self.due = self.due or self._spent
        if not self.in_flight and self._spent:
            self.told_to_end = True
            self.kill()
        elif not self.in_flight and self.lifecycle.state == BUSY:
            self.lifecycle.to(IDLE)
        self.owner.worker_stopped(self, request)

    def kill(self) -> None:
        """SIGKILL to its group, now. Idempotent."""
        self._drain()
        self._process.climb([])
        self._process.kill()

    def _drain(self) -> None:
        if self.state not in (DRAINING, DEAD):
            self.lifecycle.to(DRAINING)

    # -- its end -------------------------------------------------------------------------------

    def _exited(self, ending: Ending) -> None:
        self._process.ended()
        while self._read():  # what it said before it died
            pass
        while self._read_log():
            pass
        certificate = self._process.certify(
            ending, served=self.served, last_command=self._last_label or None, expected=self.told_to_end
        )
        self._close()
        self.lifecycle.to(DEAD)
        self._observer.worker_ended(certificate)
        orphans, self.in_flight = self.in_flight, {}
        for request in orphans.values():
            # Of what was left unread only what was sent last is known: the request, or merely an answer to it.
            unread = self._channel.left_unread and self._last_sent == (Kind.REQUEST, request.number)
            if request.stopping is None and unread:
                self.owner.worker_returned(self, request)
            elif request.stopping is None and request.retries:
                request.retries -= 1
                request.sink.retried(WorkerCrashed(certificate))
                self.owner.worker_returned(self, request)
            elif ending.code == -signal.SIGXCPU:
                request.finish_failed(LimitExceeded("cpu", "the request used up its processor time"))
            else:
                request.finish_failed(WorkerCrashed(certificate))
        self.owner.worker_dead(self, certificate)

    def _close(self) -> None:
        self._channel.close()
        self._process.close()
        if self.expiry is not None:
            self.expiry.cancel()
