"""The commands the daemon answers itself, at once, even while every worker is busy."""

from __future__ import annotations

import os
import platform
import secrets
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.daemon import sampling, variables
from dspy_bridge.daemon.chrome_trace import TraceEvents
from dspy_bridge.daemon.configuration import Configuration, environment_name
from dspy_bridge.daemon.exposition import exposition
from dspy_bridge.daemon.failures import to_bridge_error
from dspy_bridge.daemon.health import Watchdog, health
from dspy_bridge.daemon.metrics_port import Page
from dspy_bridge.daemon.observation import Observation
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.daemon.reloading import Reloading
from dspy_bridge.daemon.router import OpenRequest, Router
from dspy_bridge.daemon.sessions import Sessions
from dspy_bridge.daemon.stats import stats
from dspy_bridge.daemon.tracing import Span, Tracer
from dspy_bridge.protocol import arguments, commands, daemon_commands
from dspy_bridge.protocol.commands import COMMANDS, Command
from dspy_bridge.protocol.daemon_commands import StartSessionArgs
from dspy_bridge.protocol.envelope import PROTOCOL_VERSION
from dspy_bridge.protocol.errors import BridgeError
from session_supervisor.failures import Failure, RequestCancelled
from session_supervisor.supervisor import Supervisor

CAPABILITIES: Final = [
    *("sessions", "recycling", "hibernation", "export", "branch", "pools", "limits", "retry"),
    *("cancel", "log_events", "json_rpc", "host_calls", "streaming", "batches", "evaluation"),
    *("compilation", "retrieval", "mcp", "tracing"),
]


def installed_version(distribution: str) -> str:
    """Without importing it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


class Control:
    """One handler per control command. ``shutdown``: begins the daemon's orderly end."""

    def __init__(
        self,
        supervisor: Supervisor,
        sessions: Sessions,
        configuration: Configuration,
        reloading: Reloading,
        shutdown: Callable[[], None],
        tracer: Tracer,
        observation: Observation,
    ) -> None:
        self.router: Router | None = None
        self.watchdog: Watchdog | None = None
        self._supervisor = supervisor
        self._sessions = sessions
        self._configuration = configuration
        self._reloading = reloading
        self._shutdown = shutdown
        self._tracer = tracer
        self._observation = observation
        self._started = time.monotonic()
        self._about = {
            "server_version": installed_version("dspy-bridge"),
            "dspy_version": installed_version("dspy"),
            "python_version": platform.python_version(),
            "boot_id": secrets.token_hex(8),
            "pid": os.getpid(),
        }
        self._handlers: dict[str, Callable[[OpenRequest, Any], None]] = {
            "hello": self._hello,
            "ping": self._ping,
            "list_commands": self._list_commands,
            "start_session": self._start_session,
            "end_session": self._end_session,
            "list_sessions": self._list_sessions,
            "session_info": self._session_info,
            "recycle_session": self._recycle_session,
            "export_session": self._export_session,
            "import_session": self._import_session,
            "branch_session": self._branch_session,
            "get_state": self._on_variable(variables.get_state),
            "set_state": self._on_variable(variables.set_state),
            "update_state": self._on_variable(variables.update_state),
            "cancel": self._cancel,
            "get_stats": self._get_stats,
            "get_trace": self._get_trace,
            "describe_options": self._describe_options,
            "health": self._health,
            "shutdown": self._shut_down,
        }

    @property
    def _options(self) -> DaemonOptions:
        return self._configuration.options

    def serve(self, opened: OpenRequest, command: Command) -> None:
        """Answer ``opened``, now or later. Raises :class:`BridgeError` or a failure of the supervisor."""
        args = arguments.validate(command.args, opened.call.args)
        self._handlers[command.alias_of or command.name](opened, args)

    # -- handlers ------------------------------------------------------------------------------

    def ready(self) -> dict[str, Any]:
        """What the ready frame and ``hello`` say."""
        return {
            "protocol": PROTOCOL_VERSION,
            "protocols": [PROTOCOL_VERSION],
            "server": "dspy-bridge",
            **self._about,
            "capabilities": CAPABILITIES,
            "framing": self._options.framing,
            "max_frame": self._options.max_frame,
        }

    def _hello(self, opened: OpenRequest, args: daemon_commands.HelloArgs) -> None:
        if args.protocol is not None and PROTOCOL_VERSION not in args.protocol:
            message = f"this daemon speaks protocol {PROTOCOL_VERSION}, the host {args.protocol}"
            raise BridgeError("unsupported", message, details={"protocols": [PROTOCOL_VERSION]})
        opened.connection.knows_protocol = True
        opened.success(self.ready())

    def _ping(self, opened: OpenRequest, args: daemon_commands.PingArgs) -> None:
        opened.success(daemon_commands.ping_result(time.monotonic() - self._started))

    def _list_commands(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        opened.success({"commands": [commands.schemas(name) for name in COMMANDS]})

    # -- sessions ------------------------------------------------------------------------------

    def _start_session(self, opened: OpenRequest, args: StartSessionArgs) -> None:
        session_id = opened.call.session_id if opened.call.session_given else self._sessions.new_id()
        self._sessions.check_free(session_id)
        session = self._sessions.open(session_id, args)

        def live(failure: Failure | None) -> None:
            if failure is not None:
                session.end(lambda: opened.error(to_bridge_error(failure)))
            elif opened.over and not (session.requests or session.snapshot.version):
                session.end(lambda: None)  # whoever wanted it has given up, and nobody else has used it
            else:
                session.commit({}, recorded)

        def recorded(failure: Failure | None) -> None:
            pid = session.workers[0].pid if session.workers else None
            opened.conclude(failure, {"session_id": session_id, "status": "started", "worker_pid": pid})

        session.ensure_live(live)

    def _end_session(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        session_id = opened.call.session_id
        session = self._sessions.get(session_id)
        if session is None:
            # To end what does not exist is a success: clean-ups may run twice.
            opened.success({"session_id": session_id, "status": "not_found", "programs_removed": 0})
        else:
            ended = {"session_id": session_id, "status": "ended", "programs_removed": len(Sessions.programs(session))}
            session.end(lambda: opened.success(ended))

    def _list_sessions(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        everyone = list(self._supervisor.sessions.values())
        self._sessions.describe(everyone, lambda described: opened.success({"sessions": described}))

    def _session_info(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        session = self._sessions.existing(opened.call.session_id)
        self._sessions.describe([session], lambda described: opened.success(described[0]))

    def _recycle_session(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        session = self._sessions.existing(opened.call.session_id)

        def recycled(failure: Failure | None) -> None:
            pid = session.workers[0].pid if session.workers else None
            opened.conclude(failure, {"session_id": session.id, "status": "recycled", "worker_pid": pid})

        session.recycle(recycled)

    def _export_session(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        session = self._sessions.existing(opened.call.session_id)
        session.commit({}, lambda failure: opened.conclude(failure, {"document": self._sessions.export(session)}))

    def _import_session(self, opened: OpenRequest, args: daemon_commands.ImportSessionArgs) -> None:
        session_id = opened.call.session_id if opened.call.session_given else args.document.session_id
        existing = self._sessions.get(session_id)
        if existing is None or args.on_exists == "error":
            self._sessions.check_free(session_id)
            self._load(opened, session_id, args.document)
        else:
            # What is to be replaced goes only once it is sure that something takes its place, in this turn.
            self._sessions.check(args.document)
            self._sessions.check_open()
            self._supervisor.discard(existing)
            self._load(opened, session_id, args.document)

    def _load(self, opened: OpenRequest, session_id: str, document: daemon_commands.SessionDocument) -> None:
        session = self._sessions.load(session_id, document)
        result = {
            "session_id": session_id,
            "status": "imported",
            "programs": self._sessions.programs(session),
            "missing": self._sessions.missing(session),
        }
        session.commit({}, lambda failure: opened.conclude(failure, result))

    def _branch_session(self, opened: OpenRequest, args: daemon_commands.BranchSessionArgs) -> None:
        source = self._sessions.existing(opened.call.session_id)
        branch_id = args.branch_id if args.branch_id is not None else self._sessions.new_id()
        self._sessions.check_free(branch_id)
        session = self._sessions.branch(source, branch_id)
        result = {
            "session_id": branch_id,
            "status": "branched",
            "branched_from": source.id,
            "programs": self._sessions.programs(session),
        }
        session.commit({}, lambda failure: opened.conclude(failure, result))

    def _on_variable(self, operate: variables.Operation) -> Callable[[OpenRequest, Any], None]:
        def serve(opened: OpenRequest, args: Any) -> None:
            session = self._sessions.needed(opened.call.session_id)
            session.touch()
            parts, answer = operate(session.snapshot, args)
            version = session.snapshot.version + bool(parts)
            session.commit(parts, lambda failure: opened.conclude(failure, answer(version)))

        return serve

    def _cancel(self, opened: OpenRequest, args: daemon_commands.CancelArgs) -> None:
        assert self.router is not None
        named = self.router.open.get((opened.connection, args.request_id))
        status = "not_found" if named in (None, opened) else "cancelling"
        opened.success({"request_id": args.request_id, "status": status})
        if named is not None:
            self.router.stop(named, RequestCancelled("the request was cancelled by its host"))

    # -- the daemon itself ---------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """What a trace says of the daemon it is of."""
        about = self.ready()
        return {name: about[name] for name in ("server_version", "dspy_version", "python_version", "boot_id", "pid")}

    def _stats(self) -> dict[str, Any]:
        assert self.router is not None
        said = stats(self._supervisor, self.router, time.monotonic() - self._started, self.watchdog)
        return {**said, "reload": self._reloading.describe()}

    def _get_stats(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        opened.success(self._stats())

    def metrics_page(self) -> Page:
        return Page(200, "text/plain; version=0.0.4; charset=utf-8", exposition(self._stats()).encode())

    def _health(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        opened.success(health(self._supervisor, self._options, self.watchdog))

    def health_page(self) -> Page:
        found = health(self._supervisor, self._options, self.watchdog)
        return Page(503 if found["status"] == "failing" else 200, "application/json", jsonlib.dumps(found) + b"\n")

    def _get_trace(self, opened: OpenRequest, args: daemon_commands.GetTraceArgs) -> None:
        latest = list(self._tracer.latest)
        if args.limit is not None:
            latest = latest[max(0, len(latest) - args.limit) :]
        now = [*self._observation.running(), *sampling.counts(self._supervisor)]

        def measured(memory: list[Span]) -> None:
            events = TraceEvents()
            made = [event for span in (*latest, *now, *memory) for event in events.of(span)]
            opened.success({"traceEvents": made, "displayTimeUnit": "ms", "otherData": self.identity()})

        sampling.memory(self._supervisor, measured)

    def _describe_options(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        daemon = [
            {
                "name": name,
                "value": value,
                "from": self._configuration.resolved.origin(name),
                "default": DaemonOptions.model_fields[name].default,
                "variable": environment_name(name),
                "change": DaemonOptions.change(name),
                "waiting": name in self._configuration.waiting,
                "description": DaemonOptions.model_fields[name].description,
            }
            for name, value in self._options
        ]
        opened.success({"daemon": daemon, "session": StartSessionArgs.model_json_schema()["properties"]})

    def _shut_down(self, opened: OpenRequest, args: arguments.NoArgs) -> None:
        opened.success({"status": "shutting_down"})
        self._shutdown()
