"""What makes a newborn process a worker of its own: nothing here knows what it will run.

Order matters and is explained at each step. After :func:`become_worker` returns, the process

- leads its own session and process group, so that one signal reaches all it will ever start;
- reads nothing from fd 0 (the null device) and writes fds 1 and 2 into its captured log pipe;
- dies with the supervisor, by the end of its channel or, if busy, by the kernel;
- dumps every thread's stack into the log on a crash and on ``SIGUSR2``;
- raises :class:`Interrupted` in the main thread on ``SIGUSR1``, but only while a request runs.
"""

from __future__ import annotations

import faulthandler
import gc
import io
import os
import random
import resource
import signal
import sys
import time
from types import FrameType
from typing import Final

from session_supervisor.os_facts import die_with_parent

INTERRUPT_SIGNAL: Final = signal.SIGUSR1
DUMP_SIGNAL: Final = signal.SIGUSR2

_ADOPTION_S: Final = 5.0


class Interrupted(BaseException):
    """The request under way must stop. A ``BaseException``: program code that catches ``Exception``
    must not swallow it (DSPy and litellm both retry on ``Exception``). Raised by the signal handler."""


class InterruptGate:
    """Decides whether the interrupt signal finds a request to interrupt.

    The supervisor sends nothing new to a worker it has interrupted until that worker has answered,
    so a signal that arrives between requests is always late and is dropped here.
    """

    def __init__(self) -> None:
        self._open = False

    def __enter__(self) -> None:
        self._open = True

    def __exit__(self, *_: object) -> None:
        self._open = False

    def install(self) -> None:
        signal.signal(INTERRUPT_SIGNAL, self._interrupt)

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._open:
            self._open = False
            raise Interrupted


def become_worker(log_fd: int, supervisor_pid: int, born_of: int) -> InterruptGate:
    """Turn this process into a worker; see the module. Exits if the supervisor is already gone.

    ``born_of``: the pid of the process that made this one.
    """
    os.setsid()
    _wait_for_adoption(supervisor_pid, born_of)
    claim_standard_descriptors(log_fd)
    _reset_signals()
    faulthandler.enable(file=2, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, file=2, all_threads=True, chain=False)
    # `random` reseeds itself after a fork; numpy's global generator does not.
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gate = InterruptGate()
    gate.install()
    gc.enable()
    return gate


def _wait_for_adoption(supervisor_pid: int, born_of: int) -> None:
    """Set the death signal only once the supervisor is our parent, then check that it still is.

    A forked worker is a grandchild of the template: its parent becomes the supervisor when the
    process between has exited, and the kernel's death signal belongs to whoever is parent then.
    """
    deadline = time.monotonic() + _ADOPTION_S
    while os.getppid() == born_of != supervisor_pid:
        if time.monotonic() > deadline:
            os._exit(70)
        time.sleep(0.0002)
    # Whoever has adopted us now: if it is not the supervisor, there is none any more.
    die_with_parent()
    if os.getppid() != supervisor_pid:
        os._exit(70)


def claim_standard_descriptors(log_fd: int) -> None:
    """fd 0 becomes the null device, fds 1 and 2 become ``log_fd``; Python's own files are rebuilt on
    them, written through at once, so that what a program printed has left before its reply does."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    if log_fd > 2:
        os.close(log_fd)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as we do
    for name, fd in (("stdout", 1), ("stderr", 2)):
        raw = io.FileIO(fd, "w", closefd=False)
        stream = io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _reset_signals() -> None:
    """The defaults a fresh interpreter would have; the supervisor's handlers are not ours."""
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
