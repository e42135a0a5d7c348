"""The page ``bridge-cli report`` writes: one template, its style and script, and the data as one block of JSON.

The page stands alone. Its policy allows it the very style and script put into it here and nothing else,
so that no text of a trace could do anything even if it were taken for markup.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.views import figures, words
from dspy_bridge.views.facts import SUCCESS, Facts, Series, gather
from dspy_bridge.views.timeline import Names, timeline
from dspy_bridge.views.trace import Trace

_IN_SCRIPT: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_SERIES: Final = 12
_SESSIONS: Final = 500


def report(
    trace: Trace,
    source: str,
    *,
    stats: Mapping[str, Any] | None = None,
    sessions: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page of a trace; ``source`` says where that is from. ``stats`` and ``sessions``: what its daemon says now."""
    return _page(_data(trace, source, stats, sessions))


def _data(
    trace: Trace, source: str, stats: Mapping[str, Any] | None, sessions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    facts = gather(trace)
    memory = figures.memory_by_session(facts)
    numbers, commands, outcomes = Names(), Names(), Names()
    outcomes.number(SUCCESS)
    rows, notes = timeline(facts, numbers, commands, outcomes)
    if trace.cut:
        notes.append("The trace ends in the middle, as after a kill of its daemon; what follows was not recorded.")
    if stats is not None and stats["requests"]["total"] > len(facts.requests):
        told = f"{words.count(len(facts.requests))} of {words.count(stats['requests']['total'])} requests"
        notes.append(f"A daemon keeps its latest records only: here are {told}. A trace file has them all.")
    table = figures.sessions(facts, memory)
    if len(table) > _SESSIONS:
        notes.append(f"The table of sessions has the {_SESSIONS} with the most requests, of {words.count(len(table))}.")
    waiting, thinner = figures.thinned(figures.waiting(facts), facts.span)
    series, thinner_too = _memory_series(memory, facts, numbers)
    if thinner or thinner_too:
        notes.append("Charts over time show the highest value of each of 500 stretches.")
    if len(memory) > _SERIES:
        notes.append(f"Memory is drawn for the {_SERIES} sessions that held the most, of {words.count(len(memory))}.")
    return {
        "source": source,
        "about": {name: str(value) for name, value in trace.about.items()},
        "made": time.time() * 1000,
        "begin": facts.begin / 1000,
        "span": facts.span,
        "events": len(trace.events),
        "notes": notes,
        "summary": figures.summary(facts, memory),
        "now": _now(stats, sessions),
        "sessions": numbers.texts(),
        "commands": commands.texts(),
        "outcomes": outcomes.texts(),
        "workers": rows,
        "histogram": figures.histogram(facts),
        "tables": {
            "commands": figures.commands(facts),
            "errors": figures.errors(facts),
            "models": figures.models(facts),
            "sessions": table[:_SESSIONS],
        },
        "waiting": waiting,
        "memory": series,
    }


def _memory_series(memory: Mapping[str, Series], facts: Facts, numbers: Names) -> tuple[list[Any], bool]:
    """Of the sessions that held the most; and whether points were left out."""
    most = sorted(memory, key=lambda name: -max(value for _, value in memory[name]))[:_SERIES]
    thinned = {name: figures.thinned(memory[name], facts.span) for name in most}
    drawn = [{"session": numbers.number(name), "points": points} for name, (points, _) in thinned.items()]
    return drawn, any(left_out for _, left_out in thinned.values())


def _now(stats: Mapping[str, Any] | None, sessions: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """What the daemon says of this moment, as labels and figures."""
    if stats is None:
        return []
    workers, requests = stats["workers"], stats["requests"]
    states = ", ".join(f"{count} {state}" for state, count in sorted(stats["sessions"]["by_state"].items()))
    busy = sum(bool(session["in_flight"]) for session in sessions)
    return [
        ["up", words.duration(stats["uptime_s"])],
        ["sessions", f"{words.count(stats['sessions']['total'])} ({states or 'none'}), {busy} busy"],
        ["workers", f"{workers['live']} live, {workers['spare']} spare"],
        ["requests since the start", words.count(requests["total"])],
        ["waiting", words.count(requests["waiting"])],
        ["memory of the daemon", words.mebibytes(stats["memory_mb"]["daemon"])],
        ["memory of the template", words.mebibytes(stats["memory_mb"]["template"])],
    ]


def _page(data: Mapping[str, Any]) -> str:
    folder = files("dspy_bridge.views")
    template, style, script = ((folder / f"report.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    block = jsonlib.dumps(data).decode()
    for char, escaped in _IN_SCRIPT.items():
        block = block.replace(char, escaped)
    parts = {
        "policy": f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}",
        "style": style,
        "script": script,
        "data": block,
    }
    head, *rest = template.split("{{")
    page = [head]
    for piece in rest:
        name, _, text = piece.partition("}}")
        page += [parts[name.strip()], text]
    return "".join(page)


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
