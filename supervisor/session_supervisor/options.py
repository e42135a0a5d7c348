"""What can be set about the supervisor and about one session of it. Times are seconds, sizes bytes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from session_supervisor.hardening import Hardening
from session_supervisor.limits import Limits
from session_supervisor.process import Grace


@dataclass(frozen=True, slots=True)
class RecyclePolicy:
    """When a worker is replaced by a fresh one. 0 means never.

    ``growth``: private memory over what the worker had when it began to serve. Each worker draws its
    own time and count, up to ``jitter`` below these, so that workers born together are not replaced
    together.
    """

    ttl: float = 3600.0
    max_requests: int = 0
    jitter: float = 0.1
    growth: int = 0

    def draw(self) -> tuple[float, int]:
        """One worker's own ``(ttl, max_requests)``."""
        share = 1.0 - self.jitter * random.random()
        return self.ttl * share, max(1, int(self.max_requests * share)) if self.max_requests else 0


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What can be set about one session.

    ``workers``: interpreters its requests are spread over. ``threads``: requests each of them runs at
    once. ``leases``: how many it has out at once
    (0: no bound of its own; :mod:`.leases`). ``idle_timeout``: it hibernates after so
    long without a request; ``ttl``: it ends after so long without one (0: never, for both).
    ``durable``: its changes are stored before they are acknowledged.
    """

    recycle: RecyclePolicy = field(default_factory=RecyclePolicy)
    limits: Limits = field(default_factory=Limits)
    workers: int = 1
    threads: int = 1
    queue: int = 1_024
    leases: int = 0
    idle_timeout: float = 0.0
    ttl: float = 0.0
    durable: bool = False

    @property
    def measured(self) -> bool:
        """Whether its workers have to be looked at from outside now and then."""
        return bool(self.recycle.growth or self.limits.memory or self.limits.processes or self.limits.scratch)


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Limits and bounds; the bridge's configuration documents each for its users.

    ``leases``: how many all sessions together have out at once. ``max_workers``: interpreters that serve
    sessions at once (0: no bound); spares and workers on their way out come on top. ``session``: what a
    session gets that is not told otherwise. ``measure_every``: seconds between two looks at the workers
    that have to be looked at. ``hardening``: what every worker shuts itself in with.
    """

    spares: int = 2
    max_workers: int = 0
    max_sessions: int = 10_000
    leases: int = 0
    queue_total: int = 16_384
    concurrent_recycles: int = 2
    start_timeout: float = 30.0
    drain_timeout: float = 10.0
    measure_every: float = 1.0
    session: SessionOptions = field(default_factory=SessionOptions)
    grace: Grace = field(default_factory=Grace)
    hardening: Hardening = field(default_factory=Hardening)
