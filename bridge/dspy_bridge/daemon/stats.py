"""What ``get_stats`` says: counts, latencies, the pool, the template, memory."""

from __future__ import annotations

import os
import sys
from typing import Any

import psutil

from dspy_bridge.daemon.health import Watchdog
from dspy_bridge.daemon.router import Router
from dspy_bridge.daemon.sessions import Sessions
from dspy_bridge.daemon.timings import in_ms
from session_supervisor.os_facts import private_memory
from session_supervisor.supervisor import Supervisor


def stats(supervisor: Supervisor, router: Router, uptime: float, watchdog: Watchdog | None) -> dict[str, Any]:
    """Everything, now. ``uptime`` in seconds."""
    launcher = supervisor.launcher.describe()
    template = launcher.get("template_pid")
    states: dict[str, int] = {}
    for session in supervisor.sessions.values():
        states[session.state] = states.get(session.state, 0) + 1
    counters = supervisor.counters
    return {
        "uptime_s": round(uptime, 3),
        "sessions": {
            "total": len(supervisor.sessions),
            "by_state": states,
            "limit": supervisor.options.max_sessions,
            "expired": counters.expired,
            "hibernations": counters.hibernations,
        },
        "requests": {
            "total": counters.requests,
            "waiting": supervisor.waiting,
            "waiting_limit": supervisor.options.queue_total,
            "open": len(router.open),
            "overloaded": counters.overloads,
            "retried": router.retries,
            "latency_ms": router.latencies.latest(),
            "queue_ms": router.waits.latest(),
            "latency": router.latencies.histogram(),
            "queue": router.waits.histogram(),
        },
        "workers": {
            "spare": supervisor.pool.spare_count,
            "starting": supervisor.pool.starting_count,
            "started": supervisor.pool.started,
            "live": sum(len(session.workers) for session in supervisor.sessions.values()),
            "busy": sum(session.in_flight for session in supervisor.sessions.values()),
            "limit": supervisor.residency.limit,
            "sessions_waiting": supervisor.residency.waiting,
            "crashes": counters.crashes,
            "recycles": counters.recycles,
        },
        "lm_calls": {
            "leased": supervisor.leases.used,
            "waiting": supervisor.leases.waiting,
            "limit": supervisor.leases.limit,
        },
        "processes": supervisor.processes,
        "loop_lag_ms": in_ms(watchdog.lags) if watchdog is not None else None,
        "launcher": launcher,
        "memory_mb": {
            "daemon": _memory_mb(os.getpid()),
            "template": _memory_mb(template) if isinstance(template, int) else None,
        },
        "python": sys.version.split()[0],
        **_as_dspex(supervisor, router, uptime),
    }


def _as_dspex(supervisor: Supervisor, router: Router, uptime: float) -> dict[str, Any]:
    """What hosts of the early DSPex bridge read."""
    process = psutil.Process()
    memory = process.memory_info()
    return {
        "programs_count": sum(len(Sessions.programs(session)) for session in supervisor.sessions.values()),
        "command_count": router.taken,
        "error_count": router.failed,
        "uptime": round(uptime, 3),
        "memory_usage": {"rss": memory.rss, "vms": memory.vms, "percent": round(process.memory_percent(), 3)},
        "dspy_available": True,
        "gemini_available": True,
    }


def _memory_mb(pid: int) -> float | None:
    """Private memory of a process in MiB; None if it is gone."""
    try:
        return round(private_memory(pid) / 2**20, 2)
    except psutil.Error:
        return None
