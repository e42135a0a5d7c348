"""How many interpreters sessions may have at once, and who gives one up when another needs it.

A crew claims a place before it takes a worker and gives it back with the worker. While places last, a
claim is granted at once. When there are none, the session that has rested longest hibernates; when
every one is at work, claims wait in the order they came.
"""

from __future__ import annotations

import collections
from typing import Protocol


class Resident(Protocol):
    """Who claims places: a session's crew."""

    def place_granted(self) -> bool:
        """A place is there. Whether it is (still) wanted; then it is the crew's to give back."""

    def give_way(self) -> None:
        """Hibernate: give back every place. Asked only of a crew that rests."""


class Residency:
    """See the module. ``limit``: places in all (0: no bound)."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: collections.deque[Resident] = collections.deque()
        self._resting: collections.OrderedDict[Resident, None] = collections.OrderedDict()
        self._granting = False

    @property
    def waiting(self) -> int:
        """Claims that wait for a place."""
        return len(self._waiting)

    def claim(self, crew: Resident) -> None:
        """Ask for one place; ``crew.place_granted`` is called now or later."""
        self._waiting.append(crew)
        self._grant()

    def withdraw(self, crew: Resident) -> int:
        """Take back the claims of ``crew`` that still wait; how many there were."""
        kept = [one for one in self._waiting if one is not crew]
        gone = len(self._waiting) - len(kept)
        if gone:
            self._waiting = collections.deque(kept)
        return gone

    def resize(self, limit: int) -> None:
        """So many places from now on. Where there are fewer, those that rest give way now, others when they do."""
        self.limit = limit
        self._has_room(for_one_more=False)
        self._grant()

    def give_back(self) -> None:
        """One place is free again."""
        self.used -= 1
        self._grant()

    def rest(self, crew: Resident) -> None:
        """``crew`` has nothing to do: it may be asked to give way, after those that rest longer."""
        self._resting[crew] = None
        self._resting.move_to_end(crew)
        if self._waiting:
            self._grant()
        else:
            self._has_room(for_one_more=False)

    def stir(self, crew: Resident) -> None:
        """``crew`` has something to do again, or is no more."""
        self._resting.pop(crew, None)

    def _grant(self) -> None:
        if self._granting:  # a place given back while granting: the loop below sees it
            return
        self._granting = True
        try:
            while self._waiting and self._has_room(for_one_more=True):
                crew = self._waiting.popleft()
                self.used += 1
                if not crew.place_granted():
                    self.used -= 1
        finally:
            self._granting = False

    def _has_room(self, *, for_one_more: bool) -> bool:
        """Whether the places suffice, once as many crews as need be have given way."""
        while self.limit and self.used + for_one_more > self.limit:
            if not self._resting:
                return False
            crew, _ = self._resting.popitem(last=False)
            crew.give_way()
        return True
