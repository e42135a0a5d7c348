"""What follows when a worker is found to use more than its session may, or than it did when it began."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from session_supervisor.failures import LimitExceeded
from session_supervisor.handle import WorkerHandle
from session_supervisor.inspector import Measurement
from session_supervisor.states import BUSY, IDLE
from session_supervisor.succession import Succession
from session_supervisor.surroundings import Surroundings

if TYPE_CHECKING:
    from session_supervisor.session import Session

logger = logging.getLogger(__name__)


class Oversight:
    """Belongs to one crew; told by the inspector. It acts where the guards inside the interpreter
    (:mod:`.limits`) did not, or could not."""

    def __init__(self, session: Session, succession: Succession, surroundings: Surroundings) -> None:
        self._session = session
        self._succession = succession
        self._surroundings = surroundings

    def measured(self, worker: WorkerHandle, seen: Measurement) -> None:
        """One look at ``worker``; the first one is its baseline."""
        worker.memory = seen.memory
        if worker.baseline is None:
            worker.baseline = seen.memory
        options = self._session.options
        limits = options.limits
        for name, value, limit in (
            ("memory", seen.memory, limits.memory),
            ("processes", seen.processes, limits.processes),
            ("scratch", seen.scratch, limits.scratch),
        ):
            if limit and value > limit:
                self._over(worker, name, f"the session's {name} reached {value}, its limit is {limit}")
                return
        if options.recycle.growth and seen.memory - worker.baseline > options.recycle.growth:
            self._succession.grown(worker)

    def _over(self, worker: WorkerHandle, limit: str, message: str) -> None:
        logger.warning("session %s: %s", self._session.id, message)
        failure = LimitExceeded(limit, message)
        if limit == "scratch":
            self._surroundings.scratch.empty(self._session.folder_name, self._session.uid)
        if worker.state == BUSY:
            for request in list(worker.in_flight.values()):
                worker.interrupt(request, failure)
        elif worker.state == IDLE:
            # Whoever did it has had the answer already: the next one is told, and finds a fresh worker.
            self._session.refusal = failure
            worker.told_to_end = True
            worker.kill()
