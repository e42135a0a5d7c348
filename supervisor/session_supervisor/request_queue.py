"""The requests of one session that wait for a worker, in the order they came.

The queue is bounded (``queue`` of the session's options); what it holds is counted in the daemon's
``waiting``, whatever way a request leaves it.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from session_supervisor.failures import Failure, Overloaded
from session_supervisor.request import Request
from session_supervisor.surroundings import Surroundings

if TYPE_CHECKING:
    from session_supervisor.session import Session


class RequestQueue:
    """See the module."""

    def __init__(self, session: Session, surroundings: Surroundings) -> None:
        self._session = session
        self._surroundings = surroundings
        self._waiting: collections.deque[Request] = collections.deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> Request:
        """The one whose turn it is; the queue must not be empty."""
        return self._waiting[0]

    def admit(self, request: Request) -> bool:
        """Have it wait; with the queue full it is finished as ``overloaded`` and False is returned."""
        limit = self._session.options.queue
        if len(self._waiting) >= limit:
            self._surroundings.counters.overloads += 1
            request.finish_failed(Overloaded(f"session {self._session.id!r} has {limit} requests waiting already"))
            return False
        self._waiting.append(request)
        self._surroundings.waiting += 1
        return True

    def take(self) -> Request:
        self._surroundings.waiting -= 1
        return self._waiting.popleft()

    def put_back(self, request: Request) -> None:
        """It was taken, and is to be served again before any other; the bound does not apply."""
        request.rewind()
        self._waiting.appendleft(request)
        self._surroundings.waiting += 1

    def withdraw(self, request: Request, reason: Failure) -> bool:
        """Finish it as failed if it waits here; returns whether it did."""
        if request not in self._waiting:
            return False
        self._waiting.remove(request)
        self._surroundings.waiting -= 1
        request.finish_failed(reason)
        return True

    def fail(self, failure: Failure) -> None:
        """Finish all that wait."""
        gone, self._waiting = self._waiting, collections.deque()
        self._surroundings.waiting -= len(gone)
        for request in gone:
            request.finish_failed(failure)
