"""Who a worker answers to, and what it is told of: the contract between a handle and its owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from session_supervisor.failures import DeathCertificate
from session_supervisor.request import Request
from session_supervisor.snapshot import Parts

if TYPE_CHECKING:
    from session_supervisor.handle import WorkerHandle


class WorkerOwner(Protocol):
    """Who a worker answers to: the pool while it is a spare, then its session."""

    def worker_ready(self, worker: WorkerHandle) -> None:
        """It can be assigned."""

    def worker_assigned(self, worker: WorkerHandle) -> None:
        """It has become the session it was told to be."""

    def worker_refused(self, worker: WorkerHandle, reason: str) -> None:
        """It cannot become that session and leaves."""

    def worker_finished(self, worker: WorkerHandle, request: Request, parts: Parts, reply: bytes) -> None:
        """``request`` is done and ``parts`` is what it changed; the owner sees to it that ``reply`` goes
        out, not before the change is as safe as it is to be. The worker can take another request."""

    def worker_stopped(self, worker: WorkerHandle, request: Request) -> None:
        """``request``, one of several, was told to stop and has; its outcome is why it was stopped."""

    def worker_checkpoint(self, worker: WorkerHandle, parts: Parts) -> None:
        """A request under way on it has changed ``parts``, to be kept whatever becomes of the request."""

    def worker_wants_lease(self, worker: WorkerHandle, granted: Callable[[], None]) -> None:
        """It waits for a lease; ``granted`` tells it that it has one."""

    def worker_released(self, worker: WorkerHandle) -> None:
        """It needs one of its leases no longer."""

    def worker_holds(self, worker: WorkerHandle, memory: int) -> None:
        """It has collected its garbage and holds so many bytes of its own."""

    def worker_returned(self, worker: WorkerHandle, request: Request) -> None:
        """It died and ``request`` is to be served again: it had not read it, or may retry it."""

    def worker_printed(self, worker: WorkerHandle, data: bytes) -> None:
        """It wrote ``data`` to its standard descriptors outside any request."""

    def worker_dead(self, worker: WorkerHandle, certificate: DeathCertificate) -> None:
        """It has been reaped; its requests have been failed already."""
