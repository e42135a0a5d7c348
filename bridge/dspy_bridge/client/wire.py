"""The bytes between a client and a daemon: a private one's pipes, or a socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.client.errors import TransportError, UsedAfterFork

_CHUNK: Final = 1 << 16


class Wire:
    """Frames both ways, one JSON object a line. One thread reads, any may send whole frames in turn.

    A fork of the process has no part in it: its copies of the descriptors are closed at once, or else a daemon
    would not see the end of its input while the fork lives.
    """

    def __init__(self, read_fd: int, write_fd: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.process = process
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._buffer = bytearray()
        self._pid = os.getpid()
        self._torn = False
        _WIRES.add(self)

    @classmethod
    def spawn(cls, arguments: Sequence[str] = (), *, stderr: int | None = None) -> Wire:
        """Start a private daemon with these flags of ``bridge-cli serve``; it ends with this process."""
        process = subprocess.Popen(
            # Whatever a file or the environment says of other daemons: this one's frames are lines.
            [sys.executable, "-m", "dspy_bridge.cli", "serve", *arguments, "--framing", "lines"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            return cls(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()), process)
        finally:
            process.stdin.close()
            process.stdout.close()

    @classmethod
    def connect(cls, path: str) -> Wire:
        """Join the daemon that listens at ``path``. Raises :class:`TransportError`."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError as exc:
            connection.close()
            raise TransportError(f"no daemon listens at {path}: {exc}") from None
        fd = connection.detach()
        return cls(fd, fd)

    @property
    def is_foreign(self) -> bool:
        """Whether this is a fork of the process it was made in."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises :class:`UsedAfterFork` in any process but the one that made it."""
        if self.is_foreign:
            raise UsedAfterFork("this bridge belongs to the process it was made in; make another after a fork")

    def send(self, body: bytes) -> None:
        """Send one frame. Raises :class:`TransportError`."""
        self.check()
        if self._torn:
            raise TransportError("an interrupt left a request sent halfway, and nothing can follow it; connect anew")
        view = memoryview(body + b"\n")
        self._torn = True  # an interrupt does not say how much was written
        try:
            while view:
                view = view[os.write(self._write_fd, view) :]
        except OSError as exc:
            self._torn = False
            raise TransportError(f"the daemon takes no more requests: {exc}") from None
        self._torn = False

    def receive(self, deadline: float | None = None) -> dict[str, Any]:
        """The next frame, by a deadline of the monotonic clock. Raises :class:`TransportError`."""
        self.check()
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._read_fd], [], [], left)[0]:
                    raise TransportError("the daemon did not answer in time")
            try:
                data = os.read(self._read_fd, _CHUNK)
            except OSError:
                data = b""
            if not data:
                raise TransportError("the daemon has gone")
            self._buffer += data
            if self._buffer[:1] == b"\0":  # of a length: a line of JSON does not begin so
                raise TransportError("this daemon frames by length (--framing packet4), and this client by lines")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            frame: dict[str, Any] = jsonlib.loads(line)
        except jsonlib.JSONDecodeError as exc:
            raise TransportError(f"what was received is no frame of a daemon: {exc}") from None
        return frame

    def greet(self, timeout: float) -> dict[str, Any]:
        """What the daemon says of itself, asked, for not every one says so unasked. Raises
        :class:`TransportError`."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(TransportError):  # what listens there may be no daemon, and say so
            self.send(b'{"id":"hello","command":"hello"}')
        while (frame := self.receive(deadline)).get("id") != "hello":
            if frame.get("event") == "fatal":
                raise TransportError(f"the daemon cannot start: {frame['message']}")
        if not frame.get("success"):
            raise TransportError(f"what listens there does not say what it is: {frame.get('error')}")
        ready: dict[str, Any] = frame["result"]
        return ready

    def end(self) -> None:
        """Say that no more is sent, and that nothing more is wanted of a shared daemon. Idempotent."""
        if not self.is_foreign and self._write_fd >= 0:
            if self.process is None:
                with socket.socket(fileno=os.dup(self._write_fd)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)
            elif self._write_fd != self._read_fd:
                os.close(self._write_fd)
                self._write_fd = -1

    def abandon(self) -> None:
        """Let go of what has not even begun well; a private daemon is not waited for."""
        if self.process is not None:
            self.process.kill()
        self.close()

    def close(self, timeout: float = 15.0) -> int | None:
        """Let go; a private daemon ends. Returns its exit code. Idempotent."""
        if not self.is_foreign and self.process is not None:
            # A daemon that still has something to say must be able to say it: its output is closed last.
            if self._write_fd >= 0:
                os.close(self._write_fd)
                self._write_fd = -1
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._let_go()
        return self.process.returncode if self.process is not None else None

    def _let_go(self) -> None:
        for fd in {self._read_fd, self._write_fd} - {-1}:
            os.close(fd)
        self._read_fd = self._write_fd = -1


_WIRES: Final[weakref.WeakSet[Wire]] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    for wire in list(_WIRES):
        wire._let_go()


os.register_at_fork(after_in_child=_let_go_in_fork)
