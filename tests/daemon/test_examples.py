"""The example hosts, run by their own runtimes where those are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
CLI = str(Path(sys.executable).parent / "bridge-cli")

TOUR = """\
ready: protocol 1
created: qa
answer: Paris
streamed: Paris
tool: 5
error: program_not_found
cancel: cancelled
timeout: timeout
closed: 0
killed: gone
"""
README = (EXAMPLES / "README.md").read_text()
CLIENTS: Mapping[str, tuple[str, str]] = {
    "node": ("node", ""),
    "elixir": ("elixir", ""),
    "go": ("go", ""),
    "ruby": ("ruby", "RUBYOPT=-w "),
    "shell": ("bash", ""),
}
"""What each needs, and how it is made stricter than the README shows it."""


def shown(language: str) -> str:
    """The README's command, with the bridge-cli of these tests."""
    (command,) = re.findall(rf"`([^`]*examples/{language}\b[^`]*bridge-cli[^`]*)`", README)
    return CLIENTS[language][1] + str(command).replace(".venv/bin/bridge-cli", os.path.relpath(CLI, ROOT))


def need(program: str, what: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: {what} is NOT tested")


def run(command: tuple[str, ...], folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
        env=dict(environ),
    )
    if "needs a JSON library" in done.stderr:
        pytest.skip(f"this Elixir has no JSON library: {folder.name} is NOT tested")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(150)
@pytest.mark.parametrize("language", CLIENTS)
def test_every_client_goes_the_same_way(language: str, folder: Path) -> None:
    need(CLIENTS[language][0], f"examples/{language}")
    if language == "shell":
        need("jq", "examples/shell")
    go = {"GOCACHE": str(folder / "go"), "GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local"} if language == "go" else {}
    assert run(("bash", "-c", shown(language)), ROOT, {**os.environ, **go}) == TOUR


def test_the_readme_of_the_examples_shows_what_they_print() -> None:
    assert TOUR in README


def test_the_node_clients_types_hold(folder: Path) -> None:
    need("tsc", "examples/node/types.mts")
    options = ("--noEmit", "--strict", "--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext")
    run(("tsc", *options, "types.mts"), EXAMPLES / "node")


@pytest.mark.parametrize(
    ("runtime", "file", "lines"),
    [
        ("node", "hello.mjs", ["Hello, Node.", "program_not_found", "exit 0"]),
        ("elixir", "hello.exs", ["Hello, Elixir."]),
        (
            "node",
            "agent.mjs",
            [
                "the agent answers 4850000",
                "while compiling, the best score went 0 -> 100; then: cancelled",
                "the best so far was kept, and answers CHERRY",
            ],
        ),
    ],
)
def test_smaller_and_larger_hosts(runtime: str, file: str, lines: list[str]) -> None:
    need(runtime, f"examples/{file}")
    assert run((runtime, file, CLI), EXAMPLES).splitlines() == lines
