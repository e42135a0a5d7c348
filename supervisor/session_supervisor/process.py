"""The process of one worker, as the system sees it: its birth, its log, the signals it gets, and its end.

What it is asked and what it answers is :mod:`~session_supervisor.handle`'s.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from session_supervisor.autopsy import LastWords, Life, certify
from session_supervisor.failures import DeathCertificate
from session_supervisor.reactor import Reactor
from session_supervisor.reading import read_chunk
from session_supervisor.reaper import Ending, ExitCallback, Reaper, kill_group
from session_supervisor.timers import Callback, Timer


@dataclass(frozen=True, slots=True)
class Grace:
    """Seconds each rung of the ladder waits for an effect before the next is climbed."""

    interrupt: float = 0.5
    terminate: float = 0.5
    dump: float = 0.2
    leave: float = 1.0
    """For an idle worker told to stop."""


Rung = tuple[float, Callable[[], None]]
"""Seconds to wait for an effect of what went before, and what is done if there was none."""


class WorkerProcess:
    """Exists before its process does. ``child_log``: the end of the log pipe that is the process's own.

    A signal goes only to a process that has not been reaped: its pid is nobody else's.
    """

    def __init__(self, reactor: Reactor, reaper: Reaper) -> None:
        self.pid = 0
        self.alive = False
        self.born = time.monotonic()
        self._reactor = reactor
        self._reaper = reaper
        self._killed = False
        self._ladder: Timer | None = None
        self._last_words = LastWords()
        self._log, self.child_log = os.pipe()
        os.set_blocking(self._log, False)

    @property
    def age(self) -> float:
        """Seconds since it was asked for."""
        return time.monotonic() - self.born

    def begun(self, pid: int, printed: Callback, exited: ExitCallback) -> bool:
        """It exists: call ``printed`` whenever there may be something in its log, and ``exited`` at its end.
        Whether that is still to come."""
        self.pid = pid
        self._reactor.on_readable(self._log, printed)
        self.alive = self._reaper.watch(pid, exited)
        return self.alive

    def read_log(self) -> bytes | None:
        """What is in the log pipe (it holds less than a chunk); None if there is nothing."""
        try:
            data = read_chunk(self._log)
        except BlockingIOError:
            return None
        if not data:
            self._reactor.forget(self._log)
            return None
        self._last_words.add(data)
        return data

    # -- signals -------------------------------------------------------------------------------

    def signal(self, signum: int) -> None:
        if self.alive:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """SIGTERM to its group."""
        if self.alive:
            kill_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to its group."""
        if self.alive:
            self._killed = True
            kill_group(self.pid)
            # Not yet leader of its group in its first moments: then the pid itself must do.
            os.kill(self.pid, signal.SIGKILL)

    def climb(self, rungs: Sequence[Rung]) -> None:
        """Do one after another, each when the one before has had no effect in time; none of those given before."""
        if self._ladder is not None:
            self._ladder.cancel()
            self._ladder = None
        if rungs:
            (delay, action), *higher = rungs

            def step() -> None:
                action()
                self.climb(higher)

            self._ladder = self._reactor.call_later(delay, step)

    # -- its end -------------------------------------------------------------------------------

    def ended(self) -> None:
        """It has been reaped."""
        self.alive = False
        self.climb([])

    def certify(self, ending: Ending, *, served: int, last_command: str | None, expected: bool) -> DeathCertificate:
        """How it ended, and all that is known of why."""
        life = Life(self.pid, self.age, served, last_command, expected or self._killed)
        return certify(ending, life, self._last_words.text())

    def close(self) -> None:
        """Release what was kept for it."""
        self._reactor.forget(self._log)
        os.close(self._log)
        self._log = -1
