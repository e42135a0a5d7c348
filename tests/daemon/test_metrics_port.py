"""Figures and health over HTTP on loopback, and whom that port lets go."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dspy_bridge.client import Client
from tests.support.host import free_port, get

CLI = [sys.executable, "-m", "dspy_bridge.cli"]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def client(port: int) -> Iterator[Client]:
    with Client.spawn(["--metrics-port", str(port), "--queue-total", "2"]) as client:
        client.call("ping", {"deep": True})
        yield client


def exchange(port: int, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Everything that comes back, until the other end closes."""
    with socket.create_connection((host, port), timeout=20) as sock:
        sock.sendall(sent)
        heard = b""
        with contextlib.suppress(ConnectionResetError):
            while data := sock.recv(65536):
                heard += data
        return heard


def test_metrics_are_those_of_the_command_line(client: Client, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/metrics?x=1")
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "dspy_bridge_requests_total 1\n" in text
    buckets = re.findall(r'^dspy_bridge_request_duration_seconds_bucket\{le="(.+)"\} (\d+)$', text, re.M)
    counts = [int(count) for _, count in buckets]
    assert (buckets[-1][0], counts[-1], counts) == ("+Inf", 1, sorted(counts))
    assert re.search(r"^dspy_bridge_queue_duration_seconds_sum [\d.e-]+$", text, re.M)
    for name in re.findall(r"^# TYPE (\S+)", text, re.M):
        assert text.count(f"# TYPE {name} ") == 1


def test_health_is_200_while_it_can_work_and_503_when_it_cannot(client: Client, port: int) -> None:
    assert json.loads(get(port, "/health"))["status"] == "ok"
    assert exchange(port, b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    client.call("configure_lm", {"model": "scripted", "delay_ms": 60_000})
    client.call("create_program", {"id": "p", "signature": "q -> a"})
    opened = [client.start("execute_program", {"program_id": "p", "inputs": {"q": "?"}}) for _ in range(3)]
    client.call("ping")
    assert exchange(port, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    for one in opened:
        client.call("cancel", {"request_id": one})
        client.reply(one)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 10_000 + b"\r\n\r\n", 431),
    ],
)
def test_anything_else_is_refused_in_terms_of_http(client: Client, port: int, sent: bytes, status: int) -> None:
    assert exchange(port, sent).startswith(b"HTTP/1.1 %d " % status)


def test_head_has_no_body(client: Client, port: int) -> None:
    heard = exchange(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
    assert heard.startswith(b"HTTP/1.1 200 ")
    assert heard.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0" not in heard


def test_whoever_floods_is_cut_off_and_nobody_else_notices(client: Client, port: int) -> None:
    flood = b"x" * (64 << 20)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as sock,
        pytest.raises(OSError, match=r"reset|[Bb]roken"),
    ):
        sock.sendall(flood)
    assert client.call("ping")["status"] == "ok"


def test_slow_clients_are_bounded_in_number_and_time(client: Client, port: int) -> None:
    with contextlib.ExitStack() as stack:
        slow = []
        for _ in range(32):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            sock.sendall(b"GET /met")
            slow.append(sock)
        began = time.monotonic()
        assert client.call("ping")["status"] == "ok"
        assert exchange(port, b"GET /metrics HTTP/1.1\r\n\r\n") == b"", "there is no room"
        assert all(sock.recv(1) == b"" for sock in slow), "each is let go"
        assert time.monotonic() - began < 20
    assert "dspy_bridge_requests_total" in get(port, "/metrics")


def test_only_this_machine_can_reach_it(client: Client, port: int) -> None:
    listening = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                address, listened = row.split()[1].split(":")
                if int(listened, 16) == port and row.split()[3] == "0A":
                    listening.add(address)
    assert listening - {"0" * 24 + "01000000"} == {"0100007F"}


def test_a_port_in_use_is_refused_at_start_with_a_code_of_its_own(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*CLI, "serve", "--metrics-port", str(port), "--socket", str(folder / "s")],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 6
    assert f"port {port} of this machine is in use" in done.stderr
    assert not (folder / "s").exists()
