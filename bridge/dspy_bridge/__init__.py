"""Use DSPy safely from any runtime: a daemon with one fresh interpreter per session, and clients for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspy_bridge.client import errors
    from dspy_bridge.client.aio import AsyncBridge, AsyncProgram, AsyncSession, aconnect
    from dspy_bridge.client.bridge import Bridge, Program, Session, connect
    from dspy_bridge.client.commands import Event, Execution

_FROM = {
    **dict.fromkeys(("Bridge", "Program", "Session", "connect"), "dspy_bridge.client.bridge"),
    **dict.fromkeys(("AsyncBridge", "AsyncProgram", "AsyncSession", "aconnect"), "dspy_bridge.client.aio"),
    **dict.fromkeys(("Event", "Execution"), "dspy_bridge.client.commands"),
    "errors": "dspy_bridge.client.errors",
}
__all__ = [
    "AsyncBridge",
    "AsyncProgram",
    "AsyncSession",
    "Bridge",
    "Event",
    "Execution",
    "Program",
    "Session",
    "aconnect",
    "connect",
    "errors",
]


def __getattr__(name: str) -> Any:
    """Clients are imported when they are first asked for: the daemon and its workers have no use for them."""
    import importlib

    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_FROM[name])
    return module if name == "errors" else getattr(module, name)
