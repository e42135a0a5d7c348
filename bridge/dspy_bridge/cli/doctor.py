"""``bridge-cli doctor``: what would stop the bridge from working on this machine, and what to do."""

from __future__ import annotations

import importlib.util
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import click

from dspy_bridge import jsonlib
from dspy_bridge.client import Client, CommandFailed, TransportError
from dspy_bridge.libraries import table
from session_supervisor.confinement import NO_NEW_PRIVS, OWN_UID, READ_ONLY
from session_supervisor.hardening import MEASURES, Hardening, HardeningUnavailable, accounts
from session_supervisor.os_facts import IS_LINUX, gil_enabled

_MIN_PYTHON: Final = (3, 10)
_MIN_DESCRIPTORS: Final = 1_024
_MIN_PROCESSES: Final = 256
_MIN_SCRATCH: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. ``verdict``: ok, warning (works, with a limit) or problem. ``remedy``: what to do."""

    check: str
    verdict: str
    found: str
    remedy: str = ""


def _python() -> Finding:
    found = sys.version.split()[0]
    if sys.version_info < _MIN_PYTHON:
        return Finding("Python", "problem", found, "install Python 3.10 or newer")
    threads = "threads take turns (GIL)" if gil_enabled() else "free-threaded"
    return Finding("Python", "ok", f"{found} at {sys.executable}, {threads}")


def _dspy() -> Finding:
    try:
        found = version("dspy")
    except PackageNotFoundError:
        return Finding("DSPy", "problem", "not installed", "pip install 'dspy>=3.4,<4'")
    if tuple(int(part) for part in found.split(".")[:2]) < (3, 4):
        return Finding("DSPy", "problem", found, "pip install --upgrade 'dspy>=3.4,<4'")
    return Finding("DSPy", "ok", found)


def _launcher() -> Finding:
    if IS_LINUX:
        return Finding("launcher", "ok", "fork (interpreters in milliseconds)")
    remedy = "run on Linux for fast starts; --launcher spawn works here"
    return Finding("launcher", "warning", "spawn (an import of DSPy per interpreter)", remedy)


def _descriptors() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _MIN_DESCRIPTORS:
        return Finding(
            "open files", "warning", f"limit {hard}", f"ulimit -n {_MIN_DESCRIPTORS}; a live session takes two"
        )
    return Finding("open files", "ok", f"limit {'none' if hard == resource.RLIM_INFINITY else hard}")


def _processes() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and soft < _MIN_PROCESSES:
        return Finding("processes", "warning", f"limit {soft}", f"ulimit -u {_MIN_PROCESSES}; a live session takes one")
    return Finding("processes", "ok", f"limit {'none' if soft == resource.RLIM_INFINITY else soft}")


def _scratch() -> Finding:
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryDirectory() as made:
            (Path(made) / "probe").write_bytes(b"x")
    except OSError as exc:
        return Finding("scratch folder", "problem", str(exc), "set TMPDIR to a folder that can be written")
    free = shutil.disk_usage(folder).free
    if free < _MIN_SCRATCH:
        return Finding("scratch folder", "warning", f"{free >> 20} MiB free in {folder}", "free space, or set TMPDIR")
    return Finding("scratch folder", "ok", f"{folder}, {free >> 20} MiB free")


def _socket() -> Finding:
    with tempfile.TemporaryDirectory() as made, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(os.path.join(made, "probe.sock"))
        except OSError as exc:
            return Finding("Unix sockets", "warning", str(exc), "use stdio or --fds instead of --socket")
    return Finding("Unix sockets", "ok", "can be made")


def _hardening() -> list[Finding]:
    """Each measure of ``--harden``, tried on for real."""
    return [_measure(measure) for measure in MEASURES]


def _measure(measure: str) -> Finding:
    name = f"--harden {measure}"
    # Root's own sessions cannot be shut in; those it gives an id can.
    with_id = measure == OWN_UID or (measure != NO_NEW_PRIVS and os.geteuid() == 0)
    wanted = frozenset({measure, OWN_UID, READ_ONLY} if with_id else {measure})
    try:
        Hardening(wanted, _unused_ids() if with_id else range(0)).check(packages=("dspy", "dspy_bridge"))
    except HardeningUnavailable as exc:
        return Finding(name, "warning", exc.reason, exc.remedy)
    with_what = ", ".join(sorted(wanted - {measure}))
    return Finding(name, "ok", f"can be had, with {with_what} and --uid-range" if with_id else "can be had")


def _unused_ids() -> range:
    """One that is nobody's, to try it on."""
    first = max((ids.stop for _, ids in accounts() if ids.stop < 2**31), default=0)
    return range(max(200_000, first), max(200_000, first) + 1)


def _fork_safety() -> Finding:
    """The real thing: a daemon, whose template proves itself virgin, and one session's whole way."""
    try:
        with Client.spawn() as client:
            client.call("start_session", {"lm": {"model": "scripted"}}, session="doctor")
            client.call("create_program", {"id": "p", "signature": "question -> answer"}, session="doctor")
            inputs = {"program_id": "p", "inputs": {"question": "well?"}}
            client.call("execute_program", inputs, session="doctor")
    except (TransportError, CommandFailed, OSError) as exc:
        return Finding("a session's whole way", "problem", str(exc), "see the message; bridge-cli serve shows more")
    return Finding("a session's whole way", "ok", "started, forked, ran a program, ended")


def _tell_libraries(as_json: bool) -> None:
    installed = [row for row in table().values() if importlib.util.find_spec(row.name) is not None]
    if as_json:
        click.echo(jsonlib.dumps([asdict(row) for row in installed], option=jsonlib.OPT_INDENT_2))
        return
    colours = {"safe": "green", "conditional": "yellow", "unsafe": "red"}
    for row in installed:
        click.echo(f"{click.style(f'{row.verdict:<12}', fg=colours[row.verdict])} {row.name:<12} {row.why}")
        click.echo(f"{'':<25} -> {row.pattern} ({row.source}, {row.checked})")


CHECKS: Final[tuple[Callable[[], Finding | list[Finding]], ...]] = (
    _python,
    _dspy,
    _launcher,
    _descriptors,
    _processes,
    _scratch,
    _socket,
    _hardening,
    _fork_safety,
)


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--libs", is_flag=True, help="Say instead which installed libraries can be used in threaded sessions.")
def command(as_json: bool, libs: bool) -> None:
    """Check what would stop the bridge from working here. Exits 1 if there is a problem."""
    if libs:
        _tell_libraries(as_json)
        return
    checked = [check() for check in CHECKS]
    findings = [one for found in checked for one in (found if isinstance(found, list) else [found])]
    if as_json:
        click.echo(jsonlib.dumps([asdict(finding) for finding in findings], option=jsonlib.OPT_INDENT_2))
    else:
        colours = {"ok": "green", "warning": "yellow", "problem": "red"}
        for finding in findings:
            verdict = click.style(f"{finding.verdict:<8}", fg=colours[finding.verdict])
            click.echo(f"{verdict} {finding.check:<22} {finding.found}")
            if finding.remedy:
                click.echo(f"         {'':<22} -> {finding.remedy}")
    raise SystemExit(1 if any(finding.verdict == "problem" for finding in findings) else 0)
