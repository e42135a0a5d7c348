"""What an operator can set about a daemon: the one place each option is defined.

From this model come the flags of ``bridge-cli serve``, their help and their validation, and which of
them a daemon that serves can be given anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspy_bridge.protocol.codec import DEFAULT_MAX_FRAME
from dspy_bridge.protocol.daemon_commands import StartSessionArgs
from dspy_bridge.protocol.errors import BridgeError
from session_supervisor.confinement import OWN_UID
from session_supervisor.hardening import Hardening, parse_ids
from session_supervisor.limits import Limits
from session_supervisor.options import RecyclePolicy, SessionOptions, SupervisorOptions
from session_supervisor.os_facts import usable_memory
from session_supervisor.process import Grace

_PER_WORKER: Final = 16 << 20
"""Bytes reckoned for one interpreter where nobody says how many there may be."""


Change = Literal["reload", "restart"]
"""What it takes for a new value to count: SIGHUP, or another daemon."""


def _fixed(default: Any, **given: Any) -> Any:
    """The field of an option that a daemon keeps for life. All others can be reloaded."""
    return Field(default, json_schema_extra={"change": "restart"}, **given)


def _listed(text: str) -> list[str]:
    """What stands between the commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


class DaemonOptions(BaseModel):
    """Immutable; a reload (:mod:`.reloading`) puts others in the place of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    framing: Literal["lines", "packet4"] = _fixed(
        "lines", description="How frames are delimited: newlines, or a 4-byte big-endian length."
    )
    ready: bool = Field(True, description="Send the ready frame first.")
    explicit_sessions: bool = Field(False, description="Refuse unknown session ids instead of starting those sessions.")
    launcher: Literal["auto", "fork", "spawn"] = _fixed(
        "auto", description="How interpreters are made: forked from a warm template, or started afresh."
    )
    python: str = Field(
        "", description="Interpreter of the sessions, if not the daemon's own; it needs this package and DSPy too."
    )
    preload: str = Field(
        "", description="Modules the template imports beside dspy, separated by commas; shared by all sessions."
    )
    allow_import: str = Field(
        "", description="Packages sessions may import programs and metrics from, separated by commas."
    )
    import_path: str = Field(
        "", description="Folders sessions find those packages in, separated by commas, after what is installed."
    )
    allow_data: str = Field("", description="Folders sessions may read and write data in, separated by commas.")
    allow_key_env: str = Field(
        "*KEY*,*TOKEN*",
        description="Variables of the daemon that keys of models may be read from: patterns, separated by commas.",
    )
    allow_local_interpreter: bool = Field(
        False, description="Run code that models write in an unprotected interpreter of the session's account."
    )
    thread_safety_check: bool = Field(False, description="Watch the adapters of threaded sessions for unsafe overlaps.")
    allow_mcp: bool = Field(False, description="Let sessions use MCP servers: run their commands, call their URLs.")
    shared_cache: str = Field(
        "", description='Keep answers of models in this folder, for sessions that ask for cache "shared".'
    )
    harden: str = _fixed(
        "",
        description="Measures that shut interpreters in, separated by commas: no-new-privs, own-uid, no-network, "
        "read-only (Linux).",
    )
    uid_range: str = _fixed(
        "", description="Ids for the sessions of own-uid, such as 200000-265535; nobody else may use them."
    )
    max_frame: int = _fixed(DEFAULT_MAX_FRAME, ge=1024, le=1 << 30, description="Longest frame taken, in bytes.")
    max_sessions: int = Field(10_000, ge=1, description="Most sessions at once.")
    queue_per_session: int = Field(1_024, ge=1, description="Most requests waiting in one session.")
    queue_total: int = Field(16_384, ge=1, description="Most requests waiting in all sessions.")
    spares: int = Field(2, ge=0, le=1_000, description="Interpreters forked ahead of need.")
    max_workers: int = Field(
        0,
        ge=0,
        description="Most interpreters serving at once; sessions beyond hibernate. 0: what half the memory holds.",
    )
    idle_timeout_s: float = Field(
        0, ge=0, description="A session hibernates after so long without a request; 0: never."
    )
    session_ttl_s: float = Field(0, ge=0, description="A session ends after so long without a request; 0: never.")
    worker_ttl_s: float = Field(3600, ge=0, description="Fresh interpreter for a session after so long; 0: never.")
    worker_max_requests: int = Field(0, ge=0, description="Fresh interpreter after so many requests; 0: never.")
    worker_max_growth_mb: int = Field(
        0, ge=0, description="Fresh interpreter once its private memory grew by so many MiB; 0: never."
    )
    recycle_jitter: float = Field(0.1, ge=0, le=1, description="Spread time and count downwards by this fraction.")
    concurrent_recycles: int = Field(2, ge=1, description="Most interpreters being replaced at once.")
    max_memory_mb: int = Field(0, ge=0, description="Most private memory of an interpreter, in MiB; 0: no limit.")
    max_lm_calls: int = Field(
        0, ge=0, description="Most calls to language models at once, of all sessions; 0: no limit."
    )
    max_cpu_s: float = Field(0, ge=0, description="Most processor time of one request; 0: no limit.")
    max_open_files: int = Field(0, ge=0, description="Most descriptors of an interpreter (at least 32); 0: no limit.")
    max_processes: int = Field(0, ge=0, description="Most processes of an interpreter, itself included; 0: no limit.")
    max_scratch_mb: int = Field(0, ge=0, description="Most in a session's scratch folder, in MiB; 0: no limit.")
    state_dir: str = _fixed("", description="Keep durable sessions in this folder, over restarts of the daemon.")
    state_sync: Literal["normal", "full"] = _fixed(
        "normal", description="What an acknowledged change survives: the daemon's death, or the machine's too (slower)."
    )
    template_max_forks: int = Field(300, ge=1, description="Forks after which a fresh template takes over.")
    start_timeout_s: float = Field(30, gt=0, description="Longest an interpreter may take to be ready.")
    drain_timeout_s: float = Field(10, ge=0, description="Longest that requests under way may take at shutdown.")
    interrupt_grace_s: float = Field(0.5, gt=0, description="Wait after interrupting a request before SIGTERM.")
    terminate_grace_s: float = Field(0.5, gt=0, description="Wait after SIGTERM before a stack dump and SIGKILL.")
    idle_exit_s: float = Field(0, ge=0, description="Exit after so long without a client; 0: never.")
    request_log_bytes: int = Field(
        1 << 20, ge=0, description="Most bytes of what a request prints that are passed on as log events."
    )
    trace_file: str = _fixed(
        "", description="Write a trace of everything to this file, for Perfetto; only its owner can read it."
    )
    trace_programs: bool = Field(
        False, description="Have get_trace show model calls, modules and tools too, as a trace file and otel do."
    )
    otel: bool = _fixed(False, description="Send spans to an OpenTelemetry collector, which the OTEL_* variables name.")
    metrics_port: int = _fixed(
        0, ge=0, le=65_535, description="Serve figures to Prometheus, and health, on this port of loopback; 0: off."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="What is logged.")
    log_format: Literal["console", "json"] = Field("console", description="Lines for people, or one JSON object each.")
    log_file: str = Field("", description="Log to this file instead of stderr; only its owner can read it.")
    record: str = _fixed(
        "", description="Write what hosts and the daemon say to this new file, without secrets, for bridge-cli replay."
    )

    @classmethod
    def change(cls, name: str) -> Change:
        """What it takes to change the option of that name."""
        extra = cls.model_fields[name].json_schema_extra
        return "restart" if isinstance(extra, dict) and extra.get("change") == "restart" else "reload"

    @model_validator(mode="after")
    def _hardening_makes_sense(self) -> DaemonOptions:
        self.hardening()
        return self

    def hardening(self) -> Hardening:
        """What every interpreter shuts itself in with. Raises ``ValueError`` for what makes no sense."""
        measures = frozenset(_listed(self.harden))
        if OWN_UID in measures and self.shared_cache:
            raise ValueError(f"--harden and --shared-cache: sessions with {OWN_UID} cannot share the files of a cache")
        shared = [self.shared_cache] if self.shared_cache else []
        writable = tuple(str(Path(name).resolve()) for name in (*_listed(self.allow_data), *shared))
        try:
            uids = parse_ids(self.uid_range) if self.uid_range else range(0)
            return Hardening(measures, uids, writable if measures else ())
        except ValueError as exc:
            raise ValueError(f"--harden and --uid-range: {exc}") from None

    def for_supervisor(self, hidden: tuple[str, ...] = ()) -> SupervisorOptions:
        """The supervisor's share. ``hidden``: the daemon's own sockets."""
        return SupervisorOptions(
            spares=self.spares,
            max_workers=self.max_workers or max(16, usable_memory() // 2 // _PER_WORKER),
            max_sessions=self.max_sessions,
            leases=self.max_lm_calls,
            queue_total=self.queue_total,
            concurrent_recycles=self.concurrent_recycles,
            start_timeout=self.start_timeout_s,
            drain_timeout=self.drain_timeout_s,
            session=self.for_session(StartSessionArgs()),
            hardening=replace(self.hardening(), hidden=hidden),
            grace=Grace(interrupt=self.interrupt_grace_s, terminate=self.terminate_grace_s),
        )

    def for_workers(self) -> dict[str, Any]:
        """What every interpreter is told beside its session's own arguments."""
        told: dict[str, Any] = {}
        if self.allow_import:
            told["allow_imports"] = _listed(self.allow_import)
        if self.import_path:
            told["import_path"] = [str(Path(name).absolute()) for name in _listed(self.import_path)]
        if self.allow_data:
            told["allow_data"] = _listed(self.allow_data)
        told["allow_key_env"] = _listed(self.allow_key_env)
        if self.shared_cache:
            told["shared_cache"] = str(Path(self.shared_cache).absolute())
        if self.thread_safety_check:
            told["thread_safety_check"] = True
        if self.trace_programs or self.trace_file or self.otel:
            told["trace"] = True
        if self.allow_mcp:
            told["allow_mcp"] = True
        if self.allow_local_interpreter:
            told["allow_local_interpreter"] = True
        return told

    def for_session(self, args: StartSessionArgs) -> SessionOptions:
        """What one session gets: what it asked for, otherwise what holds for all. Raises ``unsupported``."""
        if args.durable and not self.state_dir:
            message = "a durable session needs a daemon started with --state-dir"
            raise BridgeError("unsupported", message)

        if (args.threads or 1) > 1 and (args.max_cpu_s or (args.max_cpu_s is None and self.max_cpu_s)):
            message = "the processor time of one of several threads cannot be bounded: give max_cpu_s: 0, or threads: 1"
            raise BridgeError("unsupported", message)

        def given(name: str, of_daemon: str | None = None) -> Any:
            value = getattr(args, name)
            return getattr(self, of_daemon or name) if value is None else value

        return SessionOptions(
            recycle=RecyclePolicy(
                ttl=given("ttl_s", "worker_ttl_s"),
                max_requests=given("max_requests", "worker_max_requests"),
                growth=given("max_growth_mb", "worker_max_growth_mb") << 20,
                jitter=self.recycle_jitter,
            ),
            limits=Limits(
                memory=given("max_memory_mb") << 20,
                open_files=given("max_open_files"),
                processes=given("max_processes"),
                cpu=given("max_cpu_s"),
                scratch=given("max_scratch_mb") << 20,
            ),
            workers=args.workers or 1,
            threads=args.threads or 1,
            leases=args.max_lm_calls or 0,
            queue=given("max_queue", "queue_per_session"),
            idle_timeout=given("idle_timeout_s"),
            ttl=given("session_ttl_s"),
            durable=bool(self.state_dir) if args.durable is None else args.durable,
        )


def refuse_daemon_options(given: Iterable[str]) -> None:
    """Raises ``invalid_args`` where a session's settings are to be what only a daemon has."""
    errors = []
    for name in given:
        if name in DaemonOptions.model_fields:
            again = "SIGHUP makes it count" if DaemonOptions.change(name) == "reload" else "it needs a restart"
            reason = f"is an option of the daemon; change it where the daemon has it from, {again}"
            if name in StartSessionArgs.model_fields:
                reason += " (start_session takes one for a session)"
            errors.append({"path": f"args.{name}", "reason": reason})
    if errors:
        message = f"{errors[0]['path']}: {errors[0]['reason']}"
        raise BridgeError("invalid_args", message, details={"errors": errors})
