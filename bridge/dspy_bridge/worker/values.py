"""From Python values to JSON, with a defined form for everything a program may return.

==========================  ====================================================================
NaN, infinities             ``{"$float": "NaN" | "Infinity" | "-Infinity"}``
bytes                       ``{"$bytes": "<base64>"}``
integers beyond 64 bits     ``{"$int": "123..."}``
complex                     ``{"$complex": [real, imaginary]}``
dates, times                ISO 8601 text; timedelta likewise (``P1DT2S``)
Decimal, UUID, Path         text
Enum                        its value
tuple, set, frozenset       array (sets sorted where their items can be)
dataclass, NamedTuple,      object
pydantic model
``dspy.Image`` and its kin  ``{"$type": "Image", ...fields}``
==========================  ====================================================================

Nothing is dropped or turned into a ``repr``: what has no form raises ``unserializable_result`` with
its path and type.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import math
import pathlib
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Final

from dspy.adapters.types.base_type import Type as DSPyType
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from dspy_bridge.protocol.errors import BridgeError

MAX_DEPTH: Final = 200
_INT64: Final = range(-(2**63), 2**63)
_TEXT: Final = (decimal.Decimal, uuid.UUID, pathlib.PurePath)
_TIMES: Final = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta)


def to_json(value: Any, path: str = "result") -> Any:
    """``value`` as JSON-able data. Raises ``unserializable_result``."""
    return _convert(value, path, 0)


def _convert(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _text(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value in _INT64 else {"$int": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {"$float": _float_name(value)}
    if depth > MAX_DEPTH:
        raise _refuse(value, path, f"it is nested deeper than {MAX_DEPTH} levels or contains itself")
    if kind is list or kind is tuple:
        return [_convert(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if kind is dict:
        return _object(value, path, depth)
    return _convert_other(value, path, depth)


def _convert_other(value: Any, path: str, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return _convert(value.value, path, depth + 1)
    if isinstance(value, DSPyType):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {"$type": type(value).__name__, **_object(fields, path, depth)}
    if isinstance(value, BaseModel):
        return _object({name: getattr(value, name) for name in type(value).model_fields}, path, depth)
    if isinstance(value, _TIMES):
        return to_jsonable_python(value)
    if isinstance(value, _TEXT):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, complex):
        parts = (value.real, value.imag)
        return {"$complex": [_convert(part, path, depth + 1) for part in parts]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _object(fields, path, depth)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _object(value._asdict(), path, depth)
    if isinstance(value, (set, frozenset)):
        return _convert(_ordered(value), path, depth + 1)
    # Subclasses of the plain types lose only their class.
    plain: Any
    for plain in (str, int, float, list, tuple):
        if isinstance(value, plain):
            return _convert(plain(value), path, depth + 1)
    if isinstance(value, Mapping):
        return _object(value, path, depth)
    to_dict = getattr(value, "toDict", None)  # dspy.Example and dspy.Prediction
    if callable(to_dict):
        return _convert(to_dict(), path, depth + 1)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        return _convert(value.tolist(), path, depth + 1)
    raise _refuse(value, path, "it has no JSON form")


def _object(value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for key, item in value.items():
        name = _text(key) if isinstance(key, str) else _key(key, path)
        if name in converted:
            raise _refuse(value, path, f"two of its keys read {name!r} as text")
        converted[name] = _convert(item, f"{path}.{name}", depth + 1)
    return converted


def _key(key: Any, path: str) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if key is None or isinstance(key, (bool, int, float, str, *_TEXT, *_TIMES)):
        return str(to_jsonable_python(key)) if isinstance(key, _TIMES) else str(key)
    raise _refuse(key, path, "as a key it has no text form")


def _ordered(value: set[Any] | frozenset[Any]) -> list[Any]:
    try:
        return sorted(value)
    except TypeError:
        return list(value)


def _text(value: str) -> str:
    """Lone surrogates, which JSON text cannot carry, become their escapes."""
    if value.isascii():
        return str(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace").decode()
    return str(value)


def _float_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _refuse(value: Any, path: str, why: str) -> BridgeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    path = path if len(path) <= 300 else f"{path[:150]}...{path[-150:]}"
    details = {"path": path, "type": kind}
    return BridgeError("unserializable_result", f"{path} is a {kind}: {why}", details=details)


def from_tagged(value: Any) -> Any:
    """The inverse for tagged forms a host sends back: ``$float``, ``$bytes``, ``$int``, ``$complex``.

    Anything else is returned as it is; whether it fits is for the declared type to say.
    """
    if isinstance(value, list):
        return [from_tagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        try:
            if tag == "$float" and inner in ("NaN", "Infinity", "-Infinity"):
                return float(inner)
            if tag == "$bytes":
                return base64.b64decode(inner, validate=True)
            if tag == "$int":
                return int(inner)
            if tag == "$complex":
                return complex(*(from_tagged(part) for part in inner))
        except (TypeError, ValueError):
            return value
    return {name: from_tagged(item) for name, item in value.items()}
