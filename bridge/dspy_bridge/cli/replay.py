"""``bridge-cli replay``: a recorded conversation once more, with a fresh daemon."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, Final

import click
from pydantic import ValidationError

from dspy_bridge import jsonlib
from dspy_bridge.cli import serve
from dspy_bridge.cli.send import TRANSPORT_ERROR
from dspy_bridge.client import TransportError
from dspy_bridge.daemon.control import installed_version
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.recording import BadRecording, Recording, read
from dspy_bridge.replay.live import key_variables
from dspy_bridge.replay.player import Player
from dspy_bridge.replay.report import Report, report, versions
from dspy_bridge.replay.stage import Stage, environment, options_for

DIFFERENT: Final = 1
_SECRET: Final = re.compile(r"(\d+)=(\w+)")


def _read(path: Path) -> Recording:
    try:
        return read(path)
    except (BadRecording, OSError) as exc:
        raise click.UsageError(f"{path}: {exc}") from None


def _given(flags: tuple[str, ...]) -> dict[str, Any]:
    """Flags of ``serve`` as it reads them."""
    context = serve.command.make_context("serve", list(flags))
    given = {name: value for name, value in context.params.items() if value is not None}
    where = [name for name in ("fds", "socket", "stdio") if given.pop(name, None)]
    if where:
        raise click.UsageError(f"--{where[0]}: a replay's daemon is where the replay puts it")
    return given


def _secrets(pairs: tuple[str, ...]) -> dict[int, str]:
    secrets = {}
    for pair in pairs:
        found = _SECRET.fullmatch(pair)
        if not found:
            raise click.UsageError(f"--secret wants NUMBER=VARIABLE, such as 1=OPENAI_API_KEY, not {pair!r}")
        if found[2] not in os.environ:
            raise click.UsageError(f"--secret {pair}: the variable {found[2]} is not set")
        secrets[int(found[1])] = os.environ[found[2]]
    return secrets


def _play(recording: Recording, player: Player, given: dict[str, Any], trust: bool) -> Report:
    values, notes = options_for(recording.header.options, given, trusted=trust)
    try:
        options = DaemonOptions.model_validate(values)
    except ValidationError as exc:
        one = exc.errors(include_url=False)[0]
        raise click.UsageError(f"the option {one['loc'][0]} of the recording: {one['msg']}") from None
    if recording.cut_off:
        notes.append("the last line of the recording is cut off and left out")
    if recording.header.stored_sessions:
        notes.append(
            f"the daemon had {recording.header.stored_sessions} stored sessions, which are not in the recording"
        )
    now = {"server_version": installed_version("dspy-bridge"), "dspy_version": installed_version("dspy")}
    notes += versions(recording.header, {**now, "python_version": platform.python_version()})
    kinds = {line.open for line in recording.lines}
    environ = environment(trust, key_variables(player.recorded.exchanges))
    with Stage(options, environ, sockets="client" in kinds, primary="primary" in kinds) as stage:
        player.play(stage)
    return report(player, notes)


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED, metavar="[-- FLAGS OF SERVE]")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--secret", "pairs", multiple=True, metavar="N=VARIABLE", help="<secret N> is what this variable holds.")
@click.option(
    "--trust", is_flag=True, help="Allow the daemon what the recorded one was allowed, and this machine's keys."
)
@click.option("--strict", is_flag=True, help="Exit 1 also if a request could not be compared.")
@click.option(
    "--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait beyond what was waited then."
)
def command(
    file: Path,
    flags: tuple[str, ...],
    as_json: bool,
    pairs: tuple[str, ...],
    trust: bool,
    strict: bool,
    timeout: float,
) -> None:
    """Hold a conversation that `serve --record FILE` wrote down once more, and report what is different.

    A fresh daemon gets the recorded options (flags of serve after -- come on top) and hears what the
    recorded hosts said, in their order; calls to the host are answered as they were. Exit codes: 0 all
    that can be compared is equal, 1 something differs, 2 wrong usage or no recording, 3 the daemon failed.
    """
    recording = _read(file)
    player = Player(recording, _secrets(pairs), timeout)
    try:
        found = _play(recording, player, _given(flags), trust)
    except TransportError as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
    if as_json:
        click.echo(jsonlib.dumps(found.as_json(), option=jsonlib.OPT_INDENT_2))
    else:
        for line in found.lines():
            click.echo(line)
    sys.exit(DIFFERENT if found.different or (strict and found.apart) else 0)
