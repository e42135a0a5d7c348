"""Framing: from a byte stream to frames and back. No JSON here, no I/O.

Both decoders bound their memory: a frame longer than ``max_frame`` bytes is skipped as it streams
in, yields one :data:`TOO_LARGE`, and the frame after it is read as usual.
"""

from __future__ import annotations

import struct
from typing import Final, Literal, Protocol

Framing = Literal["lines", "packet4"]

DEFAULT_MAX_FRAME: Final = 16 * 1024 * 1024


class _TooLarge:
    def __repr__(self) -> str:
        return "TOO_LARGE"


class _Truncated:
    def __repr__(self) -> str:
        return "TRUNCATED"


TOO_LARGE: Final = _TooLarge()
"""Stands for a frame that was skipped because of its length."""
TRUNCATED: Final = _Truncated()
"""Stands for a frame the end of input cut off."""

Decoded = bytes | _TooLarge | _Truncated


class Decoder(Protocol):
    """Bytes in, frames out, in order."""

    def feed(self, data: bytes) -> list[Decoded]:
        """The frames completed by ``data``."""

    def finish(self) -> list[Decoded]:
        """What the end of input leaves."""


class LinesDecoder:
    """One frame per line. ``\\r\\n`` is accepted, blank lines are ignored, and so is a missing newline
    at the very end: a last line without one is a frame."""

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        self._max = max_frame
        self._partial: list[bytes] = []
        self._partial_size = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[Decoded]:
        first, *rest = data.split(b"\n")
        frames: list[Decoded] = []
        if not rest:
            self._extend(first, frames)
            return frames
        last = rest.pop()
        if self._partial or self._skipping:
            self._extend(first, frames)
            first = b"".join(self._partial)
            self._partial.clear()
            self._partial_size = 0
            if self._skipping:
                self._skipping = False
                first = b""
        self._add(first, frames)
        for line in rest:
            self._add(line, frames)
        self._extend(last, frames)
        return frames

    def finish(self) -> list[Decoded]:
        return [] if self._skipping or not self._partial else self.feed(b"\n")

    def _extend(self, piece: bytes, frames: list[Decoded]) -> None:
        if not piece or self._skipping:
            return
        self._partial.append(piece)
        self._partial_size += len(piece)
        if self._partial_size > self._max + 1:  # the one being the \r of a \r\n
            self._skipping = True
            self._partial.clear()
            self._partial_size = 0
            frames.append(TOO_LARGE)

    def _add(self, line: bytes, frames: list[Decoded]) -> None:
        if line.endswith(b"\r"):
            line = line[:-1]
        if len(line) > self._max:
            frames.append(TOO_LARGE)
        elif line and not line.isspace():
            frames.append(line)


_LENGTH: Final = struct.Struct(">I")


class Packet4Decoder:
    """Four bytes of big-endian length, then the frame (Erlang's ``{packet, 4}``)."""

    def __init__(self, max_frame: int = DEFAULT_MAX_FRAME) -> None:
        self._max = max_frame
        self._buffer = bytearray()
        self._to_skip = 0

    def feed(self, data: bytes) -> list[Decoded]:
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        buffer = self._buffer
        buffer += data
        frames: list[Decoded] = []
        offset, end = 0, len(buffer)
        while end - offset >= 4:
            (length,) = _LENGTH.unpack_from(buffer, offset)
            start = offset + 4
            if length > self._max:
                frames.append(TOO_LARGE)
                offset = min(start + length, end)
                self._to_skip = start + length - offset
                if self._to_skip:
                    break
                continue
            if end - start < length:
                break
            offset = start + length
            if length:
                with memoryview(buffer) as view:
                    frames.append(bytes(view[start:offset]))
        del buffer[:offset]
        return frames

    def finish(self) -> list[Decoded]:
        cut = bool(self._buffer) and not self._to_skip
        self._buffer.clear()
        return [TRUNCATED] if cut else []


def make_decoder(framing: Framing, max_frame: int) -> Decoder:
    """A fresh decoder for one connection."""
    return LinesDecoder(max_frame) if framing == "lines" else Packet4Decoder(max_frame)


def frame(framing: Framing, body: bytes) -> bytes:
    """``body``, a JSON object without raw newlines, as it goes on the wire."""
    return body + b"\n" if framing == "lines" else _LENGTH.pack(len(body)) + body
