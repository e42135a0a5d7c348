"""Figures and health over HTTP on loopback, for Prometheus and for probes that speak nothing else.

As much of HTTP as that takes, in the daemon's own loop: one request per connection, answered and closed. Whoever
sends too much, too slowly or something else is let go; nobody else notices.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from session_supervisor.reactor import Reactor
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

_MAX_CLIENTS: Final = 32
_MAX_HEAD: Final = 8_192
_MAX_TAKEN: Final = 1 << 16
"""Bytes of a client in all."""
_RETRY_S: Final = 0.5
_PATIENCE_S: Final = 5.0
"""For a client's whole stay."""


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes


class PortInUse(Exception):
    """Somebody else listens there. Raised by :class:`MetricsPort`."""


class MetricsPort:
    """Listens on ``port`` of 127.0.0.1, and of ::1 where there is one. ``pages``: what makes each path's.

    Raises :class:`PortInUse`, ``OSError``.
    """

    def __init__(self, reactor: Reactor, port: int, pages: Mapping[str, Callable[[], Page]]) -> None:
        self._reactor = reactor
        self._pages = pages
        self._clients: set[_Client] = set()
        self._listening: list[socket.socket] = []
        self._retries: dict[socket.socket, Timer] = {}
        try:
            self._listen(socket.AF_INET, "127.0.0.1", port)
            self._listen(socket.AF_INET6, "::1", port)
        except OSError as exc:
            self.close()
            if exc.errno == errno.EADDRINUSE:
                raise PortInUse(f"--metrics-port: port {port} of this machine is in use; choose another") from None
            raise OSError(exc.errno, f"--metrics-port: {exc.strerror}") from None

    def _listen(self, family: socket.AddressFamily, host: str, port: int) -> None:
        try:
            listening = socket.socket(family)
        except OSError:
            if family is socket.AF_INET6:  # a machine without it
                return
            raise
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.setblocking(False)
            listening.bind((host, port))
            listening.listen(_MAX_CLIENTS)
        except OSError as exc:
            listening.close()
            if family is socket.AF_INET6 and exc.errno == errno.EADDRNOTAVAIL:
                return
            raise
        self._listening.append(listening)
        self._await(listening)

    def _await(self, listening: socket.socket) -> None:
        self._reactor.on_readable(listening.fileno(), lambda: self._accept(listening))

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED):
                # The client waits in the kernel's queue, where it would be seen again at once, and again.
                said = "a client of the metrics port could not be accepted: %s; trying again in %g s"
                logger.warning(said, exc, _RETRY_S)
                self._reactor.forget(listening.fileno())
                self._retries[listening] = self._reactor.call_later(_RETRY_S, lambda: self._await(listening))
            return
        if len(self._clients) >= _MAX_CLIENTS:
            sock.close()
        else:
            self._clients.add(_Client(self._reactor, sock, self._answer, self._clients.discard))

    def _answer(self, head: bytes) -> bytes:
        """The whole response to a request of which ``head`` is the part before its first empty line."""
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(_plain(400))
        method, target = words[0], words[1].split(b"?", 1)[0]
        make = self._pages.get(target.decode("latin-1"))
        if make is None:
            return _response(_plain(404))
        if method not in (b"GET", b"HEAD"):
            return _response(_plain(405), more=b"Allow: GET, HEAD\r\n")
        try:
            page = make()
        except Exception:
            logger.exception("%s could not be made", target.decode("latin-1"))
            page = _plain(500)
        return _response(page, head_only=method == b"HEAD")

    def close(self) -> None:
        """Listen no more and let everybody go."""
        for client in list(self._clients):
            client.close()
        for retry in self._retries.values():
            retry.cancel()
        for listening in self._listening:
            self._reactor.forget(listening.fileno())
            listening.close()
        self._listening = []


def _plain(status: int) -> Page:
    return Page(status, "text/plain; charset=utf-8", f"{HTTPStatus(status).phrase}\n".encode())


def _response(page: Page, *, head_only: bool = False, more: bytes = b"") -> bytes:
    head = (
        f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\nContent-Type: {page.content_type}\r\n"
        f"Content-Length: {len(page.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n"
    )
    return head.encode() + more + b"\r\n" + (b"" if head_only else page.body)


class _Client:
    """One connection: read a head, write a response, wait for the other end to be done, close."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        answer: Callable[[bytes], bytes],
        gone: Callable[[_Client], None],
    ) -> None:
        self._reactor = reactor
        self._sock = sock
        self._answer = answer
        self._gone = gone
        self._head = b""
        self._out = memoryview(b"")
        self._answered = False
        self._taken = 0
        sock.setblocking(False)
        self._deadline = reactor.call_later(_PATIENCE_S, self.close)
        reactor.on_readable(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._taken += len(data)
        if not data or self._taken > _MAX_TAKEN:
            self.close()
        elif not self._answered:
            self._head += data
            head, whole, _ = self._head.partition(b"\r\n\r\n")
            if whole or len(self._head) > _MAX_HEAD:
                self._answered = True
                too_long = len(head) > _MAX_HEAD
                self._out = memoryview(_response(_plain(431)) if too_long else self._answer(head))
                self._write()

    def _write(self) -> None:
        try:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[self._sock.send(self._out) :]
            if self._out:
                self._reactor.on_writable(self._sock.fileno(), self._write)
            else:
                # What the client still sends is read until it closes: closing first could lose it our answer.
                self._reactor.on_writable(self._sock.fileno(), None)
                self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._sock.fileno() >= 0:
            self._deadline.cancel()
            self._reactor.forget(self._sock.fileno())
            self._sock.close()
            self._gone(self)
