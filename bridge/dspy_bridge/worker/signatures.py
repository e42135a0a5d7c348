"""Signatures: from what a host writes to a DSPy signature class, and values both ways through it.

A host's string is parsed here, never handed to DSPy, whose own parser imports modules that a string
names. Field names that Python or DSPy cannot take (``user-name``, ``class``, ``config``) are mapped
to names they can; the wire only ever shows the host's.
"""

from __future__ import annotations

import base64
import difflib
import functools
import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dspy
from dspy.adapters.types.base_type import Type as DSPyType
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.types import bad, parse_type, type_text
from dspy_bridge.worker.values import from_tagged, to_json

MAX_TEXT: Final = 20_000
MAX_FIELDS: Final = 200
MAX_NAME: Final = 200

_RESERVED: Final = frozenset(
    {"signature", "demos", "config", "lm", "prediction", "self", "instructions", "fields", "input_fields"}
    | {"output_fields", "callbacks", "new_signature", "trace", "completions", "equals", "append", "prepend"}
    | {"insert", "delete", "copy", "json", "dict", "schema", "construct", "validate"}
)
"""Names that mean something else to a DSPy module's call or to its signature class."""


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field. ``name`` is the host's, ``python_name`` what DSPy calls it."""

    name: str
    python_name: str
    type: Any
    description: str | None
    default: Any = PydanticUndefined

    @property
    def required(self) -> bool:
        return self.default is PydanticUndefined


@dataclass(frozen=True)
class BoundSignature:
    """``spec`` is what the host wrote, enough to build it again; ``signature`` the DSPy class."""

    spec: str | Mapping[str, Any]
    signature: type[dspy.Signature]
    inputs: Mapping[str, FieldSpec]
    outputs: Mapping[str, FieldSpec]
    _adapters: dict[str, TypeAdapter[Any]] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def text(self) -> str:
        """For listings: ``question: str -> answer: str``."""
        sides = (", ".join(f"{one.name}: {type_text(one.type)}" for one in side) for side in self._sides())
        return " -> ".join(sides)

    def _sides(self) -> tuple[Iterable[FieldSpec], Iterable[FieldSpec]]:
        return self.inputs.values(), self.outputs.values()

    def describe(self) -> dict[str, Any]:
        """``{"inputs": [...], "outputs": [...]}``, each with name, type, schema and description."""
        return {
            side: [
                {
                    "name": one.name,
                    "type": type_text(one.type),
                    "schema": _schema(one.type),
                    "description": one.description,
                }
                for one in specs.values()
            ]
            for side, specs in (("inputs", self.inputs), ("outputs", self.outputs))
        } | {"instructions": self.signature.instructions}

    @functools.cached_property
    def wire_names(self) -> Mapping[str, str]:
        """From DSPy's names to the host's."""
        return {one.python_name: one.name for side in self._sides() for one in side}

    def decode_inputs(self, values: Mapping[str, Any], *, strict: bool = True, path: str = "inputs") -> dict[str, Any]:
        """Checked values by DSPy's names.

        Strict: missing, unknown and wrongly typed inputs raise ``invalid_args`` naming each of them.
        Not strict: unknown ones are ignored, missing ones left out, others coerced where they can be.
        """
        errors: list[dict[str, str]] = []
        decoded: dict[str, Any] = {}
        for name, spec in self.inputs.items():
            if name in values:
                self._decode_one(spec, values[name], strict, f"{path}.{name}", decoded, errors)
            elif not spec.required:
                decoded[spec.python_name] = spec.default
            elif strict:
                errors.append({"path": f"{path}.{name}", "reason": "is required"})
        for name in values.keys() - self.inputs.keys() if strict else ():
            near = difflib.get_close_matches(name[:100], self.inputs, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            errors.append({"path": f"{path}.{name[:100]}", "reason": f"the signature has no such input{hint}"})
        if errors:
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            message = f"{errors[0]['path']}: {errors[0]['reason']}{more}"
            raise BridgeError("invalid_args", message, details={"errors": errors[:50]})
        return decoded

    def _decode_one(
        self,
        spec: FieldSpec,
        value: Any,
        strict: bool,
        path: str,
        decoded: dict[str, Any],
        errors: list[dict[str, str]],
    ) -> None:
        if spec.type is str and type(value) is str:  # by far the most common: nothing to check
            decoded[spec.python_name] = value
            return
        adapter = self._adapters.get(spec.name)
        if adapter is None:
            adapter = self._adapters[spec.name] = _type_adapter(spec.type)
        try:
            decoded[spec.python_name] = _validate(adapter, spec.type, value, strict)
        except ValidationError as exc:
            for error in exc.errors(include_url=False, include_context=False)[:20]:
                inner = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])
                errors.append({"path": path + inner, "reason": str(error["msg"])})
        except (TypeError, ValueError, RecursionError) as exc:
            errors.append({"path": path, "reason": str(exc)[:300]})

    def encode_outputs(self, prediction: Any) -> dict[str, Any]:
        """The prediction's fields by the host's names, as JSON-able data; also those the module added,
        such as ``reasoning``. Raises ``unserializable_result``."""
        outputs: dict[str, Any] = {}
        for python_name, value in prediction.items():
            name = self.wire_names.get(python_name, python_name)
            if name not in self.inputs:
                outputs[name] = to_json(value, f"outputs.{name}")
        return outputs


def build_signature(
    spec: str | Mapping[str, Any], *, path: str = "args.signature", named: Mapping[str, Any] | None = None
) -> BoundSignature:
    """See the module. Raises ``invalid_args`` with the path of what is wrong."""
    if isinstance(spec, str):
        name, instructions, inputs, outputs = None, None, *_split_text(spec, path)
    else:
        name, instructions, inputs, outputs = _split_object(spec, path)
    specs = _fields(inputs, outputs, path, named)
    made: dict[str, Any] = {}
    for kind, side in ((dspy.InputField, specs[0]), (dspy.OutputField, specs[1])):
        for one in side.values():
            # Where the name had to change, the prompt says which one the host means.
            note = f"(called {one.name!r}) " if one.name != one.python_name else ""
            description = note + (one.description or "") or None
            made[one.python_name] = (one.type, kind(desc=description) if description else kind())
    title = re.sub(r"\W", "", name or "") or "Signature"
    try:
        signature = dspy.make_signature(made, instructions, title if title.isidentifier() else "Signature")
    except (TypeError, ValueError, SyntaxError) as exc:
        raise bad(path, str(exc)) from None
    return BoundSignature(spec, signature, *specs)


# -- reading what the host wrote ------------------------------------------------------------------

_RawField = tuple[str, Any, str]
"""Name, description of the field (a type, or an object with type and more), path."""


def _split_text(text: str, path: str) -> tuple[list[_RawField], list[_RawField]]:
    if len(text) > MAX_TEXT:
        raise bad(path, f"a signature is at most {MAX_TEXT} characters long")
    sides = _split(text, "->")
    if len(sides) != 2:
        raise bad(path, "a signature has exactly one '->' between its inputs and its outputs")
    read = []
    for side, label in zip(sides, ("inputs", "outputs"), strict=True):
        fields: list[_RawField] = []
        for index, piece in enumerate(_split(side, ",")):
            name, _, kind = piece.partition(":")
            if not piece.strip():
                continue
            fields.append((name.strip(), kind.strip() or "str", f"{path}.{label}[{index}]"))
        read.append(fields)
    return read[0], read[1]


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and quotes."""
    pieces, depth, quote, start, index = [], 0, "", 0, 0
    while index < len(text):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, index):
            pieces.append(text[start:index])
            index += len(separator)
            start = index
            continue
        index += 1
    pieces.append(text[start:])
    return pieces


def _split_object(
    spec: Mapping[str, Any], path: str
) -> tuple[str | None, str | None, list[_RawField], list[_RawField]]:
    unknown = sorted(spec.keys() - {"name", "instructions", "description", "inputs", "outputs"})
    if unknown:
        raise bad(f"{path}.{unknown[0]}", "a signature has name, instructions, inputs and outputs")
    for word in ("name", "instructions", "description"):
        if not isinstance(spec.get(word), (str, type(None))):
            raise bad(f"{path}.{word}", "must be a string")
    instructions = spec.get("instructions") or spec.get("description") or None
    sides = [_raw_fields(spec.get(label), f"{path}.{label}") for label in ("inputs", "outputs")]
    return spec.get("name"), instructions, sides[0], sides[1]


def _raw_fields(side: Any, path: str) -> list[_RawField]:
    if isinstance(side, Mapping):  # {"question": "str", ...}
        return [(name, one, f"{path}.{name}") for name, one in side.items()]
    if not isinstance(side, list):
        raise bad(path, "is required: an array of fields, or an object from name to type")
    raw: list[_RawField] = []
    for index, one in enumerate(side):
        here = f"{path}[{index}]"
        if isinstance(one, str):
            raw.append((one, "str", here))
        elif isinstance(one, Mapping) and isinstance(one.get("name"), str):
            raw.append(
                (one["name"], {key: value for key, value in one.items() if key != "name"} | {"$field": True}, here)
            )
        else:
            raise bad(f"{here}.name", "every field needs a name")
    return raw


def _fields(
    inputs: list[_RawField], outputs: list[_RawField], path: str, named: Mapping[str, Any] | None
) -> tuple[dict[str, FieldSpec], dict[str, FieldSpec]]:
    taken: set[str] = set()
    sides: list[dict[str, FieldSpec]] = []
    if len(inputs) + len(outputs) > MAX_FIELDS:
        raise bad(path, f"a signature has at most {MAX_FIELDS} fields")
    # Names that need no mapping are settled first, so that no mapped one can take theirs.
    reserved = {name for name, _, _ in (*inputs, *outputs) if _is_plain(name)}
    for raw, label in ((inputs, "inputs"), (outputs, "outputs")):
        if not raw:
            raise bad(f"{path}.{label}", "there must be at least one field")
        side: dict[str, FieldSpec] = {}
        for name, kind, here in raw:
            if not name or len(name) > MAX_NAME or not name.isprintable():
                raise bad(f"{here}.name", f"a name is 1 to {MAX_NAME} printable characters")
            if name in side or any(name in other for other in sides):
                raise bad(f"{here}.name", f"there are two fields {name!r}")
            python_name = name if _is_plain(name) else _plain_name(name, taken | reserved)
            taken.add(python_name)
            side[name] = _field(name, python_name, kind, here, named)
        sides.append(side)
    return sides[0], sides[1]


def _field(name: str, python_name: str, raw: Any, path: str, named: Mapping[str, Any] | None) -> FieldSpec:
    description, kind = None, raw
    default: Any = PydanticUndefined
    if isinstance(raw, Mapping) and raw.get("$field"):
        description = raw.get("description", raw.get("desc"))
        if not isinstance(description, (str, type(None))):
            raise bad(f"{path}.description", "must be a string")
        default = raw["default"] if "default" in raw else (None if raw.get("required") is False else PydanticUndefined)
        unknown = sorted(raw.keys() - {"$field", "type", "schema", "description", "desc", "default", "required"})
        # A field may be written as a JSON Schema with a name in it.
        kind = {key: raw[key] for key in raw.keys() - {"$field", "desc", "required", "default"}} if unknown else None
        if kind is None:
            kind = raw.get("schema", raw.get("type", "str"))
    return FieldSpec(name, python_name, parse_type(kind, path=f"{path}.type", named=named), description, default)


def _is_plain(name: str) -> bool:
    return (
        name.isidentifier()
        and name.isascii()
        and not keyword.iskeyword(name)
        and not name.startswith(("_", "model_"))
        and name not in _RESERVED
        and not hasattr(dspy.Signature, name)
    )


def _plain_name(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^0-9a-zA-Z_]+", "_", name).strip("_")
    base = f"field_{base}" if not base or not _is_plain(base) else base
    candidate, number = base, 2
    while candidate in taken or not _is_plain(candidate):
        candidate, number = f"{base}_{number}", number + 1
    return candidate


# -- values ----------------------------------------------------------------------------------------


def _type_adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=ConfigDict(val_json_bytes="base64"))
    except Exception:  # noqa: BLE001 - a type with a configuration of its own takes no other
        return TypeAdapter(kind)


def _validate(adapter: TypeAdapter[Any], kind: Any, value: Any, strict: bool) -> Any:
    value = from_tagged(value)
    if isinstance(kind, type) and issubclass(kind, DSPyType):
        return _special(kind, value)
    if kind is bytes and isinstance(value, str):
        return base64.b64decode(value, validate=True)
    if not strict:
        return adapter.validate_python(value)
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError:
        # JSON has fewer types than Python: an array is a tuple or set too, a text a date.
        return adapter.validate_json(_to_json_text(value), strict=True)


def _to_json_text(value: Any) -> bytes:
    from dspy_bridge import jsonlib

    return jsonlib.dumps(
        value, default=lambda one: base64.b64encode(one).decode() if isinstance(one, bytes) else str(one)
    )


def _special(kind: type[Any], value: Any) -> Any:
    """A ``dspy.Image`` and its kin from its tagged form, its fields, or the text it is usually made of."""
    if isinstance(value, Mapping):
        fields = {name: item for name, item in value.items() if name != "$type"}
        if value.get("$type", kind.__name__) != kind.__name__:
            raise ValueError(f"is a {value['$type']}, not a {kind.__name__}")
        return kind(**fields)
    if isinstance(value, str):
        only = next(iter(kind.model_fields))
        return kind(**{only: value})
    return kind.model_validate(value)


def _schema(kind: Any) -> dict[str, Any] | None:
    try:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind.model_json_schema()
        return TypeAdapter(kind).json_schema()
    except Exception:  # noqa: BLE001 - a type without a schema is still a type
        return None
