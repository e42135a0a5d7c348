"""Writes ``docs/options.md`` from the model of options: ``python -m tests.docs.options_page``. A test keeps it true."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dspy_bridge.daemon.configuration import environment_name
from dspy_bridge.daemon.options import DaemonOptions

PAGE: Final = Path(__file__).parents[2] / "docs" / "options.md"

_HEAD: Final = """# Options of a daemon

*This page is made from the code (`python -m tests.docs.options_page`); a test keeps it true.*

Each is a flag of `bridge-cli serve`, a key of `bridge.toml` and a variable of the environment
([operate.md](operate.md) says which wins). One that is on or off has a negative, such as `--no-ready`. A change of it takes a
reload (SIGHUP) or a restart of the daemon.

| flag | values | default | variable | change | |
|---|---|---|---|---|---|
"""
_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most"}


def _values(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind))
    words = {bool: "on or off", int: "integer", float: "number", str: "text"}[kind]
    bounds = [
        f"{word} {getattr(rule, name)}"
        for rule in field.metadata
        for name, word in _BOUNDS.items()
        if hasattr(rule, name)
    ]
    return " ".join([words, " and ".join(bounds)]).strip()


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{value}`" if value != "" else "none"


def page() -> str:
    rows = (
        f"| `--{name.replace('_', '-')}` | {_values(field)} | {_default(field.default)} | `{environment_name(name)}` "
        f"| {DaemonOptions.change(name)} | {field.description} |"
        for name, field in DaemonOptions.model_fields.items()
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
