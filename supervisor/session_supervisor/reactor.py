"""The one event loop: readiness callbacks, timers and signals in a single thread.

A request crosses the daemon in two callbacks. With a general-purpose loop those two callbacks cost
more than everything else together (docs/adr/0002 has the figures), so the supervisor runs this small
reactor over :mod:`selectors` instead. Guarantees:

- callbacks run one at a time, in the thread that called :meth:`Reactor.run`;
- a callback that raises is reported to ``on_error`` and never ends the loop;
- after :meth:`forget` returns, no callback of that descriptor runs, even if it was already ready;
- signal handlers only enqueue: what they ask for runs as an ordinary callback.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import os
import select
import selectors
import signal
import time
from collections.abc import Callable
from typing import Any, Final

from session_supervisor.os_facts import IS_LINUX
from session_supervisor.timers import Callback, Timer, Timers

logger = logging.getLogger(__name__)

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
_MAX_EVENTS: Final = 256


class _Watch:
    """The callbacks of one descriptor; emptied, never reused, so that a stale event finds nothing."""

    __slots__ = ("readable", "writable")

    def __init__(self) -> None:
        self.readable: Callback | None = None
        self.writable: Callback | None = None

    @property
    def mask(self) -> int:
        return (READ if self.readable else 0) | (WRITE if self.writable else 0)


class _EpollPoller:
    """Linux: the kernel's own answer, with little built per event."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watches: dict[int, _Watch] = {}

    def add(self, fd: int, watch: _Watch) -> None:
        self._epoll.register(fd, self._events(watch))
        self._watches[fd] = watch

    def modify(self, fd: int, watch: _Watch) -> None:
        self._epoll.modify(fd, self._events(watch))

    def remove(self, fd: int) -> None:
        del self._watches[fd]
        self._epoll.unregister(fd)

    def close(self) -> None:
        self._epoll.close()

    @staticmethod
    def _events(watch: _Watch) -> int:
        return (select.EPOLLIN if watch.mask & READ else 0) | (select.EPOLLOUT if watch.mask & WRITE else 0)

    def wait(self, timeout: float | None) -> list[tuple[_Watch, int]]:
        """What is ready. An error or hang-up counts as both, so that whoever waits finds out."""
        # The kernel counts in milliseconds: round away from zero, or the loop would spin before a timer.
        found = self._epoll.poll(-1 if timeout is None else math.ceil(timeout * 1000) / 1000, _MAX_EVENTS)
        watches = self._watches
        return [
            (watches[fd], (READ if mask & ~select.EPOLLOUT else 0) | (WRITE if mask & ~select.EPOLLIN else 0))
            for fd, mask in found
        ]


class _SelectorPoller:
    """Everywhere else: the standard library's choice."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, watch: _Watch) -> None:
        self._selector.register(fd, watch.mask, watch)

    def modify(self, fd: int, watch: _Watch) -> None:
        self._selector.modify(fd, watch.mask, watch)

    def remove(self, fd: int) -> None:
        self._selector.unregister(fd)

    def close(self) -> None:
        self._selector.close()

    def wait(self, timeout: float | None) -> list[tuple[_Watch, int]]:
        return [(key.data, mask) for key, mask in self._selector.select(timeout)]


class Reactor:
    """See the module. Not thread-safe except :meth:`call_from_thread`."""

    def __init__(self, on_error: Callable[[Exception], None] | None = None) -> None:
        self._poller: _EpollPoller | _SelectorPoller = _EpollPoller() if IS_LINUX else _SelectorPoller()
        self._watches: dict[int, _Watch] = {}
        self._timers = Timers()
        self._soon: collections.deque[Callback] = collections.deque()
        self._running = False
        self._on_error = on_error or (lambda exc: logger.error("callback failed", exc_info=exc))
        self._signals: dict[int, Callback] = {}
        self._previous_handlers: dict[int, Any] = {}
        self._previous_wakeup = -1
        self._wake_r, self._wake_w = os.pipe()
        for fd in (self._wake_r, self._wake_w):
            os.set_blocking(fd, False)
        self.on_readable(self._wake_r, self._drain_wakeups)

    # -- descriptors ---------------------------------------------------------------------------

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call ``callback`` whenever ``fd`` can be read; None stops it."""
        watch = self._watches.get(fd) or _Watch()
        watch.readable = callback
        self._update(fd, watch)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call ``callback`` whenever ``fd`` can be written; None stops it."""
        watch = self._watches.get(fd) or _Watch()
        watch.writable = callback
        self._update(fd, watch)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; to be called before it is closed."""
        watch = self._watches.get(fd)
        if watch is not None:
            watch.readable = watch.writable = None
            self._update(fd, watch)

    def _update(self, fd: int, watch: _Watch) -> None:
        known = fd in self._watches
        if watch.mask and known:
            self._poller.modify(fd, watch)
        elif watch.mask:
            self._poller.add(fd, watch)
            self._watches[fd] = watch
        elif known:
            del self._watches[fd]
            # A descriptor closed by accident is no longer in the kernel's set; forgetting it is right.
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._poller.remove(fd)

    # -- time ----------------------------------------------------------------------------------

    def call_later(self, delay: float, callback: Callback) -> Timer:
        """Run ``callback`` once, ``delay`` seconds from now, unless the timer is cancelled."""
        return self._timers.add(time.monotonic() + delay, callback)

    def call_soon(self, callback: Callback) -> None:
        """Run ``callback`` in the next turn of the loop."""
        self._soon.append(callback)

    def call_from_thread(self, callback: Callback) -> None:
        """As :meth:`call_soon`, from any thread."""
        self._soon.append(callback)
        self._wake()

    # -- signals -------------------------------------------------------------------------------

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Run ``callback`` in the loop after ``signum`` arrived. Main thread only."""
        if not self._signals:
            self._previous_wakeup = signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        if signum not in self._signals:
            self._previous_handlers[signum] = signal.signal(signum, self._enqueue_signal)
            signal.siginterrupt(signum, False)
        self._signals[signum] = callback

    def _enqueue_signal(self, signum: int, _frame: object) -> None:
        callback = self._signals.get(signum)
        if callback is not None:
            self._soon.append(callback)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full means a wake-up is pending already
            os.write(self._wake_w, b"\0")

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_r, 4096):
                pass

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve callbacks until :meth:`stop`."""
        self._running = True
        while self._running:
            self.run_once()

    def stop(self) -> None:
        """Make :meth:`run` return after the current callback."""
        self._running = False
        self._wake()

    def run_once(self, timeout: float | None = None) -> None:
        """One turn: wait (at most ``timeout`` seconds), then descriptors, timers, queued callbacks."""
        if self._soon:
            timeout = 0.0
        elif (due := self._timers.next_due()) is not None:
            until = max(0.0, due - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        for watch, mask in self._poller.wait(timeout):
            if mask & READ and watch.readable is not None:
                self._guard(watch.readable)
            if mask & WRITE and watch.writable is not None:
                self._guard(watch.writable)
        now = time.monotonic()
        while (timer := self._timers.pop_due(now)) is not None:
            self._guard(timer.fire)
        for _ in range(len(self._soon)):  # what these add runs in the next turn
            self._guard(self._soon.popleft())

    def _guard(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as exc:  # noqa: BLE001 - one bad callback must not end every session
            self._on_error(exc)

    def close(self) -> None:
        """Restore signal handlers and release descriptors; the reactor cannot be used again."""
        if self._signals:
            signal.set_wakeup_fd(self._previous_wakeup)
            for signum, handler in self._previous_handlers.items():
                signal.signal(signum, handler)
            self._signals.clear()
        self._poller.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
