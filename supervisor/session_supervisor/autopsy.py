"""Why a worker has died, as far as can be told from outside: its certificate, and its last words."""

from __future__ import annotations

import collections
import signal
from dataclasses import dataclass
from typing import Final

from session_supervisor.failures import DeathCertificate
from session_supervisor.os_facts import IS_LINUX
from session_supervisor.reaper import Ending

_KEPT: Final = 16 * 1024


class LastWords:
    """The last 16 KiB of what a process wrote to its standard descriptors."""

    def __init__(self) -> None:
        self._pieces = collections.deque[bytes]()
        self._size = 0

    def add(self, data: bytes) -> None:
        self._pieces.append(data[-_KEPT:])
        self._size += len(self._pieces[-1])
        while self._size - len(self._pieces[0]) >= _KEPT:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        return b"".join(self._pieces)[-_KEPT:].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Life:
    """What its supervisor knows of it. ``expected``: its end was our doing."""

    pid: int
    age: float
    served: int
    last_command: str | None
    expected: bool


def certify(ending: Ending, life: Life, last_output: str) -> DeathCertificate:
    """The certificate of a process the reaper has collected."""
    usage = ending.usage
    # Linux counts it in KiB, macOS in bytes.
    peak = usage.ru_maxrss / (2**10 if IS_LINUX else 2**20)
    return DeathCertificate(
        pid=life.pid,
        exit_code=ending.code if ending.code >= 0 else None,
        signal=-ending.code if ending.code < 0 else None,
        age_s=round(life.age, 3),
        requests=life.served,
        last_command=life.last_command,
        peak_memory_mb=round(peak, 1),
        cpu_s=round(usage.ru_utime + usage.ru_stime, 3),
        last_output=last_output,
        hint=_hint(ending, life),
    )


def _hint(ending: Ending, life: Life) -> str | None:
    if ending.code != -signal.SIGKILL or life.expected:
        return None
    if ending.oom:
        return "the kernel has killed for want of memory meanwhile, probably this one"
    return "nobody here sent that signal: where memory is short, it is how the kernel makes room"
