"""Sessions by name: opened when first used, restored from disk, exported, imported, branched."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dspy_bridge import jsonlib
from dspy_bridge.daemon.configuration import Configuration
from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.protocol import compact
from dspy_bridge.protocol.charter import birth_certificate, charter_of, read_charter, reborn, revised
from dspy_bridge.protocol.daemon_commands import SessionDocument, StartSessionArgs
from dspy_bridge.protocol.envelope import timestamp
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import check_part, missing_secrets, program_ids
from session_supervisor.failures import ShuttingDown
from session_supervisor.handle import WorkerHandle
from session_supervisor.options import SessionOptions
from session_supervisor.session import Session
from session_supervisor.snapshot import VOLATILE_PREFIX
from session_supervisor.store import StoredSession
from session_supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Sessions:
    """See the module."""

    def __init__(self, supervisor: Supervisor, configuration: Configuration) -> None:
        self._supervisor = supervisor
        self._configuration = configuration
        self._known: dict[SessionOptions, SessionOptions] = {}
        self._unreadable: set[str] = set()
        """Sessions that are stored but could not be restored: nobody may write over them."""

    @property
    def _options(self) -> DaemonOptions:
        return self._configuration.options

    # -- by name -------------------------------------------------------------------------------

    def get(self, session_id: str) -> Session | None:
        return self._supervisor.sessions.get(session_id)

    def existing(self, session_id: str) -> Session:
        """Raises ``session_not_found``."""
        session = self.get(session_id)
        if session is None:
            raise BridgeError("session_not_found", f"there is no session {session_id!r}")
        return session

    def has_adapter(self, session_id: str) -> bool:
        """Whether the session has tools of its own, whose names may be commands."""
        session = self.get(session_id)
        return session is not None and jsonlib.loads(session.charter or b"{}").get("adapter") is not None

    def needed(self, session_id: str) -> Session:
        """The session of that id, opened if need be. Raises ``session_not_found`` where that is not allowed."""
        session = self.get(session_id)
        if session is None:
            if self._options.explicit_sessions:
                return self.existing(session_id)
            session = self.open(session_id, StartSessionArgs())
        return session

    def check_open(self) -> None:
        """Raises :class:`ShuttingDown` if no session can be opened any more."""
        if self._supervisor.draining:
            raise ShuttingDown("the daemon is shutting down")

    def check_free(self, session_id: str) -> None:
        """Raises ``session_exists``."""
        if self.get(session_id) is not None:
            raise BridgeError("session_exists", f"session {session_id!r} exists already")

    @staticmethod
    def new_id() -> str:
        return f"s-{secrets.token_hex(6)}"

    def open(
        self,
        session_id: str,
        args: StartSessionArgs,
        missing: Mapping[str, list[str]] | None = None,
        *,
        restored: bool = False,
    ) -> Session:
        """A new session. ``missing``: the literal secrets ``args`` once had. Raises ``unsupported`` for the name
        of one that is stored and cannot be read."""
        if session_id in self._unreadable:
            message = f"session {session_id!r} is stored, but this daemon cannot read it; its log says why"
            raise BridgeError("unsupported", message)
        options, told = self._terms(args)

        def certificate(scratch: Path) -> bytes:
            return birth_certificate(session_id, scratch, args, options.limits, missing or {}, told)

        charter = charter_of(args)
        if missing:
            charter = compact.dumps({**jsonlib.loads(charter), "missing": missing})
        return self._supervisor.open(session_id, certificate, options=options, charter=charter, restored=restored)

    def _terms(self, args: StartSessionArgs) -> tuple[SessionOptions, dict[str, Any]]:
        """The options of a session that asks for ``args``, and what its workers are told by the daemon. Raises
        ``unsupported``."""
        options = self._options.for_session(args)
        told = self._options.for_workers()
        if options.leases or self._options.max_lm_calls:
            told["lease_lm_calls"] = True
        return self._known.setdefault(options, options), told  # most sessions have the same ones

    def reconfigure(self) -> None:
        """Have every session follow the daemon's present options, but for what it has asked for itself, as if
        it were restored by a daemon that was started with them."""
        for session in self._supervisor.sessions.values():
            try:
                args, _ = read_charter(session.charter)
                options, told = self._terms(args)
            except BridgeError as error:
                logger.warning("session %s keeps the options it has: %s", session.id, error.message)
            else:
                session.reconfigure(revised(session.birth, args, options.limits, told), options)

    # -- from disk -----------------------------------------------------------------------------

    def restore(self, stored: StoredSession) -> None:
        """Open a session as it was stored; what cannot be read stays on disk and is logged."""
        try:
            args, missing = read_charter(stored.charter)
            session = self.open(stored.id, args, missing, restored=True)
        except Exception:
            self._unreadable.add(stored.id)
            logger.exception("session %r cannot be restored and stays on disk", stored.id)
            return
        session.created = stored.created
        session.last_used = time.monotonic() - max(0.0, time.time() - stored.used)
        session.restored(stored.parts, stored.version, recorded=True)

    # -- as documents --------------------------------------------------------------------------

    @staticmethod
    def export(session: Session) -> dict[str, Any]:
        """The document ``import_session`` takes; parts are JSON already and are not looked into."""
        parts = session.snapshot.live_parts()
        return {
            "format": "dspy-bridge/session",
            "format_version": 1,
            "session_id": session.id,
            "created_at": _rfc3339(session.created),
            "exported_at": timestamp(),
            "charter": jsonlib.Fragment(session.charter or b"{}"),
            "parts": {
                name: jsonlib.Fragment(value) for name, value in parts.items() if not name.startswith(VOLATILE_PREFIX)
            },
        }

    def check(self, document: SessionDocument) -> tuple[StartSessionArgs, dict[str, list[str]]]:
        """What the document's session was started with. Raises ``invalid_args`` for a document no session
        could have exported, ``unsupported`` for one this daemon cannot serve."""
        args, missing = read_charter(jsonlib.dumps(document.charter))
        self._options.for_session(args)
        for name, value in document.parts.items():
            check_part(name, value)
        return args, missing

    def load(self, session_id: str, document: SessionDocument) -> Session:
        """A session from a document. Raises as :meth:`check` does."""
        args, missing = self.check(document)
        session = self.open(session_id, args, missing)
        session.restored({name: compact.dumps(value) for name, value in document.parts.items()}, 1, recorded=False)
        return session

    def branch(self, source: Session, branch_id: str) -> Session:
        """A session that begins where ``source`` is now, literal secrets included."""

        def certificate(scratch: Path) -> bytes:
            return reborn(source.birth, branch_id, scratch)

        session = self._supervisor.open(branch_id, certificate, options=source.options, charter=source.charter)
        session.restored(source.snapshot.live_parts(), source.snapshot.version, recorded=False)
        return session

    # -- in words ------------------------------------------------------------------------------

    @staticmethod
    def programs(session: Session) -> list[str]:
        return program_ids(session.snapshot.live_parts())

    @staticmethod
    def missing(session: Session) -> list[str]:
        """The literal secrets the session lacks since it was restored or imported."""
        parts = session.snapshot.live_parts()
        born_without = jsonlib.loads(session.birth).get("missing", {})
        return [
            *(f"env.{name}" for name in born_without.get("env", ())),
            *(f"lm.{name}" for name in born_without.get("lm", ()) if "lm" not in parts),
            *missing_secrets(parts),
        ]

    def describe(self, sessions: Sequence[Session], done: Callable[[list[dict[str, Any]]], None]) -> None:
        """What ``session_info`` says of each; looking at their memory takes a while."""
        workers = [worker for session in sessions for worker in session.workers]

        def looked(held: Mapping[WorkerHandle, int]) -> None:
            done([self._describe(session, held) for session in sessions])

        self._supervisor.inspector.ask(workers, looked)

    def _describe(self, session: Session, held: Mapping[WorkerHandle, int]) -> dict[str, Any]:
        workers = [
            {
                "pid": worker.pid,
                "state": worker.state,
                "requests": worker.served,
                "age_s": round(worker.age, 3),
                "memory_mb": round(held[worker] / 2**20, 2) if worker in held else None,
                **jsonlib.loads(worker.facts or b"{}"),
            }
            for worker in session.workers
        ]
        return {
            "session_id": session.id,
            "state": session.state,
            "workers": workers,
            "capacity": session.options.workers * session.options.threads,
            "threads": session.options.threads,
            "requests": session.requests,
            "queued": session.queued,
            "in_flight": session.in_flight,
            "recycles": session.recycles,
            "recoveries": session.recoveries,
            "hibernations": session.hibernations,
            "programs": self.programs(session),
            "durable": session.options.durable,
            "version": session.snapshot.version,
            "missing": self.missing(session),
            "created_at": _rfc3339(session.created),
        }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
