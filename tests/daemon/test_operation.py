"""What an operator looks at: configuration, health, the daemon's own loop."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dspy_bridge.client import Client
from dspy_bridge.daemon.health import Watchdog
from dspy_bridge.protocol.secrets import redacted_text, without_keys
from session_supervisor.reactor import Reactor
from tests.support.host import free_port, get, serving

CLI = [sys.executable, "-m", "dspy_bridge.cli"]


def cli(*arguments: str, folder: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environ}
    return subprocess.run(
        [*CLI, *arguments], capture_output=True, text=True, timeout=60, check=False, env=env, cwd=folder
    )


def checks(found: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["status"] for one in found["checks"]}


def test_config_show_says_where_each_value_is_from(folder: Path) -> None:
    (folder / "bridge.toml").write_text("max-sessions = 7\n")
    shown = cli("config", "show", folder=folder, DSPY_BRIDGE_SPARES="1", XDG_CONFIG_HOME=str(folder)).stdout
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.splitlines()}
    assert rows["max-sessions"][0] == "7"
    assert rows["max-sessions"][1].endswith("bridge.toml")
    assert rows["spares"] == ["1", "environment"]
    assert len(rows) == 2
    everything = json.loads(cli("config", "show", "--json", folder=folder, XDG_CONFIG_HOME=str(folder)).stdout)
    assert {one["option"]: one["from"] for one in everything}["framing"] == "default"
    (folder / "bridge.toml").write_text("max-session = 7\n")
    wrong = cli("config", "show", folder=folder, XDG_CONFIG_HOME=str(folder))
    assert wrong.returncode == 2
    assert "did you mean 'max-sessions'" in wrong.stderr
    assert cli("serve", folder=folder, XDG_CONFIG_HOME=str(folder)).returncode == 2
    assert "--max-sessions" in cli("config", "options").stdout


def test_a_daemon_describes_its_options(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_BRIDGE_MAX_SESSIONS", "3")
    with Client.spawn(["--spares", "1"]) as client:
        described = client.call("describe_options")
        daemon = {one["name"]: one for one in described["daemon"]}
        assert (daemon["max_sessions"]["value"], daemon["max_sessions"]["from"]) == (3, "environment")
        assert (daemon["spares"]["value"], daemon["spares"]["from"], daemon["spares"]["default"]) == (1, "flag", 2)
        assert daemon["framing"]["variable"] == "DSPY_BRIDGE_FRAMING"
        assert all(one["description"] for one in described["daemon"])
        assert {"lm", "threads", "max_memory_mb"} <= described["session"].keys()


def test_a_healthy_daemon_says_so_to_hosts_and_probes(folder: Path) -> None:
    with serving(folder / "s") as path:
        with Client.connect(path) as client:
            found = client.call("health")
            assert found["status"] == "ok"
            assert set(checks(found)) == {"launcher", "spares", "queue", "requests", "disk", "loop"}
            assert client.call("get_stats")["loop_lag_ms"].keys() == {"p50", "p90", "p99"}
        probe = cli("health", "--socket", path)
        assert probe.returncode == 0
        assert "ok        launcher   fork" in probe.stdout
        assert json.loads(cli("health", "--socket", path, "--json").stdout)["status"] == "ok"
    assert cli("health", "--socket", path).returncode == 3


def test_a_template_that_has_died_shows_and_heals() -> None:
    with Client.spawn() as client:
        client.call("ping")
        template = client.call("get_stats")["launcher"]["template_pid"]
        os.kill(template, signal.SIGSTOP)  # it neither serves nor dies
        os.kill(template, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while (now := client.call("get_stats")["launcher"].get("template_pid")) in (template, None):
            assert time.monotonic() < deadline
        assert now != template
        assert checks(client.call("health"))["launcher"] == "ok"


def test_a_full_queue_is_failing() -> None:
    with Client.spawn(["--queue-total", "2"]) as client:
        client.call("configure_lm", {"model": "scripted", "delay_ms": 60_000})
        client.call("create_program", {"id": "p", "signature": "q -> a"})
        opened = [client.start("execute_program", {"program_id": "p", "inputs": {"q": "?"}}) for _ in range(3)]
        found = client.call("health")
        assert (found["status"], checks(found)["queue"]) == ("failing", "failing")
        for one in opened:
            client.call("cancel", {"request_id": one})


def test_a_blocked_loop_is_measured_and_logs_where_it_hangs(caplog: pytest.LogCaptureFixture) -> None:
    reactor = Reactor(lambda exc: None)
    watchdog = Watchdog(reactor)

    def hang_here() -> None:
        until = time.monotonic() + 20
        while (time.monotonic() < until and not caplog.records) or time.monotonic() < until - 18.5:
            time.sleep(0.05)

    reactor.call_later(0.05, hang_here)
    reactor.call_later(0.6, reactor.stop)
    watchdog.start()
    reactor.run()
    watchdog.stop()
    reactor.close()
    assert max(watchdog.lags) > 1.0
    (record,) = caplog.records
    assert "hang_here" in record.getMessage()
    assert "blocked for" in record.getMessage()


# -- logs ------------------------------------------------------------------------------------------


def test_the_log_is_json_in_a_file_of_its_owners_with_the_facts_apart(folder: Path) -> None:
    log = folder / "log"
    flags = ["--log-file", str(log), "--log-format", "json", "--log-level", "info"]
    with Client.spawn(flags) as client:
        pid = client.call("start_session", session="s")["worker_pid"]
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while client.call("session_info", session="s")["recoveries"] == 0:
            assert time.monotonic() < deadline
    assert log.stat().st_mode & 0o777 == 0o600
    records = [json.loads(line) for line in log.read_text().splitlines()]
    (died,) = (one for one in records if one.get("worker") == pid)
    assert (died["session"], died["level"]) == ("s", "warning")
    assert "killed by signal 9" in died["event"]
    assert died["time"].endswith("+00:00")


SECRET = "sk-planted-0123456789abcdef"


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_planted_secret_is_in_no_output_whatever_is_asked(
    folder: Path, style: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the `otel` extra")
    from tests.support.collector import collecting

    log = folder / "log"
    flags = [
        "--log-file",
        str(log),
        "--log-format",
        style,
        "--log-level",
        "debug",
        "--state-dir",
        str(folder / "state"),
    ]
    flags += ["--allow-import", "tests.support", "--trace-file", str(folder / "trace.json"), "--otel"]
    flags += ["--metrics-port", str(port := free_port())]
    said: list[Any] = []
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(collecting())
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        client = stack.enter_context(Client.spawn(flags))
        client.on_event = said.append
        lm = {"model": "openai/m", "api_key": SECRET, "api_base": "http://127.0.0.1:9/v1", "num_retries": 0}
        env = {"MY_API_KEY": SECRET}
        client.call("start_session", {"lm": lm, "env": env}, session="s")
        client.call("configure_lm", {**lm, "name": "other", "headers": {"X-Auth": SECRET}}, session="s")
        client.call("create_program", {"id": "p", "signature": "q -> a", "lm": lm}, session="s")
        client.call("configure_embedder", {"model": "openai/e", "api_key": SECRET}, session="s")
        asks: list[tuple[str, dict[str, Any]]] = [
            ("execute_program", {"program_id": "p", "inputs": {"q": SECRET}}),
            ("execute_program", {"program_id": "p", "inputs": {"q": SECRET}, "lm": {**lm, "engine": "litellm"}}),
            ("configure_lm", {**lm, "api_base": 7}),
            ("get_program_info", {"program_id": "p"}),
            ("inspect_history", {"n": 10}),
            *((name, {}) for name in ("export_session", "session_info", "list_programs", "get_usage", "get_stats")),
            *((name, {}) for name in ("list_sessions", "health", "describe_options", "get_trace")),
        ]
        for command, args in asks:
            said.append(client.reply(client.start(command, args, session="s")))
        said += [get(port, path) for path in ("/metrics", "/health")]
    assert len(collector.spans) > len(asks)
    assert not any(SECRET.encode() in body for body in collector.raw)
    assert any(not one["success"] for one in said if "success" in one)
    assert SECRET not in json.dumps(said)
    kept = [path for path in folder.rglob("*") if path.is_file()]
    assert {log, folder / "trace.json"} <= {*kept}
    for path in kept:
        assert SECRET.encode() not in path.read_bytes(), path


def test_what_looks_like_a_secret_in_a_text_is_taken_out_and_nothing_else() -> None:
    for text, shown in (
        ("api_key=abcd1234 x", "api_key=*** x"),
        ('{"api_key": "sk-abcdef123456", "model": "m"}', '{"api_key": ***", "model": "m"}'),
        ("Authorization: Bearer abc.def.ghi", "Authorization: ***"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
        ('{\\"api_key\\": \\"abcd1234\\"}', '{\\"api_key\\": ***\\"}'),
        ("Cookie: a=b; session=c", "Cookie: ***"),
        ("used sk-proj-abcdefg here", "used *** here"),
        ("used gsk_abcdefgh, AIzaSyA1234567890abc", "used ***, ***"),
        ("GET https://me:hunter2@host/v1", "GET https://***@host/v1"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2ln", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "***-----END RSA PRIVATE KEY-----"),
        ("see https://host:443/a@b, risk-adjusted", "see https://host:443/a@b, risk-adjusted"),
        ("max_tokens: 12345, keyboard: interrupt", "max_tokens: 12345, keyboard: interrupt"),
        ("the key is gone: retry", "the key is gone: retry"),
    ):
        assert redacted_text(text) == shown


@pytest.mark.parametrize("piece", ["a", "key", "key ", "sk-", "://a:", "eyJ", "bearer ", "-----BEGIN ", "A", "-", "a."])
def test_to_look_for_secrets_takes_time_in_proportion_to_the_text(piece: str) -> None:
    text = piece * (64_000 // len(piece))

    def taken(share: str) -> float:
        began = time.thread_time()
        redacted_text(share)
        without_keys(share)
        return time.thread_time() - began

    assert taken(text) < 0.5, "half a megabyte a second; quadratic, it would be minutes"


def test_an_error_has_no_key_in_it_and_stays_readable() -> None:
    said = "api_key: field required; Authorization: Bearer abcdefgh, https://u:pw@h/x"
    assert without_keys(said) == "api_key: field required; Authorization: ***, https://***@h/x"


# -- figures and progress --------------------------------------------------------------------------


@pytest.mark.alone
def test_metrics_are_what_prometheus_reads(folder: Path) -> None:
    with serving(folder / "s") as path:
        with Client.connect(path) as client:
            began = time.monotonic()
            client.call("configure_lm", {"model": "scripted"}, session="a")
            client.call("create_program", {"id": "p", "signature": "q -> a"}, session="a")
            took = time.monotonic() - began
        text = cli("metrics", "--socket", path).stdout
    lines = text.splitlines()
    for line in lines:
        assert re.fullmatch(
            r"# (HELP|TYPE) dspy_bridge_\w+ .+|dspy_bridge_\w+(\{\w+=\"[\w.+]+\"\})? [\d.e+-]+", line
        ), line
    assert "dspy_bridge_requests_total 2" in lines
    assert "dspy_bridge_programs 1" in lines
    assert 'dspy_bridge_sessions_by_state{state="live"} 1' in lines
    assert 'dspy_bridge_request_duration_seconds_bucket{le="+Inf"} 2' in lines
    assert "dspy_bridge_request_duration_seconds_count 2" in lines
    slowest = next(line for line in lines if line.startswith('dspy_bridge_request_seconds{quantile="0.99"} 0.0'))
    assert 0 < float(slowest.split()[1]) <= took, "in seconds"
    assert cli("metrics", "--socket", path).returncode == 3


def test_a_person_at_a_terminal_sees_progress_and_a_script_json(folder: Path) -> None:
    args = {"program_id": "p", "metric": "contains", "examples": [{"q": str(n), "a": "x"} for n in range(4)]}
    with serving(folder / "s") as path:
        with Client.connect(path) as client:
            client.call("configure_lm", {"model": "scripted"})
            client.call("create_program", {"id": "p", "signature": "q -> a"})
        command = ["send", "evaluate_program", "--socket", path, "--args", json.dumps(args)]
        as_json = [json.loads(line) for line in cli(*command).stderr.splitlines()]
        assert [one["data"]["done"] for one in as_json if one["event"] == "progress"] == [1, 2, 3, 4]
        master, slave = pty.openpty()
        with subprocess.Popen([*CLI, *command], stdout=subprocess.DEVNULL, stderr=slave) as process:
            os.close(slave)
            seen = b""
            with contextlib.suppress(OSError):  # the terminal's end, on Linux
                while data := os.read(master, 4096):
                    seen += data
            assert process.wait(20) == 0
        os.close(master)
    assert b"[####################] done 4  total 4" in seen
