"""The two ends of the pipe between the supervisor and a worker: the worker's blocks, the supervisor's never."""

from __future__ import annotations

import collections
import socket
import threading

from session_supervisor.frames import FrameReader, Kind, pack, pack_header
from session_supervisor.reactor import Callback, Reactor

_CHUNK = 1 << 16


class ChannelClosed(Exception):
    """The supervisor is gone. Raised by :meth:`Channel.receive`; the worker must leave."""


class Channel:
    """The worker's end. ``receive`` belongs to one thread; ``send`` to any."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._arrived: collections.deque[tuple[Kind, int, bytes]] = collections.deque()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive(self) -> tuple[Kind, int, bytes]:
        """The next frame as ``(kind, number, body)``; blocks. Raises :class:`ChannelClosed` at the end."""
        while not self._arrived:
            data = self._sock.recv(_CHUNK)
            if not data:
                raise ChannelClosed
            self._arrived.extend(self._reader.feed(data))
        return self._arrived.popleft()

    def send(self, kind: Kind, number: int = 0, body: bytes = b"") -> None:
        """Send one frame whole. A vanished supervisor raises ``OSError``."""
        with self._sending:
            self._sock.sendall(pack(kind, number, body))

    def send_many(self, frames: bytes) -> None:
        """Send frames already packed, with no other frame between them."""
        with self._sending:
            self._sock.sendall(frames)


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
            data = self._sock.recv(_CHUNK)
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
