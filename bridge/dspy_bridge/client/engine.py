"""What both clients are made of: one connection, one thread that reads it, and whoever waits.

Requests may be sent from any thread. Calls of programs to this host are served in threads of a pool, so
that a slow tool holds up neither replies nor other tools.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.client.errors import TransportError, failure
from dspy_bridge.client.hosted import to_jsonable
from dspy_bridge.client.wire import Wire

_HOST_THREADS: Final = 32
_START_S: Final = 60.0

OnEvent = Callable[[str, dict[str, Any]], None]
Serve = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@dataclass(slots=True)
class _Open:
    """``done(result, error)`` is called once, ``on_event`` before it, both from the reading thread."""

    done: Callable[[Any, Exception | None], None]
    on_event: OnEvent


class Engine:
    """See the module. ``ready`` is the content of the ready frame."""

    def __init__(self, wire: Wire) -> None:
        try:
            self.ready = wire.receive(time.monotonic() + _START_S)
        except TransportError:
            if wire.process is not None:
                wire.process.kill()
            wire.close()
            raise
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where coroutines of hosted functions run, if not each in a loop of its own."""
        self._wire = wire
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._hosted: dict[tuple[str, str | None, str], Callable[..., Any]] = {}
        self._changing = threading.Lock()
        self._writing = threading.Lock()
        self._gone: TransportError | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(_HOST_THREADS, "dspy-bridge-host")
        self._reader = threading.Thread(target=self._read, name="dspy-bridge-reader", daemon=True)
        self._reader.start()

    @classmethod
    def to(cls, socket: str | os.PathLike[str] | None, arguments: Sequence[str], stderr: int | None) -> Engine:
        """Join the daemon at ``socket`` (or at ``$DSPY_BRIDGE_SOCKET``), or start a private one."""
        path = socket or os.environ.get("DSPY_BRIDGE_SOCKET")
        if path and arguments:
            raise ValueError("flags are for a private daemon; the one that listens on a socket has its own")
        return cls(Wire.connect(os.fspath(path)) if path else Wire.spawn(arguments, stderr=stderr))

    # -- requests ------------------------------------------------------------------------------

    def submit(
        self,
        command: str,
        args: Mapping[str, Any],
        done: Callable[[Any, Exception | None], None],
        on_event: OnEvent,
        *,
        session: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Send a request and return its id. Raises :class:`TransportError`."""
        self._wire.check()
        with self._changing:
            if self._gone is not None:
                raise self._gone
            number = next(self._ids)
            self._open[number] = _Open(done, on_event)
        frame: dict[str, Any] = {"id": number, "command": command, "args": args}
        if session is not None:
            frame["session_id"] = session
        if timeout is not None:
            frame["timeout_ms"] = max(1, round(timeout * 1000))
        try:
            self._send(frame)
        except BaseException:
            with self._changing:
                self._open.pop(number, None)
            raise
        return number

    def cancel(self, number: int) -> None:
        """Ask the daemon to end a request; its own reply says what became of it. Never raises."""
        try:
            self.submit("cancel", {"request_id": number}, lambda *_: None, lambda *_: None)
        except TransportError:
            return

    def host(self, kind: str, session: str | None, name: str, work: Callable[..., Any]) -> None:
        """Serve calls of that kind and name from that session (None: from any)."""
        self._hosted[kind, session, name] = work

    def forget_session(self, session: str) -> None:
        """It has ended: its functions are not called any more."""
        for key in [key for key in self._hosted if key[1] == session]:
            del self._hosted[key]

    def _send(self, frame: Mapping[str, Any]) -> None:
        body = jsonlib.dumps(frame, option=jsonlib.OPT_NON_STR_KEYS)
        with self._writing:
            self._wire.send(body)

    # -- the reading thread --------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while True:
                self._take(self._wire.receive())
        except TransportError as gone:
            with self._changing:
                self._gone = gone
                left, self._open = self._open, {}
            for opened in left.values():
                opened.done(None, gone)

    def _take(self, frame: dict[str, Any]) -> None:
        if "call_id" in frame:
            self._pool.submit(self._answer, frame)
            return
        with self._changing:
            number: int = frame.get("id", 0)  # 0, which is nobody's: an event of the daemon itself
            opened = self._open.get(number) if "event" in frame else self._open.pop(number, None)
        if opened is None:
            return
        if "event" in frame:
            opened.on_event(frame["event"], frame["data"])
        elif frame["success"]:
            opened.done(frame["result"], None)
        else:
            opened.done(None, failure(frame["error"]))

    # -- calls to this host --------------------------------------------------------------------

    def _answer(self, frame: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"call_id": frame["call_id"]}
        try:
            answer |= {"success": True, "result": to_jsonable(self._serve(frame))}
        except Exception as exc:  # noqa: BLE001 - the program hears of it
            answer |= {"success": False, "error": {"message": f"{type(exc).__name__}: {exc}"}}
        try:
            self._send(answer)
        except TransportError:
            return  # whoever waits for a reply hears of it

    def _serve(self, frame: dict[str, Any]) -> Any:
        kind, name, args = frame["call"], frame["name"], frame["args"]
        work = self._hosted.get((kind, frame["session_id"], name)) or self._hosted.get((kind, None, name))
        if work is None:
            raise LookupError(f"this host has no {kind} {name!r}")
        made = work(args) if kind == "lm" else work(**args)
        if not inspect.isawaitable(made):
            return made

        async def awaited() -> Any:
            return await made

        if self.loop is not None:
            return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result()
        return asyncio.run(awaited())

    def close(self, timeout: float = 15.0) -> int | None:
        """Let go; a private daemon ends, in order. Its exit code. Idempotent."""
        self._wire.end()
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self._wire.close(timeout)
