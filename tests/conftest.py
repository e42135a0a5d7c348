"""What every test gets: a folder for temporary files of its own, and proof that it left nothing.

Every process a test starts, however indirectly, inherits a marker in its environment. When the test
is over, no process with that marker may exist any more, and nothing may be left in its TMPDIR.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from dspy_bridge.client import Client

MARKER = "BRIDGE_TEST_MARKER"
ROOT = Path(__file__).parent.parent

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# Workers of the toy application import it by name.
os.environ["PYTHONPATH"] = str(ROOT)


def marked_processes(marker: str) -> list[str]:
    """Every living process (zombies excepted) with ``marker`` in its environment, as text."""
    needle = f"{MARKER}={marker}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.name != str(os.getpid()) and needle in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"{folder.name}: {command}")
        except OSError:
            continue
    return found


def wait_until_gone(marker: str, bound: float = 3.0) -> list[str]:
    deadline = time.monotonic() + bound
    while (left := marked_processes(marker)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


class _Guarded:
    def __init__(self, folder: Path) -> None:
        self.marker = uuid.uuid4().hex
        self.folder = folder
        self._before = {name: os.environ.get(name) for name in (MARKER, "TMPDIR")}

    def __enter__(self) -> _Guarded:
        os.environ[MARKER] = self.marker
        os.environ["TMPDIR"] = str(self.folder)
        tempfile.tempdir = None
        return self

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        tempfile.tempdir = None

    def check(self) -> None:
        left = wait_until_gone(self.marker)
        assert not left, f"processes were left behind: {left}"
        scratch = [path.name for path in self.folder.glob("dspy-bridge-*")]
        assert not scratch, f"scratch folders were left behind: {scratch}"


class _Hall:
    """Where the processes of one run hold their tests: many at once, or one of them alone.

    A test that wants to be alone keeps the door shut while those inside finish, so it waits for no others.
    """

    def __init__(self, run: str) -> None:
        self._paths = [Path(tempfile.gettempdir(), f"bridge-tests-{run}-{what}") for what in ("door", "inside")]
        self._door, self._inside = (os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC) for path in self._paths)

    @contextlib.contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            if not alone:
                fcntl.flock(self._door, fcntl.LOCK_UN)
            yield
        finally:
            fcntl.flock(self._inside, fcntl.LOCK_UN)
            fcntl.flock(self._door, fcntl.LOCK_UN)

    def leave(self) -> None:
        os.close(self._door)
        os.close(self._inside)
        for path in self._paths:
            path.unlink(missing_ok=True)  # whoever leaves first has taken them away


_HALL = pytest.StashKey[_Hall]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_HALL] = _Hall(os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid())))


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_HALL].leave()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around everything of the test, with the daemons of its module."""
    with item.config.stash[_HALL].enter(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def _short_folder() -> Path:
    """Socket paths are limited to about 100 characters; pytest's own folders are long. Other accounts may pass
    through it: those of sessions that have ids of their own do."""
    folder = Path(tempfile.mkdtemp(prefix="bt-", dir="/tmp"))
    folder.chmod(0o711)
    return folder


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> Iterator[Path]:
    folder = _short_folder()
    with _Guarded(folder) as guarded:
        yield folder
    guarded.check()
    _remove(folder)


@pytest.fixture
def folder(leaves_nothing_behind: Path) -> Path:
    """A short path of the test's own."""
    return leaves_nothing_behind


@pytest.fixture(scope="module")
def daemon() -> Iterator[Client]:
    """One daemon for the tests of a module that do not harm it; each uses sessions of its own name."""
    folder = _short_folder()
    with _Guarded(folder) as guarded:
        client = Client.spawn(stderr=None)
    yield client
    assert client.close() == 0
    guarded.check()
    _remove(folder)


@pytest.fixture
def session(daemon: Client, request: pytest.FixtureRequest) -> Iterator[str]:
    """A session of the shared daemon named after the test, ended with it."""
    name = request.node.name
    yield name
    daemon.call("end_session", session=name)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder)
