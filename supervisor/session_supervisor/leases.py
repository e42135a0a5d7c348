"""So many of something at once, over all workers: who asks too much waits his turn.

What is leased is the application's affair (the bridge leases calls to language models). A worker that
dies gives back what it held and withdraws what it waited for. Leases may have a parent: then one is
needed there too, and the narrower bound is asked first.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable

Granted = Callable[[], None]


class Leases:
    """``limit``: how many at once (0: no bound)."""

    def __init__(self, limit: int, parent: Leases | None = None) -> None:
        self.limit = limit
        self._parent = parent
        self._held: collections.Counter[Hashable] = collections.Counter()
        self._waiting: collections.deque[tuple[Hashable, Granted]] = collections.deque()

    @property
    def used(self) -> int:
        """How many are out."""
        return self._held.total()

    @property
    def waiting(self) -> int:
        """How many are waited for."""
        return len(self._waiting)

    def resize(self, limit: int) -> None:
        """So many from now on; those that are out stay out."""
        self.limit = limit
        self._grant()

    def ask(self, holder: Hashable, granted: Granted) -> None:
        """Call ``granted`` once ``holder`` has a lease, now or later."""
        self._waiting.append((holder, granted))
        self._grant()

    def give_back(self, holder: Hashable) -> None:
        """``holder`` needs one of its leases no longer."""
        if self._held[holder]:
            self._held[holder] -= 1
            if self._parent is not None:
                self._parent.give_back(holder)
            self._grant()

    def drop(self, holder: Hashable) -> None:
        """``holder`` is no more."""
        self._held.pop(holder, None)
        self._waiting = collections.deque(one for one in self._waiting if one[0] != holder)
        if self._parent is not None:
            self._parent.drop(holder)
        self._grant()

    def _grant(self) -> None:
        while self._waiting and (not self.limit or self.used < self.limit):
            holder, granted = self._waiting.popleft()
            self._held[holder] += 1
            if self._parent is not None:
                self._parent.ask(holder, granted)
            else:
                granted()
