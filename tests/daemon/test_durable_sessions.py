"""State that outlives the daemon, moves to another, or becomes two: over the real wire."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.openai_endpoint import OpenAIEndpoint

from dspy_bridge.client import Client, CommandFailed

Start = Callable[..., Client]

QA = {"id": "qa", "signature": "question -> answer"}
ASK = {"program_id": "qa", "inputs": {"question": "what?"}}
SECRET = "sk-planted-0123456789"


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """A daemon on the test's state folder; one at a time, the last one ended in order."""
    running: list[Client] = []

    def begin(*flags: str, kill: bool = False) -> Client:
        for client in running:
            if kill:
                assert client.process
                client.process.kill()
                client.close()
            else:
                assert client.close() == 0
        running[:] = [Client.spawn(["--state-dir", str(folder / "state"), *flags])]
        return running[0]

    yield begin
    for client in running:
        assert client.close() == 0


def failure(client: Client, command: str, args: dict[str, Any], session: str | None = None) -> dict[str, Any]:
    with pytest.raises(CommandFailed) as caught:
        client.call(command, args, session=session)
    return caught.value.error


def fill(client: Client, session: str) -> None:
    answers = [{"answer": str(n)} for n in range(10)]
    client.call("configure_lm", {"model": "scripted", "answers": answers}, session=session)
    client.call("configure", {"adapter": "json", "seed": 7}, session=session)
    client.call("create_program", QA, session=session)
    client.call("set_state", {"key": "user", "value": {"name": "Ann"}}, session=session)
    client.call("update_state", {"key": "visits", "op": "incr"}, session=session)


@pytest.mark.parametrize("kill", [False, True], ids=["ended in order", "killed"])
def test_everything_acknowledged_is_there_after_a_restart(start: Start, kill: bool) -> None:
    client = start()
    fill(client, "a")
    assert [client.call("execute_program", ASK, session="a")["outputs"]["answer"] for _ in range(3)] == ["0", "1", "2"]
    before = client.call("session_info", session="a")
    programs = client.call("list_programs", session="a")
    client = start(kill=kill)
    after = client.call("session_info", session="a")
    assert (after["state"], after["durable"], after["programs"]) == ("cold", True, ["qa"])
    assert (after["version"], after["created_at"]) == (before["version"], before["created_at"])
    assert client.call("list_programs", session="a") == programs
    assert client.call("get_state", {"key": "user"}, session="a")["value"] == {"name": "Ann"}
    assert client.call("update_state", {"key": "visits", "op": "incr"}, session="a")["value"] == 2
    assert client.call("execute_program", ASK, session="a")["outputs"]["answer"] == "3"  # goes on where it was
    assert client.call("configure", {}, session="a")["settings"]["adapter"] == "json"


def test_what_start_session_was_told_holds_after_a_restart(start: Start) -> None:
    client = start()
    lm = {"model": "scripted", "answers": [{"answer": "born with it"}]}
    client.call("start_session", {"lm": lm, "env": {"COLOUR": "blue"}, "max_requests": 3, "workers": 2}, session="a")
    client = start()
    client.call("create_program", QA, session="a")
    assert client.call("execute_program", ASK, session="a")["outputs"]["answer"] == "born with it"
    assert client.call("session_info", session="a")["capacity"] == 2
    environ = client.call("export_session", session="a")["document"]["charter"]["env"]
    assert environ == {"COLOUR": "blue"}


def test_literal_keys_never_reach_disk_or_export_and_their_lack_is_said(start: Start, folder: Path) -> None:
    client = start()
    with OpenAIEndpoint() as endpoint:
        lm = {"model": "openai/m", "api_key": SECRET, "api_base": endpoint.url}
        client.call("start_session", {"lm": lm, "env": {"MY_API_KEY": SECRET}}, session="born")
        client.call("configure_lm", lm, session="told")
        for name in ("born", "told"):
            client.call("create_program", QA, session=name)
            client.call("create_program", {**QA, "id": "own", "lm": lm}, session=name)
            client.call("execute_program", ASK, session=name)
        exported = json.dumps([client.call("export_session", session=name) for name in ("born", "told")])
        assert SECRET not in exported
        client = start()
        for file in (folder / "state").iterdir():
            assert SECRET.encode() not in file.read_bytes()
        info = {name: client.call("session_info", session=name) for name in ("born", "told")}
        assert info["born"]["missing"] == ["env.MY_API_KEY", "lm.api_key", "programs.own.lm.api_key"]
        assert info["told"]["missing"] == ["lm.api_key", "programs.own.lm.api_key"]
        for name in ("born", "told"):
            for program in ("qa", "own"):
                error = failure(client, "execute_program", {**ASK, "program_id": program}, name)
                assert error["code"] == "lm_not_configured"
                assert error["details"] == {"missing": ["lm.api_key"]}
            client.call("configure_lm", lm, session=name)
            assert "012345" not in client.call("execute_program", ASK, session=name)["outputs"]["answer"][:-6]
        assert client.call("session_info", session="told")["missing"] == ["programs.own.lm.api_key"]
        assert SECRET not in json.dumps([client.call("list_sessions"), client.call("get_stats")])


def test_ended_and_passing_sessions_are_not_restored(start: Start) -> None:
    client = start()
    client.call("start_session", {"durable": False}, session="passing")
    for name in ("passing", "ended", "kept"):
        client.call("set_state", {"key": "x", "value": 1}, session=name)
    client.call("end_session", session="ended")
    client = start()
    assert [one["session_id"] for one in client.call("list_sessions")["sessions"]] == ["kept"]


def test_reset_state_holds_after_a_restart(start: Start) -> None:
    client = start()
    fill(client, "a")
    client.call("reset_state", session="a")
    client = start()
    assert client.call("list_programs", session="a")["total_count"] == 0
    assert client.call("get_state", {"key": "user"}, session="a")["found"] is False


def test_a_session_of_which_only_its_start_was_acknowledged_is_there(start: Start) -> None:
    start().call("start_session", {"settings": {"adapter": "xml"}}, session="a")
    client = start(kill=True)
    assert client.call("configure", {}, session="a")["settings"]["adapter"] == "xml"


def test_durable_without_a_folder_is_refused(daemon: Client) -> None:
    error = failure(daemon, "start_session", {"durable": True}, "nowhere")
    assert error["code"] == "unsupported"
    assert "--state-dir" in error["message"]


def test_two_daemons_never_share_a_folder(start: Start, folder: Path) -> None:
    start()
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--state-dir", str(folder / "state")]
    second = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
    assert second.returncode == 5
    assert b"another daemon keeps its sessions in" in second.stderr


def test_no_limit_keeps_out_what_existed_before(start: Start) -> None:
    client = start()
    for n in range(5):
        client.call("set_state", {"key": "x", "value": n}, session=f"s{n}")
    client = start("--max-sessions", "2")
    assert [client.call("get_state", {"key": "x"}, session=f"s{n}")["value"] for n in range(5)] == [*range(5)]
    assert failure(client, "start_session", {}, "new")["code"] == "session_limit"


def test_a_stored_session_that_cannot_be_read_is_not_written_over(start: Start, folder: Path) -> None:
    start().call("set_state", {"key": "x", "value": "old"}, session="a")
    start().close()
    with contextlib.closing(sqlite3.connect(folder / "state" / "sessions.sqlite")) as db, db:
        db.execute("UPDATE session SET charter = ?", (b'{"from": "the future"}',))
    error = failure(start(), "set_state", {"key": "x", "value": "new"}, "a")
    assert (error["code"], "cannot read it" in error["message"]) == ("unsupported", True)
    with contextlib.closing(sqlite3.connect(folder / "state" / "sessions.sqlite")) as db:
        assert db.execute("SELECT value FROM part").fetchall() == [(b'"old"',)]


# -- export, import, branch ------------------------------------------------------------------------


def test_a_session_moves_to_another_daemon(start: Start, daemon: Client, session: str) -> None:
    client = start()
    fill(client, "a")
    client.call("execute_program", ASK, session="a")
    document = client.call("export_session", session="a")["document"]
    document = json.loads(json.dumps(document))  # as it would be after a while in a file
    result = daemon.call("import_session", {"document": document}, session=session)
    assert result == {"session_id": session, "status": "imported", "programs": ["qa"], "missing": []}
    assert daemon.call("execute_program", ASK, session=session)["outputs"]["answer"] == "1"
    assert daemon.call("get_program_info", {"program_id": "qa"}, session=session)["execution_count"] == 2
    again = daemon.call("export_session", session=session)["document"]
    assert again["parts"].keys() == document["parts"].keys()


def test_an_imported_session_is_stored(start: Start) -> None:
    client = start()
    fill(client, "a")
    document = client.call("export_session", session="a")["document"]
    client.call("import_session", {"document": document}, session="b")
    client = start(kill=True)
    assert client.call("execute_program", ASK, session="b")["outputs"]["answer"] == "0"


def test_import_takes_the_documents_name_and_replaces_only_if_told(daemon: Client, session: str) -> None:
    daemon.call("set_state", {"key": "x", "value": "old"}, session=session)
    document = daemon.call("export_session", session=session)["document"]
    daemon.call("set_state", {"key": "x", "value": "new"}, session=session)
    assert failure(daemon, "import_session", {"document": document})["code"] == "session_exists"
    assert daemon.call("get_state", {"key": "x"}, session=session)["value"] == "new"
    daemon.call("import_session", {"document": document, "on_exists": "replace"})
    assert daemon.call("get_state", {"key": "x"}, session=session)["value"] == "old"


def test_a_session_replaced_with_the_last_words_of_its_host_is_the_new_one(start: Start, folder: Path) -> None:
    client = start()
    fill(client, "a")
    client.call("execute_program", ASK, session="a")  # its interpreter has to leave
    document = client.call("export_session", session="a")["document"]
    document["parts"] = {"variable:who": "imported"}
    replace = {"document": document, "on_exists": "replace"}
    number = client.start("import_session", replace, session="a")
    assert client.process
    client.end()
    client._write_fd = -1
    assert client.reply(number)["success"]
    client = start()
    assert client.call("get_state", {"key": "who"}, session="a")["value"] == "imported"
    assert client.call("list_programs", session="a")["total_count"] == 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "pickle"}, "format"),
        ({"format_version": 2}, "format_version"),
        ({"parts": {"!lm": {"api_key": "x"}}}, "no session has such a part"),
        ({"parts": {"program:": {}}}, "no session has such a part"),
        ({"parts": {"program:p": {"spec": {"signature": 7}, "created_at": "now"}}}, "program:p"),
        ({"parts": {"program:p": "text"}}, "must be an object"),
        ({"parts": {"lm": {"config": {"model": ""}}}}, "lm.config.model"),
        ({"parts": {"settings": {"adapter": "none"}}}, "adapter"),
        ({"parts": {"+program:p": [1]}}, "tally"),
        ({"charter": {"surprise": 1}}, "surprise"),
        ({"charter": {"missing": 5}}, "missing"),
        ({"charter": {"durable": True}}, "--state-dir"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_document_no_session_gave_is_refused_and_replaces_nothing(
    daemon: Client, session: str, change: dict[str, Any], says: str
) -> None:
    daemon.call("set_state", {"key": "x", "value": 1}, session=session)
    document = {**daemon.call("export_session", session=session)["document"], **change}
    error = failure(daemon, "import_session", {"document": document, "on_exists": "replace"}, session)
    assert error["code"] == ("unsupported" if "--state-dir" in says else "invalid_args")
    assert says in json.dumps(error)
    assert daemon.call("get_state", {"key": "x"}, session=session)["value"] == 1


def test_a_branch_begins_where_its_source_is_and_goes_its_own_way(daemon: Client, session: str) -> None:
    fill(daemon, session)
    daemon.call("execute_program", ASK, session=session)
    made = daemon.call("branch_session", {"branch_id": f"{session}-b"}, session=session)
    branch = made["session_id"]
    assert made == {"session_id": branch, "status": "branched", "branched_from": session, "programs": ["qa"]}
    assert daemon.call("execute_program", ASK, session=branch)["outputs"]["answer"] == "1"
    daemon.call("set_state", {"key": "user", "value": "Bob"}, session=branch)
    daemon.call("delete_program", {"program_id": "qa"}, session=branch)
    assert daemon.call("execute_program", ASK, session=session)["outputs"]["answer"] == "1"
    assert daemon.call("get_state", {"key": "user"}, session=session)["value"] == {"name": "Ann"}
    pids = {daemon.call("session_info", session=one)["workers"][0]["pid"] for one in (session, branch)}
    assert len(pids) == 2
    daemon.call("end_session", session=branch)


def test_a_branch_has_its_sources_key(daemon: Client, session: str) -> None:
    with OpenAIEndpoint() as endpoint:
        lm = {"model": "openai/m", "api_key": SECRET, "api_base": endpoint.url}
        daemon.call("start_session", {"lm": lm}, session=session)
        daemon.call("create_program", QA, session=session)
        branch = daemon.call("branch_session", session=session)["session_id"]
        daemon.call("execute_program", ASK, session=branch)
        assert endpoint.requests[0].api_key == SECRET
        daemon.call("end_session", session=branch)


def test_one_branches_only_to_a_free_name_from_what_exists(daemon: Client, session: str) -> None:
    assert failure(daemon, "branch_session", {}, session)["code"] == "session_not_found"
    daemon.call("start_session", session=session)
    assert failure(daemon, "branch_session", {"branch_id": session}, session)["code"] == "session_exists"
    assert failure(daemon, "export_session", {}, "no such")["code"] == "session_not_found"
