"""What a session needs of its supervisor, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from session_supervisor.failures import DeathCertificate
from session_supervisor.pool import Pool
from session_supervisor.reactor import Reactor

if TYPE_CHECKING:
    from session_supervisor.session import Session


class Surroundings(Protocol):
    """What a session needs of its supervisor."""

    reactor: Reactor
    pool: Pool

    @property
    def draining(self) -> bool:
        """The supervisor is ending: sessions say when they rest."""

    waiting: int
    """Requests in the queues of all sessions; each session keeps its share up to date."""

    def may_recycle(self, session: Session) -> bool:
        """Whether another recycle may begin now; if not, ``session.recycle_due`` is called later."""

    def recycle_ended(self) -> None:
        """A recycle that was allowed is over, one way or the other."""

    def session_printed(self, session: Session, data: bytes) -> None:
        """A worker of the session wrote ``data`` outside any request."""

    def worker_died(self, session: Session, certificate: DeathCertificate) -> None:
        """A worker of the session ended without being told to."""

    def session_rested(self, session: Session) -> None:
        """Nobody waits for anything of the session any more."""

    def session_ended(self, session: Session) -> None:
        """Nothing of the session is left but its record."""
