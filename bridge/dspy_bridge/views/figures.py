"""Figures of what happened: percentiles, distributions, sums by command, session, code and model."""

from __future__ import annotations

import bisect
import collections
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dspy_bridge.views import words
from dspy_bridge.views.facts import Facts, Request, Series, Stage

_STEPS: Final = (1, 1.5, 2, 3, 5, 7)
_EDGES: Final = [step * 10**power for power in range(-2, 7) for step in _STEPS]
"""Of the histogram's bars, in milliseconds: as wide as each other on a logarithmic scale."""
_POINTS: Final = 500
A_WAIT_MS: Final = 1.0
"""What is shorter is not drawn as a wait."""


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """Of values in order; as ``get_stats`` counts it."""
    return ordered[len(ordered) * share // 100] if ordered else None


def _by(requests: Iterable[Request], name: str) -> dict[str, list[Request]]:
    found: dict[str, list[Request]] = {}
    for request in requests:
        found.setdefault(getattr(request, name), []).append(request)
    return found


# -- the page's tables: each a list of rows, each row a value per column --------------------------


def commands(facts: Facts) -> list[list[Any]]:
    """Per command: requests, failed, latency p50, p90, p99 and longest, wait p50 and p99."""
    rows = []
    for command, requests in _by(facts.requests, "command").items():
        took = sorted(request.latency for request in requests)
        waited = sorted(request.queued for request in requests)
        failed = sum(request.failed for request in requests)
        latency = (percentile(took, 50), percentile(took, 90), percentile(took, 99), took[-1])
        rows.append([command, len(requests), failed, *latency, percentile(waited, 50), percentile(waited, 99)])
    return sorted(rows, key=lambda row: -row[1])


def errors(facts: Facts) -> list[list[Any]]:
    """Per code: requests, the commands they were, the sessions they were for."""
    rows = [
        [code, len(requests), _most(requests, "command"), _most(requests, "session")]
        for code, requests in _by((one for one in facts.requests if one.failed), "outcome").items()
    ]
    return sorted(rows, key=lambda row: -row[1])


def _most(requests: Iterable[Request], name: str, at_most: int = 3) -> str:
    counted = collections.Counter(getattr(request, name) for request in requests)
    named = ", ".join(f"{one} ({count})" for one, count in counted.most_common(at_most))
    return named if len(counted) <= at_most else f"{named} and {len(counted) - at_most} more"


def models(facts: Facts) -> list[list[Any]]:
    """Per model: calls, failed, answered from the cache, tokens in and out, time p50, p99 and in all."""
    calls = collections.defaultdict(list)
    for call in facts.lm_calls:
        calls[call.model].append(call)
    rows = []
    for model, made in calls.items():
        took = sorted(call.took for call in made)
        counts = (sum(call.failed for call in made), sum(call.cached for call in made))
        tokens = (sum(call.input_tokens for call in made), sum(call.output_tokens for call in made))
        rows.append([model, len(made), *counts, *tokens, percentile(took, 50), percentile(took, 99), sum(took)])
    return sorted(rows, key=lambda row: -row[1])


def sessions(facts: Facts, memory: Mapping[str, Series]) -> list[list[Any]]:
    """Per session: requests, failed, latency p50 and p99, busy time, workers, crashes, recycles, sleeps, peak MiB."""
    requests = _by(facts.requests, "session")
    workers: dict[str, set[int]] = {}
    for stage in facts.stages:
        if stage.session is not None:
            workers.setdefault(stage.session, set()).add(stage.pid)
    marks = collections.Counter((mark.session, mark.kind) for mark in facts.marks)
    rows: list[list[Any]] = []
    for name in dict.fromkeys([*workers, *requests]):
        own = requests.get(name, [])
        took = sorted(request.latency for request in own)
        rows.append(
            [
                name,
                len(own),
                sum(request.failed for request in own),
                percentile(took, 50),
                percentile(took, 99),
                sum(request.took for request in own if request.pid is not None),
                len(workers.get(name, ())),
                marks[name, "crashed"],
                marks[name, "recycled"],
                marks[name, "hibernated"],
                max((value for _, value in memory.get(name, ())), default=None),
            ]
        )
    return sorted(rows, key=lambda row: -row[1])


# -- distributions and series ----------------------------------------------------------------------


def histogram(facts: Facts) -> list[list[float]]:
    """Bars of latency: from, to, how many succeeded and how many failed; from the first to the last with any."""
    bars = [[0, 0] for _ in range(len(_EDGES) + 1)]
    for request in facts.requests:
        bars[bisect.bisect_right(_EDGES, request.latency)][request.failed] += 1
    used = [number for number, bar in enumerate(bars) if any(bar)]
    if not used:
        return []
    edges = [0.0, *_EDGES, _EDGES[-1] * 10]
    return [[edges[number], edges[number + 1], *bars[number]] for number in range(used[0], used[-1] + 1)]


def at_once(spans: Iterable[tuple[float, float]]) -> Series:
    """How many of these (from, to) there are at each moment there is a change."""
    changes: collections.Counter[float] = collections.Counter()
    for begin, end in spans:
        changes[begin] += 1
        changes[end] -= 1
    moments = sorted(changes)
    return list(zip(moments, itertools.accumulate(changes[at] for at in moments), strict=True))


def waiting(facts: Facts) -> Series:
    """Requests that waited for an interpreter for some time, and not just on their way."""
    waits = ((one.at - one.queued, one.at) if one.pid else (one.at, one.at + one.took) for one in facts.requests)
    return at_once((begin, end) for begin, end in waits if end - begin >= A_WAIT_MS)


def memory_by_session(facts: Facts) -> dict[str, Series]:
    """MiB that a session's workers held together, after each change."""
    stages: dict[str, list[Stage]] = {}
    for stage in facts.stages:
        if stage.session is not None:
            stages.setdefault(stage.session, []).append(stage)
    found = {session: _held(own, facts.memory) for session, own in stages.items()}
    return {session: series for session, series in found.items() if series}


def _held(stages: Sequence[Stage], memory: Mapping[int, Series]) -> Series:
    """By these workers of one session. Where one takes over from another, the line goes from figure to figure:
    it falls to nothing only while no worker is there."""
    changes: list[tuple[float, int, float | None]] = []
    for stage in stages:
        until = stage.at + stage.took
        own = [(at, stage.pid, value) for at, value in memory.get(stage.pid, ()) if stage.at <= at <= until]
        changes += own
        if own and not stage.running:
            changes.append((until, stage.pid, None))
    series: Series = []
    held: dict[int, float] = {}
    for at, pid, value in sorted(changes, key=lambda change: change[0]):
        if value is not None:
            held[pid] = value
        else:
            del held[pid]
        replaced = any(other.at <= at < other.at + other.took for other in stages)
        if value is not None or not replaced:
            series.append((at, sum(held.values())))
    return series


def thinned(series: Series, span: float, points: int = _POINTS) -> tuple[Series, bool]:
    """At most so many points, of each stretch of time the highest; and whether any were left out."""
    if len(series) <= points:
        return series, False
    highest: dict[int, tuple[float, float]] = {}
    for at, value in series:
        stretch = int(at / (span or 1) * (points - 1))
        if stretch not in highest or value > highest[stretch][1]:
            highest[stretch] = (at, value)
    return list(highest.values()), True


# -- in short --------------------------------------------------------------------------------------


def summary(facts: Facts, memory: Mapping[str, Series]) -> list[list[str]]:
    """A label, a figure and what explains it, for each of the cards on top."""
    took = sorted(request.latency for request in facts.requests)
    waited = sorted(request.queued for request in facts.requests)
    failed = sum(request.failed for request in facts.requests)
    marks = collections.Counter(mark.kind for mark in facts.marks)
    served = {stage.session for stage in facts.stages if stage.session is not None}
    served |= {request.session for request in facts.requests}
    seconds = facts.span / 1000
    rate = words.rate(len(took) / seconds if seconds else None)
    tokens = sum(call.input_tokens + call.output_tokens for call in facts.lm_calls)
    peak = max((value for series in memory.values() for _, value in series), default=None)
    started = words.count(len({stage.pid for stage in facts.stages}))
    lives = at_once((stage.at, stage.at + stage.took) for stage in facts.stages if stage.session is not None)
    most = words.count(max((value for _, value in lives), default=0))
    cards = [
        ["Requests", words.count(len(took)), f"{rate}/s over {words.duration(seconds)}"],
        ["Failed", words.count(failed), f"{failed / len(took):.1%} of all" if took else ""],
        ["Latency", words.milliseconds(percentile(took, 50)), f"99 of 100: {words.milliseconds(percentile(took, 99))}"],
        [
            "Wait",
            words.milliseconds(percentile(waited, 50)),
            f"99 of 100: {words.milliseconds(percentile(waited, 99))}",
        ],
        ["Sessions", words.count(len(served)), words.plural(marks["hibernated"], "hibernation")],
        ["Workers", started, f"at most {most} at once"],
        ["Crashes", words.count(marks["crashed"]), words.plural(marks["recycled"], "recycle")],
    ]
    if facts.lm_calls:
        cards.append(["LM calls", words.count(len(facts.lm_calls)), words.plural(tokens, "token")])
    if peak is not None:
        cards.append(["Memory", words.mebibytes(peak), "the most one session held"])
    return cards
