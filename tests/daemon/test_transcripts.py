"""Golden transcripts: what a host says and hears, kept in ``fixtures/transcripts`` for ever.

Each line of a file is ``> frame`` (sent) or ``< frame`` (expected next). In an expected frame ``"*"``
stands for any value, and an object or array must otherwise match exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from dspy_bridge.replay.compare import between
from tests.support.host import Host

FOLDER = Path(__file__).parent.parent.parent / "fixtures" / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.fixture(scope="module", params=["lines", "packet4"])
def opened(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(request.param) as host:
        host.receive()
        yield host


@pytest.fixture
def host(opened: Host) -> Iterator[Host]:
    """One that has said that it is ready, and has no session."""
    yield opened
    for session in opened.result("list_sessions")["sessions"]:
        opened.result("end_session", session_id=session["session_id"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_transcript(file: Path, host: Host) -> None:
    ready = [host.frames[0]]
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.startswith("> "):
            host.send(line[2:].encode())
        elif line.startswith("< "):
            found = ready.pop() if ready else host.receive()
            problems = list(between(orjson.loads(line[2:]), found))
            assert not problems, f"{file.name}:{number}: {problems}\nfound {found}"


def test_there_is_a_transcript_for_every_topic() -> None:
    assert {file.stem for file in FILES} >= {"hello", "programs", "sessions", "errors", "json_rpc", "recycling"}
