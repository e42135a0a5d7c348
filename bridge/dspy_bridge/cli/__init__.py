"""``bridge-cli``: the command line. Each command lives in a module of its own, imported when it runs."""

from __future__ import annotations

import gc
import importlib
from typing import Any, Final

import click

_COMMANDS: Final = {
    "serve": "Run the daemon: on stdin and stdout, on given descriptors, or on a socket.",
    "replay": "Hold a recorded conversation once more, and report what is different.",
    "send": "Send one command to a daemon and print its result.",
    "demo": "Show two isolated sessions side by side, and a crash only one of them notices.",
    "doctor": "Check what would stop the bridge from working on this machine.",
    "config": "Show every option, its value, and where that is from.",
    "health": "Ask a daemon how it is; the exit code is for probes.",
    "metrics": "Print a daemon's figures as Prometheus reads them.",
    "top": "Watch a daemon live: its workers, its requests and its sessions.",
    "report": "Write what happened in a daemon as one HTML page.",
    "schema": "Print the JSON Schemas of the protocol.",
    "verify-isolation": "Set everything global in one session, read it in another; print a table.",
}


class _LazyGroup(click.Group):
    """Keeps start-up fast: ``send`` must not pay for what ``serve`` imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        gc.disable()  # what is imported stays; to look through it again and again would take a tenth of the time
        try:
            module = importlib.import_module(f"dspy_bridge.cli.{cmd_name.replace('-', '_')}")
        finally:
            gc.enable()
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dspy-bridge")
def main(**_: Any) -> None:
    """Use DSPy safely from any runtime: one fresh, isolated interpreter per session."""
