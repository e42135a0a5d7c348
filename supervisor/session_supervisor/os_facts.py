"""What the operating system offers beyond the standard library: a few Linux calls, each by name."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

IS_LINUX: Final = sys.platform.startswith("linux")

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36

# Loaded here, at import, so that a forked child calls it without touching the dynamic linker.
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def become_subreaper() -> None:
    """Orphaned descendants become this process's children from now on (Linux only)."""
    if IS_LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when its parent ends (Linux only)."""
    if IS_LINUX:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def flush_c_stdio() -> None:
    """Write out what C code left in its own stdio buffers."""
    _libc.fflush(None)


def native_threads() -> int:
    """Threads of this process as the kernel counts them (1 where it does not tell)."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def open_descriptors() -> dict[int, str]:
    """This process's open descriptors and what each refers to; empty where the kernel does not tell."""
    found: dict[int, str] = {}
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for name in names:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found
