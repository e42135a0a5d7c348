"""What the operating system offers beyond the standard library: a few Linux calls, each by name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Final

import psutil

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


def gil_enabled() -> bool:
    """Whether only one thread of this interpreter runs Python code at a time. An extension that is imported
    later may still switch it on in a free-threaded interpreter."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def flush_c_stdio() -> None:
    """Write out what C code left in its own stdio buffers."""
    _libc.fflush(None)


def release_free_memory() -> None:
    """Give back to the system what the C allocator holds unused (glibc only)."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)


def private_memory(pid: int) -> int:
    """Bytes that would be freed if the process ended (USS). Raises ``psutil.Error`` if it is gone."""
    return int(psutil.Process(pid).memory_full_info().uss)


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


def data_segment_bytes() -> int:
    """What the kernel counts against ``RLIMIT_DATA`` of this process now (0 where it does not tell)."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def processes_of_session(leader: int) -> int:
    """How many processes belong to the kernel session that ``leader`` leads, itself included."""
    count = 0
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            count += os.getsid(pid) == leader
    return count


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started (0 if it does not tell)."""
    try:
        counters = Path("/proc/vmstat").read_bytes().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in counters if line.startswith(b"oom_kill ")), 0)


def usable_memory() -> int:
    """Bytes of memory this process and its children may use: the machine's, or its control group's."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            total = min(total, int(Path("/sys/fs/cgroup", name).read_text()))
    return total
