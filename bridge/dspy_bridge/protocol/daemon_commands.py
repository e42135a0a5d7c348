"""Arguments and results of the commands the daemon answers itself."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dspy_bridge.protocol.arguments import Args, Name, Result, SettingsArgs
from dspy_bridge.protocol.lm_config import LMConfig


class HelloArgs(Args):
    protocol: list[int] | None = Field(None, description="Protocol versions the host speaks; absent: any.")
    host: str | None = Field(None, max_length=200, description="Name and version of the host, for the daemon's log.")
    capabilities: list[str] = Field(default_factory=list, description="What the host can do, such as host_calls.")


class ReadyResult(Result):
    protocol: int = Field(description="The protocol version in use.")
    protocols: list[int]
    server: str
    server_version: str
    dspy_version: str
    python_version: str
    capabilities: list[str]
    framing: str
    max_frame: int = Field(description="Bytes; a longer frame is refused with frame_too_large.")
    boot_id: str = Field(description="Differs each time a daemon starts.")
    pid: int


class PingArgs(Args):
    deep: bool = Field(False, description="Go through the session's interpreter instead of answering here.")


class PingResult(Result):
    status: Literal["ok"]
    uptime_s: float
    uptime: float = Field(description="The same; it, and what follows, is what hosts of the early DSPex bridge read.")
    timestamp: float = Field(description="Seconds since 1970.")
    dspy_available: bool
    gemini_available: bool


def ping_result(uptime: float) -> dict[str, Any]:
    """The result of ``ping``, whoever answers it."""
    uptime = round(uptime, 3)
    known = {"dspy_available": True, "gemini_available": True}
    return {"status": "ok", "uptime_s": uptime, "uptime": uptime, "timestamp": time.time(), **known}


class CommandsResult(Result):
    commands: list[dict[str, Any]]


def _enough(value: int | None) -> int | None:
    if value is not None and 0 < value < 32:
        raise ValueError("an interpreter needs at least 32 descriptors (0: no limit)")
    return value


def _harmless(name: str) -> str:
    if name == "SSLKEYLOGFILE" or name.startswith(("LD_", "DYLD_")):
        raise ValueError(f"{name} would have libraries loaded, or files written, that no option allows")
    return name


Variable = Annotated[str, AfterValidator(_harmless)]
"""Name of an environment variable that a host may set."""


class StartSessionArgs(Args):
    """What is left out is as the daemon's options say; 0 means never or no limit."""

    env: dict[Variable, str] = Field(
        default_factory=dict, description="Environment variables, beside the daemon's own."
    )
    cwd: str | None = Field(None, description="Working directory (default: the daemon's).")
    lm: LMConfig | None = Field(None, description="As the arguments of configure_lm.")
    settings: SettingsArgs | None = Field(None, description="As the arguments of configure.")
    workers: int | None = Field(None, ge=1, le=64, description="Interpreters its requests are spread over (default 1).")
    threads: int | None = Field(
        None, ge=1, le=256, description="Requests each interpreter runs at once, in threads (default 1)."
    )
    adapter: str | None = Field(
        None, pattern=r"^[\w.]+:\w+$", description="Python of the operator's, package.module:Class, whose tools it has."
    )
    adapter_args: dict[str, Any] | None = Field(None, description="Keyword arguments of that class.")
    thread_safety_check: bool | Literal["strict"] | None = Field(
        None, description="Watch the adapter for unsafe overlaps; strict: fail the call that shows one."
    )
    durable: bool | None = Field(None, description="Kept in the daemon's --state-dir (default: if there is one).")
    ttl_s: float | None = Field(None, ge=0, description="Fresh interpreter after so many seconds.")
    max_requests: int | None = Field(None, ge=0, description="Fresh interpreter after so many requests.")
    max_growth_mb: int | None = Field(
        None, ge=0, description="Fresh interpreter once its private memory has grown by so many MiB."
    )
    idle_timeout_s: float | None = Field(None, ge=0, description="Hibernate after so long without a request.")
    session_ttl_s: float | None = Field(None, ge=0, description="End the session after so long without a request.")
    max_memory_mb: int | None = Field(None, ge=0, description="Most private memory of an interpreter, in MiB.")
    max_lm_calls: int | None = Field(None, ge=0, description="Most calls to language models at once.")
    max_cpu_s: float | None = Field(None, ge=0, description="Most processor time of one request.")
    max_open_files: Annotated[int | None, AfterValidator(_enough)] = Field(
        None, ge=0, description="Most descriptors an interpreter may have open."
    )
    max_processes: int | None = Field(None, ge=0, description="Most processes, the interpreter itself included.")
    max_scratch_mb: int | None = Field(None, ge=0, description="Most in the session's scratch folder, in MiB.")
    max_queue: int | None = Field(None, ge=1, description="Most requests waiting in the session.")


class StartSessionResult(Result):
    session_id: str
    status: Literal["started"]
    worker_pid: int


class EndSessionResult(Result):
    session_id: str
    status: Literal["ended", "not_found"]


class GetTraceArgs(Args):
    limit: int | None = Field(None, ge=0, description="Only so many of the latest records (absent: all that are kept).")


class TraceResult(Result):
    traceEvents: list[dict[str, Any]] = Field(description="In Chrome's trace event format; times in microseconds.")  # noqa: N815
    displayTimeUnit: Literal["ms"]  # noqa: N815
    otherData: dict[str, Any] = Field(description="Of the daemon: server_version, boot_id and more.")  # noqa: N815


class HealthCheck(BaseModel):
    check: str
    status: Literal["ok", "degraded", "failing"]
    detail: str


class HealthResult(Result):
    status: Literal["ok", "degraded", "failing"] = Field(description="The worst of the checks.")
    checks: list[HealthCheck]


class OptionsResult(Result):
    daemon: list[dict[str, Any]] = Field(
        description="Each with name, value, from (default, a file, environment, flag), default, variable, description, "
        "change (what another value takes: reload or restart), waiting (whether another one waits for a restart)."
    )
    session: dict[str, Any] = Field(description="JSON Schema of each argument of start_session.")


class SessionInfo(Result):
    session_id: str
    state: Literal["cold", "waking", "live", "ending"] = Field(description="cold: hibernating, or not used yet.")
    workers: list[dict[str, Any]] = Field(
        description="Each with pid, requests, age_s, memory_mb (private memory), python (its version) and gil "
        "(whether its threads take turns)."
    )
    capacity: int = Field(description="How many requests it may run at once: interpreters times threads.")
    threads: int = Field(description="Requests each interpreter runs at once.")
    requests: int
    queued: int
    in_flight: int
    recycles: int
    recoveries: int
    hibernations: int
    programs: list[str]
    durable: bool
    version: int = Field(description="Grows with every change of the session.")
    missing: list[str] = Field(description="Literal secrets it was restored without, such as lm.api_key.")
    created_at: str


class SessionsResult(Result):
    sessions: list[SessionInfo]


class RecycleResult(Result):
    session_id: str
    status: Literal["recycled"]
    worker_pid: int | None


class SessionDocument(BaseModel):
    """A session as JSON. It holds no literal secret: such fields are named where they were."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["dspy-bridge/session"]
    format_version: Literal[1]
    session_id: str = Field(min_length=1, max_length=512)
    created_at: str
    exported_at: str
    charter: dict[str, Any] = Field(description="What start_session was told.")
    parts: dict[str, Any] = Field(description="Its state: model, settings, programs, variables.")


class ExportResult(Result):
    document: dict[str, Any] = Field(description="For import_session, here or elsewhere; JSON to be kept as it is.")


class ImportSessionArgs(Args):
    document: SessionDocument = Field(description="What export_session gave.")
    on_exists: Literal["error", "replace"] = Field("error", description="What to do if the session exists.")


class ImportResult(Result):
    session_id: str
    status: Literal["imported"]
    programs: list[str]
    missing: list[str] = Field(description="Literal secrets it had and has no more, such as lm.api_key.")


class BranchSessionArgs(Args):
    branch_id: Name | None = Field(None, description="The new session's id (made up if absent).")


class BranchResult(Result):
    session_id: str
    status: Literal["branched"]
    branched_from: str
    programs: list[str]


class CancelArgs(Args):
    request_id: int | str = Field(description="The id of an open request of this connection.")


class CancelResult(Result):
    request_id: int | str
    status: Literal["cancelling", "not_found"]


class GetStateArgs(Args):
    key: Name = Field(description="The variable's name.")


class GotState(Result):
    key: str
    value: Any
    found: bool


class SetStateArgs(Args):
    key: Name = Field(description="The variable's name.")
    value: Any = Field(description="Any JSON value.")


class SetState(Result):
    key: str
    version: int = Field(description="Grows with every change of the session.")


class UpdateStateArgs(Args):
    key: Name = Field(description="The variable's name.")
    op: Literal["incr", "append", "compare_and_set", "delete"] = Field(description="What to do, atomically.")
    value: Any = Field(None, description="What to add (incr: default 1), append or set.")
    expected: Any = Field(None, description="compare_and_set only: sets if the variable reads this (null: not set).")


class UpdatedState(Result):
    key: str
    value: Any = Field(description="The variable afterwards.")
    version: int
    changed: bool = Field(description="False where compare_and_set found another value, or delete nothing.")


class ShutdownResult(Result):
    status: Literal["shutting_down"]
