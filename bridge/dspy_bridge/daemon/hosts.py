"""Who the daemon talks to: perhaps one primary host, with whose input it ends, and clients of its socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from dspy_bridge.daemon.configuration import Configuration
from dspy_bridge.daemon.connection import Connection
from dspy_bridge.daemon.descriptors import pollable_input
from dspy_bridge.daemon.listener import Listener
from dspy_bridge.daemon.recording import Recorder
from dspy_bridge.daemon.router import Router
from dspy_bridge.protocol import envelope
from session_supervisor.failures import RequestCancelled
from session_supervisor.reactor import Reactor
from session_supervisor.timers import Timer

_HALF_CLOSED_S = 0.1


class Hosts:
    """See the module. ``ready()`` is what the daemon says of itself; ``leave()`` ends it: its primary host has
    gone, or nobody has come for long enough."""

    def __init__(
        self,
        reactor: Reactor,
        configuration: Configuration,
        router: Router,
        ready: Callable[[], dict[str, Any]],
        leave: Callable[[], None],
    ) -> None:
        self.recorder: Recorder | None = None
        self._reactor = reactor
        self._configuration = configuration
        self._router = router
        self._ready = ready
        self._leave = leave
        self._primary: Connection | None = None
        self._connections: set[Connection] = set()
        self._listener: Listener | None = None
        self._half_closed: dict[Connection, Timer] = {}
        self._idle_timer: Timer | None = None

    # -- coming --------------------------------------------------------------------------------

    def serve_descriptors(self, read_fd: int, write_fd: int) -> None:
        """Serve one host on two descriptors; the daemon ends with its input."""
        self._primary = self._connect(pollable_input(read_fd), write_fd, "primary")

    def serve_socket(self, path: str) -> None:
        """Serve any number of clients on a Unix socket. Raises :class:`SocketInUse`, ``OSError``."""
        self._listener = Listener(self._reactor, path, self._accept)

    def start(self) -> None:
        """The daemon can serve: hear whoever is there, and let others come."""
        if self._primary is not None:
            self._welcome(self._primary)
        if self._listener is not None:
            self._listener.start()
            self.watch_idleness()

    def _connect(self, read_fd: int, write_fd: int, kind: Literal["primary", "client"]) -> Connection:
        options = self._configuration.options
        connection = Connection(
            self._reactor,
            read_fd,
            write_fd,
            framing=options.framing,
            max_frame=options.max_frame,
            on_frames=self._router.take,
            on_input_end=self._input_ended,
            on_lost=self._lost,
            tap=self.recorder.tap(kind) if self.recorder is not None else None,
        )
        connection.knows_protocol = options.ready
        self._connections.add(connection)
        return connection

    def _accept(self, fd: int) -> None:
        self._welcome(self._connect(fd, fd, "client"))
        self.watch_idleness()

    def _welcome(self, connection: Connection) -> None:
        if self._configuration.options.ready:
            connection.send(envelope.daemon_event("ready", self._ready()))
        connection.start_reading()

    # -- telling them --------------------------------------------------------------------------

    def announce(self, event: str, data: dict[str, Any]) -> None:
        """Tell everybody who knows of events."""
        for connection in list(self._connections):  # one that turns out to be lost leaves
            if connection.knows_protocol and not connection.lost:
                connection.send(envelope.daemon_event(event, data))

    def tell_primary(self, event: str, data: dict[str, Any]) -> None:
        """Tell the host that has nothing but its wire to hear it on."""
        if self._primary is not None:
            self._primary.send(envelope.daemon_event(event, data))

    # -- going ---------------------------------------------------------------------------------

    def _input_ended(self, connection: Connection) -> None:
        if connection is self._primary:
            self._leave()
        else:
            self._await_answers(connection)

    def _await_answers(self, connection: Connection) -> None:
        """A client sends no more. If it still reads it gets its answers; if it is gone they are stopped."""
        if connection.hung_up():
            self._lost(connection)
        elif not self._router.of(connection):
            connection.when_flushed(lambda: self._disconnect(connection))
        else:
            timer = self._reactor.call_later(_HALF_CLOSED_S, lambda: self._await_answers(connection))
            self._half_closed[connection] = timer

    def _lost(self, connection: Connection) -> None:
        """Nobody will read the answers: what still works on them is stopped."""
        for opened in self._router.of(connection):
            self._router.stop(opened, RequestCancelled("its host has gone"))
        if connection is self._primary:
            self._leave()
        else:
            self._disconnect(connection)

    def _disconnect(self, connection: Connection) -> None:
        connection.close()
        self._connections.discard(connection)
        timer = self._half_closed.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self.watch_idleness()

    def watch_idleness(self) -> None:
        """Leave after ``idle_exit_s`` without anybody, as a daemon nobody started on purpose."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        bound = self._configuration.options.idle_exit_s
        if bound and not self._connections:
            self._idle_timer = self._reactor.call_later(bound, self._leave)

    # -- the end -------------------------------------------------------------------------------

    def refuse(self) -> None:
        """Nobody new is let in."""
        if self._listener is not None:
            self._listener.close()

    def when_flushed(self, done: Callable[[], None]) -> None:
        """Call ``done`` once everybody who still reads has had everything."""
        remaining = 1

        def one_flushed() -> None:
            nonlocal remaining
            remaining -= 1
            if not remaining:
                done()

        for connection in self._connections:
            if not connection.lost:
                remaining += 1
                connection.when_flushed(one_flushed)
        one_flushed()

    def close(self) -> None:
        """Let go of everybody."""
        for connection in list(self._connections):
            connection.close()
