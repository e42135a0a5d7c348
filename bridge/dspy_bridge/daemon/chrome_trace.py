"""Records as trace events of Chrome's format, which Perfetto and ``chrome://tracing`` show.

One process per interpreter and one for the daemon. In an interpreter, thread 0 is its life, threads 1, 2, ... are the
requests it runs at once, and what programs did lies under its request where that is where it was called from.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dspy_bridge.daemon.tracing import Asked, Span

Event = dict[str, Any]

_LIFE: Final = 0
_FURTHER: Final = 100
"""Thread of the first lane beside request lane 1; those beside lane 2 begin at twice that, and so on. Further
ones than there is room for are drawn over each other: to look for a place takes the longer the more there are."""
_MOST_OPEN: Final = 4_096


class _Lanes:
    """Where spans of one request lie. They come in the order of their ends, children before parents.

    Each lane is what has been put on it and is in nothing else that has: a span fits if it covers only children of
    its own, and nothing in part.
    """

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: list[list[tuple[float, float, str | None]]] = []

    def place(self, span: Span) -> int:
        """The number of the lane ``span`` fits on; 0: that of its request."""
        for number, lane in enumerate(self._lanes):
            covered = 0
            while covered < len(lane) and lane[-1 - covered][0] >= span.start:
                covered += 1
            inside = lane[len(lane) - covered :]
            below = lane[: len(lane) - covered]
            if all(parent == span.args.get("id") for _, _, parent in inside) and (
                not below or below[-1][1] <= span.start
            ):
                lane[len(below) :] = [(span.start, span.end, span.args.get("parent"))]
                return number
        if len(self._lanes) < _FURTHER:
            self._lanes.append([(span.start, span.end, span.args.get("parent"))])
        return len(self._lanes) - 1


class TraceEvents:
    """Makes events of records, one after another."""

    def __init__(self) -> None:
        self._daemon = os.getpid()
        self._epoch = time.time() - time.monotonic()
        self._known: set[int] = set()
        self._lanes: dict[int, _Lanes] = {}

    def of(self, span: Span) -> Iterator[Event]:
        """The events of one record, that of a process's name before its first."""
        pid = span.worker or self._daemon
        if span.kind != "session":  # told of a worker that may be gone, and forgotten
            yield from self._introduce(pid)
        if span.kind == "request":
            yield from self._request(span, pid)
        elif span.kind == "worker":
            yield self._slice(span, pid, _LIFE, {"session": span.session, **span.args})
            if span.args["end"] is not None:  # it is gone, and so is what needs to be known of it
                self._known.discard(pid)
        elif span.kind == "session":
            args = {"session": span.session, **span.args}
            yield {**self._head("i", span, pid), "s": "p", "ts": self._us(span.start), "tid": _LIFE, "args": args}
        elif span.kind == "counter":
            yield {"ph": "C", "name": span.name, "pid": pid, "ts": self._us(span.start), "args": dict(span.args)}
        elif span.asked is not None:
            yield self._slice(span, pid, self._lane(span, span.asked), {"number": span.asked.number, **span.args})

    def _introduce(self, pid: int) -> Iterator[Event]:
        if pid not in self._known:
            self._known.add(pid)
            name = "dspy-bridge daemon" if pid == self._daemon else f"worker {pid}"
            yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}

    def _request(self, span: Span, pid: int) -> Iterator[Event]:
        asked = span.asked
        assert asked is not None  # every request was asked
        self._lanes.pop(asked.number, None)
        until = asked.started or span.end
        args = {"session": span.session, "id": asked.id, "number": asked.number, **span.args}
        args["queued_ms"] = round((until - asked.received) * 1000, 3)
        yield from self._introduce(self._daemon)
        waited = {"cat": "queue", "name": span.name, "pid": self._daemon, "tid": 1, "id": asked.number}
        yield {"ph": "b", **waited, "ts": self._us(asked.received), "args": {"session": span.session}}
        yield {"ph": "e", **waited, "ts": self._us(until), "args": {"session": span.session}}
        yield self._slice(span, pid, asked.lane or 1, args)

    def _lane(self, span: Span, asked: Asked) -> int:
        lanes = self._lanes.get(asked.number)
        if lanes is None:
            if len(self._lanes) >= _MOST_OPEN:  # of requests whose end was not seen
                self._lanes.pop(next(iter(self._lanes)))
            lanes = self._lanes[asked.number] = _Lanes()
        further = lanes.place(span)
        return asked.lane * _FURTHER + further - 1 if further else asked.lane

    def _slice(self, span: Span, pid: int, tid: int, args: Mapping[str, Any]) -> Event:
        start = self._us(span.start)
        duration = max(0, self._us(span.end) - start)
        return {**self._head("X", span, pid), "tid": tid, "ts": start, "dur": duration, "args": args}

    @staticmethod
    def _head(phase: str, span: Span, pid: int) -> Event:
        return {"ph": phase, "cat": span.kind, "name": span.name, "pid": pid}

    def _us(self, moment: float) -> int:
        return round((self._epoch + moment) * 1_000_000)
