"""One frame of ``bridge-cli top``: a pure function of what a daemon said, now and a moment ago."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from dspy_bridge.views import words

Described = Mapping[str, Any]

_BESIDE_A_SPARKLINE: Final = 70
"""Columns its line needs for everything else."""
_HEALTH: Final = {"ok": "green", "degraded": "yellow", "failing": "bold red"}
_STATES: Final = {"live": "green", "waking": "cyan", "ending": "red", "cold": "dim"}
_PIDS: Final = 2


@dataclass(frozen=True, slots=True)
class Sample:
    """What a daemon said at one moment. ``at``: the monotonic clock; ``now``: seconds since the epoch."""

    at: float
    now: float
    ready: Described
    stats: Described
    health: Described
    sessions: Sequence[Described]


@dataclass(frozen=True, slots=True)
class Point:
    """What is kept of a moment gone by, for the sparklines."""

    rate: float | None
    latency_ms: float | None


def point(sample: Sample, previous: Sample | None) -> Point:
    latency = sample.stats["requests"]["latency_ms"]["p50"]
    return Point(_rate(sample, previous, lambda one: int(one.stats["requests"]["total"])), latency)


def _rate(sample: Sample, previous: Sample | None, total: Callable[[Sample], int | None]) -> float | None:
    """Per second between two samples; None where that cannot be told."""
    if previous is None or sample.at <= previous.at:
        return None
    after, before = total(sample), total(previous)
    return None if after is None or before is None else max(0, after - before) / (sample.at - previous.at)


def _memory(session: Described) -> float | None:
    """Of its workers, as far as they have been looked at."""
    held = [worker["memory_mb"] for worker in session["workers"] if worker["memory_mb"] is not None]
    return sum(held) if held else None


SORTS: Final[Mapping[str, Callable[[Described], Any]]] = {
    "memory": lambda one: (-(_memory(one) or 0.0), one["session_id"]),
    "requests": lambda one: (-one["requests"], one["session_id"]),
    "queue": lambda one: (-one["queued"], -one["in_flight"], -(_memory(one) or 0.0), one["session_id"]),
    "name": lambda one: one["session_id"],
}


@dataclass(frozen=True, slots=True)
class Frame:
    """Renders into whatever space it is given; ``all_rows``: every session, however many lines that takes."""

    sample: Sample
    previous: Sample | None = None
    history: Sequence[Point] = ()
    sort: str = "memory"
    all_rows: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        header = list(_header(self, max(10, options.max_width - _BESIDE_A_SPARKLINE)))
        room = None if self.all_rows else (options.height or console.height) - len(header) - 1
        yield Group(*header, Text(""), *_sessions(self, options.max_width, room))


# -- the header --------------------------------------------------------------------------------


def _header(frame: Frame, trend: int) -> Iterator[Text]:
    """One line each; ``trend``: the most columns a sparkline may have."""
    sample, stats = frame.sample, frame.sample.stats
    requests, workers, models, memory = stats["requests"], stats["workers"], stats["lm_calls"], stats["memory_mb"]
    now = point(sample, frame.previous)
    status = sample.health["status"]

    yield _line(
        Text(f"dspy-bridge {sample.ready['server_version']}", "bold"),
        Text(f"● {status}", _HEALTH[status]),
        _fact("up", words.duration(stats["uptime_s"])),
        _fact("pid", str(sample.ready["pid"])),
        _fact("loop lag p99", words.milliseconds((stats["loop_lag_ms"] or {}).get("p99"))),
        _fact("memory", f"{words.mebibytes(memory['daemon'])}, template {words.mebibytes(memory['template'])}"),
    )
    for check in sample.health["checks"]:
        if check["status"] != "ok":
            yield _row("", Text(f"{check['check']}: {words.visible(check['detail'])}", _HEALTH[check["status"]]))
    yield _row(
        "workers",
        _fact("live", f"{words.count(workers['live'])} of {_limit(workers['limit'])}"),
        _fact("busy", words.count(workers["busy"])),
        _fact("spare", words.count(workers["spare"])),
        _fact("starting", words.count(workers["starting"])),
        _fact("recycles", words.count(workers["recycles"])),
        _alarm("crashes", workers["crashes"]),
        _fact("hibernations", words.count(stats["sessions"]["hibernations"])),
    )
    yield _row(
        "requests",
        Text(f"{words.rate(now.rate) + '/s':>9}"),
        Text(words.sparkline([one.rate for one in frame.history], trend), "cyan"),
        _fact("total", words.count(requests["total"])),
        _alarm("errors", stats["error_count"]),
        _alarm("refused", requests["overloaded"]),
    )
    yield _row(
        "latency",
        Text(f"{words.milliseconds(now.latency_ms):>9}"),
        Text(words.sparkline([one.latency_ms for one in frame.history], trend), "magenta"),
        _fact("p90", words.milliseconds(requests["latency_ms"]["p90"])),
        _fact("p99", words.milliseconds(requests["latency_ms"]["p99"])),
    )
    yield _row(
        "queue",
        _fact("waiting", f"{words.count(requests['waiting'])} of {_limit(requests['waiting_limit'])}"),
        _fact("waited p50", words.milliseconds(requests["queue_ms"]["p50"])),
        _fact("p99", words.milliseconds(requests["queue_ms"]["p99"])),
        _fact("sessions in want of a worker", words.count(workers["sessions_waiting"])),
    )
    if models["limit"]:  # calls are counted only where they are bounded
        yield _row(
            "LM calls",
            _fact("under way", f"{words.count(models['leased'])} of {words.count(models['limit'])}"),
            _fact("waiting", words.count(models["waiting"])),
        )


def _limit(value: int | None) -> str:
    return words.count(value) if value else "any number"


def _fact(label: str, value: str, style: str = "") -> Text:
    return Text.assemble((f"{label} ", "dim"), (value, style))


def _alarm(label: str, value: int) -> Text:
    return _fact(label, words.count(value), "red" if value else "")


def _line(*facts: Text) -> Text:
    line = Text("   ").join([fact for fact in facts if fact])
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def _row(name: str, *facts: Text) -> Text:
    return _line(Text(f"{name:<8}", "bold"), *facts)


# -- the sessions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    """``space``: the width of a terminal from which on it is shown."""

    title: str
    cell: Callable[[Described, Frame], Text | str]
    space: int = 0
    left: bool = False


def _workers(session: Described, _: Frame) -> Text:
    pids = [(str(one["pid"]), "bold" if one["state"] == "busy" else "") for one in session["workers"]]
    shown = Text(" ").join([Text(*one) for one in pids[:_PIDS]])
    return shown.append(f" +{len(pids) - _PIDS}", "dim") if len(pids) > _PIDS else shown


def _session_rate(session: Described, frame: Frame) -> str:
    def total(sample: Sample) -> int | None:
        if sample is frame.sample:
            return int(session["requests"])
        return next((one["requests"] for one in sample.sessions if one["session_id"] == session["session_id"]), None)

    return words.rate(_rate(frame.sample, frame.previous, total))


def _age(session: Described, frame: Frame) -> str:
    return words.duration(frame.sample.now - datetime.fromisoformat(session["created_at"]).timestamp())


def _number(name: str, style: str = "") -> Callable[[Described, Frame], Text]:
    return lambda session, _: Text(words.count(session[name]), style if session[name] else "dim")


_COLUMNS: Final = (
    _Column("session", lambda one, _: Text(words.visible(one["session_id"])), left=True),
    _Column("state", lambda one, _: Text(one["state"], _STATES.get(one["state"], "")), left=True),
    _Column("workers", _workers, 70, left=True),
    _Column("memory", lambda one, _: words.mebibytes(_memory(one))),
    _Column("queued", _number("queued", "yellow")),
    _Column("running", _number("in_flight", "bold")),
    _Column("requests", _number("requests"), 60),
    _Column("req/s", _session_rate, 60),
    _Column("recycles", _number("recycles"), 100),
    _Column("recoveries", _number("recoveries", "red"), 100),
    _Column("slept", _number("hibernations"), 110),
    _Column("age", _age, 85),
    _Column("programs", lambda one, _: Text(words.visible(", ".join(one["programs"]))), 120, left=True),
)


def _sessions(frame: Frame, width: int, room: int | None) -> Iterator[RenderableType]:
    """A table of at most ``room`` lines with its title, and how many sessions it leaves out."""
    ordered = sorted(frame.sample.sessions, key=SORTS[frame.sort])
    fits = len(ordered) if room is None or len(ordered) < room else max(0, room - 2)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="reverse", expand=True, pad_edge=False)
    columns = [column for column in _COLUMNS if width >= column.space]
    widest = columns[-1] if columns[-1].left else columns[0]
    for column in columns:
        table.add_column(
            column.title,
            justify="left" if column.left else "right",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if column is widest else None,
        )
    for session in ordered[:fits]:
        table.add_row(*(column.cell(session, frame) for column in columns))
    yield table
    if len(ordered) > fits:
        yield Text(f"{words.count(len(ordered) - fits)} more sessions (sorted by {frame.sort})", "dim italic")
    elif not ordered:
        yield Text("no sessions", "dim italic")
