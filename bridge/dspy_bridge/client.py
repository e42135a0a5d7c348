"""A small blocking client: what the command line and the tests speak to a daemon with.

    with Client.spawn() as client:
        client.call("create_program", {"id": "qa", "signature": "question -> answer"})

Several requests may be open at once (:meth:`Client.start`, :meth:`Client.finish`); replies are kept
until they are asked for. One thread uses one client.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import orjson

_CHUNK = 1 << 16

EventCallback = Callable[[dict[str, Any]], None]
CallCallback = Callable[[dict[str, Any]], Any]
"""Serves one call of a program to its host; what it returns is the answer, what it raises the error."""


class TransportError(Exception):
    """The daemon is not there, went away, or said nothing in time. Raised by :class:`Client`."""


class CommandFailed(Exception):
    """The daemon answered with an error; ``error`` is its error object."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error
        self.code: str = error["code"]


class Client:
    """See the module. ``ready`` is the content of the ready frame."""

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        process: subprocess.Popen[bytes] | None = None,
        on_event: EventCallback | None = None,
        on_call: CallCallback | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self.process = process
        self.on_event = on_event
        self.on_call = on_call
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._ids = itertools.count(1)
        self._buffer = bytearray()
        self._replies: dict[Any, dict[str, Any]] = {}
        self.ready = self._read_frame(time.monotonic() + start_timeout)

    @classmethod
    def spawn(cls, arguments: Sequence[str] = (), *, stderr: int | None = None, **kwargs: Any) -> Client:
        """Start a private daemon, which ends with this client."""
        process = subprocess.Popen(
            [sys.executable, "-m", "dspy_bridge.cli", "serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            return cls(os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno()), process=process, **kwargs)
        except TransportError:
            process.kill()
            raise
        finally:
            process.stdin.close()
            process.stdout.close()

    @classmethod
    def connect(cls, path: str, **kwargs: Any) -> Client:
        """Join the daemon that listens at ``path``. Raises :class:`TransportError`."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
        except OSError as exc:
            connection.close()
            raise TransportError(f"no daemon listens at {path}: {exc}") from None
        fd = connection.detach()
        return cls(fd, fd, **kwargs)

    # -- requests ------------------------------------------------------------------------------

    def call(
        self, command: str, args: dict[str, Any] | None = None, *, session: str | None = None, timeout: float = 60.0
    ) -> Any:
        """The result of one command. Raises :class:`CommandFailed`, :class:`TransportError`."""
        return self.finish(self.start(command, args, session=session), timeout=timeout)

    def start(
        self, command: str, args: dict[str, Any] | None = None, *, session: str | None = None, **fields: Any
    ) -> int:
        """Send a request and return its id; further ``fields`` go to its top level."""
        number = next(self._ids)
        frame: dict[str, Any] = {"id": number, "command": command, "args": args or {}, **fields}
        if session is not None:
            frame["session_id"] = session
        self.send(orjson.dumps(frame))
        return number

    def finish(self, number: Any, *, timeout: float = 60.0) -> Any:
        """The result of the request with that id."""
        reply = self.reply(number, timeout=timeout)
        if not reply["success"]:
            raise CommandFailed(reply["error"])
        return reply["result"]

    def reply(self, number: Any, *, timeout: float = 60.0) -> dict[str, Any]:
        """The terminal reply of the request with that id, whatever it says."""
        deadline = time.monotonic() + timeout
        while number not in self._replies:
            frame = self._read_frame(deadline)
            if "call_id" in frame:
                self._answer(frame)
            elif "event" in frame:
                if self.on_event is not None:
                    self.on_event(frame)
            else:
                self._replies[frame["id"]] = frame
        return self._replies.pop(number)

    def _answer(self, frame: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"call_id": frame["call_id"]}
        try:
            if self.on_call is None:
                raise LookupError("this host serves no calls")
            answer |= {"success": True, "result": self.on_call(frame)}
        except Exception as exc:  # noqa: BLE001 - the program hears of it
            answer |= {"success": False, "error": {"message": f"{type(exc).__name__}: {exc}"}}
        self.send(orjson.dumps(answer))

    # -- bytes ---------------------------------------------------------------------------------

    def send(self, body: bytes) -> None:
        """Send one frame as it is."""
        view = memoryview(body + b"\n")
        try:
            while view:
                view = view[os.write(self._write_fd, view) :]
        except OSError as exc:
            raise TransportError(f"the daemon takes no more requests: {exc}") from None

    def _read_frame(self, deadline: float) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
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
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        frame: dict[str, Any] = orjson.loads(line)
        return frame

    def close(self, timeout: float = 15.0) -> int | None:
        """Close the connection; a private daemon ends with it. Returns its exit code. Idempotent."""
        for fd in {self._read_fd, self._write_fd} - {-1}:
            # A daemon that still has something to say must be able to say it.
            if self.process is None or fd == self._write_fd:
                os.close(fd)
        code = None
        if self.process is not None:
            try:
                code = self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
            if self._read_fd >= 0:
                os.close(self._read_fd)
        self._read_fd = self._write_fd = -1
        return code

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
