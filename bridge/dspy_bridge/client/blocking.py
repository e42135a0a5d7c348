"""The plainest client: one thread, one connection, frames as they are. The command line is made of it.

    with Client.spawn() as client:
        client.call("create_program", {"id": "qa", "signature": "question -> answer"})

Several requests may be open at once (:meth:`Client.start`, :meth:`Client.finish`); replies are kept
until they are asked for. Programs that serve tools or use threads want :func:`dspy_bridge.connect`.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from dspy_bridge import jsonlib
from dspy_bridge.client.errors import failure
from dspy_bridge.client.wire import Wire

EventCallback = Callable[[dict[str, Any]], None]
CallCallback = Callable[[dict[str, Any]], Any]
"""Serves one call of a program to its host; what it returns is the answer, what it raises the error."""


class Client:
    """See the module. ``ready``: what the daemon says of itself."""

    def __init__(
        self,
        wire: Wire,
        *,
        on_event: EventCallback | None = None,
        on_call: CallCallback | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self.on_event = on_event
        self.on_call = on_call
        self._wire = wire
        self._ids = itertools.count(1)
        self._replies: dict[Any, dict[str, Any]] = {}
        try:
            self.ready = wire.greet(start_timeout)
        except BaseException:
            wire.abandon()
            raise

    @classmethod
    def spawn(cls, arguments: Sequence[str] = (), *, stderr: int | None = None, **kwargs: Any) -> Client:
        """Start a private daemon, which ends with this client."""
        return cls(Wire.spawn(arguments, stderr=stderr), **kwargs)

    @classmethod
    def connect(cls, path: str, **kwargs: Any) -> Client:
        """Join the daemon that listens at ``path``. Raises :class:`TransportError`."""
        return cls(Wire.connect(path), **kwargs)

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The private daemon's."""
        return self._wire.process

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
        self.send(jsonlib.dumps(frame))
        return number

    def finish(self, number: Any, *, timeout: float = 60.0) -> Any:
        """The result of the request with that id."""
        reply = self.reply(number, timeout=timeout)
        if not reply["success"]:
            raise failure(reply["error"])
        return reply["result"]

    def reply(self, number: Any, *, timeout: float = 60.0) -> dict[str, Any]:
        """The terminal reply of the request with that id, whatever it says."""
        deadline = time.monotonic() + timeout
        while number not in self._replies:
            frame = self._wire.receive(deadline)
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
        self.send(jsonlib.dumps(answer))

    def send(self, body: bytes) -> None:
        """Send one frame as it is."""
        self._wire.send(body)

    def end(self) -> None:
        """Say that no more is sent; what is open may still be answered by a private daemon."""
        self._wire.end()

    def receive(self, timeout: float = 60.0) -> dict[str, Any]:
        """The next frame, whatever it is."""
        return self._wire.receive(time.monotonic() + timeout)

    def close(self, timeout: float = 15.0) -> int | None:
        """Close the connection; a private daemon ends with it. Returns its exit code. Idempotent."""
        return self._wire.close(timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
