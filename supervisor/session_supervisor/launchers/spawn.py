"""Workers started from nothing: slow (a full import each), but right everywhere a fork is not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

from session_supervisor.failures import WorkerStartFailed
from session_supervisor.launchers.base import Application, Launched, Launcher


class SpawnLauncher(Launcher):
    """Runs ``python -m session_supervisor.worker`` once per worker. ``python``: its interpreter."""

    def __init__(self, application: Application, python: str = sys.executable) -> None:
        self._application = application
        self._python = python
        self._stopped = False

    def start(self, on_ready: Callable[[], None], on_failed: Callable[[str], None]) -> None:
        """Ready at once if the interpreter can import the application's module; it is not run yet."""
        module = self._application.serve.partition(":")[0]
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        try:
            found = subprocess.run([self._python, "-c", probe], capture_output=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            on_failed(f"the workers' interpreter {self._python} does not run: {exc}")
            return
        if found.returncode:
            on_failed(f"the workers' interpreter {self._python} cannot import {module}")
            return
        on_ready()

    def launch(self, channel: socket.socket, log: int, launched: Launched) -> None:
        command = [self._python, "-m", "session_supervisor.worker"]
        command += ["--channel", str(channel.fileno()), "--log", str(log)]
        command += ["--supervisor", str(os.getpid()), "--serve", self._application.serve]
        try:
            if self._stopped:
                raise OSError("the launcher has stopped")
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(channel.fileno(), log)
            )
        except OSError as exc:
            launched(WorkerStartFailed(f"the system would not start {self._python}: {exc}"))
        else:
            pid, process.returncode = process.pid, 0  # the reaper collects it, not this object
            launched(pid)
        finally:
            channel.close()
            os.close(log)

    def stop(self) -> None:
        self._stopped = True

    def describe(self) -> dict[str, object]:
        return {"kind": "spawn", "python": self._python}
