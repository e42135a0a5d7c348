"""The internal wire between the supervisor and its workers.

One frame is a 13-byte header (kind, number, body length; little endian) and a body the supervisor
never looks into: for a request the bytes the host sent, for a reply the bytes the host will get.
The number is the supervisor's own for the request, so no two hosts' ids can collide.

==========  =========  ====================================================================
kind        sent by    means
==========  =========  ====================================================================
``CONFINE`` supervisor shut yourself in like this (body: a confinement); once, before ``ASSIGN``
``ASSIGN``  supervisor become this session (body: its birth certificate, opaque); once
``LOAD``    supervisor these snapshot parts are news to you; number: the version they reach
``REQUEST`` supervisor serve this
``STOP``    supervisor leave now
``ANSWER``  supervisor what came back for call ``number``: a piece of it, or all; body as it came
``COLLECT`` supervisor collect your garbage and say what you still hold
``CANCEL``  supervisor stop request ``number``, which is one of several under way
``HOLD``    supervisor send no more events of request ``number``, which is one of several, before ``GO``
``GO``      supervisor events of request ``number`` are welcome again
``READY``   worker     I can be assigned
``ASSIGNED`` worker    I am that session now (body: facts about me, opaque)
``REFUSED`` worker     I cannot become that session (body: UTF-8 reason); I am leaving
``EVENT``   worker     one event of request ``number``, to be forwarded
``PARTS``   worker     what request ``number`` changed; takes effect with its reply
``CHECKPOINT`` worker  what request ``number`` has changed so far; takes effect now, whatever becomes of it
``REPLY``   worker     the terminal reply of request ``number``
``SPENT``   worker     after this reply I am not fit to serve another request
``CALL``    worker     request ``number`` asks its caller something (body: :data:`CALL_NUMBER`, then as it is)
``LEASE``   worker     I want a lease (body: :data:`CALL_NUMBER`); ``ANSWER`` with that number grants it
``RELEASE`` worker     I need one of my leases no longer
``PRINTED`` worker     request ``number`` has printed this (where several are under way, only it can tell)
``HOLDS``   worker     my private memory after a collection; number: bytes
``TRACE``   worker     what I was seen doing for request ``number`` (body: opaque); sent where that is wanted
==========  =========  ====================================================================
"""

from __future__ import annotations

import enum
import struct
from typing import Final


class Kind(enum.IntEnum):
    ASSIGN = 1
    LOAD = 2
    REQUEST = 3
    STOP = 4
    COLLECT = 5
    ANSWER = 6
    CANCEL = 7
    CONFINE = 8
    HOLD = 9
    GO = 10
    READY = 16
    ASSIGNED = 17
    REFUSED = 18
    EVENT = 19
    PARTS = 20
    REPLY = 21
    SPENT = 22
    HOLDS = 23
    CALL = 24
    CHECKPOINT = 25
    LEASE = 26
    RELEASE = 27
    PRINTED = 28
    TRACE = 29


_HEADER: Final = struct.Struct("<BQI")
HEADER_SIZE: Final = _HEADER.size
CALL_NUMBER: Final = struct.Struct("<Q")
"""In front of a call's body: the worker's own number for it, which its answers carry."""
MAX_BODY: Final = 1 << 30
"""Bytes. Far above any legal frame: a longer one means the stream is corrupt."""

_KINDS: Final = {int(kind): kind for kind in Kind}


class CorruptStream(Exception):
    """The bytes are not frames: something in the worker wrote to the channel. Raised by readers."""


def pack(kind: Kind, number: int = 0, body: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return _HEADER.pack(kind, number, len(body)) + body


def pack_header(kind: Kind, number: int, length: int) -> bytes:
    """The header alone, for a body that follows by itself."""
    return _HEADER.pack(kind, number, length)


class FrameReader:
    """Turns a byte stream into frames; keeps what is incomplete for the next ``feed``."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, int, bytes]]:
        """Each frame that is now complete, as ``(kind, number, body)``."""
        buffer = self._buffer
        if not buffer and len(data) >= HEADER_SIZE:
            # By far the most common: exactly one frame.
            code, number, length = _HEADER.unpack_from(data)
            if len(data) == HEADER_SIZE + length and code in _KINDS:
                return [(_KINDS[code], number, data[HEADER_SIZE:])]
        buffer += data
        frames = []
        offset, end = 0, len(buffer)
        while end - offset >= HEADER_SIZE:
            code, number, length = _HEADER.unpack_from(buffer, offset)
            kind = _KINDS.get(code)
            if kind is None or length > MAX_BODY:
                raise CorruptStream(f"kind {code}, length {length}")
            start = offset + HEADER_SIZE
            if end - start < length:
                break
            offset = start + length
            with memoryview(buffer) as view:
                frames.append((kind, number, bytes(view[start:offset])))
        del buffer[:offset]
        return frames
