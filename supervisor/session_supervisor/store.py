"""Durable sessions on disk: one SQLite file in a folder that one daemon at a time may use.

Every change of a session is one transaction, whole or not at all. The disk is written in a thread of
its own, in the order of the calls, and each caller is told in the event loop when its change is safe:
the loop never waits for a disk, and no change is acknowledged before it is stored. With ``normal``
a stored change survives the death of the daemon at any instant; with ``full`` that of the machine too,
for the price of waiting for the disk.

What the values mean is their owners' affair: this module stores bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from session_supervisor.failures import NotStored
from session_supervisor.reactor import Reactor

logger = logging.getLogger(__name__)

Synchronous = Literal["normal", "full"]
Stored = Callable[["NotStored | None"], None]

FILE: Final = "sessions.sqlite"

MIGRATIONS: Final = (
    """
    CREATE TABLE session (
        id TEXT PRIMARY KEY,
        charter BLOB NOT NULL,
        created REAL NOT NULL,
        used REAL NOT NULL,
        version INTEGER NOT NULL
    );
    CREATE TABLE part (
        session TEXT NOT NULL REFERENCES session (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (session, name)
    );
    """,
)
"""Step ``n`` brings a file from schema version ``n`` to ``n + 1``. Steps are only ever added."""


class StateUnusable(Exception):
    """The folder cannot serve: in use, from a newer version, or no such file. Raised by :class:`Store`."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One session as it was stored. ``created`` and ``used`` are seconds since the epoch."""

    id: str
    charter: bytes
    created: float
    used: float
    version: int
    parts: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Change:
    """What one transaction writes: the session's row, and the parts that changed (None: gone)."""

    id: str
    charter: bytes
    created: float
    version: int
    parts: Mapping[str, bytes | None]


class Store:
    """See the module. Raises :class:`StateUnusable` where the folder cannot serve."""

    def __init__(self, folder: Path, reactor: Reactor, synchronous: Synchronous = "normal") -> None:
        self._reactor = reactor
        self._folder = folder
        self._lock = _lock(folder)
        try:
            self._db = _open(folder / FILE, synchronous)
        except BaseException:
            os.close(self._lock)
            raise
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], Stored] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def load(self) -> Iterator[StoredSession]:
        """Every stored session. To be exhausted before the first change."""
        rows = self._db.execute("SELECT id, charter, created, used, version FROM session ORDER BY used")
        for name, charter, created, used, version in rows.fetchall():
            parts = dict(self._db.execute("SELECT name, value FROM part WHERE session = ? ORDER BY rowid", (name,)))
            yield StoredSession(name, charter, created, used, version, parts)

    def save(self, change: Change, done: Stored) -> None:
        """Store ``change``; ``done`` is told in the loop when it is safe, or why it is not."""
        self._jobs.put((functools.partial(self._write, change), done))

    def remove(self, session_id: str, done: Stored) -> None:
        """Forget a session."""
        self._jobs.put((functools.partial(self._delete, session_id), done))

    def after(self, done: Stored) -> None:
        """``done`` is told when everything asked for so far has been stored (or has failed)."""
        self._jobs.put((lambda: None, done))

    def close(self) -> None:
        """Store what is still to be stored, then let go of the folder."""
        self._jobs.put(None)
        self._thread.join()
        self._db.close()
        os.close(self._lock)

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            write, done = job
            failure: NotStored | None = None
            try:
                write()
            except (sqlite3.Error, OSError) as exc:
                logger.error("a session could not be stored in %s: %s", self._folder, exc)  # noqa: TRY400 - no bug
                failure = NotStored(f"the change holds in memory but could not be stored: {exc}")
            self._reactor.call_from_thread(functools.partial(done, failure))

    def _write(self, change: Change) -> None:
        with self._transaction() as db:
            db.execute(
                "INSERT INTO session (id, charter, created, used, version) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET used = excluded.used, version = excluded.version",
                (change.id, change.charter, change.created, time.time(), change.version),
            )
            gone = [(change.id, name) for name, value in change.parts.items() if value is None]
            kept = [(change.id, name, value) for name, value in change.parts.items() if value is not None]
            if gone:
                db.executemany("DELETE FROM part WHERE session = ? AND name = ?", gone)
            if kept:
                db.executemany(
                    "INSERT INTO part (session, name, value) VALUES (?, ?, ?)"
                    " ON CONFLICT (session, name) DO UPDATE SET value = excluded.value",
                    kept,
                )

    def _delete(self, session_id: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM session WHERE id = ?", (session_id,))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder for this process alone, however it ends."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StateUnusable(f"the state folder {folder} cannot be used: {exc}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise StateUnusable(f"another daemon keeps its sessions in {folder}") from None
    return lock


def _open(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        # Made here, then used by the store's thread alone.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError) as exc:
        raise StateUnusable(f"{path} cannot be opened: {exc}") from None
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("PRAGMA foreign_keys = ON")
        migrate(db, path)
    except sqlite3.Error as exc:
        db.close()
        raise StateUnusable(f"{path} is not a file of sessions: {exc}") from None
    except StateUnusable:
        db.close()
        raise
    return db


def migrate(db: sqlite3.Connection, path: Path, steps: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the file to the newest schema, all steps or none. Raises :class:`StateUnusable` for a newer one."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(steps):
        raise StateUnusable(f"{path} was written by a newer version (schema {version}; this one knows {len(steps)})")
    if version < len(steps):
        script = "".join(steps[version:])
        db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {len(steps)}; COMMIT;")
