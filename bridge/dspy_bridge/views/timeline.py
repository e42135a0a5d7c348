"""The rows of the report's timeline: one per worker, with what fits into a page that opens quickly."""

from __future__ import annotations

import heapq
from typing import Any, Final

from dspy_bridge.views import words
from dspy_bridge.views.facts import Facts, Request

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
    """Rows by their beginning, that of requests without a worker last; and what was left out, in words."""
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

    ordered = sorted(rows.values(), key=lambda row: row["at"])
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
    for mark in facts.marks:
        row = rows.setdefault(mark.pid, _row(mark.pid, mark.at))
        row["marks"].append([_ms(mark.at), mark.kind, sessions.number(mark.session)])
    return rows


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
