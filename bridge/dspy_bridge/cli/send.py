"""``bridge-cli send``: one command from a shell, to a daemon that is there or is started for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Final

import click
import platformdirs

from dspy_bridge import jsonlib
from dspy_bridge.client import Client, CommandFailed, TransportError

COMMAND_ERROR: Final = 1
"""The daemon answered with an error. A usage error is click's 2."""
TRANSPORT_ERROR: Final = 3

_START_BOUND_S: Final = 30.0
_IDLE_EXIT_S: Final = 600


socket_option = click.option(
    "--socket",
    "path",
    type=click.Path(),
    help="Where the daemon listens (default: $DSPY_BRIDGE_SOCKET, or else your own daemon's socket).",
)
"""Of every command that talks to a daemon; without it, :func:`default_socket` is where."""


def default_socket() -> str:
    """Where the user's own daemon listens: ``$DSPY_BRIDGE_SOCKET``, or in the platform's runtime or cache folder."""
    named = os.environ.get("DSPY_BRIDGE_SOCKET")
    if named:
        return named
    folder = _runtime_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # it cannot be written to
        folder = _cache_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(folder / "bridge.sock")


def _runtime_folder() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the way out that is not taken
        try:
            folder = Path(platformdirs.user_runtime_dir("dspy-bridge", ensure_exists=False))
        except OSError:
            return _cache_folder()
    if folder.parent.name == f"runtime-{os.getuid()}":
        # This system has none, so it would be among temporary files, where somebody else may have been first.
        return _cache_folder()
    return folder


def _cache_folder() -> Path:
    return Path(platformdirs.user_cache_dir("dspy-bridge"))


def _parse_pairs(pairs: tuple[str, ...]) -> dict[str, Any]:
    """``k=v``; a value that is JSON is taken as such, ``a.b=v`` goes into the object ``a``."""
    args: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--arg wants name=value, not {pair!r}")
        try:
            value = jsonlib.loads(text)
        except jsonlib.JSONDecodeError:
            value = text
        *outer, last = name.split(".")
        inside = args
        for part in outer:
            inside = inside.setdefault(part, {})
            if not isinstance(inside, dict):
                raise click.UsageError(f"--arg {pair!r}: {part!r} already has a value that is no object")
        inside[last] = value
    return args


def _parse_args(text: str | None, pairs: tuple[str, ...]) -> dict[str, Any]:
    if text is None:
        return _parse_pairs(pairs)
    try:
        args = jsonlib.loads(sys.stdin.buffer.read() if text == "-" else text)
    except jsonlib.JSONDecodeError as exc:
        raise click.UsageError(f"--args is not JSON: {exc}") from None
    if not isinstance(args, dict):
        raise click.UsageError("--args must be a JSON object")
    return {**args, **_parse_pairs(pairs)}


def _start_daemon(path: str) -> None:
    """A daemon in the background, of this user, that leaves after ten idle minutes."""
    log = Path(path).with_suffix(".log")
    try:
        log_file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise TransportError(f"no daemon can be started: its log {log} cannot be written: {exc.strerror}") from None
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", path, "--framing", "lines"]
    try:
        daemon = subprocess.Popen(
            [*command, "--idle-exit-s", str(_IDLE_EXIT_S)],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log_file)
    deadline = time.monotonic() + _START_BOUND_S
    while time.monotonic() < deadline:
        if _listens(path):
            return
        code = daemon.poll()
        if code is not None and code != 4:  # 4: another one was started at the same moment and won
            raise TransportError(f"the daemon ended with code {code} as it started; see {log}")
        time.sleep(0.02)
    raise TransportError(f"the daemon did not listen at {path} within {_START_BOUND_S:.0f} s; see {log}")


def _listens(path: str) -> bool:
    import socket

    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _show_event(frame: dict[str, Any]) -> None:
    """As JSON; to a person at a terminal, as text and progress in one line."""
    if not sys.stderr.isatty():
        click.echo(jsonlib.dumps(frame), err=True)
        return
    event, data = frame["event"], frame.get("data", {})
    if event in ("token", "log"):
        click.echo(data.get("text", ""), err=True, nl=bool(data.get("last")))
    elif event == "progress":
        click.echo(f"\r\033[K{_bar(data)}", err=True, nl=data.get("done") == data.get("total", -1))
    elif event == "status":
        click.echo(click.style(f"{data.get('status', '').replace('_', ' ')} ", dim=True), err=True)


def _bar(data: dict[str, Any]) -> str:
    """Progress of an evaluation or a compilation, as far as it can be told."""
    share = None
    if data.get("total"):
        share = data["done"] / data["total"]
    elif data.get("estimated_rest_s") is not None:
        share = data["elapsed_s"] / max(data["elapsed_s"] + data["estimated_rest_s"], 1e-9)
    bar = "" if share is None else f"[{'#' * round(20 * share):<20}] "
    known = ("done", "total", "score", "best", "evaluations", "lm_calls", "elapsed_s", "estimated_rest_s")
    return bar + "  ".join(f"{name.replace('_', ' ')} {data[name]}" for name in known if data.get(name) is not None)


def _open(given: str | None, private: bool, start: bool) -> Client:
    if private:
        return Client.spawn(on_event=_show_event)
    path = str(Path(given or default_socket()).absolute())  # a daemon is started elsewhere
    if not _listens(path):
        if not start:
            raise TransportError(f"no daemon listens at {path}")
        _start_daemon(path)
    return Client.connect(path, on_event=_show_event)


@click.command("send")
@click.argument("name", metavar="COMMAND")
@click.option("--session", "-s", help="The session it is for (default: the session 'default').")
@click.option("--args", "text", metavar="JSON", help="The arguments as one JSON object; - reads it from stdin.")
@click.option("--arg", "-a", "pairs", metavar="K=V", multiple=True, help="One argument; V may be JSON; a.b=V nests.")
@socket_option
@click.option("--private", is_flag=True, help="Use a daemon of its own, which ends with the command.")
@click.option("--no-start", is_flag=True, help="Fail instead of starting a daemon where none listens.")
@click.option("--timeout", type=float, default=300.0, show_default=True, help="Seconds to wait for the reply.")
def command(
    name: str,
    session: str | None,
    text: str | None,
    pairs: tuple[str, ...],
    path: str | None,
    private: bool,
    no_start: bool,
    timeout: float,
) -> None:
    """Send one command and print its result as JSON.

    Talks to your own daemon; where none listens yet, one is started in the background and leaves
    after ten idle minutes. Events go to stderr. Exit codes: 0 done, 1 the daemon answered with an
    error, 2 wrong usage, 3 no daemon could be talked to.
    """
    args = _parse_args(text, pairs)
    try:
        with _open(path, private, not no_start) as client:
            result = client.call(name, args, session=session, timeout=timeout)
    except CommandFailed as failed:
        click.echo(jsonlib.dumps(failed.error, option=jsonlib.OPT_INDENT_2), err=True)
        sys.exit(COMMAND_ERROR)
    except TransportError as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
    click.echo(jsonlib.dumps(result, option=jsonlib.OPT_INDENT_2))
