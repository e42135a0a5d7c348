"""What tests of hardening need of the machine, and the flags of a daemon that takes every measure."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from session_supervisor.hardening import MEASURES, Hardening, HardeningUnavailable
from tests.support.open_python import open_python

EVERYTHING: Final = ",".join(MEASURES)
IDS: Final = 50
_ranges = itertools.count()


def own_ids(count: int = IDS) -> range:
    """A range that no other test, here or in another run on this machine, uses meanwhile."""
    first = 1_000_000_000 + os.getpid() % 100_000 * 30_000 + next(_ranges) * 200
    return range(first, first + count)


def flags(python: str, measures: str = EVERYTHING, ids: range | None = None) -> list[str]:
    """For a daemon whose sessions run ``python``, if they have ids of their own."""
    if "own-uid" not in measures:
        return ["--harden", measures]
    ids = ids or own_ids()
    return ["--harden", measures, "--uid-range", f"{ids[0]}-{ids[-1]}", "--python", python]


def interpreter(folder: Path) -> str:
    """One that sessions with ids of their own can use, made in ``folder`` if need be; without root the test is
    skipped."""
    if os.geteuid() != 0:
        pytest.skip("ids of their own for sessions need root")
    return open_python(folder)


@functools.cache
def unavailable(measures: str) -> str:
    """Why this machine cannot give them; empty if it can."""
    wanted = frozenset(measures.split(","))
    if "own-uid" in wanted and os.geteuid() != 0:
        return "own-uid needs root"
    folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    try:
        with_ids = "own-uid" in wanted
        python = interpreter(folder) if with_ids else sys.executable
        Hardening(wanted, own_ids() if with_ids else range(0)).check(python)
    except HardeningUnavailable as exc:
        return str(exc)
    finally:
        shutil.rmtree(folder)
    return ""


def need(measures: str = EVERYTHING) -> None:
    """Skip the test where the measures cannot be had."""
    reason = unavailable(measures)
    if reason:
        pytest.skip(reason)
