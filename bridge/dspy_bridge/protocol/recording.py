"""The file of a recorded conversation: JSON Lines, one header, then one line per frame in wire order.

    {"format": "dspy-bridge/recording", "format_version": 1, "server_version": ..., "options": {...}, ...}
    {"at": 0, "connection": 1, "open": "primary"}
    {"at": 3, "connection": 1, "from": "daemon", "frame": {...}}
    {"at": 9, "connection": 1, "from": "host", "frame": {...}}
    {"at": 9, "connection": 1, "from": "host", "text": "{not JSON"}
    {"at": 9, "connection": 1, "from": "host", "base64": "/w=="}
    {"at": 9, "connection": 1, "from": "host", "skipped": "too_large"}
    {"at": 12, "connection": 1, "end": "input"}
    {"at": 15, "stop": true}

``at``: milliseconds since the daemon began. A connection is ``primary`` (the daemon ends with it) or a
``client``; its host ends its ``input``, or is gone (``both``). ``stop``: the daemon was asked to end by a signal.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dspy_bridge import jsonlib

FORMAT: Final = "dspy-bridge/recording"
FORMAT_VERSION: Final = 1
NOT_RECORDED: Final = frozenset(
    (
        *("record", "log_level", "log_format", "log_file", "idle_exit_s"),
        *("trace_file", "trace_programs", "otel", "metrics_port"),
    )
)
"""Options of a daemon that change nothing of what it says. Of a replay's daemon they would overwrite the file of
the recorded one, take its port, or tell its collector of requests that nobody made."""


class BadRecording(Exception):
    """The file is no recording, or none this version can read. Raised by :func:`read`."""


class Header(BaseModel):
    """The first line."""

    format: Literal["dspy-bridge/recording"] = FORMAT
    format_version: int = FORMAT_VERSION
    recorded_at: str
    server_version: str
    dspy_version: str
    python_version: str
    options: dict[str, Any] = Field(default_factory=dict)
    """The daemon's, as far as they are not defaults and concern what it says."""
    stored_sessions: int = 0
    """How many sessions it had from before, of which the recording knows nothing."""


class Line(BaseModel):
    """Any other; exactly one of ``CONTENTS`` is given."""

    model_config = ConfigDict(populate_by_name=True)

    at: int
    connection: int = 0
    open: Literal["primary", "client"] | None = None
    sender: Literal["host", "daemon"] | None = Field(None, alias="from")
    frame: dict[str, Any] | None = None
    text: str | None = None
    base64: str | None = None
    skipped: Literal["too_large", "truncated"] | None = None
    end: Literal["input", "both"] | None = None
    stop: bool | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Line:
        said = [one for one in (self.frame, self.text, self.base64, self.skipped) if one is not None]
        told = [one for one in (self.open, self.end, self.stop) if one is not None]
        if len(said) + len(told) != 1 or (self.sender is None) == bool(said):
            raise ValueError("a line is one frame and whom it is from, or one thing that happened")
        if self.sender == "daemon" and self.frame is None:
            raise ValueError("what a daemon says is a frame")
        if self.base64 is not None:
            base64.b64decode(self.base64, validate=True)
        return self

    @property
    def body(self) -> bytes | None:
        """What the host sent; None for a frame that was not kept."""
        if self.frame is not None:
            return jsonlib.dumps(self.frame)
        if self.base64 is not None:
            return base64.b64decode(self.base64)
        return None if self.text is None else self.text.encode()


def unparsed(body: str) -> dict[str, str]:
    """How a frame that is no JSON object is kept; what was no UTF-8 in it stands as surrogates."""
    try:
        body.encode()
    except UnicodeEncodeError:
        return {"base64": base64.b64encode(body.encode(errors="surrogateescape")).decode()}
    return {"text": body}


@dataclass(frozen=True)
class Recording:
    """A file that was read. ``cut_off``: its last line is not whole, and left out."""

    header: Header
    lines: Sequence[Line]
    cut_off: bool


def read(path: Path) -> Recording:
    """Raises :class:`BadRecording`, ``OSError``."""
    first, *rest = path.read_bytes().split(b"\n")
    header = _header(first)
    lines: list[Line] = []
    opened = {0}
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        try:
            lines.append(Line.model_validate(jsonlib.loads(line), strict=True))
        except (jsonlib.JSONDecodeError, ValidationError) as exc:
            if number == len(rest) + 1:  # it has no newline: the daemon was killed while it wrote
                return Recording(header, lines, cut_off=True)
            raise BadRecording(f"line {number} is not one of a recording: {_why(exc)}") from None
        if lines[-1].open:
            opened.add(lines[-1].connection)
        elif lines[-1].connection not in opened:
            raise BadRecording(f"line {number}: connection {lines[-1].connection} speaks before it opens")
    return Recording(header, lines, cut_off=False)


def _header(line: bytes) -> Header:
    try:
        found = jsonlib.loads(line)
    except jsonlib.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise BadRecording("it is not a recording of this bridge: `bridge-cli serve --record FILE` makes one")
    version = found.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        message = f"it was made by a newer dspy-bridge (format {version}; this one reads up to {FORMAT_VERSION})"
        raise BadRecording(message)
    try:
        return Header.model_validate(found, strict=True)
    except ValidationError as exc:
        raise BadRecording(f"its header is not a recording's: {_why(exc)}") from None


def _why(exc: Exception) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    one = exc.errors(include_url=False)[0]
    return f"{'.'.join(str(part) for part in one['loc']) or 'it'}: {one['msg']}"
