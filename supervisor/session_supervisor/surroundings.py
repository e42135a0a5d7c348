"""What a session needs of its supervisor, and nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from session_supervisor.counters import Counters
from session_supervisor.failures import DeathCertificate
from session_supervisor.inspector import Inspector
from session_supervisor.leases import Leases
from session_supervisor.observer import Observer
from session_supervisor.pool import Pool
from session_supervisor.reactor import Reactor
from session_supervisor.residency import Residency
from session_supervisor.scratch import Scratch
from session_supervisor.snapshot import Add
from session_supervisor.store import Store

if TYPE_CHECKING:
    from session_supervisor.crew import Crew
    from session_supervisor.handle import WorkerHandle
    from session_supervisor.session import Session


class Surroundings(Protocol):
    """What a session and its crew need of their supervisor."""

    reactor: Reactor
    counters: Counters
    pool: Pool
    residency: Residency
    inspector: Inspector
    leases: Leases
    store: Store | None
    observer: Observer
    scratch: Scratch
    add: Add
    """How the application's tallies are added up."""

    @property
    def draining(self) -> bool:
        """The supervisor is ending: sessions say when they rest."""

    waiting: int
    """Requests in the queues of all sessions; each crew keeps its share up to date."""

    def may_recycle(self, crew: Crew) -> bool:
        """Whether another succession may begin now; if not, ``crew.recycle_due`` is called later."""

    def recycle_ended(self) -> None:
        """A succession that was allowed is over, one way or the other."""

    def watch_use(self, session: Session) -> None:
        """See to it that the session ends once it has not been used for its time."""

    def confine(self, session: Session, worker: WorkerHandle) -> None:
        """Have ``worker``, about to be assigned to the session, shut itself in as its workers are to be."""

    def worker_died(self, session: Session, certificate: DeathCertificate) -> None:
        """A worker of the session ended without being told to."""

    def session_rested(self, session: Session) -> None:
        """Nobody waits for anything of the session any more."""

    def session_ended(self, session: Session) -> None:
        """Nothing of the session is left but its record."""
