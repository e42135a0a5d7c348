"""``bridge-cli config``: which options a daemon started here would have, and where each is from."""

from __future__ import annotations

import sys

import click

from dspy_bridge import jsonlib
from dspy_bridge.daemon.configuration import BadConfiguration, environment_name, hyphenated, resolve, user_file
from dspy_bridge.daemon.options import DaemonOptions


@click.group("config")
def command() -> None:
    """Look at the configuration."""


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
def show(as_json: bool, everything: bool) -> None:
    """Every option that is set, its value, and the layer it came from.

    Later layers win: defaults, the user's file, the project's bridge.toml (or [tool.dspy-bridge] of its
    pyproject.toml), DSPY_BRIDGE_* variables, and flags of `serve`.
    """
    try:
        resolved = resolve({})
    except BadConfiguration as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(2)
    rows = [
        {"option": name, "value": value, "from": resolved.origin(name)}
        for name, value in resolved.options
        if everything or as_json or resolved.origin(name) != "default"
    ]
    if as_json:
        click.echo(jsonlib.dumps(rows, option=jsonlib.OPT_INDENT_2))
        return
    for row in rows:
        click.echo(f"{hyphenated(str(row['option'])):<24} {_as_in_a_file(row['value']):<24} {row['from']}")
    if not rows:
        click.echo(f"every option has its default; set some in {user_file()}, bridge.toml or the environment")


def _as_in_a_file(value: object) -> str:
    """As TOML has it: for these kinds of values, as JSON does."""
    return jsonlib.dumps(value).decode()


@command.command("options")
def options() -> None:
    """Every option, with its default and meaning.

    And its variable, and what a change of it takes: a reload (SIGHUP) or a restart.
    """
    for name, field in DaemonOptions.model_fields.items():
        facts = f"default {_as_in_a_file(field.default)}, {environment_name(name)}, {DaemonOptions.change(name)}"
        click.echo(f"--{hyphenated(name)}  ({facts})")
        click.echo(f"    {field.description}")
