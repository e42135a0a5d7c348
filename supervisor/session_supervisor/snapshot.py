"""What a session is: a set of named parts, each an opaque value, with a version.

A worker reports the parts a request changed together with its reply. The supervisor applies them
here, and brings any worker that is behind up to date with :meth:`Snapshot.since` before it serves.

A part whose name starts with ``!`` is *volatile*: it lives in the supervisor's memory only (literal
keys, counters) and never reaches a disk or an export.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

Parts = Mapping[str, "bytes | None"]
"""Name to value; None means the part is gone."""

VOLATILE_PREFIX: Final = "!"
_ENTRY: Final = struct.Struct("<HI")
_DELETED: Final = 0xFFFFFFFF


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

    __slots__ = ("_parts", "version")

    def __init__(self) -> None:
        self.version = 0
        self._parts: dict[str, tuple[int, bytes | None]] = {}

    def apply(self, parts: Parts) -> None:
        """Take over a change; it becomes one new version."""
        if not parts:
            return
        self.version += 1
        for name, value in parts.items():
            self._parts[name] = (self.version, value)

    def since(self, version: int) -> dict[str, bytes | None]:
        """What a worker at ``version`` lacks. A new worker (0) is not told of parts that are gone."""
        return {
            name: value
            for name, (changed, value) in self._parts.items()
            if changed > version and (version or value is not None)
        }

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
