"""Workers forked in milliseconds from a warm template (Linux).

The launcher keeps one template in service. A template that dies, or is found dirty, is replaced; one
that has forked often is relieved by a fresh one before the kernel's bookkeeping of its shared pages
makes forks slow (docs/adr/0004). A launch that was under way when a template died fails, rather than
being repeated on the same descriptors: a half-made worker might still hold them. The pool tries again
with fresh ones.
"""

from __future__ import annotations

import collections
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable

from session_supervisor.failures import WorkerStartFailed
from session_supervisor.launchers.base import Application, Launched, Launcher
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Ending, Reaper, kill_group
from session_supervisor.template import MAX_PACKET, Message, pack_message, unpack_message
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)

_MAX_OUTSTANDING = 16
_RETRY_S = (0.2, 1.0, 5.0, 15.0)
_START_BOUND_S = 120.0
_FORK_BOUND_S = 5.0
"""A template that says nothing for so long while something is asked of it hangs (or was stopped)."""


class _TemplateProcess:
    """One template: its process, its socket, and the launches it has been asked for."""

    def __init__(self, reactor: Reactor, reaper: Reaper, command: list[str], env: dict[str, str]) -> None:
        self._reactor = reactor
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        self.ready = False
        self.forks = 0
        self.outstanding: dict[int, Launched] = {}
        self.on_message: Callable[[_TemplateProcess, Message, int, bytes], None] | None = None
        self.on_end: Callable[[_TemplateProcess, Ending], None] | None = None
        with theirs:
            process = subprocess.Popen(
                [*command, "--control", str(theirs.fileno()), "--supervisor", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=env,
                pass_fds=(theirs.fileno(),),
            )
        self.pid, process.returncode = process.pid, 0  # the reaper collects it, not this object
        self._patience: Timer | None = None
        self.expect_word(_START_BOUND_S)
        reactor.on_readable(self.control.fileno(), self._read)
        reaper.watch(self.pid, self._ended)

    def _read(self) -> None:
        """Take every message that has arrived; the end of the socket is left to the reaper."""
        while self.control.fileno() >= 0:
            try:
                packet = self.control.recv(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._reactor.forget(self.control.fileno())
                return
            if self.on_message is not None:
                self.on_message(self, *unpack_message(packet))

    def expect_word(self, bound: float | None) -> None:
        """Kill it unless it says something within ``bound`` seconds (None: nothing is expected)."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if bound is not None:
            self._patience = self._reactor.call_later(bound, self._hangs)

    def _hangs(self) -> None:
        logger.error("the template (pid %d) does not answer; killing it", self.pid)
        self.kill()

    def kill(self) -> None:
        """Only before it has ended. In its first moments it leads no group yet."""
        kill_group(self.pid)
        os.kill(self.pid, signal.SIGKILL)

    def _ended(self, ending: Ending) -> None:
        self._read()  # what it said before it died still counts
        self.expect_word(None)
        self.close()
        if self.on_end is not None:
            self.on_end(self, ending)

    def close(self) -> None:
        """Let it go: the end of its socket makes it leave."""
        if self.control.fileno() >= 0:
            self._reactor.forget(self.control.fileno())
            self.control.close()


class ForkLauncher(Launcher):
    """See the module. ``max_forks``: how many workers one template makes before it is relieved."""

    def __init__(
        self,
        reactor: Reactor,
        reaper: Reaper,
        application: Application,
        *,
        python: str = sys.executable,
        max_forks: int = 300,
        env: dict[str, str] | None = None,
    ) -> None:
        self._reactor = reactor
        self._reaper = reaper
        self._max_forks = max_forks
        self._env = dict(os.environ if env is None else env)
        self._command = [python, "-m", "session_supervisor.template"]
        self._command += ["--preload", application.preload, "--verify", application.verify]
        self._command += ["--serve", application.serve]
        self._numbers = 0
        self._generation = 0
        self._failures = 0
        self._current: _TemplateProcess | None = None
        self._coming: _TemplateProcess | None = None
        self._waiting: collections.deque[tuple[socket.socket, int, Launched]] = collections.deque()
        self._on_ready: Callable[[], None] | None = None
        self._on_failed: Callable[[str], None] | None = None
        self._stopped = False
        self._last_error = ""

    # -- the contract --------------------------------------------------------------------------

    def start(self, on_ready: Callable[[], None], on_failed: Callable[[str], None]) -> None:
        self._on_ready, self._on_failed = on_ready, on_failed
        self._begin_template()

    def launch(self, channel: socket.socket, log: int, launched: Launched) -> None:
        self._waiting.append((channel, log, launched))
        self._serve_waiting()

    def stop(self) -> None:
        self._stopped = True
        for template in (self._current, self._coming):
            if template is not None:
                template.close()
                template.kill()
        self._fail_waiting("the launcher has stopped")

    def describe(self) -> dict[str, object]:
        current = self._current
        return {
            "kind": "fork",
            "template_pid": current.pid if current else None,
            "next_template_pid": self._coming.pid if self._coming else None,
            "template_generation": self._generation,
            "template_forks": current.forks if current else 0,
        }

    # -- templates -----------------------------------------------------------------------------

    def _begin_template(self) -> None:
        if self._stopped or self._coming is not None:
            return
        try:
            template = _TemplateProcess(self._reactor, self._reaper, self._command, self._env)
        except (OSError, ValueError) as exc:  # the latter for a NUL in what it is given
            self._template_failed(f"the system would not start a template: {exc}")
            return
        template.on_message, template.on_end = self._said, self._ended
        self._coming = template

    def _said(self, template: _TemplateProcess, message: Message, number: int, body: bytes) -> None:
        template.expect_word(_FORK_BOUND_S if len(template.outstanding) > 1 else None)
        if message is Message.READY:
            self._take_over(template)
        elif message is Message.FAILED:
            self._last_error = body.decode(errors="replace")
        else:
            launched = template.outstanding.pop(number)
            if message is Message.FORKED:
                self._failures = 0
                launched(struct.unpack("<I", body)[0])
            else:
                reason = body.decode(errors="replace")
                launched(WorkerStartFailed(f"the template refused to fork: {reason}"))
                if message is Message.DIRTY and template is self._current:
                    self._retire(template)
                    self._template_failed(f"the template is not fit to fork any more: {reason}")
            self._reaper.expect(-1)
            if template is not self._current and not template.outstanding:
                template.close()
            self._serve_waiting()

    def _take_over(self, template: _TemplateProcess) -> None:
        template.ready = True
        self._generation += 1
        self._coming = None
        relieved, self._current = self._current, template
        if relieved is not None:
            self._retire(relieved)
        if self._on_ready is not None:
            on_ready, self._on_ready, self._on_failed = self._on_ready, None, None
            on_ready()
        self._serve_waiting()

    def _retire(self, template: _TemplateProcess) -> None:
        """Out of service: it leaves by itself when its socket ends, after what it was asked for."""
        if template is self._current:
            self._current = None
        if not template.outstanding:
            template.close()

    def _ended(self, template: _TemplateProcess, ending: Ending) -> None:
        was_current = template is self._current
        if was_current:
            self._current = None
        failed, template.outstanding = template.outstanding, {}
        for launched in failed.values():
            self._reaper.expect(-1)
            launched(WorkerStartFailed("the template died while it forked"))
        if self._stopped:
            return
        if was_current:
            logger.warning("the template (pid %d) died with code %d; starting another", template.pid, ending.code)
            self._begin_template()
        elif template is self._coming:
            self._coming = None
            self._template_failed(self._last_error or f"the template ended with code {ending.code} before it was ready")

    def _template_failed(self, reason: str) -> None:
        if self._on_failed is not None:
            on_failed, self._on_ready, self._on_failed = self._on_failed, None, None
            on_failed(reason)
            return
        delay = _RETRY_S[min(self._failures, len(_RETRY_S) - 1)]
        self._failures += 1
        logger.error("%s; starting another template in %.1f s", reason, delay)
        self._fail_waiting(reason)
        self._reactor.call_later(delay, self._begin_template)

    # -- launches ------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        template = self._current
        while template is not None and self._waiting and len(template.outstanding) < _MAX_OUTSTANDING:
            channel, log, launched = self._waiting[0]
            self._numbers += 1
            packet = pack_message(Message.FORK, self._numbers)
            try:
                socket.send_fds(template.control, [packet], [channel.fileno(), log])
            except OSError:
                return  # it is dying: the reaper will say so, and the next one serves what still waits
            self._waiting.popleft()
            channel.close()
            os.close(log)
            if not template.outstanding:
                template.expect_word(_FORK_BOUND_S)
            template.outstanding[self._numbers] = launched
            self._reaper.expect(1)
            template.forks += 1
            if template.forks == self._max_forks:
                self._begin_template()

    def _fail_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, collections.deque()
        for channel, log, launched in waiting:
            channel.close()
            os.close(log)
            launched(WorkerStartFailed(reason))
