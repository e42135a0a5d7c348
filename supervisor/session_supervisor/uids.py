"""An id of its own for each session, as account and group, and none for two while anything of the first is left.

A session that has ended gives its id back. It is free again only when its processes are gone (whatever
group or session of the kernel's they have escaped to: everything under the id is killed) and its place is
removed; more it could not write to. Freed ids are given out again last of all.

Who holds a range is decided by a lock on those bytes of one file, so that two daemons never give out the
same id. The guardian shares it: it ends only when nothing of a killed daemon's sessions is left. Ids under
which something runs already when a daemon starts are left out.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import functools
import logging
import os
import queue
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from session_supervisor.failures import SessionLimit
from session_supervisor.guard import Guard
from session_supervisor.reactor import Reactor

logger = logging.getLogger(__name__)

LOCK: Final = Path("/run/dspy-bridge-uids.lock")
_AGAIN_S: Final = 0.05
_LOCK_BOUND_S: Final = 5.0
"""A daemon that was killed holds its ids until its guardian has done its work."""


class IdsUnavailable(Exception):
    """They cannot be held: by another daemon they are, or nothing can be locked here. Raised by :func:`lock_ids`."""


class Uids:
    """See the module. ``ids``, held by ``lock``, may be empty: then every session is of our own account, and
    0 stands for that."""

    def __init__(self, reactor: Reactor, guard: Guard, ids: range, lock: int | None) -> None:
        self._reactor = reactor
        self._guard = guard
        self._ids = ids
        self._lock = lock
        self._returned: collections.deque[int] = collections.deque()
        self._sweeps: queue.SimpleQueue[tuple[int, Callable[[], None]] | None] = queue.SimpleQueue()
        self._sweeper: threading.Thread | None = None
        self.sweeping = 0
        """Ids that have been given back and are not free yet."""
        taken = accounts_at_work() if ids else set()
        self._fresh: Iterator[int] = (uid for uid in ids if uid not in taken)

    def take(self) -> int:
        """An id nobody has. Raises :class:`SessionLimit`."""
        if not self._ids:
            return 0
        uid = next(self._fresh, 0) or (self._returned.popleft() if self._returned else 0)
        if not uid:
            raise SessionLimit(f"the ids {self._ids[0]} to {self._ids[-1]} are all in use; the operator can give more")
        self._guard.watch_account(uid)
        return uid

    def give_back(self, uid: int, clean: Callable[[], None]) -> None:
        """Its session has ended: end what still runs under it and ``clean`` up, in a thread; then it is free."""
        self.sweeping += 1
        self._sweep(uid, clean)

    def _sweep(self, uid: int, clean: Callable[[], None]) -> None:
        self._guard.end_account(uid)
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._run, name="uids", daemon=True)
            self._sweeper.start()
        self._sweeps.put((uid, clean))

    def _swept(self, uid: int, clean: Callable[[], None], at_work: bool) -> None:
        if at_work:
            self._reactor.call_later(_AGAIN_S, lambda: self._sweep(uid, clean))
            return
        self.sweeping -= 1
        self._guard.forget_account(uid)
        self._returned.append(uid)

    def stop(self) -> None:
        """Nothing is swept any more; the thread has ended when this returns."""
        if self._sweeper is not None:
            self._sweeps.put(None)
            self._sweeper.join()
        if self._lock is not None:
            os.close(self._lock)

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while (first := self._sweeps.get()) is not None:
            due = [first]
            while not self._sweeps.empty():  # one look at all processes serves all who wait for one
                more = self._sweeps.get()
                if more is None:
                    return
                due.append(more)
            # In this order: what still runs could write again what was cleaned away.
            busy = accounts_at_work()
            for uid, clean in due:
                if uid not in busy:
                    clean()
                self._reactor.call_from_thread(functools.partial(self._swept, uid, clean, uid in busy))


def lock_ids(ids: range) -> int | None:
    """A descriptor that holds the lock on ``ids`` as long as anybody has it open (None: on no ids). Raises
    :class:`IdsUnavailable`."""
    if not ids:
        return None
    try:
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise IdsUnavailable(f"the range of ids cannot be locked: {exc}") from None
    wanted = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, ids[0], len(ids), 0)
    deadline = time.monotonic() + _LOCK_BOUND_S
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(_AGAIN_S)
                continue
            os.close(descriptor)
            message = f"another daemon gives out ids between {ids[0]} and {ids[-1]}: give each a range of its own"
            raise IdsUnavailable(message) from None
        return descriptor


def accounts_at_work() -> set[int]:
    """The ids under which processes run, zombies aside."""
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            said = Path("/proc", name, "status").read_text(errors="replace")
            fields = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
            if not fields["State"].lstrip().startswith("Z"):
                found.update(int(one) for one in fields["Uid"].split())
    return found
