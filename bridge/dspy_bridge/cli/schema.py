"""``bridge-cli schema``."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from dspy_bridge import jsonlib
from dspy_bridge.protocol.commands import COMMANDS, schemas
from dspy_bridge.protocol.envelope import PROTOCOL_VERSION
from dspy_bridge.protocol.errors import ERRORS


def document() -> dict[str, Any]:
    """Every command with the schemas of its arguments and result, and every error code."""
    return {
        "protocol": PROTOCOL_VERSION,
        "commands": [schemas(name) for name in COMMANDS],
        "errors": [dataclasses.asdict(row) for row in ERRORS.values()],
    }


@click.command("schema")
@click.argument("name", metavar="[COMMAND]", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schemas arguments are validated with: of one command, or of all."""
    if name is not None and name not in COMMANDS:
        raise click.UsageError(f"there is no command {name!r}; known are {', '.join(COMMANDS)}")
    content = document() if name is None else schemas(name)
    click.echo(jsonlib.dumps(content, option=jsonlib.OPT_INDENT_2))
