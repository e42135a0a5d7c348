"""The daemon: its transports, router and supervisor put together, and its life from start to exit."""

from __future__ import annotations

import enum
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, Protocol

from dspy_bridge.daemon.configuration import Configuration, Revision
from dspy_bridge.daemon.connection import Connection
from dspy_bridge.daemon.control import Control, installed_version
from dspy_bridge.daemon.descriptors import pollable_input
from dspy_bridge.daemon.health import Watchdog
from dspy_bridge.daemon.listener import Listener
from dspy_bridge.daemon.metrics_port import MetricsPort
from dspy_bridge.daemon.notify import Notifier
from dspy_bridge.daemon.observation import Observation
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.daemon.recording import Recorder
from dspy_bridge.daemon.reloading import Reloading
from dspy_bridge.daemon.router import Router
from dspy_bridge.daemon.sampling import Sampler
from dspy_bridge.daemon.sessions import Sessions
from dspy_bridge.daemon.telemetry import start_telemetry
from dspy_bridge.daemon.trace_file import TraceFile
from dspy_bridge.daemon.tracing import Tracer
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.codec import Framing
from dspy_bridge.protocol.snapshot_parts import add_tally
from session_supervisor.failures import RequestCancelled
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
    PORT_IN_USE = 6
    NOT_HARDENED = 7
    """A measure of ``--harden`` cannot be had here."""
    KILLED = 143
    """A second SIGTERM ended it at once."""


APPLICATION = Application(
    serve="dspy_bridge.worker.app:serve",
    preload="dspy_bridge.worker.warm:preload",
    verify="dspy_bridge.worker.warm:verify",
)

_LAST_WORDS_S = 2.0
_RECORDED_VERSIONS = {"server": "dspy-bridge", "dspy": "dspy"}


class Consumer(Protocol):
    """Something of the operator's that watches the daemon."""

    def close(self) -> None:
        """The daemon ends: finish, within a bound."""


def _make_launcher(reactor: Reactor, reaper: Reaper, options: DaemonOptions) -> Launcher:
    kind = options.launcher
    if kind == "auto":
        kind = "fork" if IS_LINUX else "spawn"
    python = options.python or sys.executable
    if kind == "spawn":
        return SpawnLauncher(APPLICATION, python)
    env = {**os.environ, "DSPY_BRIDGE_PRELOAD": options.preload}
    return ForkLauncher(reactor, reaper, APPLICATION, python=python, max_forks=options.template_max_forks, env=env)


class Daemon:
    """One daemon. Add transports, then :meth:`run`. ``socket``: where it will listen, if it will.
    Raises :class:`StateUnusable`, :class:`HardeningUnavailable`, :class:`IdsUnavailable`."""

    def __init__(self, configuration: Configuration, socket: str | None = None) -> None:
        self._configuration = configuration
        options = configuration.options
        options.hardening().check(options.python or sys.executable, ("dspy_bridge", "session_supervisor", "dspy"))
        self._hidden = () if socket is None else (os.path.realpath(socket),)
        self._notifier = Notifier()
        self._reactor = Reactor(lambda exc: logger.error("a callback of the daemon failed", exc_info=exc))
        self._reactor.on_signal(signal.SIGHUP, lambda: self._reloading.ask())
        self._tracer = Tracer()
        observation = Observation(self._tracer)
        # First, because it may not be possible: then nothing has been begun.
        store = Store(Path(options.state_dir), self._reactor, options.state_sync) if options.state_dir else None
        self._supervisor = Supervisor(
            self._reactor,
            lambda reactor, reaper: _make_launcher(reactor, reaper, options),
            options.for_supervisor(self._hidden),
            observation,
            add=add_tally,
            store=store,
        )
        self._sessions = sessions = Sessions(self._supervisor, configuration)
        for stored in store.load() if store else ():
            sessions.restore(stored)
        self._reloading = Reloading(
            configuration, self._supervisor, self._notifier, _make_launcher, self._adopted, self._announce_reload
        )
        self._control = Control(
            self._supervisor,
            sessions,
            configuration,
            self._reloading,
            self.shut_down,
            self._tracer,
            observation,
        )
        self._router = Router(
            self._supervisor,
            self._control.serve,
            sessions.needed,
            self._tracer,
            log_limit=options.request_log_bytes,
            has_adapter=sessions.has_adapter,
        )
        self._control.router = self._router
        self._watchdog = self._control.watchdog = Watchdog(self._reactor)
        self._consumers: list[Consumer] = []
        self._recorder: Recorder | None = None
        self._primary: Connection | None = None
        self._connections: set[Connection] = set()
        self._listener: Listener | None = None
        self._half_closed: dict[Connection, Timer] = {}
        self._idle_timer: Timer | None = None
        self._exit = Exit.OK

    @property
    def _options(self) -> DaemonOptions:
        return self._configuration.options

    # -- who watches ---------------------------------------------------------------------------

    def watch(self) -> None:
        """Begin what the options ask for: a trace file, OpenTelemetry, a port for Prometheus. Raises
        :class:`CannotTrace`, :class:`PortInUse`; then :meth:`abandon` it."""
        options = self._options
        if options.trace_file:
            file = TraceFile(self._reactor, options.trace_file, self._control.identity())
            self._tracer.listen(file.take)
            self._consumers += [Sampler(self._reactor, self._supervisor, file.take), file]
        if options.otel:
            exporter = start_telemetry(self._control.identity())
            self._tracer.listen(exporter.take)
            self._consumers.append(exporter)
        if options.metrics_port:
            pages = {"/metrics": self._control.metrics_page, "/health": self._control.health_page}
            self._consumers.append(MetricsPort(self._reactor, options.metrics_port, pages))

    # -- transports ----------------------------------------------------------------------------

    def record(self) -> None:
        """Write down what is said from now on. Raises :class:`RecordingRefused`, ``OSError``."""
        versions = {f"{name}_version": installed_version(of) for name, of in _RECORDED_VERSIONS.items()}
        self._recorder = Recorder(self._options, versions, len(self._supervisor.sessions))

    def serve_descriptors(self, read_fd: int, write_fd: int) -> None:
        """Serve one host on two descriptors; the daemon ends with its input."""
        self._primary = self._connect(pollable_input(read_fd), write_fd, "primary")

    def serve_socket(self, path: str) -> None:
        """Serve any number of clients on a Unix socket. Raises :class:`SocketInUse`, ``OSError``."""
        self._listener = Listener(self._reactor, path, self._accept)

    def _connect(self, read_fd: int, write_fd: int, kind: Literal["primary", "client"]) -> Connection:
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
            tap=self._recorder.tap(kind) if self._recorder is not None else None,
        )
        connection.knows_protocol = self._options.ready
        self._connections.add(connection)
        return connection

    def _accept(self, fd: int) -> None:
        connection = self._connect(fd, fd, "client")
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
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._reactor.on_signal(signum, self._asked_to_end)
        self._supervisor.start(self._ready, self._cannot_start)
        self._watchdog.start()
        self._reactor.run()
        self._watchdog.stop()
        for consumer in self._consumers:
            consumer.close()
        for connection in list(self._connections):
            connection.close()
        if self._recorder is not None:
            self._recorder.close()
        self._reactor.close()
        return self._exit

    def abandon(self) -> None:
        """It cannot serve after all: let go of what was begun for it."""
        for consumer in self._consumers:
            consumer.close()
        if self._listener is not None:
            self._listener.close()
        self._supervisor.abandon()

    def _ready(self) -> None:
        if self._primary is not None:
            self._welcome(self._primary)
        if self._listener is not None:
            self._listener.start()
            self._watch_idleness()
        self._notifier.tell("READY=1")
        self._reloading.allow()
        # What is here now stays. Without it, a full collection looks only at what sessions have left behind,
        # which makes it short, and frequent enough that memory stays flat.
        gc.collect()
        gc.freeze()

    def _adopted(self, revision: Revision) -> None:
        """Other options have come into force."""
        if revision.changed:
            self._supervisor.reconfigure(self._options.for_supervisor(self._hidden))
            self._sessions.reconfigure()
            self._router.log_limit = self._options.request_log_bytes
            self._watch_idleness()

    def _announce_reload(self, facts: dict[str, Any]) -> None:
        for connection in self._connections:
            if connection.knows_protocol and not connection.lost:
                connection.send(envelope.daemon_event("reloaded", facts))

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
            if self._recorder is not None:
                self._recorder.close()
            os._exit(Exit.KILLED)  # the guardian cleans up behind us
        if self._recorder is not None:
            self._recorder.happened(stop=True)
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
