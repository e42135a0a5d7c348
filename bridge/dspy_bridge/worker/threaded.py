"""Several requests of a session at once in one interpreter, each in a thread.

The main thread only reads: it hands requests to the threads, brings the state up to date, and passes on
cancels, so that none of that waits for a program. Requests that change the session run in the main thread
itself, alone: the supervisor sees to that, and DSPy lets no other thread be configured.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import io
import logging
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import dspy

from dspy_bridge.protocol.envelope import Call
from session_supervisor.channel import Channel
from session_supervisor.frames import Kind, pack
from session_supervisor.hygiene import Interrupted
from session_supervisor.os_facts import gil_enabled

logger = logging.getLogger(__name__)

_NUMBER: contextvars.ContextVar[int | None] = contextvars.ContextVar("request", default=None)
_AGAIN_S = 0.005
_START = threading.Thread.start.__code__
SETTING = "bridge_request"
"""The same in DSPy's context, which is all that DSPy's own threads inherit."""


def under_way() -> int | None:
    """The number of the request this code runs for."""
    number = _NUMBER.get()
    if number is None:
        number = dspy.settings.get(SETTING)
    return number


class Threads:
    """``answer(number, call)`` serves one request and gives the frames that end it; ``reply(number, ending)``
    sends them, with whatever goes before."""

    def __init__(
        self,
        count: int,
        channel: Channel,
        answer: Callable[[int, Call], bytes],
        reply: Callable[[int, bytes], None],
    ) -> None:
        self._channel = channel
        self._answer = answer
        self._reply = reply
        self._waiting: queue.SimpleQueue[tuple[int, Call]] = queue.SimpleQueue()
        self._changing = threading.Lock()
        # Number of each request to the thread that serves it; None: it still waits for one.
        self._serving: dict[int, int | None] = {}
        self._count = count
        self._warned = False
        channel.under_way = under_way
        channel.read_here()
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Output(getattr(sys, name), channel))
        sys.unraisablehook = self._unheard
        for index in range(count):
            threading.Thread(target=self._work, name=f"session-thread-{index + 1}", daemon=True).start()

    def serve(self, number: int, call: Call) -> None:
        """Have a thread serve it."""
        with self._changing:
            self._serving[number] = None
        self._waiting.put((number, call))

    def serve_here(self, number: int, call: Call) -> None:
        """Serve it in this thread, now."""
        _NUMBER.set(number)
        try:
            self._reply(number, self._answer(number, call))
        finally:
            _NUMBER.set(None)

    def cancel(self, number: int) -> None:
        """Interrupt the thread that serves it, at its next step in Python; one that waits never begins. One that
        is not to be disturbed yet is asked again soon."""
        with self._changing:
            thread = self._serving.get(number)
            if thread is None:
                self._serving.pop(number, None)
            elif is_delicate(thread):
                self._cancel_again(number)
            else:
                _raise_in(thread, Interrupted)
        self._channel.wake()

    def _cancel_again(self, number: int) -> None:
        again = threading.Timer(_AGAIN_S, self.cancel, (number,))
        again.daemon = True
        again.start()

    def _unheard(self, said: sys.UnraisableHookArgs) -> None:
        """An interrupt that hit a finalizer, out of which nothing is raised, comes again."""
        number = under_way()
        if said.exc_type is Interrupted and number is not None:
            self._cancel_again(number)
        else:
            sys.__unraisablehook__(said)

    def _look_at_load(self, wall: float, used: float, overlaps: int) -> None:
        """Say so, once, if requests that overlap do nothing but compute, one after another."""
        busy = used > 0.2 and used * overlaps > 0.7 * wall
        if busy and overlaps > 1 and gil_enabled() and not self._warned:
            self._warned = True
            logger.warning(
                "%d requests at once have kept the processor busy, and this Python runs one thread at a time: they "
                "take turns, and each takes longer. workers: %d instead of threads: %d would run them side by side",
                *(overlaps, self._count, self._count),
            )

    def _work(self) -> None:
        try:
            while True:
                self._serve_one(*self._waiting.get())
        except BaseException:  # noqa: BLE001 - as with one thread: an interpreter that fails itself ends
            with contextlib.suppress(OSError):
                os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
            os._exit(1)

    def _serve_one(self, number: int, call: Call) -> None:
        context = contextvars.copy_context()
        context.run(_NUMBER.set, number)
        ending = pack(Kind.REPLY, number)  # of a request that is interrupted: nobody waits for what it says
        try:
            try:
                with self._changing:
                    begins = number in self._serving
                    if begins:
                        self._serving[number] = threading.get_ident()
                    overlaps = sum(thread is not None for thread in self._serving.values())
                if begins:
                    began, used = time.monotonic(), time.thread_time()
                    ending = context.run(self._answer, number, call)
                    context.run(self._look_at_load, time.monotonic() - began, time.thread_time() - used, overlaps)
            finally:
                self._served(number)
        except Interrupted:
            # It came before the program began or after it had ended, and comes only once.
            self._served(number)
        context.run(self._reply, number, ending)

    def _served(self, number: int) -> None:
        """No interrupt can come any more; one that is on its way arrives here, not in the next request."""
        with self._changing:
            self._serving.pop(number, None)
        for _ in range(100):
            pass


def is_delicate(thread: int) -> bool:
    """Whether an interrupt would do lasting harm to that thread now.

    Inside an import it would leave the locks of the import system to nobody, and every other thread would wait
    for them for ever. While it starts another thread it could hit that one, which bears its parent's id until
    it has begun (CPython up to 3.11); the parent would wait for ever for a thread that never began.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if code is _START or code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _raise_in(thread: int, exception: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


class _Output(io.TextIOBase):
    """A standard stream that knows which request each line belongs to."""

    def __init__(self, under: Any, channel: Channel) -> None:
        self._under = under
        self._channel = channel
        self._pending = threading.local()

    def write(self, text: str) -> int:
        if under_way() is None:
            return int(self._under.write(text))
        pending = getattr(self._pending, "text", "") + text
        whole, newline, self._pending.text = pending.rpartition("\n")
        if newline:
            self._send(whole + newline)
        return len(text)

    def flush(self) -> None:
        pending, self._pending.text = getattr(self._pending, "text", ""), ""
        if pending:
            self._send(pending)
        self._under.flush()

    def _send(self, text: str) -> None:
        number = under_way()
        if number is not None:
            self._channel.send(Kind.PRINTED, number, text.encode("utf-8", "backslashreplace"))

    def fileno(self) -> int:
        return int(self._under.fileno())

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"
