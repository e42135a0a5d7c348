"""What is known of libraries and threads: one table, ``libraries.json``, with its sources."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Library:
    """``verdict``: ``safe``, ``conditional`` or ``unsafe``; ``pattern``: how to use it in threads all the same."""

    name: str
    verdict: str
    why: str
    pattern: str
    source: str
    checked: str


@cache
def table() -> Mapping[str, Library]:
    """Every row, by the name it is imported by."""
    rows = json.loads(resources.files("dspy_bridge").joinpath("libraries.json").read_text())["libraries"]
    return {row["name"]: Library(**row) for row in rows}


def used_by(module: ModuleType) -> list[Library]:
    """The libraries of the table a module has imported something of."""
    tops = {_top(value) for value in vars(module).values()}
    return [row for name, row in table().items() if name in tops]


def _top(value: Any) -> str:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""
