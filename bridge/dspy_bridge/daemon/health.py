"""How the daemon is: checks for probes, and a watch on its own loop."""

from __future__ import annotations

import collections
import logging
import shutil
import sys
import tempfile
import threading
import time
import traceback
from typing import Any, Final

from dspy_bridge.daemon.options import DaemonOptions
from dspy_bridge.daemon.timings import percentiles
from session_supervisor.reactor import Reactor
from session_supervisor.supervisor import Supervisor

logger = logging.getLogger(__name__)

_BEAT_S: Final = 0.25
_BLOCKED_S: Final = 1.0
_SLOW_LOOP_S: Final = 0.1
_MIN_DISK: Final = 64 << 20
_LONG_S: Final = 600.0


class Watchdog:
    """Measures how late the loop is, and logs where it hangs if it hangs for a second.

    ``lags``: seconds, of the latest beats.
    """

    def __init__(self, reactor: Reactor) -> None:
        self.lags: collections.deque[float] = collections.deque(maxlen=240)
        self._reactor = reactor
        self._loop = threading.get_ident()
        self._beaten = time.monotonic()
        self._told = False
        self._stopped = threading.Event()

    def start(self) -> None:
        self._loop = threading.get_ident()
        self._beaten = time.monotonic()
        self._reactor.call_later(_BEAT_S, self._beat)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _beat(self) -> None:
        now = time.monotonic()
        self.lags.append(max(0.0, now - self._beaten - _BEAT_S))
        self._beaten, self._told = now, False
        self._reactor.call_later(_BEAT_S, self._beat)

    def _watch(self) -> None:
        while not self._stopped.wait(_BLOCKED_S / 2):
            late = time.monotonic() - self._beaten - _BEAT_S
            frame = sys._current_frames().get(self._loop)
            if late > _BLOCKED_S and not self._told and frame is not None:
                self._told = True
                stack = "".join(traceback.format_stack(frame))
                logger.error("the daemon's loop has been blocked for %.1f s, here:\n%s", late, stack)


def health(supervisor: Supervisor, options: DaemonOptions, watchdog: Watchdog | None) -> dict[str, Any]:
    """The result of ``health``: each check by itself, and the worst of them."""
    checks = [
        _launcher(supervisor),
        _spares(supervisor, options),
        _queue(supervisor),
        _stuck(supervisor),
        _disk(options),
        _loop(watchdog),
    ]
    order = ("ok", "degraded", "failing")
    worst = max((one["status"] for one in checks), key=order.index)
    return {"status": worst, "checks": checks}


def _check(name: str, status: str, detail: str) -> dict[str, str]:
    return {"check": name, "status": status, "detail": detail}


def _launcher(supervisor: Supervisor) -> dict[str, str]:
    if supervisor.draining:
        return _check("launcher", "failing", "the daemon is shutting down")
    described = supervisor.launcher.describe()
    if described["kind"] == "fork" and described.get("template_pid") is None:
        return _check("launcher", "degraded", "the template has died; a new one is on its way")
    return _check("launcher", "ok", str(described["kind"]))


def _spares(supervisor: Supervisor, options: DaemonOptions) -> dict[str, str]:
    ready, coming = supervisor.pool.spare_count, supervisor.pool.starting_count
    detail = f"{ready} ready, {coming} starting, {options.spares} wanted"
    return _check("spares", "degraded" if options.spares and not ready + coming else "ok", detail)


def _queue(supervisor: Supervisor) -> dict[str, str]:
    waiting, limit = supervisor.waiting, supervisor.options.queue_total
    status = "failing" if waiting >= limit else "degraded" if waiting > limit // 2 else "ok"
    return _check("queue", status, f"{waiting} of at most {limit} requests wait")


def _stuck(supervisor: Supervisor) -> dict[str, str]:
    now = time.monotonic()
    ages = [
        now - request.started_at
        for session in supervisor.sessions.values()
        for worker in session.workers
        for request in worker.in_flight.values()
    ]
    oldest = max(ages, default=0.0)
    detail = f"{len(ages)} requests run, the oldest for {oldest:.0f} s"
    return _check("requests", "degraded" if oldest > _LONG_S else "ok", detail)


def _disk(options: DaemonOptions) -> dict[str, str]:
    worst, detail = "ok", []
    for folder in filter(None, (tempfile.gettempdir(), options.state_dir)):
        try:
            free = shutil.disk_usage(folder).free
        except OSError as exc:
            worst, said = "failing", str(exc)
        else:
            said = f"{free >> 20} MiB free in {folder}"
            if free < _MIN_DISK:
                worst = "failing"
        detail.append(said)
    return _check("disk", worst, "; ".join(detail))


def _loop(watchdog: Watchdog | None) -> dict[str, str]:
    lag = percentiles(watchdog.lags if watchdog is not None else ())[99] or 0.0
    return _check(
        "loop", "degraded" if lag > _SLOW_LOOP_S else "ok", f"99 of 100 beats at most {lag * 1000:.1f} ms late"
    )
