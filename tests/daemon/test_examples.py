"""The example hosts, run by their own runtimes where those are installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
CLI = str(Path(sys.executable).parent / "bridge-cli")


def run(runtime: str, file: str) -> str:
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} is not installed: examples/{file} is NOT tested")
    command = [runtime, str(EXAMPLES / file), CLI]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_host_in_node() -> None:
    assert run("node", "hello.mjs").splitlines() == ["Hello, Node.", "program_not_found", "exit 0"]


def test_a_host_in_elixir() -> None:
    assert run("elixir", "hello.exs").splitlines() == ["Hello, Elixir."]


def test_a_node_host_lends_its_model_and_tools_and_cancels_an_optimizer() -> None:
    assert run("node", "agent.mjs").splitlines() == [
        "the agent answers 4850000",
        "while compiling, the best score went 0 -> 100; then: cancelled",
        "the best so far was kept, and answers CHERRY",
    ]
