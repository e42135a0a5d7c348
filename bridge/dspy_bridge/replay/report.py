"""What a replay found, request by request, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.protocol.recording import Header
from dspy_bridge.replay.compare import ABSENT, Difference, differences
from dspy_bridge.replay.conversation import Exchange
from dspy_bridge.replay.live import live_requests
from dspy_bridge.replay.player import Player

_WIDTH: Final = 200
_RACES: Final = ("success", "cancelled", "timeout")


@dataclass(frozen=True)
class Finding:
    """About one request: its ``differences``, or ``why`` it cannot be compared."""

    exchange: Exchange
    differences: list[Difference]
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        one = self.exchange
        about = {"connection": one.connection, "id": one.id, "command": one.command, "session_id": one.session_id}
        found: Any = {"why": self.why} if self.why else {}
        return {**about, **found, "differences": [difference.as_json() for difference in self.differences]}

    def lines(self) -> Iterator[str]:
        one = self.exchange
        where = f" in session {one.session_id}" if one.session_id else ""
        yield f"connection {one.connection}, request {_short(one.id)}: {one.command}{where}"
        for difference in self.differences:
            yield f"    {difference.path or 'outcome'}"
            yield f"      recorded  {_short(difference.recorded)}"
            yield f"      replayed  {_short(difference.replayed)}"


@dataclass(frozen=True)
class Report:
    """``different``: what fails a replay. ``apart``: what cannot be compared, and is not held against it."""

    requests: int
    host_calls: int
    different: list[Finding] = field(default_factory=list)
    apart: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def equal(self) -> int:
        return self.requests - len(self.different) - len(self.apart)

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.different,
            "requests": self.requests,
            "host_calls": self.host_calls,
            "equal": self.equal,
            "different": [one.as_json() for one in self.different],
            "not_compared": [one.as_json() for one in self.apart],
            "notes": self.notes,
        }

    def lines(self) -> Iterator[str]:
        for one in self.different:
            yield from one.lines()
        if self.different:
            yield ""
        counted = f"{self.requests} requests and {self.host_calls} calls to the host replayed"
        yield f"{counted}: {self.equal} equal, {len(self.different)} different, {len(self.apart)} not compared"
        reasons: dict[str, int] = {}
        for one in self.apart:
            reasons[one.why] = reasons.get(one.why, 0) + 1
        yield from (f"not compared: {count} {why}" for why, count in reasons.items())
        yield from (f"note: {note}" for note in self.notes)


def report(player: Player, notes: list[str]) -> Report:
    """What ``player`` found, once it has played."""
    recorded, replayed = player.recorded.exchanges, player.replayed.exchanges
    made = Report(len(replayed), sum(len(one.calls) for one in replayed), notes=[*notes, *player.notes])
    live = live_requests(recorded)
    for one, other in zip(recorded, replayed, strict=False):
        found = list(differences(one, other, player.ids))
        if one.number in live:
            made.apart.append(Finding(one, found, "used a live model, whose answers nobody can repeat"))
        elif one.reply is None and not found:
            made.apart.append(Finding(one, [], "had no reply when the recording ended"))
        elif found and one.number in player.cancelled and _raced(one, other):
            made.apart.append(Finding(one, found, "raced with being cancelled"))
        elif found:
            made.different.append(Finding(one, found))
    return made


def _raced(recorded: Exchange, replayed: Exchange) -> bool:
    """Whether the cancellation of a request was faster on one side only, or came too late."""
    outcomes = {recorded.outcome, replayed.outcome}
    return recorded.command == "cancel" or ("cancelled" in outcomes and len(outcomes) == 2)


def versions(header: Header, now: dict[str, str]) -> list[str]:
    """Which versions have changed since."""
    then = header.model_dump()
    return [f"{name} was {then[name]}, is {version}" for name, version in now.items() if then[name] != version]


def _short(value: Any) -> str:
    text = repr(value) if value is ABSENT else jsonlib.dumps(value).decode()
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}… ({len(text)} characters)"
