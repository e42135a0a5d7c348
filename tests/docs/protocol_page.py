"""Writes ``docs/protocol.md`` from the code: ``python -m tests.docs.protocol_page``. A test keeps it true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dspy_bridge.protocol.commands import COMMANDS, schemas
from dspy_bridge.protocol.errors import ERRORS

PAGE = Path(__file__).parent.parent.parent / "docs" / "protocol.md"

HEAD = """# The wire

*This page is made from the code (`python -m tests.docs.protocol_page`); a test keeps it true. Whole
conversations, checked against the real daemon in both framings, are in `fixtures/transcripts/`.*

## Frames

`--framing lines` (default): one JSON object per line, UTF-8, ended by `\\n`; `\\r\\n` is accepted, blank lines are
ignored, output always ends with `\\n`. `--framing packet4`: a 4-byte big-endian length, then the object (Erlang's
`{packet, 4}`). A frame longer than the announced `max_frame` is skipped without being kept and answered
`frame_too_large` with `"id": null`; what is not a request is answered likewise, and the next frame is read as usual.

## Requests

    {"id": 7, "command": "create_program", "args": {...}, "session_id": "a", "timeout_ms": 30000}

`id`: an integer or a string of 1 to 512 characters, unique among the connection's open requests. `session_id`: at the top
level or inside `args`; absent means `"default"`. Unknown sessions start by themselves unless the daemon runs with
`--explicit-sessions`. `timeout_ms` counts from receipt, queue time included. Unknown top-level fields are ignored.
`traceparent` (W3C) makes the request part of its host's trace, where the daemon reports to OpenTelemetry.

`"retry": "if_idempotent"`: should the interpreter die of this request, it begins again, once, on a fresh one, and a
`status` event (`{"status": "retried", "after": <error>}`) says so. Within the session nothing has happened by then (what a request
changes takes effect with its reply); the host says by it that what the program does to the outside may be done twice.

## Replies

Exactly one terminal reply per request, before it any number of events of that request, numbered from 0.

    {"id": 7, "seq": 0, "event": "log", "data": {"text": "..."}}
    {"id": 7, "success": true, "result": {...}, "timestamp": "2026-11-21T10:00:00.000Z"}
    {"id": 7, "success": false, "error": {"code": "...", "message": "...", "retryable": false, "details": {...}}, "timestamp": "..."}

Frames without `id` are the daemon's own: `{"event": "ready", ...}` first (unless `--no-ready`), or
`{"event": "fatal", ...}` when it cannot start, `{"event": "reloaded", "changed": [...], "needs_restart": [...]}` when it goes on with other options and
fresh interpreters; ignore those you do not know. Replies of different sessions come in any order; within a session
requests run in the order received; in one of several `workers` they may overlap, but what was sent after a request
that changes the session sees the change. A `timeout` or `cancelled` reply leaves when the work has stopped.

A request with `"jsonrpc": "2.0"` uses `method` and `params`, and is answered with `result`, or with `error` whose `code`
is the integer below and whose `data` is the error object above; events become notifications of the method `event`.
No batches, no notifications to the daemon.

## Events

Before a request's reply, numbered by `seq`: `log` (`text`: what the program printed), `token` (`field`, `text`, `last`,
`predictor`; `whole` where nothing could stream), `status` (`status`: `module_started`, `lm_called`, `tool_called`,
`tool_answered`, `retried`), `item` (one result of a batch or evaluation), `progress` (of an evaluation or a compilation).

## The host answers too

A program may ask its host, for a model's completion or for a tool:

    {"call_id": "c-3", "id": 7, "session_id": "a", "call": "tool", "name": "search", "args": {...}}
    {"call_id": "c-3", "success": true, "result": ...}
    {"call_id": "c-3", "success": false, "error": {"message": "..."}}

`lm`: `args` is an OpenAI chat completion request; the answer is a text, `{"text", "usage"}`, or a whole chat completion. Pieces
may come first: `{"call_id": "c-3", "event": "token", "data": {"text": "..."}}`. `tool`: `args` are the tool's arguments (of a metric:
`example` and `prediction`); the answer is any JSON. A call dies with its request; one that is not answered in time ends with
`host_call_failed`; an answer nobody waits for is dropped. Calls come from many threads at once: answer them in any order.

To a JSON-RPC host a call is a request of the method `host_call`, with the same fields in `params`.

## Values

Outputs are JSON of the declared types. NaN and infinities are `{"$float": "NaN"}`, bytes `{"$bytes": "<base64>"}`, integers
beyond 64 bits `{"$int": "..."}`, complex `{"$complex": [re, im]}`; dates and times ISO 8601 text; decimals, UUIDs and paths text;
sets and tuples arrays; dataclasses and pydantic models objects; `dspy.Image` and its kin `{"$type": "Image", ...}`. The same
forms are taken as inputs.
"""


def _type_of(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    if "enum" in schema:
        return " \\| ".join(f"`{value!r}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " \\| ".join(_type_of(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']!r}`"
    if schema.get("type") == "array":
        return f"array of {_type_of(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _fields(schema: dict[str, Any]) -> list[str]:
    rows = []
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        if name != "session_id" or "description" not in field:
            need = "required" if name in required else ""
            rows.append(f"| `{name}` | {_type_of(field)} | {need} | {field.get('description', '')} |")
    return rows


def page() -> str:
    lines = [HEAD, "## Error codes", "", "| code | JSON-RPC | retryable | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{row.code}` | {row.rpc} | {'yes' if row.retryable else 'no'} | {row.meaning} |" for row in ERRORS.values()
    ]
    lines += [
        "",
        "`retryable` is the default of the code; an error that knows better (an `lm_error`) says so itself.",
        "",
    ]
    for where, title in (
        ("daemon", "Commands the daemon answers"),
        ("session", "Commands a session's interpreter runs"),
    ):
        lines += [f"## {title}", ""]
        for command in COMMANDS.values():
            if command.where == where:
                described = schemas(command.name)
                lines += [f"### `{command.name}`", "", command.summary, ""]
                rows = _fields(described["args"])
                if rows:
                    lines += ["| argument | type | | |", "|---|---|---|---|", *rows, ""]
                names = ", ".join(f"`{name}`" for name in described["result"].get("properties", {}))
                if names:
                    lines += [f"Result: {names}.", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
