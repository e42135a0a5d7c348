"""The commands the daemon answers itself, at once, even while every worker is busy."""

from __future__ import annotations

import os
import platform
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import orjson
import psutil

from dspy_bridge.daemon import variables
from dspy_bridge.daemon.failures import to_bridge_error
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.daemon.router import OpenRequest, Router
from dspy_bridge.protocol import commands
from dspy_bridge.protocol.commands import COMMANDS, Command, StartSessionArgs
from dspy_bridge.protocol.envelope import PROTOCOL_VERSION
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import program_ids
from session_supervisor.failures import Failure, RequestCancelled
from session_supervisor.options import RecyclePolicy
from session_supervisor.session import Session
from session_supervisor.supervisor import Supervisor

CAPABILITIES: Final = ["sessions", "recycling", "cancel", "log_events", "json_rpc"]


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
        options: DaemonOptions,
        shutdown: Callable[[], None],
    ) -> None:
        self.router: Router | None = None
        self._supervisor = supervisor
        self._options = options
        self._shutdown = shutdown
        self._started = time.monotonic()
        self._boot_id = secrets.token_hex(8)
        self._handlers: dict[str, Callable[[OpenRequest, Any], None]] = {
            "hello": self._hello,
            "ping": self._ping,
            "list_commands": self._list_commands,
            "start_session": self._start_session,
            "end_session": self._end_session,
            "list_sessions": self._list_sessions,
            "session_info": self._session_info,
            "recycle_session": self._recycle_session,
            "get_state": self._on_variable(variables.get_state),
            "set_state": self._on_variable(variables.set_state),
            "update_state": self._on_variable(variables.update_state),
            "cancel": self._cancel,
            "get_stats": self._get_stats,
            "shutdown": self._shut_down,
        }

    def serve(self, opened: OpenRequest, command: Command) -> None:
        """Answer ``opened``, now or later. Raises :class:`BridgeError` or a failure of the supervisor."""
        args = commands.validate(command.args, opened.call.args)
        self._handlers[command.alias_of or command.name](opened, args)

    # -- sessions by name ----------------------------------------------------------------------

    def session_for(self, session_id: str) -> Session:
        """The session of that id, opened if need be. Raises ``session_not_found``, :class:`Failure`."""
        session = self._supervisor.sessions.get(session_id)
        if session is not None:
            return session
        if self._options.explicit_sessions:
            raise self._not_found(session_id)
        return self._open(session_id, StartSessionArgs())

    def _open(self, session_id: str, args: StartSessionArgs) -> Session:
        def certificate(scratch: Path) -> bytes:
            birth = args.model_dump(exclude={"session_id", "ttl_s", "max_requests"}, exclude_unset=True)
            return orjson.dumps({**birth, "session_id": session_id, "scratch": str(scratch)})

        policy = self._supervisor.options.recycle
        recycle = RecyclePolicy(
            ttl=policy.ttl if args.ttl_s is None else args.ttl_s,
            max_requests=policy.max_requests if args.max_requests is None else args.max_requests,
            jitter=policy.jitter,
        )
        return self._supervisor.open(session_id, certificate, recycle=recycle)

    def _existing(self, session_id: str) -> Session:
        session = self._supervisor.sessions.get(session_id)
        if session is None:
            raise self._not_found(session_id)
        return session

    @staticmethod
    def _not_found(session_id: str) -> BridgeError:
        return BridgeError("session_not_found", f"there is no session {session_id!r}")

    # -- handlers ------------------------------------------------------------------------------

    def ready(self) -> dict[str, Any]:
        """What the ready frame and ``hello`` say."""
        return {
            "protocol": PROTOCOL_VERSION,
            "protocols": [PROTOCOL_VERSION],
            "server": "dspy-bridge",
            "server_version": installed_version("dspy-bridge"),
            "dspy_version": installed_version("dspy"),
            "python_version": platform.python_version(),
            "capabilities": CAPABILITIES,
            "framing": self._options.framing,
            "max_frame": self._options.max_frame,
            "boot_id": self._boot_id,
            "pid": os.getpid(),
        }

    def _hello(self, opened: OpenRequest, args: commands.HelloArgs) -> None:
        if args.protocol is not None and PROTOCOL_VERSION not in args.protocol:
            message = f"this daemon speaks protocol {PROTOCOL_VERSION}, the host {args.protocol}"
            raise BridgeError("unsupported", message, details={"protocols": [PROTOCOL_VERSION]})
        opened.success(self.ready())

    def _ping(self, opened: OpenRequest, args: commands.PingArgs) -> None:
        opened.success({"status": "ok", "uptime_s": round(time.monotonic() - self._started, 3)})

    def _list_commands(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        opened.success({"commands": [commands.schemas(name) for name in COMMANDS]})

    def _start_session(self, opened: OpenRequest, args: StartSessionArgs) -> None:
        session_id = opened.call.session_id if opened.call.session_given else f"s-{secrets.token_hex(6)}"
        if session_id in self._supervisor.sessions:
            raise BridgeError("session_exists", f"session {session_id!r} exists already")
        session = self._open(session_id, args)

        def live(failure: Failure | None) -> None:
            if failure is None:
                pid = session.workers[0].pid
                opened.success({"session_id": session_id, "status": "started", "worker_pid": pid})
            else:
                session.end(lambda: opened.error(to_bridge_error(failure)))

        session.ensure_live(live)

    def _end_session(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        session_id = opened.call.session_id
        session = self._supervisor.sessions.get(session_id)
        if session is None:
            # To end what does not exist is a success: clean-ups may run twice.
            opened.success({"session_id": session_id, "status": "not_found"})
        else:
            session.end(lambda: opened.success({"session_id": session_id, "status": "ended"}))

    def _list_sessions(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        opened.success({"sessions": [self._describe(session) for session in self._supervisor.sessions.values()]})

    def _session_info(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        opened.success(self._describe(self._existing(opened.call.session_id)))

    def _describe(self, session: Session) -> dict[str, Any]:
        workers = [
            {
                "pid": worker.pid,
                "state": worker.state,
                "requests": worker.served,
                "age_s": round(worker.age, 3),
                "memory_mb": private_memory_mb(worker.pid),
            }
            for worker in session.workers
        ]
        return {
            "session_id": session.id,
            "state": session.state,
            "workers": workers,
            "requests": session.requests,
            "queued": session.queued,
            "recycles": session.recycles,
            "recoveries": session.recoveries,
            "programs": program_ids(session.snapshot.live_parts()),
            "durable": False,
            "created_at": datetime.fromtimestamp(session.created, timezone.utc).isoformat(timespec="milliseconds"),
        }

    def _recycle_session(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        session = self._existing(opened.call.session_id)

        def recycled(failure: Failure | None) -> None:
            if failure is not None:
                opened.error(to_bridge_error(failure))
                return
            pid = session.workers[0].pid if session.workers else None
            opened.success({"session_id": session.id, "status": "recycled", "worker_pid": pid})

        session.recycle(recycled)

    def _on_variable(self, operate: Callable[[Session, Any], dict[str, Any]]) -> Callable[[OpenRequest, Any], None]:
        return lambda opened, args: opened.success(operate(self.session_for(opened.call.session_id), args))

    def _cancel(self, opened: OpenRequest, args: commands.CancelArgs) -> None:
        assert self.router is not None
        named = self.router.open.get((opened.connection, args.request_id))
        stoppable = named is not None and named.request is not None
        status = "cancelling" if stoppable else "not_found"
        opened.success({"request_id": args.request_id, "status": status})
        if named is not None and stoppable:
            self.router.stop(named, RequestCancelled("the request was cancelled by its host"))

    def _get_stats(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        assert self.router is not None
        supervisor = self._supervisor
        launcher = supervisor.launcher.describe()
        template = launcher.get("template_pid")
        states: dict[str, int] = {}
        for session in supervisor.sessions.values():
            states[session.state] = states.get(session.state, 0) + 1
        counters = supervisor.counters
        opened.success(
            {
                "uptime_s": round(time.monotonic() - self._started, 3),
                "sessions": {"total": len(supervisor.sessions), "by_state": states},
                "requests": {
                    "total": counters.requests,
                    "waiting": supervisor.waiting,
                    "open": len(self.router.open),
                    "latency_ms": _percentiles(self.router.latencies),
                },
                "workers": {
                    "spare": supervisor.pool.spare_count,
                    "starting": supervisor.pool.starting_count,
                    "started": supervisor.pool.started,
                    "live": sum(len(session.workers) for session in supervisor.sessions.values()),
                    "crashes": counters.crashes,
                    "recycles": counters.recycles,
                },
                "launcher": launcher,
                "memory_mb": {
                    "daemon": private_memory_mb(os.getpid()),
                    "template": private_memory_mb(template) if isinstance(template, int) else None,
                },
                "python": sys.version.split()[0],
            }
        )

    def _shut_down(self, opened: OpenRequest, args: commands.NoArgs) -> None:
        opened.success({"status": "shutting_down"})
        self._shutdown()


def _percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """Of the latest requests that went to a session, in milliseconds; null before the first."""
    ordered = sorted(seconds)
    return {
        f"p{share}": round(ordered[len(ordered) * share // 100] * 1000, 3) if ordered else None
        for share in (50, 90, 99)
    }


def private_memory_mb(pid: int) -> float | None:
    """Memory that would be freed if the process ended (USS), in MiB; None if it is gone."""
    try:
        return round(float(psutil.Process(pid).memory_full_info().uss) / 2**20, 2)
    except psutil.Error:
        return None
