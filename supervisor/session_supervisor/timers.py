"""Callbacks that are due at a time; most of them are cancelled long before.

A deadline, or the end of a worker's life, lies far ahead of most requests and sessions. What was
cancelled is therefore thrown out as soon as it is the greater part, not when its time comes.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

Callback = Callable[[], object]
"""What it returns is ignored."""

_FEW: Final = 64
"""Cancelled timers that are not worth a rebuild of the heap."""


class Timer:
    """A callback due at ``when`` (monotonic seconds). :meth:`cancel` is idempotent."""

    __slots__ = ("_callback", "_timers", "when")

    def __init__(self, when: float, callback: Callback, timers: Timers) -> None:
        self.when = when
        self._callback: Callback | None = callback
        self._timers = timers

    def cancel(self) -> None:
        if self._callback is not None:
            self._callback = None
            self._timers.one_was_cancelled()

    @property
    def pending(self) -> bool:
        return self._callback is not None

    def fire(self) -> None:
        """Run it; for whoever got it from :meth:`Timers.pop_due`."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class Timers:
    """The timers of one loop, soonest first; those of one instant in the order they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._cancelled = 0  # of those in the heap

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, callback: Callback) -> Timer:
        timer = Timer(when, callback, self)
        heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def next_due(self) -> float | None:
        """When the soonest that is pending is due."""
        while self._heap and not self._heap[0][2].pending:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Timer | None:
        """Take out the soonest that is pending if its time has come."""
        due = self.next_due()
        if due is None or due > now:
            return None
        return heapq.heappop(self._heap)[2]

    def one_was_cancelled(self) -> None:
        """For :class:`Timer`."""
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].pending]
            heapq.heapify(self._heap)
            self._cancelled = 0
