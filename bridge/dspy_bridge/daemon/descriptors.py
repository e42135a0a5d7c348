"""Taking the wire off the standard descriptors, and making any kind of file pollable.

From its first instruction the daemon owns fds 0 and 1: the wire moves to private, close-on-exec
duplicates, fd 0 becomes the null device and fd 1 becomes stderr. Whatever a library, a warning or a
child process prints goes to stderr then, never to the host.
"""

from __future__ import annotations

import fcntl
import os
import resource
import stat
import threading
from typing import Final

_CHUNK: Final = 1 << 16
_FIRST_PRIVATE_FD: Final = 10
"""Duplicates land at or above this, out of the way of descriptors a launcher may have numbered."""


def claim_stdio() -> tuple[int, int]:
    """Private duplicates of fds 0 and 1, for the wire; see the module. To be called once, first."""
    read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_PRIVATE_FD) for fd in (0, 1))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return read, write


def is_pollable(fd: int) -> bool:
    """Whether readiness of ``fd`` can be waited for: pipes, sockets and terminals, not files."""
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def pollable_input(fd: int) -> int:
    """``fd``, or the end of a pipe that a thread feeds from it where it cannot be polled itself.

    Takes ownership of ``fd``.
    """
    if is_pollable(fd):
        return fd
    read, write = os.pipe()

    def pump() -> None:
        try:
            while data := os.read(fd, _CHUNK):
                view = memoryview(data)
                while view:
                    view = view[os.write(write, view) :]
        except OSError:
            return  # the daemon has closed its end: nobody wants the rest
        finally:
            os.close(write)
            os.close(fd)

    threading.Thread(target=pump, name="stdin-pump", daemon=True).start()
    return read


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open descriptors to the hard one: a live session takes two. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
