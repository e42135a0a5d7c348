"""What an operator can set about a daemon: the one place each option is defined.

From this model come the flags of ``bridge-cli serve``, their help and their validation.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.codec import DEFAULT_MAX_FRAME
from session_supervisor.handle import Grace
from session_supervisor.options import RecyclePolicy, SupervisorOptions


class DaemonOptions(BaseModel):
    """Immutable once the daemon serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    framing: Literal["lines", "packet4"] = Field(
        "lines", description="How frames are delimited: newlines, or a 4-byte big-endian length."
    )
    ready: bool = Field(True, description="Send the ready frame first.")
    explicit_sessions: bool = Field(False, description="Refuse unknown session ids instead of starting those sessions.")
    launcher: Literal["auto", "fork", "spawn"] = Field(
        "auto", description="How interpreters are made: forked from a warm template, or started afresh."
    )
    preload: str = Field(
        "", description="Modules the template imports beside dspy, separated by commas; shared by all sessions."
    )
    max_frame: int = Field(DEFAULT_MAX_FRAME, ge=1024, le=1 << 30, description="Longest frame taken, in bytes.")
    max_sessions: int = Field(10_000, ge=1, description="Most sessions at once.")
    queue_per_session: int = Field(1_024, ge=1, description="Most requests waiting in one session.")
    queue_total: int = Field(16_384, ge=1, description="Most requests waiting in all sessions.")
    spares: int = Field(2, ge=0, le=1_000, description="Interpreters forked ahead of need.")
    worker_ttl_s: float = Field(3600, ge=0, description="Fresh interpreter for a session after so long; 0: never.")
    worker_max_requests: int = Field(0, ge=0, description="Fresh interpreter after so many requests; 0: never.")
    recycle_jitter: float = Field(0.1, ge=0, le=1, description="Spread those two limits downwards by this fraction.")
    concurrent_recycles: int = Field(2, ge=1, description="Most interpreters being replaced at once.")
    template_max_forks: int = Field(300, ge=1, description="Forks after which a fresh template takes over.")
    start_timeout_s: float = Field(30, gt=0, description="Longest an interpreter may take to be ready.")
    drain_timeout_s: float = Field(10, ge=0, description="Longest that requests under way may take at shutdown.")
    interrupt_grace_s: float = Field(0.5, gt=0, description="Wait after interrupting a request before SIGTERM.")
    terminate_grace_s: float = Field(0.5, gt=0, description="Wait after SIGTERM before a stack dump and SIGKILL.")
    idle_exit_s: float = Field(0, ge=0, description="Exit after so long without a client; 0: never.")
    request_log_bytes: int = Field(
        1 << 20, ge=0, description="Most bytes of what a request prints that are passed on as log events."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("warning", description="What goes to stderr.")

    def for_supervisor(self) -> SupervisorOptions:
        """The supervisor's share."""
        return SupervisorOptions(
            spares=self.spares,
            max_sessions=self.max_sessions,
            queue_per_session=self.queue_per_session,
            queue_total=self.queue_total,
            concurrent_recycles=self.concurrent_recycles,
            start_timeout=self.start_timeout_s,
            drain_timeout=self.drain_timeout_s,
            recycle=RecyclePolicy(self.worker_ttl_s, self.worker_max_requests, self.recycle_jitter),
            grace=Grace(interrupt=self.interrupt_grace_s, terminate=self.terminate_grace_s),
        )
