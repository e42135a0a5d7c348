"""What both clients are made of: one connection, one thread that reads it, one that cancels, and whoever waits.

Requests may be sent from any thread. Calls of programs to this host are served in threads of a pool, so
that a slow tool holds up neither replies nor other tools.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import itertools
import os
import queue
import threading
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
    """``done(result, error)`` is called once, ``on_event`` before it, both from the reading thread. What
    ``on_event`` raises is the request's error, and cancels it; ``done`` must not raise."""

    done: Callable[[Any, Exception | None], None]
    on_event: OnEvent


@dataclass(frozen=True, slots=True)
class _Hosted:
    """``work`` is how the function is called with what a program sends."""

    function: Callable[..., Any]
    work: Callable[..., Any]


class Engine:
    """See the module. ``ready``: what the daemon says of itself."""

    def __init__(self, wire: Wire) -> None:
        try:
            self.ready = wire.greet(_START_S)
        except BaseException:
            wire.abandon()
            raise
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where coroutines of hosted functions run, if not each in a loop of its own."""
        self._wire = wire
        self._ids = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._hosted: dict[tuple[str, str, str], _Hosted] = {}
        self._changing = threading.Lock()
        self._writing = threading.Lock()
        self._gone = ""
        """Why nothing more can be asked, once that is so."""
        self._unwanted: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._pool = concurrent.futures.ThreadPoolExecutor(_HOST_THREADS, "dspy-bridge-host")
        self._reader = threading.Thread(target=self._read, name="dspy-bridge-reader", daemon=True)
        self._reader.start()
        self._canceller = threading.Thread(target=self._cancel_unwanted, name="dspy-bridge-canceller", daemon=True)
        self._canceller.start()

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
            if self._gone:
                raise TransportError(self._gone)
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
        """Have the daemon end a request; its own reply says what became of it. Neither raises nor waits, and
        takes no locks: the garbage collector may be who calls, in whatever this thread is doing."""
        self._unwanted.put(number)

    def check_waiting(self) -> None:
        """Raises :class:`~dspy_bridge.client.errors.UsedAfterFork`, and ``RuntimeError`` in the reading thread:
        there nobody else would read what is waited for."""
        self._wire.check()
        if threading.current_thread() is self._reader:
            raise RuntimeError("on_event must not wait for the daemon, whose frames come after it returns")

    def host(
        self,
        kind: str,
        session: str,
        name: str,
        function: Callable[..., Any],
        work: Callable[..., Any] | None = None,
        *,
        exact: bool = False,
    ) -> str:
        """Serve calls of that kind from that session by ``work`` (default: the function itself), and return
        the name to call it by: the one given, with a number where another function has that.

        Raises ``ValueError`` instead if it must be ``exact``.
        """
        with self._changing:
            used, number = name, 1
            while True:
                there = self._hosted.setdefault((kind, session, used), _Hosted(function, work or function))
                if there.function is function or there.function == function:
                    return used
                if exact:
                    message = f"in session {session!r} another function is the {kind} {name!r} already"
                    raise ValueError(f"{message}: give one of the two another name, or a session of its own")
                number += 1
                used = f"{name}-{number}"

    def forget_session(self, session: str) -> None:
        """It has ended, or has just begun: functions lent to one of that name are not called any more."""
        with self._changing:
            self._hosted = {key: hosted for key, hosted in self._hosted.items() if key[1] != session}

    def _send(self, frame: Mapping[str, Any]) -> None:
        body = jsonlib.dumps(frame, option=jsonlib.OPT_NON_STR_KEYS)
        with self._writing:
            self._wire.send(body)

    def _cancel_unwanted(self) -> None:
        while (number := self._unwanted.get()) is not None:
            try:
                self.submit("cancel", {"request_id": number}, lambda *_: None, lambda *_: None)
            except TransportError:
                return

    # -- the reading thread --------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while True:
                self._take(self._wire.receive())
        except TransportError as exc:
            gone = str(exc)
        except Exception as exc:  # noqa: BLE001 - whoever waits must hear of it
            gone = f"what the daemon says cannot be read: {type(exc).__name__}: {exc}"
        with self._changing:
            self._gone = gone
            left, self._open = self._open, {}
        for opened in left.values():
            opened.done(None, TransportError(gone))

    def _take(self, frame: dict[str, Any]) -> None:
        if "call_id" in frame:
            self._pool.submit(self._answer, frame)
            return
        number: int = frame.get("id", 0)  # 0, which is nobody's: an event of the daemon itself
        with self._changing:
            opened = self._open.get(number) if "event" in frame else self._open.pop(number, None)
        if opened is None:
            return
        if "event" in frame:
            try:
                opened.on_event(frame["event"], frame["data"])
            except Exception as exc:  # noqa: BLE001 - it is raised where the request is waited for
                with self._changing:
                    self._open.pop(number, None)
                self.cancel(number)
                opened.done(None, exc)
        elif frame["success"]:
            opened.done(frame["result"], None)
        else:
            opened.done(None, failure(frame["error"]))

    # -- calls to this host --------------------------------------------------------------------

    def _answer(self, frame: dict[str, Any]) -> None:
        answer = {"call_id": frame["call_id"]}
        try:
            self._send({**answer, "success": True, "result": to_jsonable(self._serve(frame))})
        except TransportError:
            return  # whoever waits for a reply hears of it
        except BaseException as exc:  # noqa: BLE001 - the program hears of it
            message = f"{type(exc).__name__}: {exc}".encode(errors="replace").decode()
            with contextlib.suppress(TransportError):
                self._send({**answer, "success": False, "error": {"message": message}})

    def _serve(self, frame: dict[str, Any]) -> Any:
        kind, name, args = frame["call"], frame["name"], frame["args"]
        with self._changing:
            hosted = self._hosted.get((kind, frame["session_id"], name))
        if hosted is None:
            raise LookupError(f"this host has no {kind} {name!r}")
        made = hosted.work(args) if kind == "lm" else hosted.work(**args)
        if not inspect.isawaitable(made):
            return made

        async def awaited() -> Any:
            return await made

        if self.loop is not None:
            return asyncio.run_coroutine_threadsafe(awaited(), self.loop).result()
        return asyncio.run(awaited())

    def close(self, timeout: float = 15.0) -> int | None:
        """Let go; a private daemon ends, in order. Its exit code. Idempotent."""
        if not self._wire.is_foreign:  # or else the threads are those of another process
            self._unwanted.put(None)
            self._canceller.join(timeout)
            self._wire.end()
            if threading.current_thread() is not self._reader:
                self._reader.join(timeout)
            self._pool.shutdown(wait=False, cancel_futures=True)
        return self._wire.close(timeout)
