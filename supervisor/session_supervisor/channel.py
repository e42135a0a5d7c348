"""The two ends of the pipe between the supervisor and a worker: the worker's blocks, the supervisor's never."""

from __future__ import annotations

import collections
import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from session_supervisor.confinement import Confinement, ConfinementFailed
from session_supervisor.frames import CALL_NUMBER, FrameReader, Kind, pack, pack_header
from session_supervisor.reactor import Reactor
from session_supervisor.reading import read_chunk
from session_supervisor.timers import Callback

_CHUNK = 1 << 16


class ChannelClosed(Exception):
    """The supervisor is gone, or this worker is of no use to it. Raised by :meth:`Channel.receive`; the worker
    must leave."""


class NothingUnderWay(Exception):
    """A call was made after its request had ended: there is nobody to ask. Raised by :meth:`Channel.call`."""


class Call:
    """A question to the supervisor's caller, and what has come back so far."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers: collections.deque[bytes] = collections.deque()
        self.answered = False


class Channel:
    """The worker's end. ``receive`` is for one thread; ``send`` and calls are for any.

    There is no thread that only reads. While the main thread serves a request, whoever waits for an
    answer reads the channel for all who wait (leader and followers), and passes the lead on when it has
    its own: a call costs no thread of its own and no hand-over in the common case of one caller.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._arrived: collections.deque[tuple[Kind, int, bytes]] = collections.deque()
        self._sending = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        # Taken by itself, in C: a thread that is interrupted inside the condition's own methods would keep it.
        self._lock = threading.RLock()
        self._answered = threading.Condition(self._lock)
        self._forsaken: set[int] = set()
        self._held: set[int] = set()
        self._led = False
        self._reader_thread: int | None = None
        self._latest: int | None = None
        self.under_way: Callable[[], int | None] = lambda: self._latest
        """Number of the request that whoever asks works on: the one received last, until the next frame is
        asked for. A worker that serves several at once puts a function of its own here."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def read_here(self) -> None:
        """From now on this thread alone reads: it is always in :meth:`receive`, or soon again."""
        self._reader_thread = threading.get_ident()

    def receive(self) -> tuple[Kind, int, bytes]:
        """The next frame as ``(kind, number, body)``; blocks. Raises :class:`ChannelClosed` at the end.
        Answers that come too late are dropped."""
        self._latest = None
        if self._reader_thread is not None:
            return self._receive_for_all()
        while True:
            if self._calls:  # of a thread that outlived its request: it may be leading
                with self._lock:
                    while not self._arrived:
                        if self._led:
                            self._answered.wait()
                        else:
                            self._lead(None)
            while not self._arrived:
                self._read()
            frame = self._arrived.popleft()
            if frame[0] is Kind.REQUEST:
                self._latest = frame[1]
            if frame[0] is Kind.CONFINE:
                self._confine(frame[2])
            elif frame[0] is not Kind.ANSWER:
                return frame

    def _confine(self, body: bytes) -> None:
        """Here rather than in the application, which could forget it."""
        try:
            Confinement.unpack(body).enter()
        except ConfinementFailed as exc:
            self.send(Kind.REFUSED, 0, f"the interpreter could not be shut in: {exc}".encode())
            raise ChannelClosed from exc

    def _receive_for_all(self) -> tuple[Kind, int, bytes]:
        while True:
            while self._arrived:
                frame = self._arrived.popleft()
                if frame[0] is not Kind.ANSWER:
                    return frame
                with self._lock:
                    self._deliver(*frame)
                    self._answered.notify_all()
            self._read()

    def _read(self) -> None:
        data = self._sock.recv(_CHUNK)
        if not data:
            raise ChannelClosed
        self._arrived.extend(self._reader.feed(data))

    def send(self, kind: Kind, number: int = 0, body: bytes = b"") -> None:
        """Send one frame whole. A vanished supervisor raises ``OSError``."""
        with self._sending:
            self._sock.sendall(pack(kind, number, body))

    def send_event(self, number: int, body: bytes) -> None:
        """Send one event of request ``number``, once the supervisor takes it."""
        if self._held:
            with self._lock:
                while number in self._held:
                    self._answered.wait()
        self.send(Kind.EVENT, number, body)

    def hold(self, number: int) -> None:
        """No event of request ``number`` is wanted before :meth:`let_go`."""
        self._held.add(number)

    def let_go(self, number: int) -> None:
        """Its events are welcome again, or it has ended."""
        with self._lock:
            self._held.discard(number)
            self._answered.notify_all()

    def send_many(self, frames: bytes) -> None:
        """Send frames already packed, with no other frame between them."""
        with self._sending:
            self._sock.sendall(frames)

    # -- calls ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def call(self, body: bytes) -> Iterator[Call]:
        """Ask the caller of the request under way; answers that come after the block are dropped. Raises
        :class:`NothingUnderWay`."""
        with self._lock:
            request = self.under_way()
            if request is None:
                raise NothingUnderWay
            call = Call(next(self._numbers))
            self._calls[call.number] = call
        try:
            self.send(Kind.CALL, request, CALL_NUMBER.pack(call.number) + body)
            yield call
        finally:
            with self._lock:
                del self._calls[call.number]

    def wake(self) -> None:
        """Have whoever waits for an answer take a step in Python, where an interrupt reaches it."""
        with self._lock:
            self._answered.notify_all()

    def answer(self, call: Call, timeout: float) -> bytes:
        """The next answer to ``call``. Raises ``TimeoutError`` after ``timeout`` seconds, :class:`ChannelClosed`."""
        deadline = time.monotonic() + timeout
        with self._lock:
            while not call.answers:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                if self._led or self._reader_thread not in (None, threading.get_ident()):
                    self._answered.wait(left)
                else:
                    self._lead(left)
            return call.answers.popleft()

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Hold one of the supervisor's leases; waits, without end, until there is one. Who gives up waiting
        leaves it to be given back when it comes."""
        with self._lock:
            call = Call(next(self._numbers))
            self._calls[call.number] = call
        try:
            self.send(Kind.LEASE, 0, CALL_NUMBER.pack(call.number))
            self.answer(call, threading.TIMEOUT_MAX)
            yield
        finally:
            with self._lock:
                del self._calls[call.number]
                if not call.answered:
                    self._forsaken.add(call.number)
            if call.answered:
                self.send(Kind.RELEASE)

    def _lead(self, timeout: float | None) -> None:
        """Read once, with the condition released meanwhile; then let everybody look whether it was for them."""
        self._led = True
        try:
            self._answered.release()
            if select.select([self._sock], [], [], timeout)[0]:
                self._read()
        finally:
            self._answered.acquire()
            self._led = False
            kept = [frame for frame in self._arrived if not self._deliver(*frame)]
            self._arrived = collections.deque(kept)
            self._answered.notify_all()

    def _deliver(self, kind: Kind, number: int, body: bytes) -> bool:
        if kind is not Kind.ANSWER:
            return False
        call = self._calls.get(number)
        if call is not None:
            call.answers.append(body)
            call.answered = True
        elif number in self._forsaken:
            self._forsaken.discard(number)
            self.send(Kind.RELEASE)
        return True


class SupervisorChannel:
    """The supervisor's end. What the pipe does not take at once follows as it empties.

    ``left_unread``: the worker has ended and never read what was sent last.
    """

    def __init__(self, reactor: Reactor, sock: socket.socket) -> None:
        self.left_unread = False
        self._reactor = reactor
        self._sock = sock
        self._sock.setblocking(False)
        self._reader = FrameReader()
        self._backlog: collections.deque[memoryview] = collections.deque()
        self._ended = False

    @classmethod
    def pair(cls, reactor: Reactor) -> tuple[SupervisorChannel, socket.socket]:
        """Such an end, and the other one for the worker to be."""
        ours, theirs = socket.socketpair()
        return cls(reactor, ours), theirs

    def listen(self, readable: Callback | None) -> None:
        """Call ``readable`` whenever there may be something to :meth:`read`; None stops it."""
        if not self._ended:
            self._reactor.on_readable(self._sock.fileno(), readable)

    def read(self) -> list[tuple[Kind, int, bytes]] | None:
        """The frames one chunk completes; None if there is nothing now. Raises ``EOFError``, once nothing
        can come any more, and :class:`~.frames.CorruptStream`; then it listens no more."""
        try:
            data = read_chunk(self._sock.fileno())
        except BlockingIOError:
            return None
        except ConnectionResetError:
            # How the kernel says that the other end closed with something of ours still unread.
            self.left_unread = True
            data = b""
        except OSError:
            data = b""
        try:
            if not data:
                raise EOFError
            return self._reader.feed(data)
        except Exception:
            self._ended = True
            self._reactor.forget(self._sock.fileno())
            raise

    def send(self, kind: Kind, number: int, body: bytes) -> None:
        """Send one frame. To a worker that is dying it is lost, silently: the reaper will tell."""
        if len(body) > _CHUNK:
            # Megabytes are not copied behind a header; they follow it through the backlog.
            self._backlog.append(memoryview(pack_header(kind, number, len(body))))
            self._backlog.append(memoryview(body))
            self._reactor.on_writable(self._sock.fileno(), self._flush)
            return
        data = pack(kind, number, body)
        if not self._backlog:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.left_unread = True
                return
            if sent == len(data):
                return
            self._reactor.on_writable(self._sock.fileno(), self._flush)
            self._backlog.append(memoryview(data)[sent:])
        else:
            self._backlog.append(memoryview(data))

    def _flush(self) -> None:
        while self._backlog:
            view = self._backlog[0]
            try:
                sent = self._sock.send(view)
            except BlockingIOError:
                return
            except OSError:
                self.left_unread = True
                self._backlog.clear()
                break
            if sent < len(view):
                self._backlog[0] = view[sent:]
                return
            self._backlog.popleft()
        self._reactor.on_writable(self._sock.fileno(), None)

    def close(self) -> None:
        self._ended = True
        self._reactor.forget(self._sock.fileno())
        self._sock.close()
