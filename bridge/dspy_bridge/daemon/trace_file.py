"""A trace of the daemon's whole life in one file, readable at any moment.

The file is a JSON array whose closing bracket comes last; readers of the format do without it, so that a killed
daemon leaves a whole trace, short of its last quarter of a second. A disk that is full ends the trace, not the daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Mapping
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.daemon.chrome_trace import Event, TraceEvents
from dspy_bridge.daemon.tracing import CannotTrace, Span
from session_supervisor.reactor import Reactor
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

_WRITE_EVERY_S: Final = 0.25
_WRITE_AT: Final = 1 << 18


class TraceFile:
    """Begins the file at ``path``, readable by its owner only. Raises :class:`CannotTrace`.

    ``about``: what is known of the daemon, told in the first event.
    """

    def __init__(self, reactor: Reactor, path: str, about: Mapping[str, Any]) -> None:
        self._reactor = reactor
        self._path = path
        self._events = TraceEvents()
        self._whole = 0  # bytes, to the end of the last event that was written
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.fchmod(self._fd, 0o600)  # before anything is in it, also where it was there already
                os.ftruncate(self._fd, 0)
            first: Event = {"ph": "M", "name": "dspy-bridge", "pid": os.getpid(), "args": dict(about)}
            self._write(b"[\n" + jsonlib.dumps(first))
        except BlockingIOError:
            self._end()
            raise CannotTrace(f"--trace-file: another daemon writes {path}") from None
        except OSError as exc:
            self._end()
            raise CannotTrace(f"--trace-file: {path}: {exc.strerror}") from None
        self._pending: list[bytes] = []
        self._size = 0
        self._timer: Timer | None = None

    def take(self, span: Span) -> None:
        """Put a record down."""
        if self._fd < 0:
            return
        for event in self._events.of(span):
            line = b",\n" + jsonlib.dumps(event)
            self._pending.append(line)
            self._size += len(line)
        if self._size >= _WRITE_AT:
            self._flush()
        elif self._timer is None:
            self._timer = self._reactor.call_later(_WRITE_EVERY_S, self._flush)

    def close(self) -> None:
        """Nothing follows. Idempotent."""
        self._pending.append(b"\n]\n")
        self._flush()
        self._end()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        data, self._pending, self._size = b"".join(self._pending), [], 0
        if self._fd >= 0:
            try:
                self._write(data)
            except OSError as exc:
                logger.warning("the trace ends here: %s: %s", self._path, exc.strerror)
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._whole)
                self._end()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._whole += len(data)

    def _end(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1
