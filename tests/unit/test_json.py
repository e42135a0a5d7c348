"""The two JSON libraries the package may find agree: on what is JSON, and on what is not."""

from __future__ import annotations

import enum
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dspy_bridge import jsonlib, plain_json

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


@given(values)
def test_both_write_what_both_read_alike(value: Any) -> None:
    fast, plain = orjson.dumps(value), plain_json.dumps(value)
    assert orjson.loads(plain) == orjson.loads(fast) == plain_json.loads(fast) == plain_json.loads(plain)


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_both_refuse_the_same_bytes(data: bytes) -> None:
    assert issubclass(plain_json.JSONDecodeError, ValueError)

    def read(library: Any) -> Any:
        try:
            return library.loads(data)
        except library.JSONDecodeError:
            return "refused"

    assert read(plain_json) == read(orjson)


@pytest.mark.parametrize(
    "data", [b"NaN", b"[Infinity]", b'{"a": -Infinity}', b"\xff\xfe1\x00", b"{", b"1 2", b"[" * 5000]
)
def test_what_is_nearly_json_is_none(data: bytes) -> None:
    for library in (plain_json, orjson):
        with pytest.raises(library.JSONDecodeError):
            library.loads(data)


@pytest.mark.parametrize(
    "value",
    [
        {"when": datetime(2026, 11, 21, tzinfo=timezone.utc)},
        [Colour.RED, Point(1), uuid.UUID(int=1)],
        float("nan"),
        {"nested": [float("inf"), {"deep": float("-inf")}]},
        {"raw": "fragment"},
    ],
)
def test_both_know_the_same_kinds(value: Any) -> None:
    assert plain_json.loads(plain_json.dumps(value)) == orjson.loads(orjson.dumps(value))


def test_both_take_the_same_options() -> None:
    for library in (plain_json, orjson):
        assert library.dumps({"a": [1]}, option=library.OPT_INDENT_2) == b'{\n  "a": [\n    1\n  ]\n}'
        assert library.dumps({1: 2}, option=library.OPT_NON_STR_KEYS) == b'{"1":2}'
        assert library.dumps({"raw": library.Fragment(b'{"b":1}')}) == b'{"raw":{"b":1}}'
        assert library.dumps({1j}, default=lambda one: sorted(map(str, one))) == b'["1j"]'
        for unfit in ({1j}, "\ud800"):
            with pytest.raises(TypeError):
                library.dumps(unfit)


def test_without_orjson_the_wire_is_the_same() -> None:
    program = """
import sys
sys.modules["orjson"] = None  # as where it cannot be installed
from dspy_bridge import jsonlib, plain_json
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.errors import BridgeError
assert jsonlib.dumps is plain_json.dumps
call = envelope.parse(b'{"id":1,"command":"ping","args":{"text":"\\xc3\\xbc"}}')
assert call.args == {"text": "\\u00fc"}
sys.stdout.buffer.write(envelope.failure(call.id, False, BridgeError("timeout", "late")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    said = orjson.loads(done.stdout)
    assert (said["id"], said["error"]["code"]) == (1, "timeout")


def test_where_orjson_is_it_is_used() -> None:
    assert jsonlib.dumps is orjson.dumps
