"""A session's state as its interpreter holds it: the snapshot's parts, and what a request changes of them.

There are two ways to change it, :meth:`State.put` and :meth:`State.count`, and both note the change, so
that what the supervisor keeps and what this interpreter knows cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dspy_bridge.protocol.snapshot_parts import add_tally


class State:
    """Parts by name, each JSON. ``changed``: what has changed since it was last emptied."""

    def __init__(self) -> None:
        self.changed: dict[str, bytes | None] = {}
        self._parts: dict[str, bytes] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def get(self, name: str) -> Any:
        """The part's value; None if there is none."""
        value = self._parts.get(name)
        return None if value is None else orjson.loads(value)

    def put(self, name: str, value: Any) -> None:
        """Set one part (None: remove it)."""
        encoded = None if value is None else orjson.dumps(value)
        if encoded is None:
            self._parts.pop(name, None)
        else:
            self._parts[name] = encoded
        self.changed[name] = encoded

    def count(self, name: str, reported: list[Any]) -> None:
        """Add to a tally: here, and in what the supervisor is told."""
        share = orjson.dumps(reported)
        for held in (self._parts, self.changed):
            before = held.get(name)
            held[name] = share if before is None else add_tally(before, share)

    def load(self, parts: Mapping[str, bytes | None]) -> None:
        """Take over news of the snapshot: nothing the supervisor has to be told."""
        for name, value in parts.items():
            if value is None:
                self._parts.pop(name, None)
            else:
                self._parts[name] = value
