"""Writes ``examples/node/dspy_bridge.d.mts``: the types of the Node client, from the wire's own schemas.

``python -m tests.docs.typescript_types``
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dspy_bridge.protocol.commands import COMMANDS, schemas
from dspy_bridge.protocol.errors import ERRORS

FILE = Path(__file__).parent.parent.parent / "examples" / "node" / "dspy_bridge.d.mts"
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_INDENT = "  "


def types_file() -> str:
    """The whole file."""
    definitions: dict[str, Any] = {}
    rows = []
    for name in COMMANDS:
        described = schemas(name)
        for side in ("args", "result"):
            definitions |= described[side].get("$defs", {})
        args, result = (_type(described[side], 2) for side in ("args", "result"))
        rows.append(f"  /** {described['summary']} */\n  {name}: {{\n    args: {args};\n    result: {result};\n  }};")
    named = [f"export type {_name(name)} = {_type(schema, 0)};" for name, schema in sorted(definitions.items())]
    codes = " | ".join(json.dumps(code) for code in ERRORS)
    return _TEMPLATE.format(commands="\n".join(rows), definitions="\n\n".join(named), codes=codes)


def _name(definition: str) -> str:
    return re.sub(r"\W", "", definition)


def _type(schema: Any, depth: int) -> str:
    if "$ref" in schema:
        return _name(schema["$ref"].rpartition("/")[2])
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value) for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(one, depth) for one in schema["anyOf"]))
    kind = schema.get("type")
    if kind == "array":
        item = _type(schema.get("items", {}), depth)
        return f"({item})[]" if " " in item and not item.startswith("{") else f"{item}[]"
    if kind == "object":
        return _object(schema, depth)
    return _PLAIN.get(kind, "unknown")


def _object(schema: Any, depth: int) -> str:
    inside = _INDENT * (depth + 1)
    more = schema.get("additionalProperties", True)
    lines = []
    for name, field in schema.get("properties", {}).items():
        if "description" in field:
            lines.append(f"{inside}/** {field['description']} */")
        mark = "" if name in schema.get("required", []) else "?"
        lines.append(f"{inside}{name}{mark}: {_type(field, depth + 1)};")
    if not lines:
        return f"Record<string, {_type(more, depth) if isinstance(more, dict) else 'unknown'}>"
    if more is not False:
        lines.append(f"{inside}[more: string]: unknown;")
    return "{\n" + "\n".join(lines) + f"\n{_INDENT * depth}}}"


_TEMPLATE = """\
// Made by `python -m tests.docs.typescript_types` from the daemon's own schemas; a test compares.

{definitions}

export interface Commands {{
{commands}
}}

export type Command = keyof Commands;

export type ErrorCode = {codes} | "gone";

export interface BridgeEvent {{
  id: number;
  event: "token" | "status" | "progress" | "item" | "log";
  seq: number;
  data: any;
}}

export interface CallOptions {{
  session?: string;
  timeoutMs?: number;
  onEvent?: (event: BridgeEvent) => void;
  signal?: AbortSignal;
}}

export class BridgeError extends Error {{
  code: ErrorCode;
  retryable: boolean;
  details: Record<string, unknown>;
}}

export class Bridge {{
  constructor(command?: string, args?: string[], options?: Record<string, unknown>);
  readonly ready: Promise<Commands["hello"]["result"]>;
  readonly exited: Promise<number | string>;
  readonly pid: number | undefined;
  tool(name: string, work: (args: any) => unknown): void;
  model(name: string, work: (request: any) => unknown): void;
  call<C extends Command>(
    command: C,
    args?: Commands[C]["args"],
    options?: CallOptions,
  ): Promise<Commands[C]["result"]> & {{ id: number }};
  cancel(id: number): Promise<Commands["cancel"]["result"]>;
  stream<C extends Command>(
    command: C,
    args?: Commands[C]["args"],
    options?: CallOptions,
  ): AsyncGenerator<BridgeEvent, Commands[C]["result"]>;
  close(): Promise<number | string>;
}}
"""


if __name__ == "__main__":
    FILE.write_text(types_file())
