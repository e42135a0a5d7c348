"""The daemon: its transports, router and supervisor put together, and its life from start to exit."""

from __future__ import annotations

import enum
import gc
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any, Protocol

from dspy_bridge.daemon.configuration import Configuration, Revision
from dspy_bridge.daemon.control import Control, installed_version
from dspy_bridge.daemon.health import Watchdog
from dspy_bridge.daemon.hosts import Hosts
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
from dspy_bridge.protocol.snapshot_parts import add_tally
from session_supervisor.launchers.base import Application, Launcher
from session_supervisor.launchers.fork import ForkLauncher
from session_supervisor.launchers.spawn import SpawnLauncher
from session_supervisor.os_facts import IS_LINUX
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from session_supervisor.store import Store
from session_supervisor.supervisor import Supervisor

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


def _check_hardening(options: DaemonOptions) -> None:
    """Raises :class:`HardeningUnavailable`."""
    options.hardening().check(options.python or sys.executable, ("dspy_bridge", "session_supervisor", "dspy"))


class Daemon:
    """One daemon. Add transports, then :meth:`run`. ``socket``: where it will listen, if it will.
    Raises :class:`StateUnusable`, :class:`HardeningUnavailable`, :class:`IdsUnavailable`."""

    def __init__(self, configuration: Configuration, socket: str | None = None) -> None:
        self._configuration = configuration
        options = configuration.options
        _check_hardening(options)
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
            configuration,
            self._supervisor,
            self._notifier,
            _check_hardening,
            _make_launcher,
            self._adopted,
            self._announce_reload,
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
        self._hosts = Hosts(self._reactor, configuration, self._router, self._control.ready, self.shut_down)
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

    def record(self) -> None:
        """Write down what is said from now on; before anybody is served. Raises :class:`RecordingRefused`,
        ``OSError``."""
        versions = {f"{name}_version": installed_version(of) for name, of in _RECORDED_VERSIONS.items()}
        self._recorder = self._hosts.recorder = Recorder(self._options, versions, len(self._supervisor.sessions))

    # -- transports ----------------------------------------------------------------------------

    def serve_descriptors(self, read_fd: int, write_fd: int) -> None:
        """Serve one host on two descriptors; the daemon ends with its input."""
        self._hosts.serve_descriptors(read_fd, write_fd)

    def serve_socket(self, path: str) -> None:
        """Serve any number of clients on a Unix socket. Raises :class:`SocketInUse`, ``OSError``."""
        self._hosts.serve_socket(path)

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
        self._hosts.close()
        if self._recorder is not None:
            self._recorder.close()
        self._reactor.close()
        return self._exit

    def abandon(self) -> None:
        """It cannot serve after all: let go of what was begun for it."""
        for consumer in self._consumers:
            consumer.close()
        self._hosts.refuse()
        self._supervisor.abandon()

    def _ready(self) -> None:
        self._hosts.start()
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
            self._hosts.watch_idleness()

    def _announce_reload(self, facts: dict[str, Any]) -> None:
        self._hosts.announce("reloaded", facts)

    def _cannot_start(self, reason: str) -> None:
        # The host sees why on its own wire, the operator on stderr.
        sys.stderr.write(f"dspy-bridge cannot start: {reason.rstrip()}\n")
        self._hosts.tell_primary("fatal", {"code": "worker_start_failed", "message": reason})
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
        self._hosts.refuse()
        self._supervisor.drain(self._drained)

    def _drained(self) -> None:
        """Every process has gone and every request is answered: see the last answers off, then stop."""
        self._reactor.call_later(_LAST_WORDS_S, self._reactor.stop)
        self._hosts.when_flushed(self._reactor.stop)
