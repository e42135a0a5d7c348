"""Signatures and types: what a host may write, what is refused, and values both ways."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import sys
from typing import Any, Literal

import dspy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.scripted import OBSERVER, ScriptedLM
from dspy_bridge.worker.signatures import build_signature
from dspy_bridge.worker.types import parse_type, type_text
from dspy_bridge.worker.values import from_tagged, to_json


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("str", str),
        ("string", str),
        ("String", str),
        ("integer", int),
        ("number", float),
        ("boolean", bool),
        ("array", list[Any]),
        ("object", dict[str, Any]),
        ("list[int]", list[int]),
        ("dict[str, list[float]]", dict[str, list[float]]),
        ("tuple[int, str]", tuple[int, str]),
        ("tuple[int, ...]", tuple[int, ...]),
        ("Optional[str]", str | None),
        ("str | None", str | None),
        ("Union[int, str]", int | str),
        ('Literal["a", "b", 3]', Literal["a", "b", 3]),
        ("typing.List[str]", list[str]),
        ("datetime.date", datetime.date),
        ("dspy.Image", dspy.Image),
        ("Any", Any),
    ],
)
def test_words_for_types(text: str, expected: Any) -> None:
    assert parse_type(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "strr",
        "os.system",
        "__import__('os')",
        "list[",
        "lambda: 1",
        "1 + 1",
        "list[int, str]",
        "x" * 5000,
        "a.b.c",
        "[" * 10000,
        "list[" * 40 + "]" * 40,
        "Literal[]",
        "Literal[1.5]",
        "Literal[x]",
        "int or str",
        "str\nimport os",
    ],
)
def test_what_is_no_type_is_refused_and_never_run(text: str) -> None:
    with pytest.raises(BridgeError) as refused:
        parse_type(text, path="here")
    assert refused.value.code == "invalid_args"
    assert refused.value.details["errors"][0]["path"].startswith("here")


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(BridgeError, match="did you mean 'integer'"):
        parse_type("integr")


def test_json_schema_becomes_a_type_that_validates() -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "age": {"type": "integer", "minimum": 0},
            "kind": {"enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}},
            "note": {"type": ["string", "null"]},
        },
        "required": ["name", "age"],
        "$defs": {"tag": {"type": "string"}},
    }
    adapter = pydantic.TypeAdapter(parse_type(schema))
    made = adapter.validate_python({"name": "x", "age": 3, "tags": ["t"]})
    assert (made.name, made.age, made.tags, made.kind) == ("x", 3, ["t"], None)
    for wrong in (
        {"name": "", "age": 3},
        {"name": "x", "age": -1},
        {"name": "x"},
        {"name": "x", "age": 1, "kind": "c"},
    ):
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "contentEncoding": "x"},
        {"type": "objekt"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "http://example.com/x"},
        {"$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}, "$ref": "#/$defs/a"},
        {"enum": []},
        {"enum": "abc"},
        {"anyOf": []},
        {"type": []},
        {"type": 7},
        {"type": "object", "properties": {"a-b": {"type": "string"}}},
        {"type": "integer", "minimum": "low"},
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_honoured_is_refused_by_path(schema: dict[str, Any]) -> None:
    with pytest.raises(BridgeError) as refused:
        parse_type(schema)
    assert refused.value.code == "invalid_args"


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "array", "items": schema}
    with pytest.raises(BridgeError, match="nested"):
        parse_type(schema)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("question -> answer", "question: str -> answer: str"),
        ("a, b: int -> c: list[str], d: float", "a: str, b: int -> c: list[str], d: float"),
        ('x: Literal["->", ","] -> y', "x: Literal['->', ','] -> y: str"),
        (" a:dict[str, int]  ->b ", "a: dict[str, int] -> b: str"),
    ],
)
def test_signatures_as_text(text: str, canonical: str) -> None:
    assert build_signature(text).text == canonical


@pytest.mark.parametrize(
    "text",
    ["", "a", "a ->", "-> b", "a -> b -> c", "a, a -> b", "a -> a", "a: -> b: nope", "a => b", "x" * 30_000 + " -> b"],
)
def test_a_signature_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BridgeError) as refused:
        build_signature(text)
    assert refused.value.code == "invalid_args"


@pytest.mark.parametrize("text", ["q: antigravity.x -> a", "q: this -> a", "q: xmlrpc.client.T -> a: list[turtle.Pen]"])
def test_a_signature_never_imports_what_it_names(text: str) -> None:
    before = set(sys.modules)
    with pytest.raises(BridgeError):
        build_signature(text)
    assert {"antigravity", "this", "xmlrpc", "turtle"}.isdisjoint(set(sys.modules) - before)


ODD_NAMES = [
    "user-name",
    "class",
    "2nd",
    "größe",
    "_x",
    "model_config",
    "instructions",
    "config",
    "lm",
    "signature",
    "a b",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_python_cannot_take_work_both_ways(name: str) -> None:
    bound = build_signature({"inputs": [{"name": name}, {"name": "x"}], "outputs": [{"name": f"{name}!"}]})
    with dspy.context(lm=ScriptedLM(answers=[{f"{name}!": "yes"}]), callbacks=[OBSERVER]):
        prediction = dspy.Predict(bound.signature)(**bound.decode_inputs({name: "hello", "x": "y"}))
    assert bound.encode_outputs(prediction) == {f"{name}!": "yes"}


@given(st.lists(st.text(min_size=1, max_size=8).filter(str.isprintable), min_size=2, max_size=6, unique=True))
def test_any_distinct_names_map_to_distinct_identifiers(wire: list[str]) -> None:
    bound = build_signature({"inputs": [{"name": name} for name in wire[1:]], "outputs": [{"name": wire[0]}]})
    python = [one.python_name for one in (*bound.inputs.values(), *bound.outputs.values())]
    assert len(set(python)) == len(wire)
    assert all(name.isidentifier() for name in python)


def test_inputs_are_checked_all_at_once_with_their_paths() -> None:
    bound = build_signature("a: int, b: list[int], c -> d")
    with pytest.raises(BridgeError) as refused:
        bound.decode_inputs({"a": "5", "b": [1, "x"], "e": 1})
    assert {one["path"] for one in refused.value.details["errors"]} == {
        "inputs.a",
        "inputs.b[1]",
        "inputs.c",
        "inputs.e",
    }


def test_lenient_inputs_are_coerced_and_ignored() -> None:
    bound = build_signature("a: int, c -> d")
    assert bound.decode_inputs({"a": "5", "zzz": 1}, strict=False) == {"a": 5}


@pytest.mark.parametrize(
    ("kind", "wire", "expected"),
    [
        ("float", 3, 3.0),
        ("date", "2026-11-21", datetime.date(2026, 11, 21)),
        ("decimal", "1.10", decimal.Decimal("1.10")),
        ("bytes", "aGk=", b"hi"),
        ("bytes", {"$bytes": "aGk="}, b"hi"),
        ("tuple[int, str]", [1, "a"], (1, "a")),
        ("set", ["a"], {"a"}),
        ("int | None", None, None),
        ("float", {"$float": "Infinity"}, math.inf),
    ],
)
def test_json_inputs_become_values_of_the_declared_type(kind: str, wire: Any, expected: Any) -> None:
    assert build_signature(f"x: {kind} -> y").decode_inputs({"x": wire}) == {"x": expected}


def test_an_image_comes_as_its_fields_or_its_url() -> None:
    bound = build_signature("x: dspy.Image -> y")
    url = "https://example.com/a.png"
    for wire in (url, {"url": url}, {"$type": "Image", "url": url}):
        assert bound.decode_inputs({"x": wire})["x"].url == url
    with pytest.raises(BridgeError):
        bound.decode_inputs({"x": {"$type": "Audio", "url": url}})
    assert to_json(dspy.Image(url)) == {"$type": "Image", "url": url}


class Colour(enum.Enum):
    RED = "red"


class Point(pydantic.BaseModel):
    x: int
    when: datetime.date


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), {"$float": "NaN"}),
        (-math.inf, {"$float": "-Infinity"}),
        (b"hi", {"$bytes": "aGk="}),
        (2**70, {"$int": str(2**70)}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.10"), "1.10"),
        (Colour.RED, "red"),
        ({3, 1, 2}, [1, 2, 3]),
        (Point(x=1, when=datetime.date(2026, 1, 2)), {"x": 1, "when": "2026-01-02"}),
        ({1: "a"}, {"1": "a"}),
        ("\ud800", "\\ud800"),
        (dspy.Example(a=1), {"a": 1}),
    ],
)
def test_every_value_has_a_defined_form(value: Any, expected: Any) -> None:
    assert to_json(value) == expected


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_what_goes_out_tagged_comes_back_the_same(value: Any) -> None:
    back = from_tagged(to_json(value))
    assert repr(back) == repr(value) or "\\ud" in repr(back)


@pytest.mark.parametrize("value", [object(), lambda: None, {"a": [object()]}, {(1, 2): 3}, {1: "a", "1": "b"}])
def test_what_has_no_form_is_named_by_path_and_type(value: Any) -> None:
    with pytest.raises(BridgeError) as refused:
        to_json(value, "outputs.x")
    assert refused.value.code == "unserializable_result"
    assert refused.value.details["path"].startswith("outputs.x")


def test_what_contains_itself_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(BridgeError, match="contains itself"):
        to_json(cycle)


def test_types_read_well_in_listings() -> None:
    kinds = ("list[int]", "str | None", "Literal['a', 1]", "dict[str, Any]", "tuple[int, ...]")
    assert [type_text(parse_type(kind)) for kind in kinds] == list(kinds)
