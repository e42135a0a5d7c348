"""What docs/security.md says a host, and who shares its machine, cannot do."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client

SECRET = b"\x89PNG\r\n\x1a\nnobody asked for this"


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("Image", "{}"),
        ("Image", {"$type": "Image", "url": "{}"}),
        ("Image", {"url": "file://{}"}),
        ("Image", {"url": "file://{}", "download": True}),
        ("Audio", "{}"),
        ("Audio", {"data": "{}", "audio_format": "wav"}),
        ("File", "{}"),
        ("File", {"file_data": "{}", "filename": "{}"}),
    ],
)
def test_naming_a_file_of_the_daemons_machine_does_not_send_it_to_a_model(
    daemon: Client, folder: Path, request: pytest.FixtureRequest, kind: str, shape: Any
) -> None:
    path = folder / "secret.png"
    path.write_bytes(SECRET)
    value = json.loads(json.dumps(shape).replace("{}", str(path)))
    session = request.node.name
    daemon.call("start_session", {"lm": {"model": "scripted"}}, session=session)
    signature = {"inputs": [{"name": "given", "type": kind}], "outputs": [{"name": "answer"}]}
    daemon.call("create_program", {"id": "look", "signature": signature}, session=session)
    args = {"program_id": "look", "inputs": {"given": value}}
    reply = daemon.reply(daemon.start("execute_program", args, session=session))
    sent = json.dumps([reply, daemon.call("inspect_history", session=session)])
    assert base64.b64encode(SECRET).decode()[:20] not in sent
    assert "nobody asked" not in sent
    daemon.call("end_session", session=session)


def test_what_a_daemon_keeps_is_its_owners_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary, state, log = folder / "tmp", folder / "state", folder / "log"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Client.spawn(["--state-dir", str(state), "--log-file", str(log)]) as client:
        client.call("start_session", {"durable": True}, session="a")
        client.call("set_state", {"key": "k", "value": 1}, session="a")
        client.call("create_program", {"id": "qa", "signature": "q -> a"}, session="a")
        (root,) = temporary.iterdir()
        assert list(root.iterdir()), "the session has a folder of its own"
        kept = [root, state, *state.iterdir(), log]
        assert [str(one) for one in kept if one.stat().st_mode & 0o077] == []
