"""JSON to be kept: ``jsonlib.dumps`` returns its 4 KiB buffer however little is in it."""

from __future__ import annotations

from typing import Any

from dspy_bridge import jsonlib


def dumps(value: Any) -> bytes:
    """As ``jsonlib.dumps``, in no more memory than the text needs."""
    return memoryview(jsonlib.dumps(value)).tobytes()
