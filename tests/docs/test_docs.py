"""The documentation tells the truth: every command in the README runs, every name and link exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.options_page import PAGE as OPTIONS
from tests.docs.options_page import page as options_page
from tests.docs.protocol_page import PAGE, page
from tests.docs.typescript_types import FILE, types_file

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]


def _place(file: Path) -> str:
    return str(file.relative_to(ROOT))


def blocks(text: str) -> list[list[tuple[str, list[str]]]]:
    """Each console block as its commands with the output lines shown under them."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", text, re.S):
        commands: list[tuple[str, list[str]]] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line[2:], []))
            else:
                commands[-1][1].append(line)
        found.append(commands)
    return found


def pattern(lines: list[str]) -> re.Pattern[str]:
    """Shown output as an expression: ``…`` is anything, numbers are any numbers."""
    text = re.escape("\n".join(lines).strip())
    text = re.sub(r"(\\ ){2,}", r"\\s+", text)
    return re.compile(re.sub(r"(\\ )*\d+(\\\.\d+)?(\\ )*", r"\\s*[\\d.]+\\s*", text).replace("…", r"[\s\S]*"))


@pytest.mark.parametrize("block", blocks(README), ids=lambda block: block[0][0][:40])
def test_every_command_of_the_readme_prints_what_it_shows(block: list[tuple[str, list[str]]], folder: Path) -> None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    for tool in ("bridge-cli", "python"):
        (folder / ".venv" / "bin" / tool).symlink_to(Path(sys.executable).parent / tool)
    env = {**os.environ, "DSPY_BRIDGE_SOCKET": str(folder / "readme.sock")}
    for command, shown in block:
        # `make demo` sets up what is set up already while the tests run.
        run = ".venv/bin/bridge-cli demo" if command == "make demo" else command
        done = subprocess.run(
            ["bash", "-c", run], capture_output=True, text=True, timeout=60, env=env, cwd=folder, check=False
        )
        assert done.returncode == 0, done.stderr
        assert pattern(shown).match(done.stdout.strip()), f"{command}\nshows {shown}\nprints {done.stdout}"


def test_every_make_command_of_the_readme_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)`", README)) <= targets


def test_the_protocol_page_is_what_the_code_says() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.docs.protocol_page"


def test_the_page_of_options_is_what_the_code_says() -> None:
    assert OPTIONS.read_text() == options_page(), "run: python -m tests.docs.options_page"


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.S)


@pytest.mark.parametrize("number", range(len(python_blocks("python.md"))))
def test_every_program_of_the_python_page_runs(number: int, folder: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", python_blocks("python.md")[number]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr


GUIDE, *GUIDED = python_blocks("concurrency.md")


@pytest.mark.parametrize("number", range(len(GUIDED)))
def test_every_program_of_the_concurrency_page_runs(number: int, folder: Path) -> None:
    assert GUIDE.startswith("# guide.py")
    (folder / "guide.py").write_text(GUIDE)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "error", "-c", GUIDED[number]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr


def test_the_ported_adapter_of_the_snakepit_page_runs(folder: Path) -> None:
    adapter, program = python_blocks("snakepit.md")
    (folder / "my_tools.py").write_text(adapter)
    env = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr


def test_the_tests_of_the_testing_page_pass(folder: Path) -> None:
    (block,) = python_blocks("testing.md")
    (folder / "test_it.py").write_text(block)
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, "test_it.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert "2 passed" in done.stdout, done.stdout


def test_the_node_clients_types_are_what_the_code_says() -> None:
    assert FILE.read_text() == types_file(), "run: python -m tests.docs.typescript_types"


@pytest.mark.parametrize("file", PAGES, ids=_place)
def test_links_and_named_files_exist(file: Path) -> None:
    text = file.read_text()
    for target in re.findall(r"\]\(((?!http)[^)#]+)", text):
        assert (file.parent / target).exists(), target
    if file.name == "architecture.md":
        for name in re.findall(r"`((?:session_supervisor|dspy_bridge)?/?[a-z_/]+\.py)`", text):
            homes = (
                ROOT / "supervisor",
                ROOT / "bridge",
                ROOT / "supervisor" / "session_supervisor",
                ROOT / "bridge" / "dspy_bridge",
            )
            assert any((home / name).exists() for home in homes), name


@pytest.mark.parametrize("file", PAGES, ids=_place)
def test_pages_name_only_flags_that_exist(file: Path) -> None:
    from dspy_bridge.daemon.options import DaemonOptions

    known = {f"--{name.replace('_', '-')}" for name in DaemonOptions.model_fields}
    known |= {"--no-ready", "--fds", "--socket", "--arg", "--args", "--session", "--private", "--no-start", "--skip"}
    known |= {"--sort", "--interval", "--once", "--trace", "--output"}
    known |= {"--libs", "--strict", "--json", "--help", "--stdio", "--bridge-socket"}
    known |= {"--trust", "--secret", "--timeout"}
    known |= {"--adapter"}  # of Snakepit
    known |= {"--noEmit", "--strict", "--user", "--now"}  # of tools the examples' readers use
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", file.read_text())) <= known


def test_every_public_name_of_dspy_is_accounted_for() -> None:
    from tests.docs import dspy_page

    missing = set(dspy_page.public_names()) - dspy_page.ROWS.keys()
    assert not missing, "docs/dspy.md says nothing of these"
    assert dspy_page.PAGE.read_text() == dspy_page.page()
