"""What :mod:`.jsonlib` needs of orjson, from the standard library: slower, and the same otherwise."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import uuid
from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

__all__ = ["OPT_INDENT_2", "OPT_NON_STR_KEYS", "Fragment", "JSONDecodeError", "dumps", "loads"]

OPT_INDENT_2 = 1
OPT_NON_STR_KEYS = 4
_WORDS = range(-(2**63), 2**64)
"""Beyond these, orjson reads a number as floating point."""


class Fragment:
    """JSON that is JSON already."""

    def __init__(self, contents: bytes | str) -> None:
        self.contents = contents


def dumps(value: Any, /, default: Callable[[Any], Any] | None = None, option: int | None = None) -> bytes:
    """Compact UTF-8. Raises ``TypeError``. NaN and infinities become null."""

    def other(one: Any) -> Any:
        known = _known(one)
        if known is not one:
            return known
        if default is None:
            raise TypeError(f"Type is not JSON serializable: {type(one).__name__}")
        return default(one)

    style: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "default": other}
    style |= {"indent": 2} if (option or 0) & OPT_INDENT_2 else {"separators": (",", ":")}
    try:
        try:
            return json.dumps(value, **style).encode()
        except ValueError as exc:
            if isinstance(exc, UnicodeError) or "ircular" in str(exc):
                raise
            return json.dumps(_finite(value), **style).encode()
    except (ValueError, RecursionError) as exc:
        raise TypeError(str(exc)) from None


def loads(data: bytes | bytearray | memoryview | str, /) -> Any:
    """Raises :class:`JSONDecodeError`."""
    try:
        text = data if isinstance(data, str) else bytes(data).decode()
        return json.loads(text, parse_constant=_refuse, parse_int=_read_int)
    except UnicodeDecodeError as exc:
        raise JSONDecodeError(str(exc), "", 0) from None
    except RecursionError:
        raise JSONDecodeError("Recursion limit reached", "", 0) from None


def _read_int(digits: str) -> int | float:
    number = int(digits) if len(digits) <= 20 else 0
    return number if number in _WORDS and len(digits) <= 20 else float(digits)


def _refuse(name: str) -> Any:
    raise JSONDecodeError(f"{name} is no JSON", name, 0)


def _known(value: Any) -> Any:
    if isinstance(value, Fragment):
        return json.loads(value.contents)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
