"""Traces in the format a daemon writes them, made from a script. Times are milliseconds since the first moment."""

from __future__ import annotations

import json
from typing import Any

BEGIN_US = 1_790_000_000_000_000
DAEMON = 100


class TraceBuilder:
    """Each method adds what a daemon writes for one fact."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._numbers = 0
        self.named(DAEMON, "dspy-bridge daemon")

    def named(self, pid: int, name: str) -> None:
        self.events.append({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}})

    def _add(self, ph: str, name: str, pid: int, at: float, **fields: Any) -> None:
        self.events.append({"ph": ph, "name": name, "pid": pid, "ts": BEGIN_US + at * 1000, "tid": 0, **fields})

    def _span(self, name: str, pid: int, at: float, until: float, **fields: Any) -> None:
        self._add("X", name, pid, at, dur=(until - at) * 1000, **fields)

    def worker(
        self, pid: int, session: str, at: float, until: float, *, end: str | None = "asked to leave", ahead: float = 50
    ) -> None:
        """A whole life: started, spare for a while, of a session from ``at`` to ``until``. No ``end``: it lives on."""
        self.named(pid, f"worker {pid}")
        starting = ahead / 5
        self._span(
            "starting", pid, at - ahead, at - ahead + starting, cat="worker", args={"session": None, "end": None}
        )
        self._span("spare", pid, at - ahead + starting, at, cat="worker", args={"session": None, "end": None})
        args: dict[str, Any] = {"session": session, "end": end} | ({"running": True} if end is None else {})
        self._span(f"session {session}", pid, at, until, cat="worker", args=args)
        self.mark("session started", pid, at, session)

    def request(
        self,
        pid: int | None,
        session: str,
        at: float,
        took: float,
        command: str = "execute_program",
        *,
        outcome: str = "success",
        queued: float = 0.0,
        lane: int = 1,
    ) -> int:
        """The request's number."""
        self._numbers += 1
        args = {"session": session, "id": self._numbers, "number": self._numbers}
        where = DAEMON if pid is None else pid
        self._span(
            command,
            where,
            at,
            at + took,
            cat="request",
            tid=lane,
            args={**args, "outcome": outcome, "queued_ms": queued},
        )
        if queued:
            for ph, moment in (("b", at - queued), ("e", at)):
                self._add(ph, command, DAEMON, moment, cat="queue", id=self._numbers, args={"session": session})
        return self._numbers

    def lm(self, pid: int, number: int, at: float, took: float, model: str = "scripted", **args: Any) -> None:
        self._span(model, pid, at, at + took, cat="lm", args={"number": number, **args})

    def mark(self, name: str, pid: int | None, at: float, session: str) -> None:
        self._add("i", name, DAEMON if pid is None else pid, at, cat="session", s="p", args={"session": session})

    def memory(self, pid: int, at: float, mebibytes: float) -> None:
        self._add("C", "memory", pid, at, args={"MiB": mebibytes})

    def document(self) -> dict[str, Any]:
        """As ``get_trace`` answers it."""
        about = {"server_version": "0.1.0", "boot_id": "0123456789abcdef"}
        return {"traceEvents": self.events, "displayTimeUnit": "ms", "otherData": about}

    def lines(self, *, closed: bool = True) -> str:
        """As a file holds it; not ``closed``: of a daemon that was killed."""
        return "[\n" + ",\n".join(map(json.dumps, self.events)) + ("\n]\n" if closed else ",\n")


def a_life(sessions: tuple[str, ...] = ("alice", "bob", "carol")) -> TraceBuilder:
    """Three sessions in two seconds: one crashes and recovers, one is recycled, one falls asleep."""
    trace = TraceBuilder()
    one, two, three = sessions
    trace.worker(201, one, 100, 900, end="killed by signal 9")
    trace.worker(202, two, 150, 1_200)
    trace.worker(203, three, 200, 700, end="hibernated")
    trace.worker(204, one, 950, 2_000, end=None)
    trace.worker(205, two, 1_200, 2_000, end=None)
    for number in range(10):
        request = trace.request(201, one, 120 + number * 60, 30 + number)
        trace.lm(201, request, 125 + number * 60, 20, input_tokens=100, output_tokens=10, cache_hit=number > 5)
        trace.request(202, two, 160 + number * 90, 50, "call_predict", queued=number * 2.0, lane=1 + number % 2)
    trace.request(203, three, 300, 80, outcome="execution_error")
    trace.request(201, one, 800, 100, outcome="worker_crashed")
    trace.request(None, three, 750, 5, outcome="overloaded")
    trace.mark("crashed", 201, 900, one)
    trace.mark("recycled", 202, 1_200, two)
    trace.mark("hibernated", None, 700, three)
    for number in range(20):
        trace.memory(201 if number < 9 else 204, number * 100 + 5, 9 + number / 4)
        trace.memory(202 if number < 12 else 205, number * 100 + 6, 12 + number)
    return trace
