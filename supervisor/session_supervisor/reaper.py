"""The one place that collects dead children, so that a pid is never signalled after it was freed.

Every worker is this process's own child (the fork launcher's through the subreaper). A dead child is
first only *peeked* at: its pid, and the process group it leads, cannot be reused while it is a zombie.
In that moment the whole group is killed, so that nothing it started outlives it; only then is it
reaped. A kill is thus always tied to one incarnation, without pid files, names or start times.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass

from session_supervisor.os_facts import oom_kills
from session_supervisor.reactor import Reactor


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended. ``code``: its exit code, or minus the signal that ended it. ``oom``: the
    kernel has killed something for want of memory since the last child that was killed."""

    code: int
    usage: resource.struct_rusage
    oom: bool


ExitCallback = Callable[[Ending], None]


def kill_group(pid: int, signum: int = signal.SIGKILL) -> None:
    """Signal the group ``pid`` leads. Only for children that have not been reaped."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)


class Reaper:
    """Watches children by SIGCHLD. ``before_reap`` is told each pid while it is still a zombie."""

    def __init__(self, reactor: Reactor, before_reap: Callable[[int], None]) -> None:
        self._reactor = reactor
        self._before_reap = before_reap
        self._watched: dict[int, ExitCallback] = {}
        self._expected = 0
        self._early: dict[int, Ending] = {}
        self._oom_kills = oom_kills()
        reactor.on_signal(signal.SIGCHLD, self.collect)

    def watch(self, pid: int, callback: ExitCallback) -> bool:
        """Call ``callback`` once ``pid``, a child, has ended and been reaped. Whether that is still to come: the
        pid of one that was expected and has ended already is nobody's any more, and must not be signalled."""
        ending = self._early.pop(pid, None)
        if ending is not None:
            self._reactor.call_soon(lambda: callback(ending))
            return False
        self._watched[pid] = callback
        return True

    @property
    def watching(self) -> int:
        """Children watched that have not ended."""
        return len(self._watched)

    def expect(self, count: int) -> None:
        """Children whose pids are not known yet are on their way (negative: are watched, or will never be).

        Such a child may end before anybody watches it; how it ended is kept meanwhile.
        """
        self._expected += count
        if not self._expected:
            self._early.clear()

    def collect(self) -> None:
        """Reap every child that has ended."""
        while True:
            pid = self._peek()
            if pid is None:
                return
            callback = self._watched.pop(pid, None)
            kill_group(pid)
            self._before_reap(pid)
            _, status, usage = os.wait4(pid, 0)
            code = os.waitstatus_to_exitcode(status)
            ending = Ending(code, usage, code == -signal.SIGKILL and self._oom_rose())
            if callback is not None:
                callback(ending)
            elif self._expected:
                self._early[pid] = ending

    def _oom_rose(self) -> bool:
        before, self._oom_kills = self._oom_kills, oom_kills()
        return self._oom_kills > before

    def _peek(self) -> int | None:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return None
        return found.si_pid if found is not None else None
