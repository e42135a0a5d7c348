"""The fresh daemon a conversation is replayed with: the recorded options, folders and keys of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dspy_bridge.client.errors import TransportError
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol.recording import NOT_RECORDED
from dspy_bridge.protocol.secrets import is_secret
from dspy_bridge.replay.link import Inbox, Link

GRANTS: Final = frozenset(
    (
        *("python", "preload", "allow_import", "import_path", "allow_data"),
        *("allow_key_env", "allow_local_interpreter", "allow_mcp"),
    )
)
"""Options that let sessions run or read what is on this machine: a file somebody sent must not set them."""
_OWN_FOLDERS: Final = ("state_dir", "shared_cache")
_START_S: Final = 60.0
_PATIENCE_S: Final = 3.0


class Stage:
    """A daemon and the folder it lives in, until the end of a ``with`` block. Raises :class:`TransportError`."""

    def __init__(self, options: DaemonOptions, environ: Mapping[str, str], *, sockets: bool, primary: bool) -> None:
        self.options = options
        self._folder = tempfile.TemporaryDirectory(prefix="dspy-bridge-replay-")
        self._path = str(Path(self._folder.name) / "s") if sockets else None
        host, daemon = socket.socketpair()
        self._primary: socket.socket | None = host
        self._ending = primary
        """It ends by itself: with its primary host, or because it was asked to."""
        command = [sys.executable, "-m", "dspy_bridge.cli", "serve", *self._flags()]
        command += ["--stdio"] if primary else []
        command += ["--socket", self._path] if self._path is not None else []
        with daemon:
            self.process = subprocess.Popen(command, stdin=daemon.fileno(), stdout=daemon.fileno(), env=dict(environ))

    def _flags(self) -> Iterable[str]:
        """Every option there is, so that neither a file nor the environment adds any."""
        for name, value in self.options:
            if name in _OWN_FOLDERS and value:
                value = str(Path(self._folder.name) / name)
            words = name.replace("_", "-")
            if isinstance(value, bool):
                yield f"--{words}" if value else f"--no-{words}"
            else:
                yield f"--{words}={value}"

    def link(self, number: int, kind: str, inbox: Inbox) -> Link:
        """Connect as the host of connection ``number`` did."""
        if kind == "primary" and self._primary is not None:
            wire, self._primary = self._primary, None
        else:
            wire = self._joined()
        return Link(number, wire, self.options.framing, inbox)

    def _joined(self) -> socket.socket:
        wire = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + _START_S
        while True:
            try:
                wire.connect(self._path or "")
            except OSError as exc:
                if time.monotonic() < deadline and self.process.poll() is None:
                    time.sleep(0.02)
                    continue
                wire.close()
                raise TransportError(f"the daemon of the replay cannot be joined: {exc}") from None
            return wire

    def stop(self) -> None:
        """Ask the daemon to end, as an operator does."""
        self._ending = True
        self.process.send_signal(signal.SIGTERM)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        if self._primary is not None:
            self._primary.close()
        for ask in (not self._ending, True):  # the second time it does not wait for what is still open
            if ask and self.process.poll() is None:
                self.stop()
            try:
                self.process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                continue
            break
        else:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()


def environment(trusted: bool, needed: Iterable[str]) -> dict[str, str]:
    """For the daemon: without this machine's keys, unless the recording is trusted with them; variables the
    conversation ``needed`` a key from hold a stand-in."""
    kept = {name: value for name, value in os.environ.items() if trusted or not is_secret(name)}
    return {**dict.fromkeys(filter(is_secret, needed), "<secret>"), **kept}


def options_for(
    recorded: Mapping[str, Any], given: Mapping[str, Any], *, trusted: bool
) -> tuple[dict[str, Any], list[str]]:
    """The options of the replay's daemon, and what somebody should know about them."""
    unknown = sorted(recorded.keys() - DaemonOptions.model_fields.keys())
    withheld = sorted(recorded.keys() & GRANTS - given.keys()) if not trusted else []
    notes = [f"this version has no option {name}, which was recorded" for name in unknown]
    notes += [f"{name} is not set as it was recorded: say --trust to allow it" for name in withheld]
    taken = {name: value for name, value in recorded.items() if name not in (*unknown, *withheld, *NOT_RECORDED)}
    return {**taken, **given}, notes
