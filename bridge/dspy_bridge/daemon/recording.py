"""``--record``: everything hosts and the daemon say to each other, written to a file without its secrets.

The loop only notes what was said; a thread redacts, writes, and is done a fraction of a second later, so that
neither a slow disk nor a large frame holds anybody up. A disk that is full, or slower than what is said for
long, ends the recording with a log record, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from dspy_bridge import jsonlib
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.codec import TOO_LARGE, Decoded
from dspy_bridge.protocol.envelope import timestamp
from dspy_bridge.protocol.recording import NOT_RECORDED, Header, unparsed
from dspy_bridge.protocol.redaction import Redactor, secrets_of

logger = logging.getLogger(__name__)

_GATHER_S: Final = 0.05
"""What is said within so long is written at once; a killed daemon's recording lacks no more."""
_LIMIT: Final = 64 << 20
"""Bytes said and not yet written."""
_LAST_WORDS_S: Final = 5.0


class RecordingRefused(Exception):
    """There is something in that file already, or somebody else writes it. Raised by :class:`Recorder`."""


@dataclass(frozen=True, slots=True)
class _Said:
    at: int
    connection: int
    sender: Literal["host", "daemon"]
    frame: Decoded


_Happened = Mapping[str, Any]


class Recorder:
    """See the module. ``versions`` and ``stored_sessions``: for the header. Raises :class:`RecordingRefused`,
    ``OSError``."""

    def __init__(
        self,
        options: DaemonOptions,
        versions: Mapping[str, str],
        stored_sessions: int,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._began = time.monotonic()
        self._path = options.record
        self._fd = _opened(options.record)
        self._redactor = Redactor(secrets_of(environ))
        header = Header(
            recorded_at=timestamp(),
            options={
                name: value
                for name, value in options
                if value != DaemonOptions.model_fields[name].default and name not in NOT_RECORDED
            },
            stored_sessions=stored_sessions,
            python_version=platform.python_version(),
            **versions,
        )
        self._size = 0
        self._write(jsonlib.dumps(self._redactor.frame(header.model_dump())) + b"\n")
        self._said: queue.SimpleQueue[_Said | _Happened | None] = queue.SimpleQueue()
        self._taken = self._written = 0
        self._stopped = False
        self._connections = 0
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self._thread.start()

    # -- in the loop -----------------------------------------------------------------------------

    def tap(self, kind: Literal["primary", "client"]) -> ConnectionTap:
        """Of a connection that opens now."""
        self._connections += 1
        self.happened(connection=self._connections, open=kind)
        return ConnectionTap(self, self._connections)

    def happened(self, **what: Any) -> None:
        if not self._stopped:
            self._said.put({"at": self._now(), **what})

    def said(self, connection: int, sender: Literal["host", "daemon"], frame: Decoded) -> None:
        if self._stopped:
            return
        if isinstance(frame, bytes):
            self._taken += len(frame)
            if self._taken - self._written > _LIMIT:
                self._stop("more is said than the disk takes")
                return
        self._said.put(_Said(self._now(), connection, sender, frame))

    def close(self) -> None:
        """Write what is left, within a bound. Idempotent."""
        self._said.put(None)
        self._thread.join(_LAST_WORDS_S)

    def _now(self) -> int:
        return round((time.monotonic() - self._began) * 1000)

    def _stop(self, why: str) -> None:
        self._stopped = True
        logger.error("the recording in %s ends here: %s", self._path, why)

    # -- in the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        more = True
        while more:
            batch = [self._said.get()]
            if batch[0] is not None:
                time.sleep(_GATHER_S)
            while not self._said.empty():
                batch.append(self._said.get())
            more = None not in batch
            try:
                self._write(b"".join(self._line(one) for one in batch if one is not None))
            except OSError as exc:
                os.ftruncate(self._fd, self._size)  # back to the last whole line
                self._stop(exc.strerror or str(exc))
                more = False
            except Exception:
                logger.exception("the recorder failed")
                self._stop("a fault of the bridge")
                more = False
        os.close(self._fd)

    def _line(self, one: _Said | _Happened) -> bytes:
        if not isinstance(one, _Said):
            return jsonlib.dumps(one) + b"\n"
        line: dict[str, Any] = {"at": one.at, "connection": one.connection, "from": one.sender}
        if isinstance(one.frame, bytes):
            self._written += len(one.frame)
            line |= self._content(one.frame)
        else:
            line["skipped"] = "too_large" if one.frame is TOO_LARGE else "truncated"
        return jsonlib.dumps(line) + b"\n"

    def _content(self, body: bytes) -> dict[str, Any]:
        try:
            frame = jsonlib.loads(body)
        except jsonlib.JSONDecodeError:
            frame = None
        if isinstance(frame, dict):
            with contextlib.suppress(RecursionError):  # nested so deeply that no program has built it
                return {"frame": self._redactor.frame(frame)}
        return unparsed(self._redactor.text(body.decode(errors="surrogateescape")))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(data)


class ConnectionTap:
    """One connection's ear."""

    def __init__(self, recorder: Recorder, number: int) -> None:
        self._recorder = recorder
        self._number = number
        self._ended = ""

    def received(self, frames: list[Decoded]) -> None:
        for frame in frames:
            self._recorder.said(self._number, "host", frame)

    def sent(self, body: bytes) -> None:
        self._recorder.said(self._number, "daemon", body)

    def ended(self, *, both: bool) -> None:
        how = "both" if both else "input"
        if self._ended not in (how, "both"):
            self._ended = how
            self._recorder.happened(connection=self._number, end=how)


def _opened(path: str) -> int:
    """An empty file of the owner's alone, and of this daemon's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(fd).st_size:
            raise RecordingRefused(f"--record: {path} is not empty; a recording is never written over another file")
        os.fchmod(fd, 0o600)
    except BlockingIOError:
        os.close(fd)
        raise RecordingRefused(f"--record: another daemon writes {path}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
