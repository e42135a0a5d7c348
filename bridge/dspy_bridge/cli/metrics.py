"""``bridge-cli metrics``: a daemon's figures in the text format Prometheus reads.

For a textfile collector, or a scrape that runs a command: ``bridge-cli metrics > dspy_bridge.prom``.
"""

from __future__ import annotations

import sys

import click

from dspy_bridge.cli.send import TRANSPORT_ERROR, default_socket, socket_option
from dspy_bridge.client import Client, CommandFailed, TransportError
from dspy_bridge.daemon.exposition import exposition


@click.command("metrics")
@socket_option
def command(path: str | None) -> None:
    """Print a daemon's figures as Prometheus reads them."""
    try:
        with Client.connect(path or default_socket()) as client:
            click.echo(exposition(client.call("get_stats", timeout=10)), nl=False)
    except (TransportError, CommandFailed) as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
