"""What a session is: a set of named parts, each an opaque value, with a version.

A worker reports the parts a request changed together with its reply. The supervisor applies them
here, and brings any worker that is behind up to date with :meth:`Snapshot.since` before it serves.

The first character of a part's name says how it is kept:

- ``!`` *volatile*: it lives in the supervisor's memory only (literal keys) and never reaches a disk
  or an export;
- ``+`` a *tally*: what a worker reports is not the new value but what is to be added to it, so that
  several workers of one session can count at once. What adding means the application says.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from typing import Final

Parts = Mapping[str, "bytes | None"]
"""Name to value; None means the part is gone."""

Add = Callable[[bytes, bytes], bytes]
"""``add(total, share)`` is the new total of a tally."""

VOLATILE_PREFIX: Final = "!"
TALLY_PREFIX: Final = "+"
_ENTRY: Final = struct.Struct("<HI")
_DELETED: Final = 0xFFFFFFFF
_FEW: Final = 64


def encode_parts(parts: Parts) -> bytes:
    """Parts as one frame body."""
    chunks: list[bytes] = []
    for name, value in parts.items():
        key = name.encode()
        chunks.append(_ENTRY.pack(len(key), _DELETED if value is None else len(value)))
        chunks.append(key)
        if value is not None:
            chunks.append(value)
    return b"".join(chunks)


def decode_parts(body: bytes) -> dict[str, bytes | None]:
    """The inverse of :func:`encode_parts`. Raises ``ValueError`` on anything else."""
    parts: dict[str, bytes | None] = {}
    offset = 0
    while offset < len(body):
        if len(body) - offset < _ENTRY.size:
            raise ValueError("truncated parts")
        key_length, value_length = _ENTRY.unpack_from(body, offset)
        offset += _ENTRY.size
        deleted = value_length == _DELETED
        end = offset + key_length + (0 if deleted else value_length)
        if end > len(body):
            raise ValueError("truncated parts")
        name = body[offset : offset + key_length].decode()
        parts[name] = None if deleted else body[offset + key_length : end]
        offset = end
    return parts


class Snapshot:
    """The parts of one session. ``version`` counts the changes applied; 0 is a session as new."""

    __slots__ = ("_add", "_deleted", "_parts", "_tolerated", "version")

    def __init__(self, add: Add) -> None:
        self.version = 0
        self._add = add
        self._parts: dict[str, tuple[int, bytes | None]] = {}
        self._deleted = 0  # how many of them are gone
        self._tolerated = _FEW

    def apply(self, parts: Parts) -> None:
        """Take over a change; it becomes one new version."""
        if not parts:
            return
        self.version += 1
        for name, value in parts.items():
            if value is not None and name.startswith(TALLY_PREFIX):
                total = self.get(name)
                value = value if total is None else self._add(total, value)
            before = self._parts.get(name)
            self._deleted += (value is None) - (before is not None and before[1] is None)
            # Names recur in every session: one copy of each serves them all.
            self._parts[sys.intern(name)] = (self.version, value)

    def restore(self, parts: Mapping[str, bytes], version: int) -> None:
        """Begin where a stored or exported session was; only for a snapshot as new."""
        self.version = version
        self._parts = {sys.intern(name): (version, value) for name, value in parts.items()}

    def since(self, version: int, *, deleted: bool = False) -> dict[str, bytes | None]:
        """What a worker at ``version`` lacks. A new one (0) is told of parts that are gone only if
        ``deleted``: it has never had them."""
        return {
            name: value
            for name, (changed, value) in self._parts.items()
            if changed > version and (version or deleted or value is not None)
        }

    @property
    def mostly_deleted(self) -> bool:
        """It remembers more parts that are gone than parts there are, and than it had to when last asked to
        forget them."""
        return self._deleted > self._tolerated and 2 * self._deleted > len(self._parts)

    def forget_deleted(self, known: int) -> None:
        """Drop the memory of parts that were gone by version ``known``, of which everybody has heard."""
        if self._deleted:
            kept = {n: entry for n, entry in self._parts.items() if entry[1] is not None or entry[0] > known}
            self._deleted -= len(self._parts) - len(kept)
            self._parts = kept
            self._tolerated = max(_FEW, 2 * self._deleted)

    def get(self, name: str) -> bytes | None:
        """One part; None if there is none."""
        return self._parts.get(name, (0, None))[1]

    def live_parts(self) -> dict[str, bytes]:
        """Every part that exists now."""
        return {name: value for name, (_, value) in self._parts.items() if value is not None}

    @property
    def size(self) -> int:
        """Bytes held, names and values."""
        return sum(len(name) + len(value or b"") for name, (_, value) in self._parts.items())
