"""One daemon, many clients: the Unix socket, its owner, and what becomes of clients that vanish."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dspy_bridge.client import Client, TransportError
from tests.support.host import Host, serving

SERVE = [sys.executable, "-m", "dspy_bridge.cli", "serve"]

# Fifty sessions at once from one process, with the ids every other process uses too.
MANY_SESSIONS = """
import collections, sys
from dspy_bridge.client import Client
path, mine = sys.argv[1:]
with Client.connect(path) as client:
    opened = {}
    for n in range(50):
        word, session = f"{mine}-{n}", f"s-{mine}-{n}"
        client.start("start_session", {"lm": {"model": "scripted", "answers": [{"answer": word}]}}, session=session)
        client.start("create_program", {"id": "qa", "signature": "question -> answer"}, session=session)
        asked = {"program_id": "qa", "inputs": {"question": "who?"}}
        opened[client.start("execute_program", asked, session=session)] = word, session
    seen = collections.Counter()
    while len(seen) < 200:
        frame = client.receive()
        seen[frame["id"]] += 1
        assert frame["success"], frame
        if frame["id"] in opened:
            word, session = opened[frame["id"]]
            assert frame["result"]["outputs"] == {"answer": word}, frame
            client.start("end_session", session=session)
    assert set(seen.values()) == {1}
    assert client.call("ping")["status"] == "ok"
"""

STREAMING = """
import sys
from dspy_bridge.client import Client
client = Client.connect(sys.argv[1])
client.call("configure_lm", {"model": "host"}, session="left")
client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session="left")
client.start("execute_program", {"program_id": "qa", "inputs": {"question": "?"}, "stream": True}, session="left")
while "call_id" not in client.receive():
    pass
print("asked", flush=True)
sys.stdin.read()
"""


def wait_until(what: object, bound: float = 10.0) -> None:
    deadline = time.monotonic() + bound
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_eight_processes_with_fifty_sessions_each_never_meet(folder: Path) -> None:
    with serving(folder / "s") as path:
        clients = [subprocess.Popen([sys.executable, "-c", MANY_SESSIONS, path, str(n)]) for n in range(8)]
        assert [one.wait(60) for one in clients] == [0] * 8
        with Client.connect(path) as client:
            assert client.call("list_sessions")["sessions"] == []


def test_a_client_killed_in_mid_stream_leaves_nothing_running(folder: Path) -> None:
    with serving(folder / "s") as path:
        command = [sys.executable, "-c", STREAMING, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as leaving:
            assert leaving.stdout
            assert leaving.stdout.readline() == b"asked\n"
            with Client.connect(path) as staying:
                (before,) = staying.call("session_info", session="left")["workers"]
                leaving.kill()
                wait_until(lambda: not psutil.pid_exists(before["pid"]))
                assert staying.call("session_info", session="left")["in_flight"] == 0
                # and the session is as it was, for whoever comes
                assert [one["id"] for one in staying.call("list_programs", session="left")["programs"]] == ["qa"]


def test_hundreds_of_clients_at_once_each_get_their_own_answers(folder: Path) -> None:
    with serving(folder / "s") as path:
        clients = [Client.connect(path) for _ in range(300)]
        numbers = [client.start("ping") for client in clients]
        assert set(numbers) == {1}
        assert all(client.finish(1)["status"] == "ok" for client in clients)
        for client in clients:
            client.close()


def test_the_socket_is_served_beside_one_host_on_stdio_and_ends_with_it(folder: Path) -> None:
    path = folder / "s"
    with Host("lines", ["--socket", str(path), "--stdio"]) as host:
        assert host.receive()["event"] == "ready"
        host.result("set_state", {"key": "x", "value": 1}, session_id="shared")
        with Client.connect(str(path)) as client:
            assert client.call("get_state", {"key": "x"}, session="shared")["value"] == 1
            number = client.start("ping")
            host.close_input()
            assert client.finish(number)["status"] == "ok"
            assert host.process.wait(10) == 0
            with pytest.raises(TransportError):
                client.call("ping")
    assert not path.exists()


def test_stdio_and_descriptors_are_one_choice() -> None:
    done = subprocess.run([*SERVE, "--stdio", "--fds", "3,4"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--fds and --stdio" in done.stderr


def test_of_many_daemons_on_one_path_exactly_one_serves(folder: Path) -> None:
    path = folder / "s"
    command = [*SERVE, "--socket", str(path)]
    daemons = [subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    try:
        wait_until(lambda: sum(one.poll() == 4 for one in daemons) == 5, 30)
        (serving_one,) = (one for one in daemons if one.poll() is None)
        wait_until(lambda: _answers(path))
    finally:
        for one in daemons:
            one.terminate()
        said = [one.communicate(timeout=15)[1] for one in daemons]
    assert serving_one.returncode == 0
    assert sum("another daemon serves" in one for one in said) == 5


def test_the_socket_of_a_killed_daemon_is_taken_over(folder: Path) -> None:
    path = folder / "s"
    with subprocess.Popen([*SERVE, "--socket", str(path)], stdin=subprocess.DEVNULL) as killed:
        wait_until(lambda: _answers(path), 30)
        killed.kill()
    assert path.exists()
    with serving(path) as again, Client.connect(again) as client:
        assert client.call("ping")["status"] == "ok"


def test_other_users_are_refused_even_where_the_file_lets_them_in(folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as another user: the check of peers is NOT tested")
    with serving(folder / "s") as path:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        Path(path).chmod(0o666)
        folder.chmod(0o755)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                stranger = socket.socket(socket.AF_UNIX)
                stranger.connect(path)
                os.write(write, b"heard %r" % stranger.recv(10))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        assert os.read(read, 100) == b"heard b''"
        os.close(read)
        with Client.connect(path) as client:
            assert client.call("ping")["status"] == "ok"


@pytest.mark.parametrize("address", ["file", "abstract"])
def test_a_service_manager_is_told_when_it_is_ready_and_when_it_is_ending(folder: Path, address: str) -> None:
    name = str(folder / "notify") if address == "file" else f"\0dspy-bridge-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(name)
        told.settimeout(30)
        environ = {**os.environ, "NOTIFY_SOCKET": name.replace("\0", "@")}
        with subprocess.Popen([*SERVE, "--socket", str(folder / "s")], stdin=subprocess.DEVNULL, env=environ) as daemon:
            assert told.recv(100) == b"READY=1"
            with Client.connect(str(folder / "s")) as client:
                pid = client.call("start_session", session="a")["worker_pid"]
                assert b"NOTIFY_SOCKET" not in Path(f"/proc/{pid}/environ").read_bytes()
            daemon.send_signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert daemon.wait(15) == 0


def _answers(path: Path) -> bool:
    try:
        Client.connect(str(path)).close()
    except TransportError:
        return False
    return True
