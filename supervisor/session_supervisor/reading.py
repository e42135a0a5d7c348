"""Reading what is there, into one buffer for all reads of the event loop.

A read that allocates room for 64 KiB and keeps a line of it leaves a hole in the heap each time; over
hours the holes are megabytes. So everything the loop reads goes through one buffer, and what is kept is
copied out at its own size.
"""

from __future__ import annotations

import os
from typing import Final

CHUNK: Final = 1 << 16
"""Most bytes one read takes."""

_buffer: Final = memoryview(bytearray(CHUNK))


def read_chunk(fd: int) -> bytes:
    """What ``fd`` has to say now, of :data:`CHUNK` bytes at most; empty at its end. Raises ``OSError``,
    ``BlockingIOError`` if it has nothing. For the event loop's thread alone."""
    return bytes(_buffer[: os.readv(fd, [_buffer])])
