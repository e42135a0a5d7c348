"""Sessions on disk: what is acknowledged is stored, whatever happens next."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from session_supervisor.failures import NotStored
from session_supervisor.options import SupervisorOptions
from session_supervisor.reactor import Reactor
from session_supervisor.session import Session
from session_supervisor.store import FILE, MIGRATIONS, Change, StateUnusable, Store, StoredSession, migrate
from tests.support.harness import Harness

Make = Callable[[], Harness]


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made: list[Harness] = []

    def build() -> Harness:
        for harness in made:
            harness.close()
        made[:] = [Harness(options=SupervisorOptions(spares=1), state=folder / "state").start()]
        return made[0]

    yield build
    for harness in made:
        harness.close()


def stored(h: Harness) -> dict[str, StoredSession]:
    assert h.supervisor.store is not None
    return {one.id: one for one in h.supervisor.store.load()}


def reopen(h: Harness, one: StoredSession) -> Session:
    session = h.open(one.id, durable=True)
    session.restored(one.parts, one.version, recorded=True)
    return session


def test_a_durable_session_is_there_after_a_restart(make: Make) -> None:
    session = (h := make()).open("kept", durable=True)
    for _ in range(3):
        h.ask(session, "incr")
    h.ask(session, "put !secret=x")
    h.ask(session, "tally 4")
    version = session.snapshot.version
    h = make()
    one = stored(h)["kept"]
    assert one.parts == {"counter": b"3", "+tally": b"4"}  # what is volatile is not among them
    assert (one.charter, one.version) == (b"birth", version)
    session = reopen(h, one)
    assert h.ask(session, "incr") == "4"
    assert session.snapshot.version > version


def test_a_change_is_on_disk_before_it_is_acknowledged(make: Make, folder: Path) -> None:
    session = (h := make()).open("s", durable=True)
    other = sqlite3.connect(folder / "state" / FILE)
    for n in range(1, 30):
        assert h.ask(session, "incr") == str(n)
        assert other.execute("SELECT value FROM part WHERE name = 'counter'").fetchall() == [(str(n).encode(),)]
    other.close()


def test_an_answer_that_changed_nothing_does_not_overtake_a_change(make: Make) -> None:
    session = (h := make()).open("s", durable=True)
    h.ask(session, "incr")
    heard: list[int] = []
    for n in range(20):
        _, sink = h.send(session, "incr" if n % 2 else "pid")
        sink.reply = lambda body, n=n, reply=sink.reply: (heard.append(n), reply(body))[0]  # type: ignore[method-assign, misc]
    h.until(lambda: len(heard) == 20)
    assert heard == list(range(20))


def test_deleted_parts_are_gone_after_a_restart(make: Make) -> None:
    session = (h := make()).open("s", durable=True)
    done: list[object] = []
    session.commit({"c": b"1", "a": b"1", "b": b"2"}, done.append)
    session.commit({"a": None, "c": b"3"}, done.append)
    h.until(lambda: len(done) == 2)
    assert list(stored(make())["s"].parts.items()) == [("c", b"3"), ("b", b"2")]  # in the order they came about


def test_an_ended_session_is_forgotten_and_its_name_can_be_used_again(make: Make) -> None:
    session = (h := make()).open("s", durable=True)
    h.ask(session, "incr")
    ended: list[bool] = []
    session.end(lambda: ended.append(True))
    h.until(lambda: ended)
    assert stored(h) == {}
    h.ask(h.open("s", durable=True), "put x=new")
    assert stored(make())["s"].parts == {"x": b"new"}


def test_a_session_that_is_not_durable_never_reaches_the_disk(make: Make) -> None:
    h = make()
    h.ask(h.open("passing"), "incr")
    assert stored(make()) == {}


def test_a_session_hibernates_with_nothing_unsaved(make: Make) -> None:
    session = (h := make()).open("s", durable=True, idle_timeout=0.2)
    h.ask(session, "incr")
    h.until(lambda: session.state == "cold")
    assert h.ask(session, "incr") == "2"
    assert stored(h)["s"].parts == {"counter": b"2"}


def test_a_change_that_cannot_be_stored_is_an_error_and_is_stored_with_the_next(make: Make) -> None:
    session = (h := make()).open("s", durable=True)
    h.ask(session, "put a=1")
    assert h.supervisor.store is not None
    h.supervisor.store._db.execute("PRAGMA query_only = ON")  # as a full or failing disk would
    failure = h.ask(session, "put b=2")
    assert isinstance(failure, NotStored)
    assert h.ask(session, "part b") == "2"  # it holds in memory
    h.supervisor.store._db.execute("PRAGMA query_only = OFF")
    assert h.ask(session, "put c=3") == "put"
    assert stored(make())["s"].parts == {"a": b"1", "b": b"2", "c": b"3"}


# -- the store by itself ---------------------------------------------------------------------------


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    one = Reactor()
    yield one
    one.close()


def settle(reactor: Reactor, said: list[object], count: int) -> None:
    while len(said) < count:
        reactor.run_once(5)


parts = st.dictionaries(st.sampled_from("abc"), st.none() | st.binary(max_size=5), max_size=3)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["s", "t"]), parts | st.just("remove")), max_size=12))
def test_the_store_agrees_with_a_dict(leaves_nothing_behind: Path, changes: list[tuple[str, object]]) -> None:
    reactor = Reactor()
    folder = leaves_nothing_behind / "store"
    store = Store(folder, reactor)
    truth: dict[str, dict[str, bytes]] = {}
    said: list[object] = []
    for version, (name, change) in enumerate(changes):
        if isinstance(change, dict):
            store.save(Change(name, b"charter", 1.0, version, change), said.append)
            held = truth.setdefault(name, {})
            for key, value in change.items():
                held.pop(key, None) if value is None else held.__setitem__(key, value)
        else:
            store.remove(name, said.append)
            truth.pop(name, None)
    settle(reactor, said, len(changes))
    store.close()
    again = Store(folder, reactor)
    assert {one.id: one.parts for one in again.load()} == truth
    for name in truth:
        again.remove(name, said.append)
    again.close()
    reactor.close()
    assert said[: len(changes)] == [None] * len(changes)


def test_one_folder_serves_one_daemon(folder: Path, reactor: Reactor) -> None:
    store = Store(folder / "state", reactor)
    with pytest.raises(StateUnusable, match="another daemon"):
        Store(folder / "state", reactor)
    store.close()
    Store(folder / "state", reactor).close()


def test_the_file_is_for_its_owner_alone(folder: Path, reactor: Reactor) -> None:
    Store(folder / "state", reactor).close()
    assert stat.S_IMODE((folder / "state").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "state" / FILE).stat().st_mode) == 0o600


def test_a_file_that_is_something_else_is_left_alone(folder: Path, reactor: Reactor) -> None:
    (folder / "state").mkdir()
    (folder / "state" / FILE).write_text("these are my holiday pictures, " * 100)
    with pytest.raises(StateUnusable, match="not a file of sessions"):
        Store(folder / "state", reactor)
    assert "holiday" in (folder / "state" / FILE).read_text()


def test_a_file_of_a_newer_version_is_refused(folder: Path, reactor: Reactor) -> None:
    Store(folder / "state", reactor).close()
    db = sqlite3.connect(folder / "state" / FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateUnusable, match="newer version"):
        Store(folder / "state", reactor)


def test_an_older_file_is_migrated_whole_or_not_at_all(folder: Path, reactor: Reactor) -> None:
    said: list[object] = []
    store = Store(folder / "state", reactor)
    store.save(Change("s", b"c", 1.0, 1, {"a": b"1"}), said.append)
    store.close()
    path = folder / "state" / FILE
    db = sqlite3.connect(path, isolation_level=None)
    better = (*MIGRATIONS, "ALTER TABLE session ADD COLUMN note TEXT DEFAULT 'none';")
    broken = (*better, "CREATE TABLE half (a); CREATE TABLE half (b);")
    with pytest.raises(sqlite3.Error):
        migrate(db, path, broken)
    db.close()
    db = sqlite3.connect(path, isolation_level=None)
    assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    migrate(db, path, better)
    assert db.execute("SELECT id, note FROM session").fetchall() == [("s", "none")]
    assert db.execute("PRAGMA user_version").fetchone() == (len(better),)
    db.close()


def test_a_folder_that_cannot_be_made_is_a_clear_error(folder: Path, reactor: Reactor) -> None:
    (folder / "file").write_text("")
    with pytest.raises(StateUnusable, match="cannot be used"):
        Store(folder / "file" / "state", reactor)
