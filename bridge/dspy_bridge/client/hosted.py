"""Python functions lent to programs: as tools, as metrics, as models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from dspy_bridge import jsonlib
from dspy_bridge.functions import checked, description_of, name_of, schema_of


@dataclass(frozen=True, slots=True)
class HostedTool:
    """One function as the daemon is told of it, and as it is called: with arguments of its annotated types."""

    name: str
    spec: dict[str, Any]
    work: Callable[..., Any]


def describe_tool(function: Callable[..., Any]) -> HostedTool:
    """A tool made of a function's name, docstring and annotations. Raises ``TypeError``."""
    name = name_of(function)
    if name == "<lambda>":
        raise TypeError("a tool needs a name: use def, or give {'name': ..., 'call': ...}")
    spec = {"name": name, "description": description_of(function), "args": schema_of(function), "host": True}
    return HostedTool(name, spec, checked(function))


def read_lm(given: Any) -> tuple[Any, Callable[..., Any] | None]:
    """A model as the wire takes it, and the function that serves it where it is one of this host."""
    if isinstance(given, str):
        return {"model": given}, None
    if callable(given):
        return {"model": f"host/{getattr(given, '__name__', 'python').strip('<>')}"}, given
    return given, None


def to_jsonable(value: Any) -> Any:
    """What a hosted function gave, as JSON-able data: pydantic models, dataclasses and dates too."""
    try:
        return jsonlib.loads(jsonlib.dumps(value))
    except TypeError:
        return TypeAdapter(Any).dump_python(value, mode="json", fallback=str)
