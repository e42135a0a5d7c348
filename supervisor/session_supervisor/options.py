"""What can be set about the supervisor and about one session of it. Times are seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from session_supervisor.handle import Grace


@dataclass(frozen=True, slots=True)
class RecyclePolicy:
    """When a worker is replaced by a fresh one. 0 means never.

    Each worker draws its own limits, up to ``jitter`` below these, so that workers born together
    are not replaced together.
    """

    ttl: float = 3600.0
    max_requests: int = 0
    jitter: float = 0.1

    def draw(self) -> tuple[float, int]:
        """One worker's own ``(ttl, max_requests)``."""
        share = 1.0 - self.jitter * random.random()
        return self.ttl * share, max(1, int(self.max_requests * share)) if self.max_requests else 0


@dataclass(frozen=True, slots=True)
class SupervisorOptions:
    """Limits and bounds; the bridge's configuration documents each for its users."""

    spares: int = 2
    max_sessions: int = 10_000
    queue_per_session: int = 1_024
    queue_total: int = 16_384
    concurrent_recycles: int = 2
    start_timeout: float = 30.0
    drain_timeout: float = 10.0
    recycle: RecyclePolicy = field(default_factory=RecyclePolicy)
    grace: Grace = field(default_factory=Grace)
