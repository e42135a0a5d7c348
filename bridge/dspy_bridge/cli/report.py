"""``bridge-cli report``: what happened in a daemon, as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dspy_bridge.cli.send import COMMAND_ERROR, TRANSPORT_ERROR, default_socket, socket_option
from dspy_bridge.client import Client, CommandFailed, TransportError
from dspy_bridge.views.report import report
from dspy_bridge.views.trace import NotATrace, from_document, read


def _of_daemon(path: str, timeout: float) -> str:
    with Client.connect(path, start_timeout=timeout) as client:
        document = client.call("get_trace", timeout=timeout)
        stats = client.call("get_stats", timeout=timeout)
        sessions = client.call("list_sessions", timeout=timeout)["sessions"]
    return report(from_document(document), f"the daemon at {path}", stats=stats, sessions=sessions)


@click.command("report")
@socket_option
@click.option(
    "--trace", "file", type=click.Path(path_type=Path), help="Read this file of --trace-file; no daemon is asked."
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page."
)
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds the daemon may take to answer.")
def command(path: str | None, file: Path | None, output: Path, timeout: float) -> None:
    """Write what happened in a daemon as one HTML page, which needs nothing else and opens from disk.

    Exit codes: 0 done, 1 the daemon has no trace, 2 wrong usage or no trace in the file, 3 no daemon
    could be talked to.
    """
    if path is not None and file is not None:
        raise click.UsageError("--socket and --trace are two sources; give one")
    try:
        page = _of_daemon(path or default_socket(), timeout) if file is None else report(read(file), file.name)
        output.write_text(page, "utf-8")
    except NotATrace as exc:
        raise click.UsageError(str(exc)) from None
    except OSError as exc:
        raise click.UsageError(f"{output} cannot be written: {exc.strerror}") from None
    except CommandFailed as failed:
        click.echo(f"bridge-cli: the daemon gives no trace: {failed.message}", err=True)
        sys.exit(COMMAND_ERROR)
    except TransportError as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
    click.echo(f"{output} written: {len(page) / 1024:,.0f} KiB")
