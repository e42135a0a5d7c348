"""``bridge-cli metrics``: a daemon's figures in the text format Prometheus reads.

For a textfile collector, or a scrape that runs a command: ``bridge-cli metrics > dspy_bridge.prom``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from dspy_bridge.cli.send import TRANSPORT_ERROR, default_socket
from dspy_bridge.client import Client, CommandFailed, TransportError

_COUNTERS: Final = {
    "requests_total": ("requests.total", "Requests that went to sessions."),
    "requests_overloaded_total": ("requests.overloaded", "Requests refused because a queue was full."),
    "requests_retried_total": ("requests.retried", "Requests begun again after a crash."),
    "errors_total": ("error_count", "Requests answered with an error."),
    "interpreters_started_total": ("workers.started", "Interpreters that became ready."),
    "interpreters_crashed_total": ("workers.crashes", "Interpreters that ended by accident."),
    "interpreters_recycled_total": ("workers.recycles", "Interpreters replaced by fresh ones."),
    "reloads_total": ("reload.count", "Times the daemon has reloaded."),
    "reloads_failed_total": ("reload.failed", "Times it could not, and everything stayed as it was."),
    "hibernations_total": ("sessions.hibernations", "Sessions that gave up their interpreters."),
}
_GAUGES: Final = {
    "uptime_seconds": ("uptime_s", "Since the daemon started."),
    "sessions": ("sessions.total", "Sessions now."),
    "programs": ("programs_count", "Programs in all sessions."),
    "requests_waiting": ("requests.waiting", "Requests that wait for an interpreter."),
    "requests_open": ("requests.open", "Requests that have had no reply yet."),
    "interpreters_live": ("workers.live", "Interpreters that serve sessions."),
    "interpreters_busy": ("workers.busy", "Requests that run."),
    "interpreters_outdated": ("reload.outdated_workers", "Those that serve and are of before the latest reload."),
    "interpreters_spare": ("workers.spare", "Interpreters forked ahead of need."),
    "lm_calls_leased": ("lm_calls.leased", "Calls to models under way, where they are bounded."),
    "daemon_memory_megabytes": ("memory_mb.daemon", "Private memory of the daemon."),
}
_SUMMARIES: Final = {
    "request_seconds": ("requests.latency_ms", "From receipt to reply, of the latest requests."),
    "queue_seconds": ("requests.queue_ms", "The part of it they waited for an interpreter."),
    "loop_lag_seconds": ("loop_lag_ms", "How late the daemon's loop was."),
}


def exposition(stats: Mapping[str, Any]) -> str:
    """The result of ``get_stats`` as Prometheus text."""
    return "\n".join(_lines(stats)) + "\n"


def _lines(stats: Mapping[str, Any]) -> Iterator[str]:
    for kind, rows in (("counter", _COUNTERS), ("gauge", _GAUGES)):
        for name, (path, about) in rows.items():
            value = _at(stats, path)
            if value is not None:
                yield f"# HELP dspy_bridge_{name} {about}"
                yield f"# TYPE dspy_bridge_{name} {kind}"
                yield f"dspy_bridge_{name} {value}"
    for name, (path, about) in _SUMMARIES.items():
        shares = {share: value for share, value in (_at(stats, path) or {}).items() if value is not None}
        if shares:
            yield f"# HELP dspy_bridge_{name} {about}"
            yield f"# TYPE dspy_bridge_{name} gauge"
        for share, value in shares.items():
            yield f'dspy_bridge_{name}{{quantile="0.{share[1:]}"}} {value / 1000:.6f}'
    for state, count in stats["sessions"]["by_state"].items():
        yield f'dspy_bridge_sessions_by_state{{state="{state}"}} {count}'


def _at(stats: Mapping[str, Any], path: str) -> Any:
    value: Any = stats
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


@click.command("metrics")
@click.option(
    "--socket", "path", type=click.Path(), help="Where the daemon listens (default: your own daemon's socket)."
)
def command(path: str | None) -> None:
    """Print a daemon's figures as Prometheus reads them."""
    try:
        with Client.connect(path or default_socket()) as client:
            click.echo(exposition(client.call("get_stats", timeout=10)), nl=False)
    except (TransportError, CommandFailed) as exc:
        click.echo(f"bridge-cli: {exc}", err=True)
        sys.exit(TRANSPORT_ERROR)
