"""Golden transcripts: what a host says and hears, kept in ``fixtures/transcripts`` for ever.

Each line of a file is ``> frame`` (sent) or ``< frame`` (expected next). In an expected frame ``"*"``
stands for any value, and an object or array must otherwise match exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.host import Host

FOLDER = Path(__file__).parent.parent.parent / "fixtures" / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


def mismatch(expected: Any, found: Any, path: str = "") -> str | None:
    if expected == "*":
        return None
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{path}: keys {sorted(expected)} != {sorted(found)}"
        results = (mismatch(value, found[key], f"{path}.{key}") for key, value in expected.items())
        return next((result for result in results if result), None)
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        results = (mismatch(one, found[i], f"{path}[{i}]") for i, one in enumerate(expected))
        return next((result for result in results if result), None)
    return None if expected == found else f"{path}: {expected!r} != {found!r}"


@pytest.mark.parametrize("framing", ["lines", "packet4"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_transcript(file: Path, framing: str) -> None:
    with Host(framing) as host:
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.startswith("> "):
                host.send(line[2:].encode())
            elif line.startswith("< "):
                found = host.receive()
                problem = mismatch(orjson.loads(line[2:]), found)
                assert problem is None, f"{file.name}:{number}{problem}\nfound {found}"


def test_there_is_a_transcript_for_every_topic() -> None:
    assert {file.stem for file in FILES} >= {"hello", "programs", "sessions", "errors", "json_rpc", "recycling"}
