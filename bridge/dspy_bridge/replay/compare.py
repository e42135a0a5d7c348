"""What is different between what was said and what is said now, apart from what is never the same twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dspy_bridge.protocol.redaction import PLACEHOLDER
from dspy_bridge.replay.conversation import Exchange

ANY: Final = "*"
"""Stands for any value, in a recording somebody has edited too."""


class _Absent:
    def __repr__(self) -> str:
        return "(nothing)"


ABSENT: Final = _Absent()

_MOMENTARY: Final = frozenset(
    (
        *("timestamp", "created_at", "last_executed", "exported_at", "uptime", "uptime_s", "age_s", "elapsed_s"),
        *("estimated_rest_s", "execution_time", "execution_time_ms", "memory_mb", "pid", "worker_pid", "boot_id"),
        *("server_version", "dspy_version", "python_version", "capabilities", "traceback", "stack"),
    )
)
"""Fields about the moment, the process and the version."""
_OF_A_LISTING: Final = frozenset(("state", "workers", "queued", "in_flight", "hibernations", "recycles"))
"""Fields of ``session_info`` that hang on timing."""
_COUNTS: Final = frozenset(("prompt_tokens", "completion_tokens", "total_tokens"))
_LISTINGS: Final = frozenset(("session_info", "list_sessions"))
_OF_PROGRAMS: Final = frozenset(("outputs", "inputs", "value", "args", "examples"))
"""What programs and hosts say to each other: nothing in it is the daemon's, whatever it is called."""
_OUTCOME_ALONE: Final = frozenset(
    ("get_stats", "get_trace", "health", "describe_options", "list_commands", "cleanup", "hello")
)
"""Commands that describe the machine, the moment or the version."""
_CUT_SHORT: Final = frozenset(("cancelled", "timeout", "worker_crashed", "shutting_down"))
"""How a request ends that may have come further, or less far, by then."""
_IN_TEXT: Final = (
    (PLACEHOLDER, "<secret>"),
    (re.compile(r"\bpid \d+"), "pid *"),
    (re.compile(r"dspy-bridge-[\w-]+"), "dspy-bridge-*"),
    (re.compile(r"\b0x[0-9a-f]{6,}"), "0x*"),
    (re.compile(r"\b(line|column|char) \d+"), r"\1 *"),
)
"""Parts of messages that are never the same twice; positions in a frame move with its secrets."""


@dataclass(frozen=True, slots=True)
class Difference:
    """At a path such as ``result.outputs.answer``; :data:`ABSENT` where one side has nothing there."""

    path: str
    recorded: Any
    replayed: Any

    def as_json(self) -> dict[str, Any]:
        sides = {"recorded": self.recorded, "replayed": self.replayed}
        return {"path": self.path, **{side: value for side, value in sides.items() if value is not ABSENT}}


def differences(recorded: Exchange, replayed: Exchange, ids: Mapping[str, str]) -> Iterator[Difference]:
    """Between two exchanges that correspond. ``ids``: of the recording, and what they are called now."""
    momentary = _MOMENTARY | (_OF_A_LISTING if recorded.command in _LISTINGS else frozenset())
    if PLACEHOLDER.search(str((recorded.args, recorded.calls, recorded.reply))):
        momentary |= _COUNTS  # of a text that had a secret in it

    def plain(value: Any) -> Any:
        return _plain(value, momentary, ids)

    if recorded.reply is not None:
        yield from _between_replies(recorded, replayed, plain)
    if recorded.command in _OUTCOME_ALONE:
        return
    calls = [[one.content for one in side.calls] for side in (recorded, replayed)]
    cut = recorded.reply is None or recorded.outcome in _CUT_SHORT or replayed.outcome in _CUT_SHORT
    yield from _between_lists("calls", plain(_sorted(calls[0])), plain(_sorted(calls[1])), cut)
    said, here = _by_kind(recorded), _by_kind(replayed)
    for kind in sorted(said.keys() | here.keys()):
        yield from _between_lists(f"events.{kind}", plain(said.get(kind, [])), plain(here.get(kind, [])), cut)


def _between_replies(recorded: Exchange, replayed: Exchange, plain: Callable[[Any], Any]) -> Iterator[Difference]:
    if recorded.outcome != replayed.outcome:
        yield Difference("", _shown(recorded), _shown(replayed))
    elif recorded.command not in _OUTCOME_ALONE:
        yield from between(plain(recorded.reply), plain(replayed.reply))


def _shown(exchange: Exchange) -> Any:
    return ABSENT if exchange.reply is None else exchange.reply.get("error", exchange.reply.get("result"))


def between(recorded: Any, replayed: Any, path: str = "") -> Iterator[Difference]:
    """Leaf by leaf; ``"*"`` in ``recorded`` is equal to anything."""
    if recorded == ANY or recorded is replayed:
        return
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        for name in [*recorded, *(name for name in replayed if name not in recorded)]:
            inner = f"{path}.{name}" if path else str(name)
            yield from between(recorded.get(name, ABSENT), replayed.get(name, ABSENT), inner)
    elif isinstance(recorded, list) and isinstance(replayed, list):
        for index in range(max(len(recorded), len(replayed))):
            one, other = (side[index] if index < len(side) else ABSENT for side in (recorded, replayed))
            yield from between(one, other, f"{path}[{index}]")
    elif type(recorded) is not type(replayed) or recorded != replayed:
        yield Difference(path, recorded, replayed)


def _between_lists(path: str, recorded: list[Any], replayed: list[Any], cut: bool) -> Iterator[Difference]:
    """``cut``: one may go on where the other ends."""
    if cut:
        shorter = min(len(recorded), len(replayed))
        recorded, replayed = recorded[:shorter], replayed[:shorter]
        if recorded and isinstance(recorded[-1], dict) and "text" in recorded[-1]:
            recorded, replayed = recorded[:-1], replayed[:-1]  # a text that may have been cut within
    yield from between(recorded, replayed, path)


def _sorted(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Calls of one name in the order made, whatever was called meanwhile: programs may call from several threads."""
    return sorted(calls, key=lambda one: (str(one["call"]), str(one["name"])))


def _by_kind(exchange: Exchange) -> dict[str, list[Any]]:
    """Events of each kind as they can be compared: text joined, items by index, of progress the last."""
    kinds: dict[str, list[Any]] = {}
    for event in exchange.events:
        kind, data = event["event"], event["data"] or {}
        said = kinds.setdefault(kind, [])
        if kind in ("token", "log"):
            source = {name: data[name] for name in ("field", "predictor") if name in data}
            if said and said[-1]["from"] == source:
                said[-1]["text"] += data.get("text", "")
            else:
                said.append({"from": source, "text": data.get("text", "")})
        elif kind == "progress":
            said[:] = [data]
        else:
            said.append(data)
    if "item" in kinds:
        kinds["item"].sort(key=lambda item: item.get("index", 0))
    return kinds


def _plain(value: Any, momentary: frozenset[str], ids: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for made, now in ids.items():
            value = value.replace(made, now)
        for pattern, instead in _IN_TEXT:
            value = pattern.sub(instead, value)
        return value
    if isinstance(value, list):
        return [_plain(one, momentary, ids) for one in value]
    if isinstance(value, dict):
        return {
            name: ANY if name in momentary else _plain(one, frozenset() if name in _OF_PROGRAMS else momentary, ids)
            for name, one in value.items()
        }
    return value
