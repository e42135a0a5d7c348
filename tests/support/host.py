"""A host as another runtime would be one: raw bytes over a subprocess's pipes, in either framing."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from dspy_bridge.client import Client, TransportError


class Host:
    """Spawns ``bridge-cli serve``. Every read is bounded."""

    def __init__(self, framing: str = "lines", arguments: Sequence[str] = (), **popen: Any) -> None:
        self.framing = framing
        command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--framing", framing, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, **popen
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        self._buffer = b""
        self.frames: list[dict[str, Any]] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if not self._in.closed:
            self._in.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._out.close()
            assert self.process.stderr
            self.process.stderr.close()

    def encode(self, body: bytes) -> bytes:
        return body + b"\n" if self.framing == "lines" else struct.pack(">I", len(body)) + body

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._in.fileno(), view) :]

    def send(self, *frames: dict[str, Any] | bytes) -> None:
        bodies = (frame if isinstance(frame, bytes) else orjson.dumps(frame) for frame in frames)
        self.write(b"".join(self.encode(body) for body in bodies))

    def receive(self, timeout: float = 20.0) -> dict[str, Any]:
        """The next frame. ``EOFError`` at the end of output."""
        deadline = time.monotonic() + timeout
        while True:
            frame = self._take()
            if frame is not None:
                self.frames.append(frame)
                return frame
            left = deadline - time.monotonic()
            assert left > 0, "the daemon said nothing in time"
            if select.select([self._out], [], [], left)[0]:
                data = os.read(self._out.fileno(), 1 << 18)
                if not data:
                    assert not self._buffer, "the output ended within a frame"
                    raise EOFError
                self._buffer += data

    def _take(self) -> dict[str, Any] | None:
        if self.framing == "lines":
            line, newline, rest = self._buffer.partition(b"\n")
            if not newline:
                return None
            self._buffer = rest
        else:
            if len(self._buffer) < 4:
                return None
            (length,) = struct.unpack_from(">I", self._buffer)
            if len(self._buffer) < 4 + length:
                return None
            line, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
        frame = orjson.loads(line)
        assert isinstance(frame, dict)
        return frame

    def reply_to(self, number: Any, timeout: float = 20.0) -> dict[str, Any]:
        """Receive until the terminal reply with that id."""
        while True:
            frame = self.receive(timeout)
            if "event" not in frame and "method" not in frame and frame["id"] == number:
                return frame

    def ask(self, command: str, args: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        self.send({"id": "ask", "command": command, "args": args or {}, **fields})
        return self.reply_to("ask")

    def result(self, command: str, args: dict[str, Any] | None = None, **fields: Any) -> Any:
        reply = self.ask(command, args, **fields)
        assert reply["success"], reply
        return reply["result"]

    def close_input(self) -> None:
        self._in.close()

    def rest(self) -> list[dict[str, Any]]:
        """Every frame until the end of output."""
        frames = []
        try:
            while True:
                frames.append(self.receive())
        except EOFError:
            return frames

    def stderr(self) -> str:
        assert self.process.stderr
        return self.process.stderr.read().decode(errors="replace")


def free_port() -> int:
    """A port of loopback that nobody listened on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(port: int, path: str) -> str:
    """The body of an answer over HTTP, whatever its status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


@contextlib.contextmanager
def serving(path: Path, *flags: str) -> Iterator[str]:
    """A daemon that listens at ``path`` until the block ends, and then in order."""
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path), *flags]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not _reachable(str(path)):
            assert time.monotonic() < deadline, "the daemon did not listen in time"
            time.sleep(0.02)
        try:
            yield str(path)
        finally:
            process.terminate()
        assert process.wait(15) == 0


def _reachable(path: str) -> bool:
    try:
        Client.connect(path).close()
    except TransportError:
        return False
    return True
