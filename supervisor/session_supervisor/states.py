"""The life cycles of workers and sessions, as data.

A **worker** is one interpreter. It is *starting* until it says it is ready; *idle* while it waits
(as a spare that belongs to nobody yet, or as the warm copy of its session); *busy* while it has
requests in flight; *draining* once it will take no more work and is on its way out; *dead* when it
has been reaped. A worker never goes back: there is no way from draining to idle, nor from one
session to another, because an interpreter that has run one session's code is never clean again.

A **session** is its snapshot. It is *cold* while it has no interpreter, *waking* while one is being
given to it, *live* while at least one serves it, *ending* from the moment somebody ends it. It falls
from live back to cold when it hibernates or its last worker dies: nothing is lost by that.

Every change of state goes through :meth:`Lifecycle.to`, which refuses what the tables do not allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STARTING: Final = "starting"
IDLE: Final = "idle"
BUSY: Final = "busy"
DRAINING: Final = "draining"
DEAD: Final = "dead"

WORKER_TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    STARTING: frozenset({IDLE, DRAINING, DEAD}),
    IDLE: frozenset({BUSY, DRAINING, DEAD}),
    BUSY: frozenset({IDLE, DRAINING, DEAD}),
    DRAINING: frozenset({DEAD}),
    DEAD: frozenset(),
}

COLD: Final = "cold"
WAKING: Final = "waking"
LIVE: Final = "live"
ENDING: Final = "ending"

SESSION_TRANSITIONS: Final[Mapping[str, frozenset[str]]] = {
    COLD: frozenset({WAKING, ENDING}),
    WAKING: frozenset({LIVE, COLD, ENDING}),
    LIVE: frozenset({COLD, ENDING}),
    ENDING: frozenset(),
}


class IllegalTransition(Exception):
    """A change of state the table does not allow: always a bug in the caller. Raised by ``to``."""


class Lifecycle:
    """The current state of one thing, moved only along its table."""

    __slots__ = ("_transitions", "state")

    def __init__(self, transitions: Mapping[str, frozenset[str]], state: str) -> None:
        self._transitions = transitions
        self.state = state

    def to(self, state: str) -> None:
        """Move to ``state``; staying where one is is no transition and is refused too."""
        if state not in self._transitions[self.state]:
            raise IllegalTransition(f"{self.state} -> {state}")
        self.state = state
