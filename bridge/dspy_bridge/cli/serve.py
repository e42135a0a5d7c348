"""``bridge-cli serve``."""

from __future__ import annotations

import sys
import typing
from typing import Any, Final

import click
from pydantic.fields import FieldInfo

from dspy_bridge.daemon.configuration import BadConfiguration, Configuration
from dspy_bridge.daemon.descriptors import claim_stdio, raise_descriptor_limit
from dspy_bridge.daemon.listener import SocketInUse
from dspy_bridge.daemon.logs import log_handler, log_to
from dspy_bridge.daemon.metrics_port import PortInUse
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.daemon.recording import RecordingRefused
from dspy_bridge.daemon.server import Daemon, Exit
from dspy_bridge.daemon.tracing import CannotTrace
from session_supervisor.hardening import HardeningUnavailable
from session_supervisor.store import StateUnusable
from session_supervisor.uids import IdsUnavailable


def _flag(name: str, field: FieldInfo) -> click.Option:
    """One option of :class:`DaemonOptions` as a flag of the command line."""
    words = name.replace("_", "-")
    annotation = field.annotation
    # No default here: what is not given may come from a file or the environment.
    shown = str(field.default) if field.default != "" else False
    if annotation is bool:
        return click.Option([f"--{words}/--no-{words}"], default=None, help=field.description, show_default=shown)
    choices = typing.get_args(annotation)
    kind: Any = click.Choice([str(choice) for choice in choices]) if choices else annotation
    return click.Option([f"--{words}"], type=kind, default=None, help=field.description, show_default=shown)


class _Descriptors(click.ParamType):  # type: ignore[type-arg]
    name = "R,W"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        try:
            read, write = (int(part) for part in str(value).split(","))
        except ValueError:
            self.fail("wants two descriptors, such as 3,4", param, ctx)
        return read, write


_CODES: Final[dict[type[Exception], Exit]] = {
    StateUnusable: Exit.STATE_UNUSABLE,
    HardeningUnavailable: Exit.NOT_HARDENED,
    IdsUnavailable: Exit.NOT_HARDENED,
    SocketInUse: Exit.SOCKET_IN_USE,
    PortInUse: Exit.PORT_IN_USE,
    CannotTrace: Exit.USAGE,
    RecordingRefused: Exit.USAGE,
    OSError: Exit.USAGE,
}
"""Why a daemon cannot start, and what it exits with then."""


def _serve(fds: tuple[int, int] | None, socket: str | None, stdio: bool, **given: Any) -> None:
    if fds is not None and stdio:
        raise click.UsageError("--fds and --stdio both say where the one host is that the daemon ends with")
    try:
        configuration = Configuration({name: value for name, value in given.items() if value is not None})
    except BadConfiguration as exc:
        raise click.UsageError(str(exc)) from None
    options = configuration.options
    try:
        log_to(log_handler(options), options.log_level)
    except OSError as exc:
        raise click.UsageError(f"--log-file: {exc}") from None
    raise_descriptor_limit()
    own_read, own_write = claim_stdio()
    daemon: Daemon | None = None
    try:
        daemon = Daemon(configuration, socket)
        if options.record:
            daemon.record()
        if socket is not None:
            daemon.serve_socket(socket)
        if fds is not None:
            daemon.serve_descriptors(*fds)
        elif stdio or socket is None:
            daemon.serve_descriptors(own_read, own_write)
        daemon.watch()
        code = daemon.run()
    except tuple(_CODES) as exc:
        if daemon is not None:
            daemon.abandon()
        click.echo(f"dspy-bridge cannot start: {exc}", err=True)
        code = next(code for kind, code in _CODES.items() if isinstance(exc, kind))
    sys.exit(int(code))


command = click.Command(
    "serve",
    callback=_serve,
    help="""Run the daemon.

    By default it serves one host on standard input and output and ends with its input. With --fds it
    serves that host on two other descriptors; with --socket any number of clients on a Unix socket, and
    with --stdio or --fds that one host too. Started by systemd (Type=notify), it says when it is ready.

    Every option but these first three may also stand in bridge.toml or the environment (`bridge-cli config
    show`). SIGHUP has the daemon read the files again and make its interpreters anew; SIGTERM ends it in order.
    """,
    params=[
        click.Option(["--fds"], type=_Descriptors(), help="Serve one host on these two descriptors instead."),
        click.Option(["--socket"], type=click.Path(), help="Serve clients on a Unix socket at this path."),
        click.Option(["--stdio"], is_flag=True, help="Beside the socket, serve one host on stdin and stdout."),
        *(_flag(name, field) for name, field in DaemonOptions.model_fields.items()),
    ],
)
