"""The Unix socket of a daemon: made so that only its own user can connect, and never stolen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from session_supervisor.os_facts import IS_LINUX
from session_supervisor.reactor import Reactor
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

_RETRY_S = 0.5


class SocketInUse(Exception):
    """Another daemon serves that path. Raised by :class:`Listener`."""


class Listener:
    """Listens on ``path`` (mode 0600). ``accept(fd)`` is called with each client's descriptor.

    A lock file beside the socket decides who owns the path, so a stale socket of a dead daemon can be
    replaced safely: the lock dies with its holder, the socket file does not.
    """

    def __init__(self, reactor: Reactor, path: str, accept: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._path = path
        self._accept = accept
        try:
            self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            folder = str(Path(path).absolute().parent)
            raise FileNotFoundError(errno.ENOENT, "the folder of the socket is not there; make it", folder) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise SocketInUse(f"another daemon serves {path}") from None
        try:
            self._socket = self._bind()
        except OSError:
            os.close(self._lock)
            raise
        self._closed = False
        self._retry: Timer | None = None

    def _bind(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX)
        listening.setblocking(False)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(Path(self._path).lstat().st_mode):
                raise FileExistsError(errno.EEXIST, "there is a file of that name, which is no socket", self._path)
            Path(self._path).unlink()
        before = os.umask(0o177)
        try:
            listening.bind(self._path)
        except OSError:
            listening.close()
            raise
        finally:
            os.umask(before)
        return listening

    def start(self) -> None:
        """Begin to take clients."""
        if not self._closed:
            self._socket.listen(512)
            self._listen()

    def _listen(self) -> None:
        self._reactor.on_readable(self._socket.fileno(), self._take)

    def _take(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                # The client waits in the kernel's queue, where it would be seen again at once, and again.
                logger.warning("a client could not be accepted: %s; trying again in %g s", exc, _RETRY_S)
                self._reactor.forget(self._socket.fileno())
                self._retry = self._reactor.call_later(_RETRY_S, self._listen)
                return
            uid = peer_uid(client)
            if uid is not None and uid not in (os.getuid(), 0):
                logger.warning("refused a client of user %d", uid)
                client.close()
            else:
                self._accept(client.detach())

    def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        self._reactor.forget(self._socket.fileno())
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self._path).unlink()
        # The lock file stays: removing it would let two daemons hold locks on two files of one name.
        os.close(self._lock)


def peer_uid(client: socket.socket) -> int | None:
    """The user at the other end; None where the system does not tell (file permissions then decide)."""
    if IS_LINUX:
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[1])
    return None
