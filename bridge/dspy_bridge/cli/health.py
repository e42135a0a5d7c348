"""``bridge-cli health``: a probe for whoever watches a daemon."""

from __future__ import annotations

import sys

import click

from dspy_bridge import jsonlib
from dspy_bridge.cli.send import TRANSPORT_ERROR, default_socket, socket_option
from dspy_bridge.client import Client, CommandFailed, TransportError

_CODES = {"ok": 0, "degraded": 0, "failing": 1}


@click.command("health")
@socket_option
@click.option("--strict", is_flag=True, help="Exit 1 also if it is degraded.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option("--timeout", type=float, default=5.0, show_default=True, help="Seconds it may take to answer.")
def command(path: str | None, strict: bool, as_json: bool, timeout: float) -> None:
    """Ask a daemon how it is. Exits 0 if it can work, 1 if it fails, 3 if it cannot be talked to."""
    try:
        with Client.connect(path or default_socket(), start_timeout=timeout) as client:
            found = client.call("health", timeout=timeout)
    except (TransportError, CommandFailed) as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
    if as_json:
        click.echo(jsonlib.dumps(found, option=jsonlib.OPT_INDENT_2))
    else:
        for one in found["checks"]:
            click.echo(f"{one['status']:<9} {one['check']:<10} {one['detail']}")
    sys.exit(1 if strict and found["status"] != "ok" else _CODES[found["status"]])
