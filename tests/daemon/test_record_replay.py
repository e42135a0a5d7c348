"""A conversation is recorded without its secrets, and replayed with a fresh daemon."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dspy_bridge.cli import main
from dspy_bridge.client import Client
from dspy_bridge.protocol.recording import BadRecording, read
from dspy_bridge.protocol.redaction import Redactor
from tests.daemon.test_operation import CLI, cli
from tests.support.conversation import KEY, hold, written
from tests.support.host import Host

KEPT = sorted((Path(__file__).parents[2] / "fixtures" / "recordings").glob("*.jsonl"))
ASK = {"program_id": "qa", "inputs": {"question": "?"}}
QA = {"id": "qa", "signature": "question -> answer"}


def replay(file: Path, *arguments: str, code: int = 0, **environ: str) -> dict[str, Any]:
    """As the command does it, in this process: to start another takes as long as many a replay."""
    done = CliRunner().invoke(main, ["replay", str(file), "--json", *arguments], env=environ)
    assert done.exit_code == code, done.output
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of the whole conversation."""
    file = tmp_path_factory.mktemp("recordings") / "held.jsonl"
    with Host(arguments=["--record", str(file), "--spares", "1"]) as host:
        host.receive()
        hold(host)
    return file


@pytest.fixture
def recording(held: Path, folder: Path) -> Path:
    """A copy of it, to be changed."""
    copy = folder / "copy.jsonl"
    copy.write_bytes(held.read_bytes())
    return copy


def test_a_recorded_conversation_replays_equal(held: Path) -> None:
    report = replay(held)
    assert report["ok"]
    assert report["equal"] == report["requests"] == 16
    assert report["host_calls"] == 4
    assert report["different"] == report["not_compared"] == []


def test_it_replays_equal_in_the_other_framing(folder: Path) -> None:
    file = folder / "packets.jsonl"
    with Host("packet4", ["--record", str(file), "--max-frame", "2048"]) as host:
        host.receive()
        hold(host)
        host.send(b"x" * 4096)
        assert host.receive()["error"]["code"] == "frame_too_large"
        host.send(b"\xff\xfe")
        assert host.receive()["error"]["code"] == "parse_error"
        host.write(b"\0\0\0\x09{")
    assert lines(file)[0]["options"] == {"framing": "packet4", "max_frame": 2048}
    assert {"skipped", "base64", "text", "frame"} <= {name for line in lines(file) for name in line}
    assert replay(file)["equal"] == 19
    assert replay(file, "--", "--framing", "lines", code=1)["different"]  # the cut off frame is none there


def test_what_differs_is_reported_with_its_path(recording: Path) -> None:
    edit(recording, '"outputs":{"answer":"one two three"}', '"outputs":{"answer":"one two four"}')
    edit(recording, '"text":"one two three"', '"text":"one two"')
    (found,) = replay(recording, code=1)["different"]
    assert (found["connection"], found["command"], found["session_id"]) == (1, "execute_program", "a")
    assert found["differences"] == [
        {"path": "result.outputs.answer", "recorded": "one two four", "replayed": "one two three"},
        {"path": "events.token[0].text", "recorded": "one two", "replayed": "one two three"},
    ]
    printed = cli("replay", str(recording)).stdout
    assert 'request "ask": execute_program in session a\n    result.outputs.answer\n' in printed
    assert '      recorded  "one two four"\n      replayed  "one two three"\n' in printed


def test_a_value_may_be_edited_to_stand_for_any(recording: Path) -> None:
    edit(recording, '"outputs":{"answer":"one two three"}', '"outputs":{"answer":"*"}')
    assert replay(recording)["ok"]


def test_a_program_that_asks_more_or_less_than_it_did_is_reported(recording: Path) -> None:
    edit(recording, '{\\"q\\": \\"louvre\\",', '{\\"q\\": \\"orsay\\",')
    found = replay(recording, code=1)["different"]
    (call,) = [one for one in found[0]["differences"] if one["path"] == "calls[3].args.q"]
    assert (call["recorded"], call["replayed"]) == ("louvre", "orsay")
    text = recording.read_text().splitlines(keepends=True)
    (asked,) = [n for n, line in enumerate(text) if '"call":"tool"' in line]
    answered = next(n for n in range(asked, len(text)) if '"from":"host"' in text[n] and "call_id" in text[n])
    recording.write_text("".join(line for n, line in enumerate(text) if n not in (asked, answered)))
    found = replay(recording, code=1)["different"]
    assert any("the recording has no answer to this call" in json.dumps(one["differences"]) for one in found)


def test_secrets_are_in_no_recording(held: Path) -> None:
    text = held.read_text()
    assert "planted" not in text
    assert "hunter2" not in text
    assert held.stat().st_mode & 0o777 == 0o600
    configured = next(line for line in lines(held) if line.get("frame", {}).get("command") == "start_session")
    assert configured["frame"]["args"]["lm"]["api_key"] == "<secret 1>"
    assert configured["frame"]["args"]["env"]["SOME_TOKEN"] == "<secret 2>"
    asked = next(line for line in lines(held) if line.get("frame", {}).get("command") == "nope")
    assert asked["frame"]["args"]["said"] == "<secret 4> and <secret 1>"


@pytest.mark.parametrize(
    "frame",
    [
        {"id": 1, "command": "configure_lm", "args": {"model": "m", "api_key": KEY}},
        {"id": 1, "command": "configure_lm", "args": {"model": "m", "extra_headers": {"X-Mine": KEY}}},
        {"id": 1, "command": "start_session", "args": {"adapter_args": {"deep": [{"credentials": {"user": KEY}}]}}},
        {"id": 1, "command": "set_state", "args": {"key": "auth_token", "value": {"inner": [KEY]}}},
        {"id": 1, "command": "x", "args": {"key": KEY}},
        {"id": 1, "command": "x", "args": {"name": "password", "value": KEY}},
        {"id": 1, "api_key": KEY},
        {"id": 1, "success": False, "error": {"message": f"401: Authorization: Bearer {KEY}"}},
        {"id": 1, "success": False, "error": {"message": f"cannot use {KEY}."}},
        {"id": 1, "command": "x", "args": {"text": json.dumps({"password": KEY})}},
    ],
    ids=lambda frame: json.dumps(frame)[9:60],
)
def test_a_secret_is_found_where_it_stands(frame: dict[str, Any]) -> None:
    redactor = Redactor()
    redacted = redactor.frame(frame)
    assert KEY not in json.dumps(redacted)
    assert "<secret 1>" in json.dumps(redacted)
    assert redactor.frame({"log": f"again: {KEY}", KEY: 1}) == {"log": "again: <secret 1>", KEY: 1} | {}


def test_what_only_sounds_like_a_secret_stays() -> None:
    plain = [
        {"id": 1, "command": "get_state", "args": {"key": "who"}},
        {"id": 1, "success": True, "result": {"key": "who", "value": "ann", "found": True}},
        {"id": 1, "success": True, "result": {"usage": {"m": {"prompt_tokens": 3, "total_tokens": 5}}}},
        {"id": 1, "command": "configure_lm", "args": {"api_key_env": "OPENAI_API_KEY", "max_tokens": 50}},
        {"id": 1, "command": "x", "args": {"properties": {"token": {"type": "string", "description": "any"}}}},
        {"id": 1, "seq": 0, "event": "token", "data": {"text": "the key: openness"}},
        {"id": 1, "success": True, "result": {"parts": {"program:keywords": {"signature": "text -> words"}}}},
    ]
    redactor = Redactor()
    assert [redactor.frame(frame) for frame in plain] == plain


def test_keys_of_the_environment_and_of_malformed_frames_are_known_too(folder: Path) -> None:
    file = folder / "r.jsonl"
    environ = {**os.environ, "MY_API_KEY": "from-the-environment"}
    with Host(arguments=["--record", str(file)], env=environ) as host:
        host.receive()
        host.send(b'{"api_key": "malformed-9", ')
        host.receive()
        host.ask("ping", {"session_id": "from-the-environment"})
        host.ask("nope", {"a": "malformed-9"})
    text = file.read_text()
    assert "malformed-9" not in text
    assert "from-the-environment" not in text


def test_a_placeholder_is_filled_from_the_environment(held: Path) -> None:
    report = replay(held, "--secret", "1=A_KEY", A_KEY="sk-another-0123456789")
    assert report["ok"]
    assert "sk-another" not in json.dumps(report)
    assert "A_KEY is not set" in cli("replay", str(held), "--secret", "1=A_KEY").stderr
    assert cli("replay", str(held), "--secret", "one").returncode == 2


def test_a_daemon_that_is_killed_leaves_a_recording_that_can_be_read(folder: Path) -> None:
    file = folder / "killed.jsonl"
    with Host(arguments=["--record", str(file), "--drain-timeout-s", "0.5"]) as host:
        host.receive()
        host.result("configure_lm", {"model": "scripted", "delay_ms": 60_000})
        host.result("create_program", QA)
        host.send({"id": 7, "command": "execute_program", "args": ASK})
        deadline = time.monotonic() + 20
        while '"id":7' not in file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        host.process.kill()
    report = replay(file)
    assert (report["equal"], len(report["not_compared"])) == (2, 1)
    assert report["not_compared"][0]["why"] == "had no reply when the recording ended"
    with file.open("a") as more:
        more.write('{"at": 5, "connection": 1, "from": "host", "fra')
    assert replay(file)["notes"] == ["the last line of the recording is cut off and left out"]


def test_several_clients_of_a_socket_replay_in_the_order_they_spoke(folder: Path) -> None:
    file, path = folder / "clients.jsonl", folder / "s"
    command = [*CLI, "serve", "--socket", str(path), "--record", str(file), "--explicit-sessions"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as daemon:
        deadline = time.monotonic() + 30
        while not path.exists() or not _connects(path):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with Client.connect(str(path)) as one, Client.connect(str(path)) as other:
            session = one.call("start_session")["session_id"]
            for number in range(5):
                args = {"key": "n", "op": "append", "value": number}
                (one, other)[number % 2].call("update_state", args, session=session)
            assert other.call("get_state", {"key": "n"}, session=session)["value"] == [0, 1, 2, 3, 4]
            assert [listed["session_id"] for listed in one.call("list_sessions")["sessions"]] == [session]
        daemon.terminate()
        assert daemon.wait(20) == 0
    opened = [line["open"] for line in lines(file) if "open" in line]
    assert set(opened) == {"client"}
    assert {"at", "stop"} in [set(line) for line in lines(file)]
    report = replay(file)
    assert (report["equal"], report["requests"]) == (11, 11)


def _connects(path: Path) -> bool:
    try:
        Client.connect(str(path)).close()
    except Exception:
        return False
    return True


def test_live_models_are_not_held_against_the_replay(folder: Path) -> None:
    file = folder / "live.jsonl"
    with Host(arguments=["--record", str(file)]) as host:
        host.receive()
        live = {"model": "openai/gpt-4o-mini", "api_base": "http://127.0.0.1:9/v1", "api_key": KEY, "num_retries": 0}
        host.result("configure_lm", live)
        host.result("create_program", QA)
        assert not host.ask("execute_program", ASK)["success"]
        other = {**ASK, "lm": {"model": "scripted", "answers": [{"answer": "1"}]}}
        host.result("create_program", QA, session_id="other")
        host.result("execute_program", other, session_id="other")
    report = replay(file)
    assert (report["ok"], report["equal"]) == (True, 3)
    assert {one["why"] for one in report["not_compared"]} == {"used a live model, whose answers nobody can repeat"}
    assert len(report["not_compared"]) == 2
    replay(file, "--strict", code=1)


def test_a_cancel_that_came_too_late_in_one_of_them_is_a_race(recording: Path) -> None:
    said = lines(recording)
    for line in said:
        if line.get("frame", {}).get("command") == "cancel":
            line["at"] += 5_000
    recording.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in said))
    edit(recording, '"delay_ms":60000', '"delay_ms":0')
    report = json.loads(cli("replay", str(recording), "--json").stdout)  # what comes after may differ by it
    assert [one["why"] for one in report["not_compared"]] == ["raced with being cancelled"] * 2
    assert report["not_compared"][0]["differences"][0]["recorded"]["code"] == "cancelled"


def test_powers_of_a_recording_are_not_taken_over_unless_it_is_trusted(held: Path, recording: Path) -> None:
    edit(
        recording,
        '"options":{"spares":1}',
        '"options":{"spares":1,"allow_import":"json","allow_key_env":"*","log_file":"/x/y","odd":1}',
    )
    notes = replay(recording)["notes"]
    assert "allow_import is not set as it was recorded: say --trust to allow it" in notes
    assert "allow_key_env is not set as it was recorded: say --trust to allow it" in notes
    assert "this version has no option odd, which was recorded" in notes
    assert not [note for note in replay(recording, "--trust")["notes"] if "allow_import" in note]


def test_a_replay_leaves_the_traces_and_the_port_of_the_recorded_daemon_alone(recording: Path, folder: Path) -> None:
    trace = folder / "trace.json"
    trace.write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        named = {"spares": 1, "trace_file": str(trace), "metrics_port": taken.getsockname()[1], "otel": True}
        edit(recording, '"options":{"spares":1}', f'"options":{json.dumps(named)}')
        assert replay(recording)["notes"] == []
    assert trace.read_text() == "precious"


def test_of_what_a_daemon_tells_of_itself_only_the_outcome_is_compared(folder: Path) -> None:
    file = folder / "itself.jsonl"
    with Host(arguments=["--record", str(file)]) as host:
        host.receive()
        for command in ("get_stats", "get_trace", "health"):
            host.result(command)
    assert replay(file)["equal"] == 3


def test_flags_after_the_dashes_come_on_top(held: Path) -> None:
    refused = replay(held, "--", "--max-sessions", "1", code=1)["different"]
    assert refused[0]["differences"][0]["replayed"]["code"] == "session_limit"
    wrong = cli("replay", str(held), "--", "--max-session", "1")
    assert wrong.returncode == 2
    assert "--max-sessions" in wrong.stderr
    assert cli("replay", str(held), "--", "--socket", "x").returncode == 2
    failed = cli("replay", str(held), "--", "--python", "/bin/false")
    assert failed.returncode == 3
    assert "the daemon of the replay cannot start" in failed.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "it is not a recording of this bridge"),
        ("a,b\n1,2\n", "it is not a recording of this bridge"),
        ('{"format":"dspy-bridge/session","format_version":1}', "it is not a recording of this bridge"),
        ('{"format":"dspy-bridge/recording","format_version":2}', "made by a newer dspy-bridge (format 2"),
        ('{"format":"dspy-bridge/recording","format_version":1}', "its header is not a recording's: recorded_at"),
        ('HEAD\n{"at": 1}\n', "line 2 is not one of a recording"),
        ('HEAD\n{"at": 1\n{"at": 1, "stop": true}\n', "line 2 is not one of a recording"),
        ('HEAD\n{"at": 1, "connection": 1, "from": "daemon", "text": "x"}\n', "what a daemon says is a frame"),
        (
            'HEAD\n{"at": 1, "connection": 1, "from": "host", "frame": {"id": 1}}\n',
            "connection 1 speaks before it opens",
        ),
        ('HEAD\n{"at": 1, "connection": 1, "from": "host", "base64": "?"}\n', "line 2 is not one of a recording"),
    ],
    ids=["empty", "foreign", "session", "newer", "header", "line", "json", "daemon", "unopened", "base64"],
)
def test_what_is_no_recording_is_refused_with_the_reason(content: str, said: str, held: Path, folder: Path) -> None:
    file = folder / "bad.jsonl"
    file.write_text(content.replace("HEAD", held.read_text().splitlines()[0]))
    with pytest.raises(BadRecording, match=re.escape(said)):
        read(file)


def test_a_file_that_cannot_be_replayed_is_wrong_usage(folder: Path) -> None:
    (folder / "notes.txt").write_text("nothing\n")
    done = cli("replay", str(folder / "notes.txt"))
    assert done.returncode == 2
    assert "it is not a recording of this bridge" in done.stderr
    assert "No such file" in cli("replay", str(folder / "none.jsonl")).stderr


def test_nothing_is_recorded_over_another_file(held: Path, folder: Path) -> None:
    before = held.read_bytes()
    refused = cli("serve", "--record", str(held))
    assert refused.returncode == 2
    assert "is not empty" in refused.stderr
    assert held.read_bytes() == before
    (folder / "link").symlink_to(folder / "elsewhere")
    assert cli("serve", "--record", str(folder / "link")).returncode == 2
    assert cli("serve", "--record", str(folder / "no" / "where")).returncode == 2
    empty = folder / "empty"
    empty.touch(mode=0o644)
    with Host(arguments=["--record", str(empty)]) as host:
        host.receive()
        assert "another daemon writes" in cli("serve", "--record", str(empty)).stderr
    assert empty.stat().st_mode & 0o777 == 0o600


def test_a_full_disk_ends_the_recording_and_nothing_else() -> None:
    with Host(arguments=["--record", "/dev/full"]) as host:
        code = host.process.wait(30)
        assert code == 2  # not even the header fits
        assert "No space left" in host.stderr()


def test_a_file_limit_ends_the_recording_with_whole_lines(folder: Path) -> None:
    file = folder / "short.jsonl"
    limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *CLI, "serve", "--record", str(file)]
    with subprocess.Popen(limited, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as daemon:
        assert daemon.stdin
        assert daemon.stdout
        assert daemon.stderr
        for number in range(200):
            daemon.stdin.write(json.dumps({"id": number, "command": "ping"}).encode() + b"\n")
        daemon.stdin.close()
        replies = daemon.stdout.readlines()
        said = daemon.stderr.read().decode()
        assert daemon.wait(20) == 0
    assert len(replies) == 201
    assert "the recording in" in said
    assert not read(file).cut_off


def skip_if_dspy_is_another(file: Path) -> None:
    recorded = read(file).header.dspy_version
    if recorded != version("dspy"):
        pytest.skip(f"the prompts in it are those of DSPy {recorded}")


def shown(file: Path) -> str:
    """What a replay prints, but for notes on versions."""
    printed = cli("replay", str(file)).stdout.splitlines(keepends=True)
    return "".join(line for line in printed if not line.startswith("note: "))


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_kept_recordings_replay_equal(file: Path) -> None:
    skip_if_dspy_is_another(file)
    report = replay(file)
    assert report["ok"], report["different"]
    assert report["equal"] == report["requests"]


def test_the_guide_shows_what_the_command_prints(recording: Path) -> None:
    (kept,) = KEPT
    assert "planted" not in kept.read_text()
    skip_if_dspy_is_another(kept)
    guide = (Path(__file__).parents[2] / "docs" / "operate.md").read_text()
    assert f"\n{shown(kept)}" in guide
    recording.write_bytes(kept.read_bytes())
    edit(recording, '"outputs":{"answer":"one two three"}', '"outputs":{"answer":"one"}')
    assert f"\n{shown(recording)}" in guide


def test_a_streaming_host_model_is_replayed_piece_by_piece(folder: Path) -> None:
    file = folder / "pieces.jsonl"
    with Host(arguments=["--record", str(file)]) as host:
        host.receive()
        host.result("configure_lm", {"model": "host/mine"})
        host.result("create_program", QA)
        host.send({"id": 3, "command": "execute_program", "args": {**ASK, "stream": True}})
        call = next(frame for frame in iter(host.receive, None) if "call_id" in frame)
        text = written(answer="a long answer in pieces")
        for start in range(0, len(text), 7):
            host.send({"call_id": call["call_id"], "event": "token", "data": {"text": text[start : start + 7]}})
        host.send({"call_id": call["call_id"], "success": True, "result": text})
        assert host.reply_to(3)["result"]["outputs"] == {"answer": "a long answer in pieces"}
        host.send({"call_id": "c-99", "success": True, "result": "nobody waits for this"})
        host.ask("ping")
    report = replay(file)
    assert (report["equal"], report["requests"]) == (4, 4)
