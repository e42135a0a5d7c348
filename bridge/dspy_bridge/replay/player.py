"""Says again what the recorded hosts said, in their order, and not before what they had heard until then.

Order is kept, not time: a frame is sent once all that the recording has before it has arrived (of events that
come in pieces, the first). Only what raced with the work itself, to cancel a request or to end, keeps its
distance in time.
"""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.client.errors import TransportError
from dspy_bridge.protocol.envelope import HostAnswer
from dspy_bridge.protocol.recording import Line, Recording
from dspy_bridge.protocol.redaction import PLACEHOLDER, Redactor, secrets_of
from dspy_bridge.replay.conversation import Conversation, Exchange, Heard, HostCall, count_of
from dspy_bridge.replay.link import Inbox, Link
from dspy_bridge.replay.stage import Stage

_IN_PIECES: Final = frozenset(("token", "log"))
_LONGEST_PAUSE_S: Final = 10.0
_MADE_UP: Final = re.compile(r"s-[0-9a-f]{12}")
"""Ids the daemon makes up for sessions without one."""


class Player:
    """See the module. ``secrets``: what placeholders stand for, by number. ``patience``: seconds to wait for what
    was heard in the recording, beyond what it took there."""

    def __init__(self, recording: Recording, secrets: Mapping[int, str], patience: float) -> None:
        self.recorded = Conversation()
        self.replayed = Conversation()
        self.notes: list[str] = []
        self.ids: dict[str, str] = {}
        """Made-up ids of the recording, and those of the replay that stand for them."""
        self.cancelled: set[int] = set()
        """Numbers of requests somebody tried to cancel while they were open, and of those attempts."""
        self._lines = recording.lines
        self._secrets = secrets
        self._patience = patience
        self._redactor = Redactor([*secrets_of(os.environ), *secrets.values()])
        self._inbox: Inbox = queue.SimpleQueue()
        self._links: dict[int, Link] = {}
        self._answers: dict[tuple[int, str], str] = {}
        """By connection and recorded id of a call to the host: the id of the same call here."""
        self._matched: dict[int, set[int]] = {}
        """By exchange: which of its recorded calls have been made again."""
        self._races: dict[int, Exchange] = {}
        """By index of a line that is to come between a request and its reply: that request."""
        self._given_up: set[Exchange | None] = set()
        self._stage: Stage | None = None
        self._steps = [self._read(index, line) for index, line in enumerate(recording.lines)]

    def play(self, stage: Stage) -> None:
        """Raises :class:`TransportError`."""
        self._stage = stage
        try:
            for index, (line, step) in enumerate(zip(self._lines, self._steps, strict=True)):
                self._take_waiting()
                if isinstance(step, Heard):
                    self._await(line, step)
                    continue
                if index in self._races:
                    self._keep_distance(line, self._races[index])
                self._do(line, step)
        finally:
            for link in self._links.values():
                link.close()
        if stage.process.poll() not in (None, 0):
            raise TransportError(f"the daemon of the replay ended with code {stage.process.returncode}")

    def _read(self, index: int, line: Line) -> Exchange | HostAnswer | Heard | None:
        """What a recorded line was, as part of the recorded conversation."""
        if line.sender == "daemon":
            assert line.frame is not None
            return self.recorded.daemon_said(line.connection, line.frame)
        said, raced = None, None
        if line.end or line.stop:
            raced = self.recorded.latest_open()
        elif line.sender == "host":
            said = self.recorded.host_said(line.connection, line.body, line.at / 1000)
            if isinstance(said, Exchange) and said.command == "cancel":
                raced = self.recorded.open_at(line.connection, said.args.get("request_id"))
                if raced is not None:
                    self.cancelled |= {raced.number, said.number}
        if raced is not None:
            self._races[index] = raced
        return said

    # -- saying ----------------------------------------------------------------------------------

    def _do(self, line: Line, step: Exchange | HostAnswer | None) -> None:
        assert self._stage is not None
        if line.stop:
            self._stage.stop()
        elif line.open:
            self._links[line.connection] = self._stage.link(line.connection, line.open, self._inbox)
        elif line.end and line.connection in self._links:
            link = self._links[line.connection]
            link.hang_up() if line.end == "both" else link.end_input()
        elif step is not None:
            self._say(line, step)

    def _say(self, line: Line, step: Exchange | HostAnswer) -> None:
        assert self._stage is not None
        link = self._links[line.connection]
        body = line.body
        if isinstance(step, HostAnswer):
            body = self._answer(line, step)
            if body is not None:
                link.send(body)
            return
        if body is not None:
            body = self._translated(body)
        self.replayed.host_said(line.connection, body, time.monotonic())
        if body is not None:
            if line.frame is not None:
                self._redactor.frame(jsonlib.loads(body))  # it learns what it is to hide in the answers
            link.send(body)
        elif line.skipped is not None:
            link.send_unusable(line.skipped, self._stage.options.max_frame)

    def _answer(self, line: Line, answer: HostAnswer) -> bytes | None:
        """What the host answered to the call here that is the recorded one; None if it was not made here."""
        assert line.frame is not None
        known = self.recorded.call(line.connection, answer.call_id)
        call_id = self._answers.get((line.connection, answer.call_id)) if known else f"unknown {answer.call_id}"
        if call_id is None:
            return None
        field = "call_id" if "call_id" in line.frame else "id"
        return self._translated(jsonlib.dumps({**line.frame, field: call_id}))

    def _translated(self, body: bytes) -> bytes:
        """With this replay's ids and secrets."""
        text = body.decode(errors="surrogateescape")
        for recorded, replayed in self.ids.items():
            text = text.replace(recorded, replayed)

        def secret(found: re.Match[str]) -> str:
            value = self._secrets.get(int(found[1]))
            return found[0] if value is None else jsonlib.dumps(value).decode()[1:-1]

        return PLACEHOLDER.sub(secret, text).encode(errors="surrogateescape")

    # -- hearing ---------------------------------------------------------------------------------

    def _keep_distance(self, line: Line, raced: Exchange) -> None:
        """As long after the request as in the recording, within bounds."""
        here = self.replayed.exchanges[raced.number]
        until = here.at + min(line.at / 1000 - raced.at, _LONGEST_PAUSE_S)
        while here.reply is None and (left := until - time.monotonic()) > 0:
            self._take_next(left)

    def _await(self, line: Line, heard: Heard) -> None:
        exchange = heard.exchange
        if heard.count == 0 or (exchange in self._given_up and exchange is not None):
            return
        took = line.at / 1000 - (exchange.at if exchange is not None else 0)
        deadline = time.monotonic() + self._patience + took
        arrived = self._arrival(line.connection, heard)
        while not arrived() and not self._over(line.connection):
            left = deadline - time.monotonic()
            if left <= 0:
                self._given_up.add(exchange)
                what = f"request {exchange.id!r} ({exchange.command})" if exchange is not None else "the daemon"
                self.notes.append(f"connection {line.connection}: {what} was waited for in vain ({heard.said.kind})")
                return
            self._take_next(left)

    def _over(self, connection: int) -> bool:
        link = self._links.get(connection)
        return link is None or link.over

    def _arrival(self, connection: int, heard: Heard) -> Callable[[], bool]:
        """Whether what was heard in the recording has been heard here."""
        recorded = heard.exchange
        if recorded is None:
            return lambda: len(self.replayed.notices.get(connection, ())) >= heard.count
        here = self.replayed.exchanges[recorded.number]
        if heard.said.kind == "call":
            made = self._matched.setdefault(recorded.number, set())
            return lambda: here.reply is not None or heard.count - 1 in made
        if heard.said.kind == "event":
            event = heard.said.content["event"]
            least = 1 if event in _IN_PIECES else heard.count
            return lambda: here.reply is not None or count_of(here, event) >= least
        return lambda: here.reply is not None

    def _take_waiting(self) -> None:
        while not self._inbox.empty():
            self._take_next(0)

    def _take_next(self, seconds: float) -> None:
        try:
            connection, frame = self._inbox.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return
        if frame is None:
            self._ended(connection)
            return
        heard = self.replayed.daemon_said(connection, self._redactor.frame(frame))
        if heard.said.kind == "notice" and frame["event"] == "fatal":
            raise TransportError(f"the daemon of the replay cannot start: {frame.get('message')}")
        if heard.exchange is None:
            return
        if heard.said.kind == "call":
            self._match(connection, heard.exchange, heard.exchange.calls[-1], "jsonrpc" in frame)
        elif heard.said.kind == "reply":
            self._note_ids(self.recorded.exchanges[heard.exchange.number].reply, heard.exchange.reply)

    def _ended(self, connection: int) -> None:
        assert self._stage is not None
        link = self._links[connection]
        expected = link.over
        link.over = True
        if not expected and connection not in self.replayed.notices and self.recorded.notices.get(connection):
            code = self._stage.process.wait(10)
            raise TransportError(f"the daemon of the replay ended with code {code} before it was ready")

    def _match(self, connection: int, here: Exchange, call: HostCall, rpc: bool) -> None:
        """Find the recorded call this one is; a program that asks more than it did is refused."""
        recorded = self.recorded.exchanges[here.number]
        made = self._matched.setdefault(here.number, set())
        left = [n for n, one in enumerate(recorded.calls) if n not in made and one.of == call.of]
        if left:
            equal = (n for n in left if recorded.calls[n].content == call.content)
            chosen = next(equal, left[0])
            made.add(chosen)
            self._answers[connection, recorded.calls[chosen].call_id] = call.call_id
            return
        message = "the recording has no answer to this call"
        refusal: dict[str, Any] = {"call_id": call.call_id, "success": False, "error": {"message": message}}
        if rpc:
            refusal = {"jsonrpc": "2.0", "id": call.call_id, "error": {"code": -32000, "message": message}}
        self._links[connection].send(jsonlib.dumps(refusal))

    def _note_ids(self, recorded: Any, replayed: Any) -> None:
        if isinstance(recorded, dict) and isinstance(replayed, dict):
            for name in recorded.keys() & replayed.keys():
                self._note_ids(recorded[name], replayed[name])
        elif isinstance(recorded, list) and isinstance(replayed, list):
            for one, other in zip(recorded, replayed, strict=False):
                self._note_ids(one, other)
        elif (
            isinstance(recorded, str)
            and isinstance(replayed, str)
            and _MADE_UP.fullmatch(recorded)
            and _MADE_UP.fullmatch(replayed)
        ):
            self.ids.setdefault(recorded, replayed)
