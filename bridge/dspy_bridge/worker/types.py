"""From a host's description of a type to a Python type, by an allow-list and never by evaluation.

A description is a word of Python typing (``list[str]``, ``Literal["a", "b"]``, ``int | None``), a
word other runtimes use (``string``, ``integer``, ``array`` ...), or a JSON Schema object. Text is
parsed, and only the few shapes below are understood in it; nothing in it is imported or run.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import difflib
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, Optional, Union

import dspy
from pydantic import Field, TypeAdapter, create_model

from dspy_bridge.protocol.errors import BridgeError

MAX_TEXT: Final = 4_000
MAX_DEPTH: Final = 32

_NAMES: Final[Mapping[str, Any]] = {
    "str": str,
    "string": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "boolean": bool,
    "list": list[Any],
    "array": list[Any],
    "dict": dict[str, Any],
    "object": dict[str, Any],
    "map": dict[str, Any],
    "atom": str,
    "tuple": tuple[Any, ...],
    "set": set[Any],
    "any": Any,
    "none": None,
    "null": None,
    "bytes": bytes,
    "datetime": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "decimal": decimal.Decimal,
}
_GENERICS: Final[Mapping[str, Any]] = {"list": list, "array": list, "dict": dict, "object": dict, "set": set}


def _experimental(name: str) -> Any:
    import dspy.experimental

    return getattr(dspy.experimental, name)


_DSPY: Final[Mapping[str, Callable[[], Any]]] = {
    "Image": lambda: dspy.Image,
    "Audio": lambda: dspy.Audio,
    "File": lambda: dspy.File,
    "History": lambda: dspy.History,
    "Code": lambda: dspy.Code,
    "Reasoning": lambda: dspy.Reasoning,
    "ToolCalls": lambda: dspy.ToolCalls,
    "Document": lambda: _experimental("Document"),
    "Citations": lambda: _experimental("Citations"),
}


def bad(path: str, reason: str) -> BridgeError:
    """The ``invalid_args`` for one place in a description."""
    return BridgeError("invalid_args", f"{path}: {reason}", details={"errors": [{"path": path, "reason": reason}]})


def parse_type(description: Any, *, path: str = "type", named: Mapping[str, Any] | None = None) -> Any:
    """The Python type for ``description``. ``named``: types a session has given names.

    Raises ``invalid_args`` with ``path`` and, for an unknown name, the nearest known one.
    """
    if isinstance(description, str):
        return _from_text(description, path, named or {})
    if isinstance(description, Mapping):
        return _Schema(description, path, named or {}).build()
    raise bad(path, "a type is a word such as str or list[str], or a JSON Schema object")


# -- text ----------------------------------------------------------------------------------------


def _from_text(text: str, path: str, named: Mapping[str, Any]) -> Any:
    if len(text) > MAX_TEXT:
        raise bad(path, f"a type is at most {MAX_TEXT} characters long")
    # Checked before parsing: Python's parser itself gives up on deep nesting, less clearly.
    if text.count("[") > MAX_DEPTH or text.count("(") > MAX_DEPTH or text.count("|") > 4 * MAX_DEPTH:
        raise bad(path, f"a type is nested at most {MAX_DEPTH} levels deep")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise bad(path, f"{text[:80]!r} is not a type") from None
    return _from_node(tree, path, named)


def _from_node(node: ast.expr, path: str, named: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        sides = (_from_node(node.left, path, named), _from_node(node.right, path, named))
        return Union[sides]  # noqa: UP007 - made at run time
    if isinstance(node, ast.Subscript):
        return _from_subscript(node, path, named)
    name = _dotted(node)
    if name is None:
        raise bad(path, f"{ast.unparse(node)[:80]!r} is not a type")
    if name in named:
        return named[name]
    bare = name.removeprefix("typing.").removeprefix("datetime.").removeprefix("decimal.")
    if bare.lower() in _NAMES:
        return _NAMES[bare.lower()]
    special = bare.removeprefix("dspy.").removeprefix("experimental.")
    if special in _DSPY:
        return _DSPY[special]()
    near = difflib.get_close_matches(bare, [*_NAMES, *_DSPY, *named], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise bad(path, f"there is no type {name[:80]!r}{hint}")


def _from_subscript(node: ast.Subscript, path: str, named: Mapping[str, Any]) -> Any:
    name = (_dotted(node.value) or "").removeprefix("typing.")
    items = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        return _literal([_constant(item, path) for item in items], path)
    if name.removeprefix("dspy.") == "Code":
        return dspy.Code[str(_constant(items[0], path))]
    lowered = name.lower()
    if lowered == "tuple" and len(items) == 2 and isinstance(items[1], ast.Constant) and items[1].value is ...:
        return tuple.__class_getitem__((_from_node(items[0], path, named), ...))
    arguments = tuple(_from_node(item, path, named) for item in items)
    if lowered == "optional" and len(arguments) == 1:
        return Optional[arguments[0]]  # noqa: UP045 - made at run time
    if lowered == "union":
        return Union[arguments]  # noqa: UP007
    if lowered == "tuple":
        return tuple.__class_getitem__(arguments)
    generic = _GENERICS.get(lowered)
    wanted = 2 if generic is dict else 1
    if generic is None or len(arguments) != wanted:
        raise bad(path, f"{ast.unparse(node)[:80]!r} is not a type")
    return generic[arguments if wanted == 2 else arguments[0]]


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return None if base is None else f"{base}.{node.attr}"
    return None


def _constant(node: ast.expr, path: str) -> Any:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, bool, type(None))):
        return node.value
    raise bad(path, f"Literal takes texts, integers, booleans and None, not {ast.unparse(node)[:80]!r}")


def _literal(values: list[Any], path: str) -> Any:
    if not values:
        raise bad(path, "there must be at least one allowed value")
    for value in values:
        if not isinstance(value, (str, int, bool, type(None))):
            raise bad(path, "allowed values are texts, integers, booleans and null")
    return Literal[tuple(values)]


# -- JSON Schema -----------------------------------------------------------------------------------

_ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "deprecated"}
)
_CONSTRAINTS: Final[Mapping[str, str]] = {
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
}
_FORMATS: Final[Mapping[str, Any]] = {
    "date-time": datetime.datetime,
    "date": datetime.date,
    "time": datetime.time,
    "byte": bytes,
}
_STRUCTURE: Final = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "items", "prefixItems", "properties", "required"}
    | {"additionalProperties", "nullable", "format", "$ref"}
)


class _Schema:
    """One JSON Schema being turned into a type. Raises ``invalid_args`` for what it cannot honour."""

    def __init__(self, schema: Mapping[str, Any], path: str, named: Mapping[str, Any]) -> None:
        self._root = schema
        self._path = path
        self._named = named
        self._following: list[str] = []

    def build(self) -> Any:
        built = self._type(self._root, self._path, 0)
        try:
            TypeAdapter(built)
        except Exception as exc:  # noqa: BLE001 - pydantic has many ways to say that limits do not fit a type
            raise bad(self._path, str(exc).partition("\n")[0]) from None
        return built

    def _type(self, schema: Any, path: str, depth: int) -> Any:
        if schema is True or schema == {}:
            return Any
        if isinstance(schema, str):  # a word where a schema may stand: {"tags": "list[str]"}
            return _from_text(schema, path, self._named)
        if not isinstance(schema, Mapping):
            raise bad(path, "a schema is an object")
        if depth > MAX_DEPTH:
            raise bad(path, f"a schema is nested at most {MAX_DEPTH} levels deep")
        unknown = sorted(schema.keys() - _ANNOTATIONS - _CONSTRAINTS.keys() - _STRUCTURE)
        if unknown:
            raise bad(f"{path}.{unknown[0]}", "this keyword of JSON Schema is not supported")
        built = self._unconstrained(schema, path, depth)
        limits = {_CONSTRAINTS[word]: schema[word] for word in _CONSTRAINTS.keys() & schema.keys()}
        if limits:
            try:
                built = Annotated[built, Field(**limits)]
            except (TypeError, ValueError) as exc:
                raise bad(path, str(exc)) from None
        return Optional[built] if schema.get("nullable") is True else built  # noqa: UP045

    def _unconstrained(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if "$ref" in schema:
            return self._follow(schema["$ref"], path, depth)
        if "const" in schema:
            return _literal([schema["const"]], path)
        if "enum" in schema:
            if not isinstance(schema["enum"], list):
                raise bad(f"{path}.enum", "must be an array")
            return _literal(schema["enum"], f"{path}.enum")
        for word in ("anyOf", "oneOf"):
            if word in schema:
                choices = schema[word]
                if not isinstance(choices, list) or not choices:
                    raise bad(f"{path}.{word}", "must be a non-empty array")
                members = [self._type(one, f"{path}.{word}[{i}]", depth + 1) for i, one in enumerate(choices)]
                return Union[tuple(members)]  # noqa: UP007
        kind = schema.get("type", "object" if "properties" in schema else "any")
        if isinstance(kind, list):
            if not kind:
                raise bad(f"{path}.type", "must name at least one type")
            return Union[tuple(self._unconstrained({**schema, "type": one}, path, depth) for one in kind)]  # noqa: UP007
        if kind == "array":
            return self._array(schema, path, depth)
        if kind == "object":
            return self._object(schema, path, depth)
        if kind == "string" and schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        if not isinstance(kind, str):
            raise bad(f"{path}.type", "must be a word or an array of words")
        return _from_text(kind, f"{path}.type", self._named)

    def _array(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        if "prefixItems" in schema:
            items = [
                self._type(one, f"{path}.prefixItems[{i}]", depth + 1) for i, one in enumerate(schema["prefixItems"])
            ]
            return tuple.__class_getitem__(tuple(items))
        return list[self._type(schema.get("items", True), f"{path}.items", depth + 1)]  # type: ignore[misc]

    def _object(self, schema: Mapping[str, Any], path: str, depth: int) -> Any:
        properties = schema.get("properties")
        if properties is None:
            extra = schema.get("additionalProperties", True)
            return dict[str, self._type(extra, f"{path}.additionalProperties", depth + 1)]  # type: ignore[misc]
        if not isinstance(properties, Mapping):
            raise bad(f"{path}.properties", "must be an object")
        required = schema.get("required", ())
        fields: dict[str, Any] = {}
        for name, inner in properties.items():
            if not name.isidentifier() or name.startswith(("_", "model_")):
                raise bad(f"{path}.properties.{name}", "inside an object, names must be plain identifiers")
            described = inner.get("description") if isinstance(inner, Mapping) else None
            kind = self._type(inner, f"{path}.properties.{name}", depth + 1)
            if name in required:
                fields[name] = (kind, Field(description=described))
            else:
                fields[name] = (Optional[kind], Field(None, description=described))  # noqa: UP045
        title = schema.get("title")
        model_name = title if isinstance(title, str) and title.isidentifier() else "Object"
        return create_model(model_name, **fields)

    def _follow(self, reference: Any, path: str, depth: int) -> Any:
        parts = str(reference).split("/")
        definitions = self._root.get(parts[1]) if len(parts) == 3 and parts[0] == "#" else None
        if not isinstance(definitions, Mapping) or parts[2] not in definitions:
            raise bad(f"{path}.$ref", f"{str(reference)[:80]!r} is not defined in this schema")
        if reference in self._following:
            raise bad(f"{path}.$ref", "a type that contains itself is not supported")
        self._following.append(reference)
        try:
            return self._type(definitions[parts[2]], path, depth + 1)
        finally:
            self._following.pop()


def type_text(kind: Any) -> str:
    """How a type reads in listings: ``str``, ``list[int]``, ``Optional[Person]``."""
    if kind is Any:
        return "Any"
    if kind is None or kind is type(None):
        return "None"
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin is Union:
        return " | ".join(type_text(one) for one in arguments)
    if origin is not None:
        inner = ", ".join("..." if one is ... else type_text(one) for one in arguments)
        return f"{origin.__name__}[{inner}]"
    return str(getattr(kind, "__name__", kind))
