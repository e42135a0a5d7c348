"""The daemon: its transports, router and supervisor put together, and its life from start to exit."""

from __future__ import annotations

import enum
import logging
import os
import signal
import sys
from pathlib import Path

from dspy_bridge.daemon.configuration import Resolved
from dspy_bridge.daemon.connection import Connection
from dspy_bridge.daemon.control import Control
from dspy_bridge.daemon.descriptors import pollable_input
from dspy_bridge.daemon.health import Watchdog
from dspy_bridge.daemon.listener import Listener
from dspy_bridge.daemon.notify import Notifier
from dspy_bridge.daemon.router import Router
from dspy_bridge.daemon.sessions import Sessions
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.codec import Framing
from dspy_bridge.protocol.snapshot_parts import add_tally
from session_supervisor.failures import DeathCertificate, RequestCancelled
from session_supervisor.launchers.base import Application, Launcher
from session_supervisor.launchers.fork import ForkLauncher
from session_supervisor.launchers.spawn import SpawnLauncher
from session_supervisor.os_facts import IS_LINUX
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from session_supervisor.store import Store
from session_supervisor.supervisor import Supervisor
from session_supervisor.timers import Timer

logger = logging.getLogger(__name__)


class Exit(enum.IntEnum):
    """Exit codes of ``bridge-cli serve``."""

    OK = 0
    FAULT = 1
    USAGE = 2
    PRELOAD_FAILED = 3
    SOCKET_IN_USE = 4
    STATE_UNUSABLE = 5
    NOT_HARDENED = 6
    """A measure of ``--harden`` cannot be had here."""
    KILLED = 143
    """A second SIGTERM ended it at once."""


APPLICATION = Application(
    serve="dspy_bridge.worker.app:serve",
    preload="dspy_bridge.worker.warm:preload",
    verify="dspy_bridge.worker.warm:verify",
)

_LAST_WORDS_S = 2.0


class Daemon:
    """One daemon. Add transports, then :meth:`run`. ``socket``: where it will listen, if it will.
    Raises :class:`StateUnusable`, :class:`HardeningUnavailable`, :class:`IdsUnavailable`."""

    def __init__(self, resolved: Resolved, socket: str | None = None) -> None:
        self._options = options = resolved.options
        self._python = options.python or sys.executable
        options.hardening().check(self._python, ("dspy_bridge", "session_supervisor", "dspy"))
        hidden = () if socket is None else (os.path.realpath(socket),)
        self._notifier = Notifier()
        self._reactor = Reactor(lambda exc: logger.error("a callback of the daemon failed", exc_info=exc))
        # First, because it may not be possible: then nothing has been begun.
        store = Store(Path(options.state_dir), self._reactor, options.state_sync) if options.state_dir else None
        self._supervisor = Supervisor(
            self._reactor, self._make_launcher, options.for_supervisor(hidden), self, add=add_tally, store=store
        )
        sessions = Sessions(self._supervisor, options)
        for stored in store.load() if store else ():
            sessions.restore(stored)
        self._control = Control(self._supervisor, sessions, resolved, self.shut_down)
        self._router = Router(
            self._supervisor,
            self._control.serve,
            sessions.needed,
            log_limit=options.request_log_bytes,
            has_adapter=sessions.has_adapter,
        )
        self._control.router = self._router
        self._watchdog = self._control.watchdog = Watchdog(self._reactor)
        self._primary: Connection | None = None
        self._connections: set[Connection] = set()
        self._listener: Listener | None = None
        self._half_closed: dict[Connection, Timer] = {}
        self._idle_timer: Timer | None = None
        self._exit = Exit.OK

    def _make_launcher(self, reactor: Reactor, reaper: Reaper) -> Launcher:
        kind = self._options.launcher
        if kind == "auto":
            kind = "fork" if IS_LINUX else "spawn"
        if kind == "spawn":
            return SpawnLauncher(APPLICATION, self._python)
        env = {**os.environ, "DSPY_BRIDGE_PRELOAD": self._options.preload}
        forks = self._options.template_max_forks
        return ForkLauncher(reactor, reaper, APPLICATION, python=self._python, max_forks=forks, env=env)

    # -- transports ----------------------------------------------------------------------------

    def serve_descriptors(self, read_fd: int, write_fd: int) -> None:
        """Serve one host on two descriptors; the daemon ends with its input."""
        self._primary = self._connect(pollable_input(read_fd), write_fd)

    def serve_socket(self, path: str) -> None:
        """Serve any number of clients on a Unix socket. Raises :class:`SocketInUse`, ``OSError``."""
        self._listener = Listener(self._reactor, path, self._accept)

    def _connect(self, read_fd: int, write_fd: int) -> Connection:
        framing: Framing = self._options.framing
        connection = Connection(
            self._reactor,
            read_fd,
            write_fd,
            framing=framing,
            max_frame=self._options.max_frame,
            on_frames=self._router.take,
            on_input_end=self._input_ended,
            on_lost=self._lost,
        )
        connection.knows_protocol = self._options.ready
        self._connections.add(connection)
        return connection

    def _accept(self, fd: int) -> None:
        connection = self._connect(fd, fd)
        self._welcome(connection)
        self._watch_idleness()

    def _welcome(self, connection: Connection) -> None:
        if self._options.ready:
            connection.send(envelope.daemon_event("ready", self._control.ready()))
        connection.start_reading()

    # -- the end of a host ---------------------------------------------------------------------

    def _input_ended(self, connection: Connection) -> None:
        if connection is self._primary:
            self.shut_down()
        else:
            self._await_answers(connection)

    def _await_answers(self, connection: Connection) -> None:
        """A client sends no more. If it still reads it gets its answers; if it is gone they are stopped."""
        if connection.hung_up():
            self._lost(connection)
        elif not self._router.of(connection):
            connection.when_flushed(lambda: self._disconnect(connection))
        else:
            self._half_closed[connection] = self._reactor.call_later(0.1, lambda: self._await_answers(connection))

    def _lost(self, connection: Connection) -> None:
        """Nobody will read the answers: what still works on them is stopped."""
        for opened in self._router.of(connection):
            self._router.stop(opened, RequestCancelled("its host has gone"))
        if connection is self._primary:
            self.shut_down()
        else:
            self._disconnect(connection)

    def _disconnect(self, connection: Connection) -> None:
        connection.close()
        self._connections.discard(connection)
        timer = self._half_closed.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self._watch_idleness()

    def _watch_idleness(self) -> None:
        """Exit after ``idle_exit_s`` without a client, for daemons nobody started on purpose."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if self._options.idle_exit_s and not self._connections:
            self._idle_timer = self._reactor.call_later(self._options.idle_exit_s, self.shut_down)

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> Exit:
        """Serve until the end; returns the exit code."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._reactor.on_signal(signum, self._asked_to_end)
        self._supervisor.start(self._ready, self._cannot_start)
        self._watchdog.start()
        self._reactor.run()
        self._watchdog.stop()
        for connection in list(self._connections):
            connection.close()
        self._reactor.close()
        return self._exit

    def abandon(self) -> None:
        """It cannot serve after all: let go of what was begun for it."""
        self._supervisor.abandon()

    def _ready(self) -> None:
        if self._primary is not None:
            self._welcome(self._primary)
        if self._listener is not None:
            self._listener.start()
            self._watch_idleness()
        self._notifier.tell("READY=1")

    def _cannot_start(self, reason: str) -> None:
        # The host sees why on its own wire, the operator on stderr.
        sys.stderr.write(f"dspy-bridge cannot start: {reason.rstrip()}\n")
        if self._primary is not None:
            self._primary.send(envelope.daemon_event("fatal", {"code": "worker_start_failed", "message": reason}))
        self._exit = Exit.PRELOAD_FAILED
        self.shut_down()

    def _asked_to_end(self) -> None:
        if self._supervisor.draining:
            logger.warning("asked to end a second time; ending at once")
            os._exit(Exit.KILLED)  # the guardian cleans up behind us
        self.shut_down()

    def shut_down(self) -> None:
        """Begin the orderly end: no new clients or requests, what is open may finish within a bound."""
        if self._supervisor.draining:
            return
        self._notifier.tell("STOPPING=1")
        if self._listener is not None:
            self._listener.close()
        self._supervisor.drain(self._drained)

    def _drained(self) -> None:
        """Every process has gone and every request is answered: see the last answers off, then stop."""
        pending = [connection for connection in self._connections if not connection.lost]
        remaining = len(pending) + 1

        def one_flushed() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                self._reactor.stop()

        for connection in pending:
            connection.when_flushed(one_flushed)
        self._reactor.call_later(_LAST_WORDS_S, self._reactor.stop)
        one_flushed()

    # -- the supervisor's observer -------------------------------------------------------------

    def session_printed(self, session_id: str, data: bytes) -> None:
        text = data.decode(errors="replace").rstrip()
        logger.info("session %s printed: %s", session_id, text, extra={"session": session_id})

    def worker_died(self, session_id: str, certificate: DeathCertificate) -> None:
        facts = {"session": session_id, "worker": certificate.pid}
        said = (session_id, certificate.pid, certificate.describe())
        logger.warning("the interpreter of session %s (pid %d) %s", *said, extra=facts)
