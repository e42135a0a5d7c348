"""Code that means harm, run for real inside a session: what it reaches of another, with measures and without.

Every attack succeeds against a daemon without measures. That is what shows that it can.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from dspy_bridge.client import Client, CommandFailed
from dspy_bridge.daemon.server import Exit
from tests.daemon import test_mcp
from tests.support import hardened

QA = {"id": "qa", "signature": "question -> answer"}
LM = {"model": "scripted", "answers": [{"answer": "well"}]}
SECRET = "the secret of b"

DAEMONS = {
    "bare": "",
    "own accounts": hardened.EVERYTHING,
    "bare, of nobody": "",
    "same account, of nobody": "no-network,read-only",
}
"""What each takes. Those of nobody have no rights to begin with."""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    yield hardened.interpreter(folder)
    shutil.rmtree(folder)


def started(measures: str, python: str) -> Client:
    given = hardened.flags(python, measures) if measures else []
    return Client.spawn(["--preload", "tests.support.misbehaving", "--spares", "3", *given])


@pytest.fixture(scope="module", params=DAEMONS)
def measures(request: pytest.FixtureRequest) -> str:
    if request.param == "same account, of nobody":
        hardened.need()  # to become nobody, and there is no more to it
    elif DAEMONS[request.param]:
        hardened.need(DAEMONS[request.param])
    return str(request.param)


@pytest.fixture(scope="module")
def client(measures: str) -> Iterator[Client]:
    """A daemon that takes these measures."""
    folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    folder.chmod(0o777)
    python = hardened.interpreter(folder) if measures != "bare" else ""
    with as_nobody(python, folder) if measures in OF_NOBODY else contextlib.nullcontext():
        client = started(DAEMONS[measures], python)
    with client:
        yield client
    shutil.rmtree(folder)


OF_NOBODY = ("bare, of nobody", "same account, of nobody")
BECOME_NOBODY = """
import os, sys
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@contextlib.contextmanager
def as_nobody(python: str, folder: Path) -> Iterator[None]:
    """Daemons that are spawned meanwhile are nobody's."""
    with pytest.MonkeyPatch.context() as patched:
        script = folder / "as-nobody"
        script.write_text(f'#!/bin/sh\nexec {python} -c "$BECOME" "$@"\n')
        script.chmod(0o755)
        patched.setattr(sys, "executable", str(script))
        patched.setenv("BECOME", BECOME_NOBODY)
        patched.setenv("TMPDIR", str(folder))
        yield


def begin(client: Client, session: str, **args: Any) -> None:
    client.call("start_session", {"lm": LM, **args}, session=session)
    client.call("create_program", QA, session=session)


def do(client: Client, session: str, code: str, **fields: Any) -> dict[str, Any]:
    """The reply to a request that runs ``code`` in the session."""
    args = {"program_id": "qa", "inputs": {"question": f"py:{code}"}}
    return client.reply(client.start("execute_program", args, session=session, **fields))


def pid_of(client: Client, session: str) -> int:
    return int(client.call("session_info", session=session)["workers"][0]["pid"])


def scratch(client: Client, session: str) -> Path:
    """Its scratch folder, in which it works from now on."""
    moved = do(client, session, "import os; os.chdir(os.environ['TMPDIR'])")
    assert moved["success"], moved
    return Path(os.readlink(f"/proc/{pid_of(client, session)}/cwd"))


def wait_for(condition: Callable[[], object], bound: float = 10.0) -> None:
    deadline = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class Victim:
    """Session b, and what it has that a may want."""

    pid: int
    scratch: Path
    abstract: str
    address: int


HOLD = f"""
import ctypes, os, socket
open('secret', 'w').write({SECRET!r})
path, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
path.bind('s')
abstract.bind(chr(0) + 'of-b-%d' % os.getpid())
path.listen()
abstract.listen()
memory = ctypes.create_string_buffer({SECRET.encode()!r})
kept.extend([path, abstract, memory])
open('address', 'w').write(str(ctypes.addressof(memory)))
"""


@contextlib.contextmanager
def victim(client: Client) -> Iterator[Victim]:
    begin(client, "b")
    begin(client, "a")
    pid, folder = pid_of(client, "b"), scratch(client, "b")
    held = do(client, "b", HOLD)
    assert held["success"], held
    try:
        yield Victim(pid, folder, f"of-b-{pid}", int((folder / "address").read_text()))
    finally:
        for session in "ab":
            client.call("end_session", session=session)


LIBC = "import ctypes, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n"
CHECKED = """
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""

ATTACKS = {
    "its scratch folder": "assert open('{scratch}/secret').read() == {secret!r}",
    "its scratch folder by its root": "assert open('/proc/{pid}/root{scratch}/secret').read() == {secret!r}",
    "its scratch folder by its directory": "assert open('/proc/{pid}/cwd/secret').read() == {secret!r}",
    "planting in its scratch folder": "open('{scratch}/planted', 'w').close()",
    "its environment": "assert open('/proc/{pid}/environ', 'rb').read()",
    "its descriptors": "assert [os.readlink('/proc/{pid}/fd/' + fd) for fd in os.listdir('/proc/{pid}/fd')]",
    "a descriptor of its": "checked(libc.syscall(438, os.pidfd_open({pid}), 0, 0))",
    "its memory": (
        "memory = open('/proc/{pid}/mem', 'rb')\nmemory.seek({address})\nassert memory.read(15).decode() == {secret!r}"
    ),
    "its memory by process_vm_readv": (
        "class Piece(ctypes.Structure):\n"
        "    _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]\n"
        "into = ctypes.create_string_buffer(15)\n"
        "mine, theirs = Piece(ctypes.addressof(into), 15), Piece({address}, 15)\n"
        "checked(libc.process_vm_readv({pid}, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0))\n"
        "assert into.raw.decode() == {secret!r}"
    ),
    "tracing it": (
        "checked(libc.ptrace(16, {pid}, None, None))\n"
        "os.waitpid({pid}, 0x40000000)\n"
        "checked(libc.ptrace(17, {pid}, None, None))"
    ),
    "a socket in its folder": "socket.socket(socket.AF_UNIX).connect('{scratch}/s')",
    "an abstract socket of its": "socket.socket(socket.AF_UNIX).connect(chr(0) + '{abstract}')",
    "its namespaces": "os.open('/proc/{pid}/ns/mnt', os.O_RDONLY)",
    "a signal": "os.kill({pid}, 9)",
    "seeing that it is there": "assert '{pid}' in os.listdir('/proc')",
}
"""Each raises if it is refused."""
OF_ONE_ACCOUNT = ("a signal", "seeing that it is there", "a file of the daemon's account")
REFUSALS = (
    "PermissionError",
    "FileNotFoundError",
    "ProcessLookupError",
    "ConnectionRefusedError",
    "AssertionError",
    "OSError",
)


def attack(client: Client, name: str) -> dict[str, Any]:
    with victim(client) as b:
        facts = {"pid": b.pid, "scratch": b.scratch, "abstract": b.abstract, "address": b.address, "secret": SECRET}
        return do(client, "a", LIBC + CHECKED + ATTACKS[name].format(**facts))


def was_refused(reply: dict[str, Any]) -> None:
    assert not reply["success"], "the attack succeeded"
    assert any(word in str(reply["error"]) for word in REFUSALS), reply


@pytest.mark.parametrize("name", ATTACKS)
def test_a_session_that_reaches_for_another_is_stopped_by_the_measures_alone(
    client: Client, measures: str, name: str
) -> None:
    reply = attack(client, name)
    if "bare" in measures or ("same account" in measures and name in OF_ONE_ACCOUNT):
        assert reply["success"], reply
    else:
        was_refused(reply)


# -- what lies outside of all sessions -------------------------------------------------------------

OUTSIDE = {
    "a folder everybody may write to": "open('{folder}/planted', 'w').close()",
    "a file by another name": "os.link(os.environ['TMPDIR'] + '/own', '{folder}/planted')",
    "a file's mode": "os.chmod('{folder}', 0o700)",
    "making all writable again": (
        "checked(libc.mount(None, b'/', None, 32 | 4096, None))\nopen('{folder}/planted', 'w').close()"
    ),
    "making all writable in namespaces of its own": (
        "def inside():\n"
        "    checked(libc.unshare(0x10000000 | 0x20000))\n"
        "    libc.mount(None, b'/', None, 32 | 4096, None)\n"
        "    for path in ('/tmp', os.path.dirname(os.path.dirname(os.environ['TMPDIR']))):\n"
        "        libc.umount2(path.encode(), 2)\n"
        "    open('{folder}/planted', 'w').close()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        inside()\n"
        "        os._exit(0)\n"
        "    finally:\n"
        "        os._exit(1)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    ),
    "the daemon's file system": "open('/proc/{daemon}/root{folder}/planted', 'w').close()",
    "a server on loopback": "socket.create_connection(('127.0.0.1', {port}), 3).close()",
    "the network by the daemon's namespace": (
        "there = os.open('/proc/{daemon}/ns/net', os.O_RDONLY)\nchecked(libc.setns(there, 0))\n"
        "socket.create_connection(('127.0.0.1', {port}), 3).close()"
    ),
    "the daemon's environment": "assert open('/proc/{daemon}/environ', 'rb').read()",
    "a file of the daemon's account": "open('{folder}/of-daemon', 'rb').read()",
}
FOR_ROOT = ("a file's mode", "making all writable again", "the network by the daemon's namespace")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_session_that_reaches_for_the_machine_is_stopped_by_the_measures_alone(
    client: Client, measures: str, name: str, folder: Path
) -> None:
    if measures == "bare, of nobody" and name in FOR_ROOT:
        pytest.skip("nobody could not do that without measures either")
    folder.chmod(0o777)
    begin(client, "a", cwd="/")
    assert client.process is not None
    (folder / "of-daemon").touch(mode=0o600)
    os.chown(folder / "of-daemon", *[os.stat(f"/proc/{client.process.pid}").st_uid] * 2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        facts = {"folder": folder, "port": server.getsockname()[1], "daemon": client.process.pid}
        made = "open(os.environ['TMPDIR'] + '/own', 'w').close()\n"
        reply = do(client, "a", LIBC + CHECKED + made + OUTSIDE[name].format(**facts))
    client.call("end_session", session="a")
    if "bare" in measures or ("same account" in measures and name in OF_ONE_ACCOUNT):
        assert reply["success"], reply
    else:
        was_refused(reply)
        assert not (folder / "planted").exists()


ROOT = {
    "setuid": "os.setuid(0)",
    "setresuid": "os.setresuid(0, 0, 0)",
    "setgroups": "os.setgroups([0])",
    "a file of root's": "open('{folder}/of-root', 'rb').read()",
    "a setuid program": (
        "import subprocess\n"
        "assert subprocess.run(['{folder}/whoami', '-u'], capture_output=True, check=True).stdout == b'0\\n'"
    ),
}


@pytest.mark.parametrize("name", ROOT)
def test_a_session_cannot_become_root_again_nor_at_all(client: Client, measures: str, name: str, folder: Path) -> None:
    if measures in OF_NOBODY and name != "a setuid program":
        pytest.skip("it was never root")
    folder.chmod(0o755)
    (folder / "of-root").touch(mode=0o600)
    shutil.copy("/usr/bin/id", folder / "whoami")
    (folder / "whoami").chmod(0o4755)
    begin(client, "a")
    reply = do(client, "a", LIBC + ROOT[name].format(folder=folder))
    client.call("end_session", session="a")
    if "bare" in measures:
        assert reply["success"], reply
    else:
        was_refused(reply)


def test_no_new_privileges_alone_takes_the_effect_from_setuid_programs(folder: Path) -> None:
    code = "status = open('/proc/self/status').read()\nassert 'NoNewPrivs:\\t1' in status"
    for given, expected in ((["--harden", "no-new-privs"], True), ([], False)):
        if given:
            hardened.need("no-new-privs")
        with Client.spawn(["--preload", "tests.support.misbehaving", *given]) as one:
            begin(one, "a")
            assert do(one, "a", code)["success"] is expected


def test_interpreters_that_are_started_afresh_are_shut_in_too(python: str, folder: Path) -> None:
    hardened.need()
    with Client.spawn([*hardened.flags(python), "--launcher", "spawn"]) as client:
        begin(client, "a")
        uid = os.stat(f"/proc/{pid_of(client, 'a')}").st_uid
        status = Path(f"/proc/{pid_of(client, 'a')}/status").read_text()
        assert uid != 0
        assert "NoNewPrivs:\t1" in status
        assert "CapBnd:\t0000000000000000" in status
        for kind in ("net", "mnt", "ipc"):
            assert os.readlink(f"/proc/{pid_of(client, 'a')}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
        answer = client.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, session="a")
        assert answer["outputs"] == {"answer": "well"}


def test_the_workers_of_a_session_share_its_id_and_no_other_session_has_it(python: str, folder: Path) -> None:
    hardened.need()
    with started(hardened.EVERYTHING, python) as client:
        ids: dict[str, set[int]] = {}
        for name in ("a", "b"):
            begin(client, name, lm={**LM, "delay_ms": 300}, workers=2)
            args = {"program_id": "qa", "inputs": {"question": "?"}}
            for one in [client.start("execute_program", args, session=name) for _ in range(2)]:
                client.finish(one)
            workers = client.call("session_info", session=name)["workers"]
            assert len(workers) == 2
            assert all(worker["memory_mb"] > 1 for worker in workers)  # which the daemon can still see
            ids[name] = {os.stat(f"/proc/{worker['pid']}").st_uid for worker in workers}
        assert len(ids["a"]) == len(ids["b"]) == 1
        assert ids["a"] != ids["b"]


# -- going on with every measure taken -------------------------------------------------------------


def test_a_session_hibernates_is_recycled_and_recovers_with_every_measure(python: str, folder: Path) -> None:
    hardened.need()
    with started(hardened.EVERYTHING, python) as client:
        begin(client, "a")
        client.call("update_state", {"key": "n", "op": "incr"}, session="a")
        where = scratch(client, "a")
        account = os.stat(f"/proc/{pid_of(client, 'a')}").st_uid
        assert do(client, "a", "open('mine', 'w').close()")["success"]
        seen = {pid_of(client, "a")}
        client.call("recycle_session", session="a")
        seen.add(pid_of(client, "a"))
        assert do(client, "a", "import os; os._exit(3)")["error"]["code"] == "worker_crashed"
        assert do(client, "a", f"open('{where}/mine', 'r+').write('still')")["success"]
        seen.add(pid_of(client, "a"))
        assert len(seen) == 3
        assert {os.stat(f"/proc/{pid_of(client, 'a')}").st_uid, os.stat(where).st_uid} == {account}
        assert client.call("get_state", {"key": "n"}, session="a")["value"] == 1
    with Client.spawn([*hardened.flags(python), "--idle-timeout-s", "0.3"]) as client:
        begin(client, "a")
        wait_for(lambda: client.call("session_info", session="a")["state"] == "cold")
        answer = client.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, session="a")
        assert answer["outputs"] == {"answer": "well"}


def test_durable_sessions_survive_a_restart_with_every_measure(python: str, folder: Path) -> None:
    hardened.need()
    state = ["--state-dir", str(folder / "state")]
    for expected in (1, 2):
        with Client.spawn([*hardened.flags(python), *state]) as client:
            if expected == 1:
                begin(client, "a")
            assert client.call("update_state", {"key": "n", "op": "incr"}, session="a")["value"] == expected
            answer = client.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, session="a")
            assert answer["outputs"] == {"answer": "well"}


@pytest.mark.parametrize(
    ("limit", "code", "error"),
    [
        ({"max_memory_mb": 64}, "kept.append([bytes(1 << 16) for _ in range(1 << 14)])", "memory_limit"),
        ({"max_cpu_s": 0.3}, "while True: pass", "resource_limit"),
        ({"max_processes": 2}, "import subprocess as s; [s.Popen(['sleep', '9']) for _ in 'xyz']", "resource_limit"),
        (
            {"max_scratch_mb": 1},
            "import os; open(os.environ['TMPDIR'] + '/big', 'wb').write(bytes(9 << 20))",
            "resource_limit",
        ),
    ],
    ids=["memory", "cpu", "processes", "scratch"],
)
def test_limits_hold_with_measures_as_without(client: Client, limit: dict[str, Any], code: str, error: str) -> None:
    begin(client, "limited", **limit)
    assert do(client, "limited", code)["error"]["code"] == error
    assert do(client, "limited", "pass")["success"]
    client.call("end_session", session="limited")


def test_what_fills_the_scratch_folder_piece_by_piece_is_seen_and_swept_out(client: Client) -> None:
    begin(client, "full", max_scratch_mb=1)
    code = "import os, uuid\nopen(os.environ['TMPDIR'] + '/' + uuid.uuid4().hex, 'wb').write(bytes(1 << 19))"
    refused: list[Any] = []

    def over() -> bool:
        reply = do(client, "full", code)
        refused[:] = [] if reply["success"] else [reply["error"]["details"]]
        return bool(refused)

    wait_for(over)
    assert refused == [{"limit": "scratch"}]
    assert do(client, "full", code)["success"]
    client.call("end_session", session="full")


def test_folders_that_are_allowed_stay_writable_and_nothing_else_does(python: str, folder: Path) -> None:
    hardened.need()
    data = folder / "data"
    data.mkdir()
    data.chmod(0o777)
    folder.chmod(0o777)
    flags = [*hardened.flags(python), "--preload", "tests.support.misbehaving", "--allow-data", str(data)]
    with Client.spawn(flags) as client:
        begin(client, "a")
        assert do(client, "a", f"open('{data}/result', 'w').write('kept')")["success"]
        was_refused(do(client, "a", f"open('{folder}/result', 'w')"))
    assert (data / "result").read_text() == "kept"


def test_a_reload_sessions_could_not_be_shut_in_after_is_refused_and_they_go_on(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened.need()
    folder.chmod(0o755)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    monkeypatch.chdir(folder)
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    other = closed / "python"
    other.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    other.chmod(0o755)
    settings = folder / "bridge.toml"
    settings.write_text(f"python = '{python}'\n")
    flags = [*hardened.flags(python)[:4], "--spares", "0"]
    with Client.spawn(flags) as client:
        assert client.process is not None
        for failed, (text, says) in enumerate(
            [
                (f"python = '{python}'\nallow_data = '{folder}/missing'\n", "missing, to stay writable, is no folder"),
                (f"python = '{other}'\n", f"install {other} and its packages"),
            ],
            start=1,
        ):
            settings.write_text(text)
            client.process.send_signal(signal.SIGHUP)
            wait_for(lambda failed=failed: client.call("get_stats")["reload"]["failed"] == failed)
            said = client.call("get_stats")["reload"]["last"]
            assert says in said["message"]
            assert client.call("ping", {"deep": True}, session=f"new {failed}")["status"] == "ok"
        settings.write_text(f"python = '{python}'\nallow_data = '{closed}'\n")
        client.process.send_signal(signal.SIGHUP)
        wait_for(lambda: client.call("get_stats")["reload"]["count"] == 1)
        assert client.call("ping", {"deep": True}, session="newest")["status"] == "ok"


def test_a_host_stays_the_model_of_a_session_without_a_network(python: str, folder: Path) -> None:
    hardened.need()
    with Client.spawn(hardened.flags(python)) as client:
        client.on_call = lambda call: {"text": "[[ ## answer ## ]]\nfrom the host\n\n[[ ## completed ## ]]"}
        client.call("configure_lm", {"model": "host"}, session="a")
        client.call("create_program", QA, session="a")
        answer = client.call("execute_program", {"program_id": "qa", "inputs": {"question": "?"}}, session="a")
        assert answer["outputs"] == {"answer": "from the host"}


def test_a_command_of_a_session_runs_under_its_id_and_dies_with_its_interpreter(python: str, folder: Path) -> None:
    hardened.need()
    pytest.importorskip("mcp")
    with Client.spawn([*hardened.flags(python), "--allow-mcp", "--preload", "mcp"]) as client:
        marker = {"BRIDGE_TEST_MARKER": os.environ["BRIDGE_TEST_MARKER"]}
        client.call("start_session", {"env": marker}, session="a")
        test_mcp.create(client, "a", test_mcp.over_pipes())
        server = int(test_mcp.use(client, "a", "whoami").split()[0])
        worker = pid_of(client, "a")
        assert os.stat(f"/proc/{server}").st_uid == os.stat(f"/proc/{worker}").st_uid != 0
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{server}").exists())
        assert int(test_mcp.use(client, "a", "whoami").split()[0]) != server


# -- leaving ---------------------------------------------------------------------------------------

ESCAPE = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        os.chdir('/')
        for fd in range(3):
            os.close(fd)
        open(os.environ['TMPDIR'] + '/escaped', 'w').write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
while not os.path.exists(os.environ['TMPDIR'] + '/escaped') or not os.path.getsize(os.environ['TMPDIR'] + '/escaped'):
    time.sleep(0.01)
"""
"""What leaves its group and its session of the kernel, where the kill of a worker's group does not reach it."""


def has_ended(pid: int) -> bool:
    """Whoever inherits it may take a while to collect it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def escaped(client: Client, session: str) -> tuple[int, Path]:
    where = scratch(client, session)
    assert do(client, session, ESCAPE)["success"]
    return int((where / "escaped").read_text()), where


def test_an_id_is_given_out_again_only_when_nothing_of_its_session_is_left(python: str, folder: Path) -> None:
    hardened.need()
    ids = hardened.own_ids(2)
    flags = [*hardened.flags(python, ids=ids), "--preload", "tests.support.misbehaving"]
    with Client.spawn(flags) as client:
        begin(client, "a")
        begin(client, "b")
        pid, where = escaped(client, "a")
        account = os.stat(where).st_uid
        third = client.reply(client.start("start_session", {}, session="c"))
        assert third["error"]["code"] == "session_limit"
        assert str(ids[0]) in third["error"]["message"]
        client.call("end_session", session="a")
        wait_for(lambda: client.reply(client.start("start_session", {"lm": LM}, session="c"))["success"])
        assert not Path(f"/proc/{pid}").exists()
        assert not where.parent.exists()
        client.call("create_program", QA, session="c")
        assert os.stat(f"/proc/{pid_of(client, 'c')}").st_uid == account


def test_a_killed_daemon_leaves_no_process_of_its_sessions_and_its_ids_are_free_again(
    python: str, folder: Path
) -> None:
    hardened.need()
    ids = hardened.own_ids(2)
    flags = [*hardened.flags(python, ids=ids), "--preload", "tests.support.misbehaving"]
    client = Client.spawn(flags)
    begin(client, "a")
    pid, where = escaped(client, "a")
    assert client.process is not None
    client.process.send_signal(signal.SIGKILL)
    client.close()
    wait_for(lambda: has_ended(pid))
    wait_for(lambda: not where.exists())
    with Client.spawn(flags) as client:
        begin(client, "a")


def test_two_daemons_never_give_out_the_same_id(python: str, folder: Path) -> None:
    hardened.need()
    ids = hardened.own_ids()
    with Client.spawn(hardened.flags(python, ids=ids)) as client:
        begin(client, "a")
        refused = serve(*hardened.flags(python, ids=ids[3:5]))
    assert refused.returncode == Exit.NOT_HARDENED
    assert "another daemon" in refused.stderr


# -- what cannot be had ----------------------------------------------------------------------------


def serve(*flags: str, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dspy_bridge.cli", "serve", *flags]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **how)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--harden", "no-netwrok"], "there is no measure 'no-netwrok'"),
        (["--harden", "own-uid", "--uid-range", "200000-200009"], "own-uid needs read-only too"),
        (["--harden", "own-uid,read-only"], "own-uid needs a range of ids"),
        (["--harden", "read-only", "--uid-range", "200000-200009"], "of no use without the measure own-uid"),
        (["--harden", "own-uid,read-only", "--uid-range", "9-3"], "'9-3' is no range of ids"),
        (["--harden", "own-uid,read-only", "--uid-range", "0-3"], "ids lie between 1 and"),
        (
            ["--harden", "own-uid,read-only", "--uid-range", "200000-200009", "--shared-cache", "c"],
            "cannot share the files of a cache",
        ),
    ],
)
def test_measures_that_make_no_sense_are_refused_by_name(flags: list[str], says: str) -> None:
    refused = serve(*flags)
    assert refused.returncode == Exit.USAGE
    assert says in refused.stderr


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_ids_that_are_somebodys_are_refused_by_name() -> None:
    refused = serve("--harden", "own-uid,read-only", "--uid-range", "65000-65534")
    assert refused.returncode == Exit.NOT_HARDENED
    assert "ids from 65534 on are nobody's" in refused.stderr


def test_an_interpreter_that_sessions_could_not_use_is_refused_at_the_start(python: str, folder: Path) -> None:
    hardened.need()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    other = closed / "python"
    other.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
    other.chmod(0o755)
    refused = serve(*hardened.flags(str(other)))
    assert refused.returncode == Exit.NOT_HARDENED
    assert f"install {other} and its packages where every account can read them" in refused.stderr


def test_a_scratch_folder_that_sessions_could_not_reach_is_refused_at_the_start(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardened.need()
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setenv("TMPDIR", str(closed))
    refused = serve(*hardened.flags(python))
    assert refused.returncode == Exit.NOT_HARDENED
    assert "set TMPDIR to a folder" in refused.stderr
    assert not any(closed.iterdir())


def test_what_the_kernel_does_not_give_is_refused_with_a_remedy(python: str, folder: Path) -> None:
    hardened.need()
    folder.chmod(0o777)
    without = """
import os, sys
from session_supervisor import namespaces
namespaces.enter_user_namespace()
open('/proc/sys/user/max_user_namespaces', 'w').write('0')
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
    serving = ["-m", "dspy_bridge.cli", "serve", "--harden", "no-network"]
    command = [python, "-c", BECOME_NOBODY, "-c", without, *serving]
    refused = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == Exit.NOT_HARDENED, refused
    assert "no-network cannot be had" in refused.stderr
    assert "max_user_namespaces" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root on Linux")
def test_roots_own_sessions_are_not_said_to_be_shut_in() -> None:
    refused = serve("--harden", "read-only")
    assert refused.returncode == Exit.NOT_HARDENED
    assert "add own-uid, or start the daemon under another account" in refused.stderr


# -- what a session prepares for its next interpreter ----------------------------------------------


def test_a_link_in_place_of_the_scratch_folder_does_not_make_what_it_names_writable(
    client: Client, measures: str, folder: Path
) -> None:
    if "bare" in measures:
        pytest.skip("nothing is read-only there")
    folder.chmod(0o777)
    begin(client, "a")
    lay = f"import os\nplace = os.environ['TMPDIR']\nos.rename(place, place + '-was')\nos.symlink('{folder}', place)"
    laid = do(client, "a", lay)
    with contextlib.suppress(CommandFailed):
        client.call("recycle_session", session="a")
    reply = do(client, "a", "import os\nopen('/dev/shm/planted', 'w')\nopen(os.environ['TMPDIR'] + '/planted', 'w')")
    if measures == "own accounts":  # the folder's folder is not its own
        assert not laid["success"]
    else:
        assert not reply["success"]
    assert list(folder.iterdir()) == []
    client.call("end_session", session="a")


@pytest.mark.parametrize("flags", [[], ["--harden", "no-network,read-only"]], ids=["bare", "measures"])
def test_a_session_of_the_daemons_account_cannot_be_its_host(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    hardened.need()
    folder.chmod(0o777)
    monkeypatch.setenv("TMPDIR", str(folder))
    path = str(folder / "s")
    with as_nobody(python, folder):
        client = Client.spawn(["--preload", "tests.support.misbehaving", "--socket", path, "--stdio", *flags])
    with client:
        begin(client, "a")
        reply = do(client, "a", f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')")
        if flags:
            was_refused(reply)
        else:
            assert reply["success"], reply
