"""The worker's end of its pipe to the supervisor: blocking, framed, safe to send on from any thread."""

from __future__ import annotations

import collections
import socket
import threading

from session_supervisor.frames import FrameReader, Kind, pack

_CHUNK = 1 << 16


class ChannelClosed(Exception):
    """The supervisor is gone. Raised by :meth:`Channel.receive`; the worker must leave."""


class Channel:
    """Frames in, frames out. ``receive`` belongs to one thread; ``send`` to any."""

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
