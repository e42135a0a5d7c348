"""Who watches a supervisor: told what happens to sessions and workers, and asked nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from session_supervisor.failures import DeathCertificate


class Observer(Protocol):
    """Told what concerns no single request, in the reactor's thread. Implemented by the bridge.

    A worker's life is told in order: launched, ready, assigned, ended; any of the middle may be missing.
    """

    def session_printed(self, session_id: str, data: bytes) -> None:
        """A worker of the session wrote ``data`` outside any request."""

    def session_opened(self, session_id: str, *, restored: bool) -> None:
        """There is a new session; one that is ``restored`` existed before."""

    def session_hibernated(self, session_id: str, workers: Sequence[int]) -> None:
        """The session gives up its ``workers``, by their pids."""

    def session_ended(self, session_id: str) -> None:
        """Nothing of the session is left."""

    def worker_launched(self, pid: int, asked_for: float) -> None:
        """The process exists. ``asked_for``: when it was wanted (monotonic clock)."""

    def worker_ready(self, pid: int) -> None:
        """It can be assigned, and belongs to nobody yet."""

    def worker_assigned(self, pid: int, session_id: str) -> None:
        """It is to be the session from now on."""

    def worker_replaced(self, pid: int, session_id: str) -> None:
        """A fresh one serves the session in its place."""

    def worker_died(self, session_id: str, certificate: DeathCertificate) -> None:
        """A worker that served the session ended without being told to."""

    def worker_ended(self, certificate: DeathCertificate) -> None:
        """It has been reaped, whatever it was."""
