"""A session's state as its interpreter holds it: the snapshot's parts, and what a request changes of them.

There are two ways to change it, :meth:`State.put` and :meth:`State.count`, and both note the change, so
that what the supervisor keeps and what this interpreter knows cannot drift apart. Changes leave by
:meth:`State.hand_over` alone, whichever request made them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dspy_bridge import jsonlib
from dspy_bridge.protocol.snapshot_parts import add_tally
from session_supervisor.snapshot import TALLY_PREFIX


class State:
    """Parts by name, each JSON. May be used from any thread."""

    def __init__(self) -> None:
        self._changed: dict[str, bytes | None] = {}
        self._lock = threading.Lock()
        self._leaving = threading.Lock()
        self._parts: dict[str, bytes] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._parts))

    def hand_over(self, send: Callable[[dict[str, bytes | None]], None]) -> None:
        """``send`` what has changed since this was last done, perhaps nothing. Changes leave in the order in
        which they were made, whatever threads hand them over."""
        with self._leaving:
            with self._lock:
                changed, self._changed = self._changed, {}
            send(changed)

    def get(self, name: str) -> Any:
        """The part's value; None if there is none."""
        value = self._parts.get(name)
        return None if value is None else jsonlib.loads(value)

    def put(self, name: str, value: Any) -> None:
        """Set one part (None: remove it)."""
        encoded = None if value is None else jsonlib.dumps(value)
        with self._lock:
            if encoded is None:
                self._parts.pop(name, None)
            else:
                self._parts[name] = encoded
            self._changed[name] = encoded

    def count(self, name: str, reported: list[Any]) -> None:
        """Add to a tally: here, and in what the supervisor is told."""
        share = jsonlib.dumps(reported)
        held: dict[str, Any]
        with self._lock:
            for held in (self._parts, self._changed):
                before = held.get(name)
                held[name] = share if before is None else add_tally(before, share)

    def load(self, parts: Mapping[str, bytes | None]) -> None:
        """Take over news of the snapshot: nothing the supervisor has to be told. What has not been handed over
        yet is newer."""
        with self._lock:
            for name, value in parts.items():
                if name in self._changed:
                    share = self._changed[name]
                    if name.startswith(TALLY_PREFIX) and share is not None:
                        self._parts[name] = share if value is None else add_tally(value, share)
                elif value is None:
                    self._parts.pop(name, None)
                else:
                    self._parts[name] = value
