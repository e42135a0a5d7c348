"""A trace as a daemon writes it: events in the format of Chrome's tracing, from a file or from the daemon itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dspy_bridge import jsonlib

DAEMON: Final = "dspy-bridge daemon"
"""What a trace calls the daemon's own process, and how one of ours is known."""

Event = Mapping[str, Any]


class NotATrace(ValueError):
    """The message says what is wrong with it, for whoever gave it."""


@dataclass(frozen=True, slots=True)
class Trace:
    """``daemon``: its pid. ``about``: what the daemon said of itself. ``cut``: the end is missing, as after a kill."""

    events: list[Event]
    daemon: int
    about: Event = field(default_factory=dict)
    cut: bool = False


def read(file: Path) -> Trace:
    """Raises :class:`NotATrace`, also where the file cannot be read."""
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise NotATrace(f"{file} cannot be read: {exc.strerror}") from None
    try:
        return parse(data)
    except NotATrace as exc:
        raise NotATrace(f"{file}: {exc}") from None


def parse(data: bytes) -> Trace:
    """Raises :class:`NotATrace`."""
    try:
        return from_document(jsonlib.loads(data))
    except jsonlib.JSONDecodeError as exc:
        if not data.lstrip().startswith(b"["):
            raise NotATrace(f"this is no JSON: {exc}") from None
    events, cut = _lines(data)
    return _checked(events, {}, cut)


def from_document(document: Any) -> Trace:
    """What ``get_trace`` answers, or a whole file. Raises :class:`NotATrace`."""
    if isinstance(document, list):
        return _checked(document, {}, False)
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise NotATrace("this is JSON, but not a trace: there are no traceEvents")
    about = document.get("otherData")
    return _checked(document["traceEvents"], about if isinstance(about, dict) else {}, False)


def _lines(data: bytes) -> tuple[list[Any], bool]:
    """The events of an array that was never closed, one a line; of the last line only what was written is missing."""
    lines = data.strip().removeprefix(b"[").splitlines()
    events: list[Any] = []
    for number, line in enumerate(lines, 1):
        one = line.strip().removesuffix(b",")
        if not one:
            continue
        try:
            events.append(jsonlib.loads(one))
        except jsonlib.JSONDecodeError as exc:
            if number == len(lines):
                return events, True
            raise NotATrace(f"line {number} is no JSON: {exc}") from None
    return events, True


def _checked(events: list[Any], about: Event, cut: bool) -> Trace:
    daemon = None
    for number, event in enumerate(events, 1):
        if not isinstance(event, dict) or not isinstance(event.get("ph"), str):
            raise NotATrace(f"event {number} is not one of a trace: it has no ph")
        if not isinstance(event.get("args", {}), dict):
            raise NotATrace(f"event {number} has args that are no object")
        if any(not _is_number(event.get(name, 0)) for name in ("ts", "dur", "pid", "tid")):
            raise NotATrace(f"event {number} has a ts, dur, pid or tid that is no number")
        if event["ph"] == "M" and event.get("name") == "process_name" and event.get("args", {}).get("name") == DAEMON:
            daemon = event.get("pid")
    if daemon is None:
        raise NotATrace("this is a trace, but not of a dspy-bridge daemon")
    return Trace(events, daemon, about, cut)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
