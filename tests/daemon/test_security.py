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


# -- variables -------------------------------------------------------------------------------------


def configured(client: Client, variable: str, **start: Any) -> str:
    """What becomes of a model whose key is to be read from ``variable``."""
    lm = {"model": "openai/m", "api_base": "http://127.0.0.1:9/v1", "api_key_env": variable}
    reply = client.reply(client.start("start_session", {"lm": lm, **start}, session="s"))
    client.call("end_session", session="s")
    return "success" if reply["success"] else str(reply["error"]["code"])


def test_a_models_key_is_read_only_from_variables_the_operator_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_PASSWORD", "MY_API_KEY"):
        monkeypatch.setenv(name, "from the daemon")
    with Client.spawn() as client:
        assert configured(client, "MY_API_KEY") == "success"
        assert configured(client, "DB_PASSWORD") == "unsupported"
        assert configured(client, "DB_PASSWORD", env={"DB_PASSWORD": "the host's own"}) == "success"
    with Client.spawn(["--allow-key-env", "DB_*"]) as client:
        assert configured(client, "DB_PASSWORD") == "success"
        assert configured(client, "MY_API_KEY") == "unsupported"


@pytest.mark.parametrize("name", ["LD_PRELOAD", "DYLD_INSERT_LIBRARIES", "SSLKEYLOGFILE"])
def test_variables_that_load_libraries_or_write_files_are_refused(daemon: Client, name: str) -> None:
    reply = daemon.reply(daemon.start("start_session", {"env": {name: "/tmp/x"}}, session="refused"))
    assert reply["error"]["code"] == "invalid_args"
    assert name in reply["error"]["message"]
