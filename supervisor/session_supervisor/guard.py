"""The supervisor's end of its guardian (see :mod:`.guardian`): tells it who lives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from session_supervisor import guardian
from session_supervisor.reaper import kill_group


class Guard:
    """One guardian process at a time; :meth:`restart` after one ended. ``scratch``: removed at the end.
    ``shared``: a descriptor it is to have too, until its own end."""

    def __init__(self, scratch: Path, shared: int | None = None) -> None:
        self._scratch = scratch
        self._shared = () if shared is None else (shared,)
        self._groups: set[int] = set()
        self._accounts: set[int] = set()
        self._pipe = -1
        self.pid = 0
        self._start()

    def _start(self) -> None:
        read, self._pipe = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", guardian.__file__, str(self._scratch)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                pass_fds=self._shared,
            )
        finally:
            os.close(read)
        self.pid, process.returncode = process.pid, 0  # the reaper collects it, not this object
        os.set_blocking(self._pipe, False)
        for pid in self._groups:
            self._tell(b"+%d\n" % pid)
        for uid in self._accounts:
            self._tell(b"=%d\n" % uid)

    def remember(self, pid: int) -> None:
        """``pid`` leads a process group that must not outlive us."""
        self._groups.add(pid)
        self._tell(b"+%d\n" % pid)

    def forget(self, pid: int) -> None:
        """``pid`` is about to be reaped; to be called while it is still a zombie."""
        if pid in self._groups:
            self._groups.remove(pid)
            self._tell(b"-%d\n" % pid)

    def watch_account(self, uid: int) -> None:
        """Nothing under ``uid`` must outlive us."""
        self._accounts.add(uid)
        self._tell(b"=%d\n" % uid)

    def end_account(self, uid: int) -> None:
        """Kill what runs under ``uid``, soon; whether that is done only the kernel tells."""
        self._tell(b"!%d\n" % uid)

    def forget_account(self, uid: int) -> None:
        """Nothing runs under ``uid`` any more."""
        self._accounts.discard(uid)
        self._tell(b"/%d\n" % uid)

    def restart(self) -> None:
        """The guardian has ended: start another and tell it all."""
        self.release()
        self._start()

    def release(self) -> None:
        """Let it do its work: it kills what is still remembered, removes the scratch folder and ends."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1

    def _tell(self, line: bytes) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, line)
        except BlockingIOError:
            kill_group(self.pid)  # it does not listen; the next one will
        except BrokenPipeError:
            return  # it is dead; the reaper will have it restarted
        except OSError:
            with contextlib.suppress(OSError):
                os.close(self._pipe)
            self._pipe = -1
