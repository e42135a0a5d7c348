"""The command line as a person or a script uses it."""

from __future__ import annotations

import json
import os
import socket as network
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.cli.send import _parse_pairs
from dspy_bridge.client import Client, TransportError
from dspy_bridge.protocol.errors import ERRORS
from session_supervisor.hardening import MEASURES


def cli(*arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dspy_bridge.cli", *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **env},
    )


def connect(path: str) -> network.socket:
    wire = network.socket(network.AF_UNIX)
    wire.connect(path)
    return wire


@pytest.fixture
def socket(folder: Path) -> Iterator[str]:
    path = str(folder / "b.sock")
    yield path
    if Path(path).exists():
        cli("send", "shutdown", "--socket", path, "--no-start")


def test_send_starts_a_daemon_once_and_what_one_made_the_next_one_runs(socket: str) -> None:
    created = cli(
        "send", "create_program", "--arg", "id=qa", "--arg", "signature=question -> answer", "--socket", socket
    )
    assert created.returncode == 0, created.stderr
    assert json.loads(created.stdout)["program_id"] == "qa"
    cli("send", "configure_lm", "-a", "model=scripted", "--socket", socket)
    ran = cli("send", "execute_program", "-a", "program_id=qa", "-a", "inputs.question=hi", "--socket", socket)
    assert json.loads(ran.stdout)["outputs"]["answer"].startswith("scripted")


def test_a_socket_may_be_named_relative_to_where_one_is(socket: str) -> None:
    sent = cli("send", "ping", "--socket", os.path.relpath(socket))
    assert sent.returncode == 0, sent.stderr
    assert cli("send", "ping", "--socket", socket, "--no-start").returncode == 0


def test_where_no_daemon_can_be_started_send_says_why(folder: Path) -> None:
    sent = cli("send", "ping", "--socket", str(folder / "none" / "b.sock"))
    assert sent.returncode == 3
    assert sent.stderr.startswith("bridge-cli: no daemon can be started")
    assert "No such file or directory" in sent.stderr


def test_without_a_runtime_folder_the_socket_is_in_the_cache_folder_and_nothing_is_said_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path(f"/run/user/{os.getuid()}").is_dir() or sys.platform != "linux":
        pytest.skip("this system has a runtime folder")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("DSPY_BRIDGE_SOCKET", raising=False)
    done = cli("send", "ping", "--no-start", XDG_CACHE_HOME=str(folder))
    assert done.stderr == f"bridge-cli: no daemon listens at {folder / 'dspy-bridge' / 'bridge.sock'}\n"


def test_a_socket_in_a_folder_that_is_not_there_is_refused_with_the_folder(folder: Path) -> None:
    done = cli("serve", "--socket", str(folder / "none" / "b.sock"))
    assert done.returncode == 2
    assert f"the folder of the socket is not there; make it: '{folder / 'none'}'" in done.stderr


def test_hosts_that_hang_up_leave_nothing_in_the_log(socket: str) -> None:
    level = {"DSPY_BRIDGE_LOG_LEVEL": "info"}
    assert cli("send", "ping", "--socket", socket, **level).returncode == 0
    for _ in range(3):
        with connect(socket) as wire:
            wire.sendall(b'{"id":1,"command":"ping"}\n' * 100)
            wire.recv(1)  # it has begun to answer
    cli("send", "shutdown", "--socket", socket)
    log = Path(socket).with_suffix(".log")
    assert log.read_text() == ""


def test_send_tells_its_failures_apart_by_exit_code(socket: str) -> None:
    absent = cli("send", "ping", "--no-start", "--socket", socket)
    assert (absent.returncode, absent.stdout) == (3, "")
    assert "no daemon listens" in absent.stderr
    failed = cli("send", "execute_program", "-a", "program_id=nope", "--socket", socket)
    assert failed.returncode == 1
    assert json.loads(failed.stderr)["code"] == "program_not_found"
    assert cli("send", "ping", "--args", "not json", "--socket", socket).returncode == 2
    assert cli("send", "ping", "--arg", "novalue", "--socket", socket).returncode == 2
    assert cli("send").returncode == 2


def test_a_private_daemon_ends_with_its_command() -> None:
    assert json.loads(cli("send", "ping", "--private").stdout)["status"] == "ok"


def test_send_finds_its_socket_through_the_environment(socket: str) -> None:
    assert cli("send", "ping", DSPY_BRIDGE_SOCKET=socket).returncode == 0
    assert Path(socket).stat().st_mode & 0o777 == 0o600


def test_arguments_are_json_where_they_can_be_and_dots_nest() -> None:
    assert _parse_pairs(("a=1", "b=text", "c.d=true", "c.e=[1]", "f=1 2", "g=a=b")) == {
        "a": 1,
        "b": "text",
        "c": {"d": True, "e": [1]},
        "f": "1 2",
        "g": "a=b",
    }


def test_args_may_come_from_stdin(socket: str) -> None:
    args = '{"id":"p","signature":"a -> b"}'
    sent = cli("send", "create_program", "--args", "-", "--socket", socket, stdin=args)
    assert json.loads(sent.stdout)["program_id"] == "p"


def test_a_daemon_nobody_needs_leaves_by_itself(socket: str) -> None:
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", socket, "--idle-exit-s", "0.3"]
    assert subprocess.run(command, timeout=20, check=False, stdin=subprocess.DEVNULL).returncode == 0
    assert not Path(socket).exists()


def test_two_daemons_never_share_a_path(socket: str) -> None:
    cli("send", "ping", "--socket", socket)
    second = cli("serve", "--socket", socket)
    assert second.returncode == 4
    assert "another daemon" in second.stderr
    assert cli("send", "ping", "--socket", socket, "--no-start").returncode == 0


def test_a_stale_socket_is_replaced(socket: str) -> None:
    import socket as sockets

    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(socket)
    assert cli("send", "ping", "--socket", socket).returncode == 0


def test_clients_of_one_socket_share_sessions_but_not_ids(socket: str) -> None:
    cli("send", "ping", "--socket", socket)
    with Client.connect(socket) as one, Client.connect(socket) as two:
        one.call("create_program", {"id": "shared", "signature": "a -> b"}, session="s")
        assert two.call("list_programs", session="s")["total_count"] == 1  # both used id 1 by now


def test_a_client_that_goes_takes_its_open_requests_with_it(socket: str) -> None:
    cli("send", "ping", "--socket", socket)
    with Client.connect(socket) as watcher:
        with Client.connect(socket) as leaver:
            leaver.call("configure_lm", {"model": "scripted", "delay_ms": 60_000}, session="s")
            leaver.call("create_program", {"id": "p", "signature": "a -> b"}, session="s")
            leaver.start("execute_program", {"program_id": "p", "inputs": {"a": "x"}}, session="s")
            while watcher.call("session_info", session="s")["workers"][0]["state"] != "busy":
                pass
        assert watcher.call("list_programs", session="s", timeout=10)["total_count"] == 1


def test_a_client_that_only_stops_sending_still_gets_its_answers(socket: str) -> None:
    import socket as sockets

    cli("send", "ping", "--socket", socket)
    with sockets.socket(sockets.AF_UNIX) as raw:
        raw.connect(socket)
        raw.sendall(b'{"id":1,"command":"list_programs","session_id":"half"}\n')
        raw.shutdown(sockets.SHUT_WR)
        raw.settimeout(20)
        received = b""
        while data := raw.recv(65536):
            received += data
    assert b'"total_count":0' in received


def test_connecting_to_nobody_says_so(folder: Path) -> None:
    with pytest.raises(TransportError, match="no daemon listens"):
        Client.connect(str(folder / "nobody.sock"))


def test_demo_shows_isolation_and_survival() -> None:
    shown = cli("demo", "--json")
    report = json.loads(shown.stdout)
    assert shown.returncode == 0
    assert report["ok"] is True
    assert report["crash"]["her_request"] == "worker_crashed"
    assert "ok   own interpreters" in cli("demo").stdout


def test_doctor_finds_this_machine_fit() -> None:
    findings: list[dict[str, Any]] = json.loads(cli("doctor", "--json").stdout)
    assert [one for one in findings if one["verdict"] == "problem"] == []
    assert {one["check"] for one in findings} >= {"Python", "DSPy", "open files", "scratch folder"}
    for measure in MEASURES:
        (said,) = [one for one in findings if one["check"] == f"--harden {measure}"]
        assert said["verdict"] == "ok" or said["remedy"]


def test_doctor_names_the_remedy_for_an_unwritable_scratch_folder() -> None:
    from dspy_bridge.cli import doctor

    finding = doctor.Finding("x", "problem", "y", "do z")
    assert finding.remedy == "do z"
    checked = cli("doctor", "--json", TMPDIR="/proc/nonexistent")
    scratch = next(one for one in json.loads(checked.stdout) if one["check"] == "scratch folder")
    assert scratch["verdict"] == "ok" or "TMPDIR" in scratch["remedy"]


def test_schema_prints_every_command_and_error() -> None:
    document = json.loads(cli("schema").stdout)
    assert {one["name"] for one in document["commands"]} >= {"create_program", "shutdown"}
    assert {one["code"] for one in document["errors"]} == set(ERRORS)
    assert json.loads(cli("schema", "ping").stdout)["served_by"] == "daemon"
    assert cli("schema", "nope").returncode == 2


def test_verify_isolation_finds_every_piece_of_global_state_isolated() -> None:
    verified = cli("verify-isolation", "--json")
    report = json.loads(verified.stdout)
    assert verified.returncode == 0, report
    names = {row["state"] for row in report["rows"]}
    assert names >= {"dspy.settings", "dspy history", "os.environ", "random stream", "litellm.api_key"}


def test_a_wrong_flag_is_explained() -> None:
    refused = cli("serve", "--max-frame", "1")
    assert refused.returncode == 2
    assert "--max-frame" in refused.stderr


def test_help_explains_every_flag_of_serve() -> None:
    from dspy_bridge.daemon.options import DaemonOptions

    shown = cli("serve", "--help").stdout
    for name in DaemonOptions.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


def test_a_canary_that_would_be_what_everybody_has_is_no_false_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    from dspy_bridge.cli import verify_isolation

    mask = os.umask(0)
    os.umask(mask)
    canary = next(f"{n:016x}" for n in range(10_000) if (n + 20_000) % 0o777 == mask)
    monkeypatch.setattr("secrets.token_hex", lambda count: canary)
    with Client.spawn() as client:
        rows = verify_isolation.run(client, skip=["litellm"])
    assert [row for row in rows if row["leaked"] or row["changed"] or not row["planted"]] == []


@pytest.mark.parametrize("said", ['framing = "packet4"', "ready = false"])
def test_what_a_file_says_of_daemons_does_not_lock_out_our_own_tools(folder: Path, said: str) -> None:
    (folder / "bridge.toml").write_text(said)
    command = [sys.executable, "-m", "dspy_bridge.cli", "send", "--private", "ping"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_a_daemon_that_says_nothing_unasked_is_found_healthy(folder: Path) -> None:
    path = folder / "s"
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path), "--no-ready"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while cli("health", "--socket", str(path)).returncode != 0:
            assert time.monotonic() < deadline
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_a_daemon_that_frames_by_length_is_known_by_that(folder: Path) -> None:
    path = folder / "s"
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path), "--framing", "packet4"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while "packet4" not in (said := cli("health", "--socket", str(path))).stderr:
            assert time.monotonic() < deadline
        assert said.returncode == 3
    finally:
        process.terminate()
        assert process.wait(20) == 0
