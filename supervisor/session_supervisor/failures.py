"""How a request can fail without its worker's say. The host's error codes are the bridge's affair:
it maps each of these classes to one, so every class is narrow and says who raises it."""

from __future__ import annotations

from dataclasses import dataclass


class Failure(Exception):
    """Base: the request got no reply from a worker. The text is meant for a stranger to act on."""


@dataclass(frozen=True, slots=True)
class DeathCertificate:
    """What is known of a worker that died.

    ``last_command``: what its callers named the request it ran, or ran last. ``peak_memory_mb``: the
    most it ever had resident, pages shared with its template included. ``last_output`` holds its
    stack if it left one. ``hint``: what the signs point to, where they point to something.
    """

    pid: int
    exit_code: int | None
    signal: int | None
    age_s: float
    requests: int
    last_command: str | None
    peak_memory_mb: float
    cpu_s: float
    last_output: str
    hint: str | None = None

    def describe(self) -> str:
        if self.signal is not None:
            return f"killed by signal {self.signal}"
        return f"exited with code {self.exit_code}"


class WorkerCrashed(Failure):
    """The worker died while it ran the request. Raised by the worker's handle."""

    def __init__(self, certificate: DeathCertificate) -> None:
        hint = f"; {certificate.hint}" if certificate.hint else ""
        super().__init__(f"the session's interpreter (pid {certificate.pid}) {certificate.describe()}{hint}")
        self.certificate = certificate


class LimitExceeded(Failure):
    """The session went over one of its limits; ``limit`` is the field of :class:`.limits.Limits`.
    Raised by crews, and by handles for a worker the kernel ended for its processor time."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class NotStored(Failure):
    """A change of a durable session holds in memory but could not be stored. Raised by the store."""


class WorkerStartFailed(Failure):
    """No worker could be started or assigned. Raised by launchers, the pool and sessions."""


class RequestTimedOut(Failure):
    """The request's deadline passed; its work has stopped. Raised by sessions."""


class RequestCancelled(Failure):
    """Somebody cancelled the request; its work has stopped. Raised by sessions."""


class Overloaded(Failure):
    """A queue is full. Raised by sessions and the supervisor, at once."""


class SessionLimit(Failure):
    """As many sessions as allowed exist. Raised by the supervisor."""


class SessionEnded(Failure):
    """The session was ended while the request waited in it or ran. Raised by sessions."""


class ShuttingDown(Failure):
    """The supervisor is draining. Raised by the supervisor."""
