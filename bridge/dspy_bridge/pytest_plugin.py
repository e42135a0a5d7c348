"""pytest plugin: parallel tests of DSPy programs without cross-talk.

``bridge`` is a daemon for the whole run (shared by the workers of pytest-xdist over a socket);
``bridge_session`` a session of the test's own, named after it and always ended. A failing test's report
shows what its session printed and which model calls it made. See ``docs/testing.md``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from dspy_bridge.client.bridge import Bridge, Session

_SESSION: Final = pytest.StashKey["Session"]()
_FOLDER: Final = pytest.StashKey[str]()
_INPUT: Final = "dspy_bridge_folder"
_START_S: Final = 60.0
_FLAGS: Final = ("--spares", "4")
"""Tests begin and end sessions faster than anybody else."""
_ORPHAN_S: Final = 10
"""A shared daemon leaves so many seconds after its last client, should nobody end it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("bridge_args", "Flags of the daemon, as of `bridge-cli serve`.", type="args", default=[])
    parser.addini(
        "bridge_lm", "The model of every bridge_session: its name, or JSON of its configuration.", default="scripted"
    )
    parser.addini(
        "bridge_leak_check", "Fail if the run leaves sessions or processes behind.", type="bool", default=True
    )
    parser.getgroup("dspy-bridge").addoption(
        "--bridge-socket", help="Use the daemon that listens on this socket instead of starting one."
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "bridge(lm=None, **options): the model and the start_session arguments of the test's bridge_session."
    )


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """In the controller of pytest-xdist: all workers are told of one folder, where the daemon's socket is to be."""
    stash = node.config.stash
    if _FOLDER not in stash:
        stash[_FOLDER] = tempfile.mkdtemp(prefix="dspy-bridge-pytest-")
    node.workerinput[_INPUT] = stash[_FOLDER]


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.stash.get(_FOLDER, None)
    if folder is not None:
        _end_shared(Path(folder) / "socket")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def bridge(request: pytest.FixtureRequest) -> Iterator[Bridge]:
    """A daemon of this run's own (:class:`dspy_bridge.Bridge`)."""
    config = request.config
    given = config.getoption("--bridge-socket")
    folder = getattr(config, "workerinput", {}).get(_INPUT)
    check = config.getini("bridge_leak_check")
    if given is not None:
        with _connect(given) as made:
            yield made
            _check_sessions(made, check)
    elif folder is not None:
        with _connect(_shared(Path(folder), config)) as made:
            yield made
            _check_sessions(made, check)
    else:
        with _connect(None, config.getini("bridge_args")) as made:
            yield made
            _check_sessions(made, check)
            processes = _descendants(made.ready["pid"])
            code = made.close()
            if check and (code != 0 or any(one.is_running() for one in processes)):
                pytest.fail(
                    f"the daemon ended with {code} and left behind {[one for one in processes if one.is_running()]}"
                )


@pytest.fixture
def bridge_session(bridge: Bridge, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A session of this test's own (:class:`dspy_bridge.Session`)."""
    from dspy_bridge.client.errors import SessionNotFound

    options: dict[str, Any] = {"lm": _lm(request.config)}
    for marker in reversed(list(request.node.iter_markers("bridge"))):
        options |= marker.kwargs
    worker = getattr(request.config, "workerinput", {}).get("workerid", "")
    name = "".join(one if one.isprintable() else "?" for one in f"{request.node.nodeid}{worker and f' [{worker}]'}")
    session = bridge.session(name[-512:], **options)
    request.node.stash[_SESSION] = session
    yield session
    with contextlib.suppress(SessionNotFound):  # the test itself may have ended it
        session.end()
    bridge.begun.discard(session.id)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report: pytest.TestReport = yield
    session = item.stash.get(_SESSION, None)
    if session is not None and report.when == "call" and report.failed:
        report.sections += _told(session)
    return report


# -- what a failure shows --------------------------------------------------------------------------


def _told(session: Session) -> Iterator[tuple[str, str]]:
    from dspy_bridge.client.errors import BridgeException

    if session.output:
        yield "Captured output of the bridge session", session.output
    try:
        calls = session.call("inspect_history", {"n": 5}, timeout=5)["calls"]
    except BridgeException as exc:
        yield "Model calls of the bridge session", f"cannot be told: {exc}"
        return
    if calls:
        yield "Model calls of the bridge session", "\n".join(_describe(one) for one in calls)


def _describe(call: dict[str, Any]) -> str:
    messages = call.get("messages") or [{"role": "user", "content": call.get("prompt")}]
    lines = [f"{call['model']}:"]
    lines += [f"  {one['role']}: {one['content']}" for one in messages if one["role"] != "system"]
    lines += [f"  answered: {one}" for one in call.get("outputs") or ()]
    return "\n".join(lines)


# -- daemons ---------------------------------------------------------------------------------------


def _connect(socket: str | None, args: list[str] | None = None) -> Bridge:
    from dspy_bridge.client.bridge import Bridge
    from dspy_bridge.client.engine import Engine
    from dspy_bridge.client.wire import Wire

    # Not dspy_bridge.connect(): a daemon named in the environment is the developer's own.
    return Bridge(Engine(Wire.spawn([*_FLAGS, *(args or ())]) if socket is None else Wire.connect(socket)))


def _lm(config: pytest.Config) -> Any:
    given = config.getini("bridge_lm")
    return json.loads(given) if given.lstrip().startswith("{") else given


def _shared(folder: Path, config: pytest.Config) -> str:
    """The socket of the run's daemon, which whoever comes first has started."""
    from dspy_bridge.client.errors import TransportError
    from dspy_bridge.client.wire import Wire

    path, log = folder / "socket", folder / "log"
    process = None
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        try:
            Wire.connect(str(path)).close()
        except TransportError:
            time.sleep(0.02)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ResourceWarning)  # it is to outlive this worker
                del process
            return str(path)
        if process is None:
            command = [sys.executable, "-m", "dspy_bridge.cli", "serve", "--socket", str(path)]
            with log.open("ab") as file:
                process = subprocess.Popen(
                    [*command, "--idle-exit-s", str(_ORPHAN_S), *_FLAGS, *config.getini("bridge_args")],
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
        elif process.poll() not in (None, 4):  # 4: another worker's was first
            break
    raise RuntimeError(f"the daemon of this run does not start: {log.read_text(errors='replace')[-2000:]}")


def _end_shared(path: Path) -> None:
    from dspy_bridge.client.blocking import Client
    from dspy_bridge.client.errors import BridgeException

    with contextlib.suppress(BridgeException), Client.connect(str(path)) as client:
        client.call("shutdown")
        with contextlib.suppress(BridgeException):
            while True:  # until it has gone
                client.receive(15)


def _check_sessions(bridge: Bridge, check: bool) -> None:
    left = sorted(bridge.begun & {one["session_id"] for one in bridge.sessions()})
    if check and left:
        pytest.fail(f"{len(left)} session(s) were never ended: {', '.join(left[:10])}")


def _descendants(pid: int) -> list[Any]:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return list(psutil.Process(pid).children(recursive=True))
    return []
