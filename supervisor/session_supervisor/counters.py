"""What has happened since the start, counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """``crashes``: workers that ended without being told to. ``hibernations``: how often a session has
    given up its workers. ``expired``: sessions that were not used for their time. ``overloads``:
    requests refused because a queue was full."""

    requests: int = 0
    sessions: int = 0
    recycles: int = 0
    crashes: int = 0
    hibernations: int = 0
    expired: int = 0
    overloads: int = 0
