"""The rows of the report's timeline: one per worker, with what fits into a page that opens quickly."""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dspy_bridge.views import words
from dspy_bridge.views.facts import Facts, Mark, Request, Stage

_WORKERS: Final = 1_000
_REQUESTS: Final = 40_000


class Names:
    """Numbers for texts that come again and again."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self._numbers.setdefault(text, len(self._numbers))

    def texts(self) -> list[str]:
        return list(self._numbers)


def timeline(facts: Facts, sessions: Names, commands: Names, outcomes: Names) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, those of one session beside each other, that of requests without a worker last; and what was left out."""
    notes = []
    rows = _rows(facts, sessions)
    if len(rows) > _WORKERS:
        told = f"{words.count(_WORKERS)} of {words.count(len(rows))} workers"
        notes.append(f"The timeline shows {told}: those with marks, then those with the most requests.")
        kept = heapq.nlargest(_WORKERS, rows.values(), key=lambda row: (len(row["marks"]), row["served"], -row["at"]))
        rows = {row["pid"]: row for row in kept}

    drawable = [request for request in facts.requests if request.pid is None or request.pid in rows]
    drawn = drawable
    if len(drawable) > _REQUESTS:
        drawn = heapq.nlargest(_REQUESTS, drawable, key=lambda request: (request.failed, request.took))
    if len(drawn) < len(facts.requests):
        told = f"{words.count(len(drawn))} of {words.count(len(facts.requests))} requests"
        which = "of the workers it shows those that failed, then the longest"
        notes.append(f"The timeline shows {told}: {which}. All figures count every request.")
    calls: dict[int, list[float]] = {}
    for call in facts.lm_calls:
        if call.number is not None:
            calls.setdefault(call.number, []).append(call.took)
    homeless: list[list[Any]] = []
    for request in sorted(drawn, key=lambda one: one.at):
        made = calls.get(request.number, []) if request.number is not None else []
        told_request = _request(request, sessions, commands, outcomes, made)
        (homeless if request.pid is None else rows[request.pid]["requests"]).append(told_request)

    first: dict[int | None, float] = {}
    for row in sorted(rows.values(), key=lambda row: row["at"]):
        first.setdefault(_session(row), row["at"])
    ordered = sorted(rows.values(), key=lambda row: (first[_session(row)], row["at"]))
    if homeless:
        ordered.append({"pid": None, "at": 0, "served": len(homeless), "stages": [], "marks": [], "requests": homeless})
    return ordered, notes


def _rows(facts: Facts, sessions: Names) -> dict[int, dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for stage in facts.stages:
        row = rows.setdefault(stage.pid, _row(stage.pid, stage.at))
        number = None if stage.session is None else sessions.number(stage.session)
        row["stages"].append([_ms(stage.at), _ms(stage.took), stage.name, number, stage.end, stage.running])
    for request in facts.requests:
        if request.pid is not None:
            rows.setdefault(request.pid, _row(request.pid, request.at))["served"] += 1
    ends = _Ends(facts.stages)
    for mark in facts.marks:
        pid = mark.pid if mark.pid is not None else ends.nearest(mark)
        if pid is None:
            continue
        row = rows.setdefault(pid, _row(pid, mark.at))
        row["marks"].append([_ms(mark.at), mark.kind, sessions.number(mark.session)])
    return rows


def _session(row: Mapping[str, Any]) -> int | None:
    """The session a row is of; None for a worker that never had one."""
    return next((stage[3] for stage in row["stages"] if stage[3] is not None), None)


class _Ends:
    """When workers of each session ended, for marks of which the trace does not say where they belong."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self._ends: dict[str, list[tuple[float, int]]] = {}
        for stage in sorted(stages, key=lambda stage: stage.at + stage.took):
            if stage.session is not None:
                self._ends.setdefault(stage.session, []).append((stage.at + stage.took, stage.pid))

    def nearest(self, mark: Mark) -> int | None:
        """The worker of the session whose end is nearest to the mark."""
        ends = self._ends.get(mark.session, [])
        after = bisect.bisect(ends, (mark.at,))
        around = ends[max(0, after - 1) : after + 1]
        return min(around, key=lambda end: abs(end[0] - mark.at))[1] if around else None


def _row(pid: int, at: float) -> dict[str, Any]:
    return {"pid": pid, "at": at, "served": 0, "stages": [], "marks": [], "requests": []}


def _request(
    request: Request, sessions: Names, commands: Names, outcomes: Names, calls: list[float]
) -> list[float | int | None]:
    return [
        _ms(request.at),
        _ms(request.took),
        request.lane,
        commands.number(request.command),
        sessions.number(request.session),
        outcomes.number(request.outcome),
        _ms(request.queued),
        request.number,
        len(calls),
        _ms(sum(calls)),
    ]


def _ms(value: float) -> float:
    return round(value, 3)
