"""What a trace says, as records: lives of workers, requests, marks, calls to models, series of figures.

Times are milliseconds since the trace begins. Events that are not of our making are passed over: other
tools may have added theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dspy_bridge.views.trace import Event, Trace

MARKS: Final = ("crashed", "recycled", "hibernated")
SUCCESS: Final = "success"
_KNOWN: Final = ("X", "b", "i", "C")

Series = list[tuple[float, float]]
"""Moments and values, in order of time."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a worker's life; ``session`` is None for those before it had one."""

    pid: int
    at: float
    took: float
    name: str
    session: str | None
    end: str | None
    running: bool


@dataclass(frozen=True, slots=True)
class Request:
    """``pid`` is None if it never reached a worker."""

    pid: int | None
    at: float
    took: float
    lane: int
    command: str
    session: str
    outcome: str
    queued: float
    number: int | None

    @property
    def latency(self) -> float:
        """From receipt to reply."""
        return self.took if self.pid is None else self.queued + self.took

    @property
    def failed(self) -> bool:
        return self.outcome != SUCCESS


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment in a session's life; ``pid``: the worker it concerns, where the trace says so."""

    pid: int | None
    at: float
    kind: str
    session: str


@dataclass(frozen=True, slots=True)
class LMCall:
    """A call to a model, within the request of that number."""

    model: str
    took: float
    number: int | None
    input_tokens: int
    output_tokens: int
    cached: bool
    failed: bool


@dataclass(slots=True)
class Facts:
    """``begin``: when the first span or wait does, in microseconds since the epoch; ``span``: milliseconds."""

    begin: float = 0.0
    span: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    lm_calls: list[LMCall] = field(default_factory=list)
    memory: dict[int, Series] = field(default_factory=dict)


def gather(trace: Trace) -> Facts:
    """One pass over the events in order of time."""
    events = sorted((event for event in trace.events if event["ph"] in _KNOWN and "ts" in event), key=_moment)
    begin = next((_moment(event) for event in events if event["ph"] in "Xb"), None)
    if begin is None:
        return Facts()
    end = max(_moment(event) + _number(event.get("dur")) for event in events)
    reader = _Reader(Facts(begin, (end - begin) / 1000), trace.daemon)
    for event in events:
        reader.take(event)
    return reader.facts


def _moment(event: Event) -> float:
    return float(event["ts"])


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


class _Reader:
    """Makes a record of each event it knows; missing and strange values count as nothing."""

    def __init__(self, facts: Facts, daemon: int) -> None:
        self.facts = facts
        self._daemon = daemon
        self._methods: dict[tuple[str, str], Callable[[Event, Event], None]] = {
            ("X", "worker"): self._stage,
            ("X", "request"): self._request,
            ("X", "lm"): self._lm_call,
            ("i", "session"): self._mark,
            ("C", ""): self._counter,
        }

    def take(self, event: Event) -> None:
        method = self._methods.get((event["ph"], "" if event["ph"] == "C" else _text(event.get("cat"))))
        if method is not None:
            method(event, event.get("args", {}))

    def _at(self, event: Event) -> float:
        return (_moment(event) - self.facts.begin) / 1000

    @staticmethod
    def _took(event: Event) -> float:
        return _number(event.get("dur")) / 1000

    @staticmethod
    def _pid(event: Event) -> int:
        return int(event.get("pid", 0))

    def _worker(self, event: Event) -> int | None:
        return None if self._pid(event) == self._daemon else self._pid(event)

    def _stage(self, event: Event, args: Event) -> None:
        session, end = _text(args.get("session")) or None, _text(args.get("end")) or None
        name, running = _text(event.get("name")), args.get("running") is True
        self.facts.stages.append(
            Stage(self._pid(event), self._at(event), self._took(event), name, session, end, running)
        )

    def _request(self, event: Event, args: Event) -> None:
        self.facts.requests.append(
            Request(
                pid=self._worker(event),
                at=self._at(event),
                took=self._took(event),
                lane=max(1, int(event.get("tid", 1))),
                command=_text(event.get("name")),
                session=_text(args.get("session")),
                outcome=_text(args.get("outcome")) or SUCCESS,
                queued=_number(args.get("queued_ms")),
                number=_integer(args.get("number")),
            )
        )

    def _mark(self, event: Event, args: Event) -> None:
        if event.get("name") in MARKS:
            session = _text(args.get("session"))
            self.facts.marks.append(Mark(self._worker(event), self._at(event), event["name"], session))

    def _lm_call(self, event: Event, args: Event) -> None:
        self.facts.lm_calls.append(
            LMCall(
                model=_text(event.get("name")),
                took=self._took(event),
                number=_integer(args.get("number")),
                input_tokens=int(_number(args.get("input_tokens"))),
                output_tokens=int(_number(args.get("output_tokens"))),
                cached=bool(args.get("cache_hit")),
                failed=bool(args.get("error")),
            )
        )

    def _counter(self, event: Event, args: Event) -> None:
        if event.get("name") == "memory":
            held = (self._at(event), _number(args.get("MiB")))
            self.facts.memory.setdefault(self._pid(event), []).append(held)
