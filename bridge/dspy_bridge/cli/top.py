"""``bridge-cli top``: a running daemon, live."""

from __future__ import annotations

import collections
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from dspy_bridge.cli.send import TRANSPORT_ERROR, default_socket, socket_option
from dspy_bridge.client import Client, CommandFailed, TransportError

if TYPE_CHECKING:
    from dspy_bridge.views.top import Frame, Sample

_SORTS: Final = ("memory", "requests", "queue", "name")
_KEPT: Final = 300
_PLAIN_WIDTH: Final = 140
"""Columns where there is no terminal to say how many."""
_RESIZED_S: Final = 0.2
"""So soon a terminal of a new size is filled."""


def sampled(client: Client, timeout: float) -> Sample:
    """What the daemon says now. Raises :class:`TransportError`."""
    from dspy_bridge.views.top import Sample

    asked = [client.start(name) for name in ("get_stats", "health", "list_sessions")]
    stats, health, listed = (client.finish(one, timeout=timeout) for one in asked)
    return Sample(time.monotonic(), time.time(), client.ready, stats, health, listed["sessions"])


def _frames(client: Client, sort: str, timeout: float) -> Iterator[Frame]:
    """One whenever asked, for ever."""
    from dspy_bridge.views.top import Frame, Point, point

    history: collections.deque[Point] = collections.deque(maxlen=_KEPT)
    previous: Sample | None = None
    while True:
        sample = sampled(client, timeout)
        history.append(point(sample, previous))
        yield Frame(sample, previous, tuple(history), sort)
        previous = sample


def _print_once(client: Client, sort: str, timeout: float) -> None:
    from rich.console import Console

    from dspy_bridge.views.top import Frame

    frame = Frame(sampled(client, timeout), sort=sort, all_rows=True)
    console = Console(color_system=None, force_terminal=False, highlight=False)
    if not sys.stdout.isatty() and console.width == 80:
        console.width = _PLAIN_WIDTH
    with console.capture() as capture:
        console.print(frame)
    plain = "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())
    click.echo(plain.encode(sys.stdout.encoding, "replace"), nl=False)


def _show(client: Client, sort: str, interval: float, timeout: float) -> None:
    from rich.console import Console
    from rich.live import Live

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # after the terminal is as it was
    console = Console()
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for frame in _frames(client, sort, timeout):
            size = None
            while True:
                if console.size != size:
                    size = console.size
                    live.update(frame, refresh=True)
                left = frame.sample.at + interval - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(left, _RESIZED_S))


@click.command("top")
@socket_option
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option(
    "--sort", type=click.Choice(_SORTS), default="memory", show_default=True, help="Which sessions come first."
)
@click.option(
    "--once", is_flag=True, help="Print one frame of every session as plain text; so it is without a terminal."
)
@click.option("--timeout", type=float, default=10.0, show_default=True, help="Seconds the daemon may take to answer.")
def command(path: str | None, interval: float, sort: str, once: bool, timeout: float) -> None:
    """Watch a daemon: its workers, its requests and its sessions.

    Ctrl-C ends it. Exits 3 if the daemon cannot be talked to, or goes away.
    """
    try:
        import rich  # noqa: F401
    except ImportError:
        raise click.ClickException("top draws with rich: pip install 'dspy-bridge[top]'") from None
    try:
        with Client.connect(path or default_socket(), start_timeout=timeout) as client:
            if once or not sys.stdout.isatty():
                _print_once(client, sort, timeout)
            else:
                _show(client, sort, interval, timeout)
    except (TransportError, CommandFailed) as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
    except KeyboardInterrupt:
        return
