"""One connection of a replay: frames out at once, frames in from a thread, in either framing."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from typing import Any, Final, Literal

from dspy_bridge import jsonlib
from dspy_bridge.protocol.codec import Framing, frame, make_decoder

_CHUNK: Final = 1 << 16
_ANY_LENGTH: Final = 1 << 40

Inbox = queue.SimpleQueue[tuple[int, "dict[str, Any] | None"]]
"""What links hear: the connection's number and a frame, or None at its end."""


class Link:
    """See the module. Owns the socket."""

    def __init__(self, number: int, wire: socket.socket, framing: Framing, inbox: Inbox) -> None:
        self.number = number
        self.over = False
        """Nothing more is expected of the daemon."""
        self._wire = wire
        self._framing = framing
        self._inbox = inbox
        self._thread = threading.Thread(target=self._read, name=f"replay-{number}", daemon=True)
        self._thread.start()

    def send(self, body: bytes) -> None:
        """One frame; nothing, where nobody takes it any more."""
        self._send(frame(self._framing, body))

    def send_unusable(self, kind: Literal["too_large", "truncated"], max_frame: int) -> None:
        """A frame of more than ``max_frame`` bytes, or the beginning of one, and no more after it."""
        if kind == "too_large":
            self.send(b"x" * (max_frame + 2))
        else:
            self._send(struct.pack(">I", 2) + b"{")
            self.end_input()

    def _send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._wire.sendall(data)

    def end_input(self) -> None:
        """Send no more."""
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """Send no more and listen no more."""
        self.over = True
        with contextlib.suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.hang_up()
        self._thread.join()
        self._wire.close()

    def _read(self) -> None:
        decoder = make_decoder(self._framing, _ANY_LENGTH)
        with contextlib.suppress(OSError):
            while data := self._wire.recv(_CHUNK):
                for body in decoder.feed(data):
                    if isinstance(body, bytes):
                        self._inbox.put((self.number, jsonlib.loads(body)))
        self._inbox.put((self.number, None))
