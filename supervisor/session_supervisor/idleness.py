"""A session that is not used for its time hibernates."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from session_supervisor.reactor import Reactor
from session_supervisor.timers import Timer

if TYPE_CHECKING:
    from session_supervisor.session import Session


class Idleness:
    """Belongs to one crew. It has one timer, which is not moved with every request but armed again for
    what is left when it has run out. ``hibernate`` does so if nothing is in the way, and says whether
    there is anything more to watch."""

    def __init__(self, session: Session, reactor: Reactor, hibernate: Callable[[], bool]) -> None:
        self._session = session
        self._reactor = reactor
        self._hibernate = hibernate
        self._timer: Timer | None = None

    def watch(self) -> None:
        """The session is awake: see to it that it does not stay so for nothing."""
        timeout = self._session.options.idle_timeout
        if timeout and self._timer is None:
            left = self._session.last_used + timeout - time.monotonic()
            self._timer = self._reactor.call_later(max(left, 0.01), self._check)

    def stop(self) -> None:
        """Nobody is left to hibernate."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reconfigured(self) -> None:
        """Its time may be another one now."""
        self.stop()
        self.watch()

    def _check(self) -> None:
        self._timer = None
        if time.monotonic() - self._session.last_used < self._session.options.idle_timeout:
            self.watch()
        elif not self._hibernate():
            self._session.touch()  # it is at work: count from now
            self.watch()
