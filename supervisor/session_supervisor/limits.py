"""What one session's interpreter may use, and how the operating system is made to see to it.

Two guards stand behind each limit: one inside the process that refuses in the moment (rlimits, an
audit hook), so that a program gets an exception it can name; and the supervisor's look from outside
(:mod:`.inspector`), which no program can talk its way around. Where a system lacks the first, the
second remains.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Final

from session_supervisor.os_facts import data_segment_bytes, processes_of_session

_CPU_SLACK_S: Final = 2
_LAST_WORDS: Final = 32 << 20
"""Bytes a process may have beyond its memory limit once it is known to have reached it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """0 means no limit. ``memory``: bytes of private memory. ``open_files``: descriptors.
    ``processes``: the interpreter itself and what it starts. ``cpu``: seconds of processor time per
    request. ``scratch``: bytes in the session's scratch folder."""

    memory: int = 0
    open_files: int = 0
    processes: int = 0
    cpu: float = 0.0
    scratch: int = 0


class LimitReached(Exception):
    """The program asked for more than its session may have; ``limit`` is the field of :class:`Limits`.
    Raised where the program asked."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit


class CpuExhausted(BaseException):
    """The request has used up its processor time. A ``BaseException``, as an interrupt is one: no
    ``except Exception`` of the program may swallow it. Raised by the timer's signal handler."""


class LimitKeeper:
    """Keeps the limits of the session this process serves. ``apply`` once, ``request`` around each request."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._in_request = False

    def apply(self) -> None:
        """Set what holds for the life of the process."""
        limits = self.limits
        if limits.memory:
            _lower(resource.RLIMIT_DATA, data_segment_bytes() + limits.memory, _LAST_WORDS)
        if limits.open_files:
            _lower(resource.RLIMIT_NOFILE, limits.open_files)
        if limits.scratch:
            _lower(resource.RLIMIT_FSIZE, limits.scratch)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails with EFBIG
        if limits.processes:
            sys.addaudithook(self._audit)
        if limits.cpu:
            signal.signal(signal.SIGPROF, self._exhausted)

    def relax(self) -> None:
        """Memory is used up: room enough to say so."""
        if self.limits.memory:
            hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))

    def _audit(self, event: str, _args: tuple[object, ...]) -> None:
        if event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"):
            running = processes_of_session(os.getpid())
            if running >= self.limits.processes:
                allowed = self.limits.processes
                raise LimitReached("processes", f"{running} of the session's {allowed} processes are running")

    def _exhausted(self, _signum: int, _frame: FrameType | None) -> None:
        if self._in_request:  # a signal that arrives between requests is late
            self._in_request = False
            raise CpuExhausted

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Bound one request's processor time, that of all its threads together."""
        if not self.limits.cpu:
            yield
            return
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        # Code that never returns to the interpreter sees no handler: the kernel ends it a little later.
        backstop = math.ceil(used + self.limits.cpu) + _CPU_SLACK_S
        resource.setrlimit(resource.RLIMIT_CPU, (backstop, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        self._in_request = True
        signal.setitimer(signal.ITIMER_PROF, self.limits.cpu)
        try:
            yield
        finally:
            self._in_request = False
            signal.setitimer(signal.ITIMER_PROF, 0)


def _lower(kind: int, value: int, reserve: int = 0) -> None:
    """Set the limit to ``value``, the one it may be raised to again to ``reserve`` more; never higher."""
    _, hard = resource.getrlimit(kind)
    ceiling = value + reserve if hard == resource.RLIM_INFINITY else min(value + reserve, hard)
    resource.setrlimit(kind, (min(value, ceiling), ceiling))
