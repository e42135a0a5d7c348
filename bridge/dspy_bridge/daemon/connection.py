"""One host: a byte stream in, a byte stream out, frames between.

Reading never stops for a slow reader of our output, up to a point: beyond ``HIGH_WATER`` bytes not
yet taken, events are refused (workers wait, log events are dropped); replies are always queued, and
only beyond ``LIMIT`` does the connection stop reading requests until its host reads again. Memory is
bounded without the host's help.
"""

from __future__ import annotations

import collections
import logging
import os
import select
from collections.abc import Callable
from typing import Final, Protocol

from dspy_bridge.daemon.descriptors import is_pollable
from dspy_bridge.protocol.codec import Decoded, Framing, frame, make_decoder
from session_supervisor.reactor import Reactor
from session_supervisor.reading import read_chunk

logger = logging.getLogger(__name__)

HIGH_WATER: Final = 1 << 20
LIMIT: Final = 64 << 20
_GATHER: Final = 64


class Tap(Protocol):
    """Listens in on one connection."""

    def received(self, frames: list[Decoded]) -> None:
        """The host has sent these."""

    def sent(self, body: bytes) -> None:
        """The host is sent this."""

    def ended(self, *, both: bool) -> None:
        """The host sends no more; ``both``: nor does it read. May be told twice."""


def _gravity(reason: OSError) -> int:
    """That a host hangs up without reading all it is sent, as probes do every few seconds, is nothing to tell."""
    return logging.DEBUG if isinstance(reason, ConnectionError) else logging.INFO


class Connection:
    """See the module. Owns both descriptors (which may be the same, a socket's).

    ``on_frames(connection, frames)`` gets what was read; ``on_input_end(connection)`` comes once, when
    the host will send no more; ``on_lost(connection)`` once, when it can no longer be written to.
    """

    def __init__(
        self,
        reactor: Reactor,
        read_fd: int,
        write_fd: int,
        *,
        framing: Framing,
        max_frame: int,
        on_frames: Callable[[Connection, list[Decoded]], None],
        on_input_end: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
        tap: Tap | None = None,
    ) -> None:
        self.framing = framing
        self.input_ended = False
        self.lost = False
        self.knows_protocol = True
        """Frames nobody has asked for may be sent: the host was told of the protocol, or has said hello."""
        self._reactor = reactor
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._decoder = make_decoder(framing, max_frame)
        self._on_frames = on_frames
        self._on_input_end = on_input_end
        self._on_lost = on_lost
        self._tap = tap
        self._out: collections.deque[bytes | memoryview] = collections.deque()
        self._out_size = 0
        self._when_writable: list[Callable[[], None]] = []
        self._when_flushed: list[Callable[[], None]] = []
        self._reading = False
        # A shared open file keeps its flags after us: remember what to restore.
        self._was_blocking = {fd: os.get_blocking(fd) for fd in {read_fd, write_fd}}
        # A regular file is always ready and cannot be polled: it is written blocking.
        self._polled = is_pollable(write_fd)
        os.set_blocking(read_fd, False)
        if self._polled:
            os.set_blocking(write_fd, False)

    # -- input ---------------------------------------------------------------------------------

    def start_reading(self) -> None:
        if not self._reading and not self.input_ended:
            self._reading = True
            self._reactor.on_readable(self._read_fd, self._read)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._reactor.on_readable(self._read_fd, None)

    def _read(self) -> None:
        try:
            data = read_chunk(self._read_fd)
        except BlockingIOError:
            return
        except OSError as exc:
            logger.log(_gravity(exc), "the host's end failed: %s", exc)
            data = b""
        if data:
            self._take(self._decoder.feed(data))
            return
        self.input_ended = True
        self._stop_reading()
        self._take(self._decoder.finish())
        if self._tap is not None:
            self._tap.ended(both=self.hung_up())
        self._on_input_end(self)

    def _take(self, frames: list[Decoded]) -> None:
        if self._tap is not None:
            self._tap.received(frames)
        self._on_frames(self, frames)

    def hung_up(self) -> bool:
        """Whether the host has closed both directions, not only its output."""
        poll = select.poll()
        poll.register(self._write_fd, 0)
        return any(mask & (select.POLLHUP | select.POLLERR) for _, mask in poll.poll(0))

    # -- output --------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """The host takes our output more slowly than it comes."""
        return self._out_size > HIGH_WATER

    def send(self, body: bytes) -> None:
        """Queue one frame; it is written at once as far as the host takes it."""
        if self.lost:
            return
        if self._tap is not None:
            self._tap.sent(body)
        data = frame(self.framing, body)
        if self._out:
            self._out.append(data)
            self._out_size += len(data)
            if self._out_size > LIMIT:
                self._stop_reading()
            return
        try:
            sent = os.write(self._write_fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self._lose(exc)
            return
        if sent < len(data):
            self._out.append(memoryview(data)[sent:])
            self._out_size = len(data) - sent
            if self._polled:
                self._reactor.on_writable(self._write_fd, self._flush)
            else:
                self._flush()

    def when_writable(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when the connection is not congested (any more) or is lost."""
        if self.congested and not self.lost:
            self._when_writable.append(callback)
        else:
            self._reactor.call_soon(callback)

    def when_flushed(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, when everything queued has been written or never will be."""
        if not self._out or self.lost:
            self._reactor.call_soon(callback)
        else:
            self._when_flushed.append(callback)

    def _flush(self) -> None:
        while self._out:
            pieces = [self._out[i] for i in range(min(len(self._out), _GATHER))]
            try:
                sent = os.writev(self._write_fd, pieces)
            except BlockingIOError:
                break
            except OSError as exc:
                self._lose(exc)
                return
            self._out_size -= sent
            while self._out and sent >= len(self._out[0]):
                sent -= len(self._out.popleft())
            if sent:
                self._out[0] = memoryview(self._out[0])[sent:]
        if self._out_size <= HIGH_WATER // 2:
            self.start_reading()
            self._tell_writable()
        if not self._out:
            if self._polled:
                self._reactor.on_writable(self._write_fd, None)
            self._tell_flushed()

    def _tell_writable(self) -> None:
        waiting, self._when_writable = self._when_writable, []
        for callback in waiting:
            callback()

    def _tell_flushed(self) -> None:
        waiting, self._when_flushed = self._when_flushed, []
        for callback in waiting:
            callback()

    def _lose(self, reason: OSError) -> None:
        logger.log(_gravity(reason), "the host takes no more output: %s", reason)
        self.lost = True
        if self._tap is not None:
            self._tap.ended(both=True)
        self._out.clear()
        self._out_size = 0
        self._reactor.on_writable(self._write_fd, None)
        self._tell_writable()
        self._tell_flushed()
        self._on_lost(self)

    def close(self) -> None:
        """Forget and close both descriptors; their flags are restored. Idempotent."""
        self.lost = self.input_ended = True
        if self._tap is not None:
            self._tap.ended(both=True)
        for fd, blocking in self._was_blocking.items():
            self._reactor.forget(fd)
            os.set_blocking(fd, blocking)
            os.close(fd)
        self._was_blocking = {}
