"""Framing, against every way a stream can be cut into pieces."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dspy_bridge.protocol.codec import TOO_LARGE, TRUNCATED, LinesDecoder, Packet4Decoder, frame

bodies = st.lists(st.binary(min_size=1, max_size=50).filter(lambda b: b"\n" not in b and not b.isspace()), max_size=8)
cuts = st.lists(st.integers(0, 600), max_size=8)


def pieces(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in at), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(bodies, cuts)
def test_lines_survive_any_fragmentation(sent: list[bytes], at: list[int]) -> None:
    sent = [body.rstrip(b"\r") or b"x" for body in sent]
    decoder = LinesDecoder()
    stream = b"".join(frame("lines", body) for body in sent)
    assert [got for piece in pieces(stream, at) for got in decoder.feed(piece)] + decoder.finish() == sent


@given(bodies, cuts)
def test_packets_survive_any_fragmentation(sent: list[bytes], at: list[int]) -> None:
    decoder = Packet4Decoder()
    stream = b"".join(frame("packet4", body) for body in sent)
    assert [got for piece in pieces(stream, at) for got in decoder.feed(piece)] + decoder.finish() == sent


@given(st.lists(st.integers(1, 40), max_size=6), cuts)
def test_what_is_too_large_is_skipped_once_and_the_rest_is_right(sizes: list[int], at: list[int]) -> None:
    expected = [b"x" * size if size <= 20 else TOO_LARGE for size in sizes]
    for framing, make in (("lines", LinesDecoder), ("packet4", Packet4Decoder)):
        decoder = make(20)
        stream = b"".join(frame(framing, b"x" * size) for size in sizes)  # type: ignore[arg-type]
        got = [one for piece in pieces(stream, at) for one in decoder.feed(piece)] + decoder.finish()
        assert got == expected


@given(st.binary(max_size=300), cuts)
def test_garbage_never_raises_and_memory_stays_bounded(garbage: bytes, at: list[int]) -> None:
    for decoder in (LinesDecoder(64), Packet4Decoder(64)):
        for piece in pieces(garbage, at):
            decoder.feed(piece)
        decoder.finish()


def test_the_end_of_input_within_a_packet_is_told() -> None:
    decoder = Packet4Decoder()
    assert decoder.feed(b"\0\0\0\x05ab") == []
    assert decoder.finish() == [TRUNCATED]
