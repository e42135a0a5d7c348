"""Whether an adapter is as thread-safe as it says: overlaps are observed, not guessed.

While a tool runs, the checker notes which attributes of the adapter its thread touches without holding the
adapter's lock. Two calls that overlap in time and touch the same attribute so, at least one of them to
change it, are reported, with the place of each. A list, dict or set is changed when it differs from what
it was when the call began. What it cannot see: state outside the adapter, locks of the adapter's own
making (it then reports what they protect), and changes deep inside a value.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from dspy_bridge.adapter import THREAD_SAFE_MARK, TOOL_MARK
from dspy_bridge.protocol.errors import BridgeError

logger = logging.getLogger(__name__)

_OWN: Final = frozenset({"session", "_lock", "_local", "_counts", "_total", "_active", "_by_thread"})
_CONTAINERS: Final = (list, dict, set)
_WATCHED: Final = 10_000
"""A larger container is told to have changed by its length alone."""
_FRAMES: Final = 6
_MOST: Final = 100


@dataclass
class _Access:
    write: bool
    stack: str
    value: Any = None
    before: Any = None


@dataclass(eq=False)
class _Running:
    """One call of a tool, with what it touched unlocked, and the calls it has overlapped with."""

    method: str
    thread: str
    ident: int
    touched: dict[str, _Access] = field(default_factory=dict)
    met: list[_Running] = field(default_factory=list)


class ThreadSafetyChecker:
    """``enabled``: it looks at all. ``strict_mode``: a call that is found unsafe fails with ``tool_error``."""

    def __init__(self, *, enabled: bool = True, strict_mode: bool = False) -> None:
        self.enabled = enabled
        self.strict_mode = strict_mode
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}
        self._warnings: list[dict[str, Any]] = []
        self._known: set[tuple[str, ...]] = set()
        self._calls: dict[str, int] = {}
        self._threads: set[str] = set()

    # -- attaching -----------------------------------------------------------------------------

    def attach(self, adapter: Any) -> None:
        """From now on, watch this instance."""
        if not self.enabled:
            return
        checker, kind = self, type(adapter)

        class Watched(kind):  # type: ignore[misc, valid-type]
            def __getattribute__(self, name: str) -> Any:
                value = super().__getattribute__(name)
                if name in super().__getattribute__("__dict__"):
                    checker._touch(self, name, value, write=False)
                return value

            def __setattr__(self, name: str, value: Any) -> None:
                checker._touch(self, name, value, write=True)
                super().__setattr__(name, value)

        Watched.__name__, Watched.__qualname__ = kind.__name__, kind.__qualname__
        adapter.__class__ = Watched
        for name in dir(kind):
            method = getattr(kind, name, None)
            if callable(method) and hasattr(method, TOOL_MARK):
                setattr(Watched, name, self._watch(method, name))

    def _watch(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        declared = bool(getattr(method, THREAD_SAFE_MARK, False))

        @functools.wraps(method)
        def watched(adapter: Any, *args: Any, **kwargs: Any) -> Any:
            running = self._enter(name, declared)
            try:
                result = method(adapter, *args, **kwargs)
            finally:
                found = self._leave(running)
            self._judge(found)
            return result

        @functools.wraps(method)
        def watched_to_its_last_item(adapter: Any, *args: Any, **kwargs: Any) -> Any:
            running = self._enter(name, declared)
            try:
                result = yield from method(adapter, *args, **kwargs)
            finally:
                found = self._leave(running)
            self._judge(found)
            return result

        return watched_to_its_last_item if inspect.isgeneratorfunction(method) else watched

    # -- observing -----------------------------------------------------------------------------

    def _enter(self, method: str, declared: bool) -> _Running | None:
        """None: it is part of the call of another tool, and watched as that."""
        running = _Running(method, threading.current_thread().name, threading.get_ident())
        with self._lock:
            self._calls[method] = self._calls.get(method, 0) + 1
            self._threads.add(running.thread)
            if running.ident in self._running:
                return None
            for other in self._running.values():
                other.met.append(running)
                running.met.append(other)
            if running.met and not declared:
                self._undeclared(running)
            self._running[running.ident] = running
        return running

    def _touch(self, adapter: Any, name: str, value: Any, *, write: bool) -> None:
        running = self._running.get(threading.get_ident())
        if running is None or name in _OWN or name.startswith("__"):
            return
        lock = object.__getattribute__(adapter, "__dict__").get("_lock")
        if lock is not None and getattr(lock, "held_by_me", lambda: False)():
            return
        known = running.touched.get(name)
        if known is None:
            stack = "".join(traceback.format_stack(limit=_FRAMES)[:-2])
            running.touched[name] = _Access(write, stack, value, _copy(value))
        elif write and not known.write:
            known.write = True

    def _leave(self, running: _Running | None) -> list[dict[str, Any]]:
        if running is None:
            return []
        with self._lock:
            self._running.pop(running.ident, None)
            for access in running.touched.values():
                access.write = access.write or _changed(access)
            return [found for other in running.met for found in self._compare(running, other)]

    def _judge(self, found: list[dict[str, Any]]) -> None:
        if found and self.strict_mode:
            raise BridgeError("tool_error", found[0]["message"], details={"thread_safety": found})

    def _compare(self, one: _Running, other: _Running) -> list[dict[str, Any]]:
        found = []
        for name in one.touched.keys() & other.touched.keys():
            first, second = one.touched[name], other.touched[name]
            if first.write or second.write:
                message = (
                    f"Concurrent access to {name!r}: {one.method} and {other.method} overlapped in threads "
                    f"{one.thread} and {other.thread}, and neither held the lock. Use 'with self.acquire_lock():' "
                    "around everything that reads or changes it"
                )
                stacks = {one.thread: first.stack, other.thread: second.stack}
                found += self._warn("concurrent_access", (name, *sorted((one.method, other.method))), message, stacks)
        return found

    def _undeclared(self, running: _Running) -> None:
        other = running.met[0]
        message = (
            f"Method {running.method!r} ran in several threads at once and is not declared safe: mark it with "
            "@thread_safe_method once it locks what it shares"
        )
        stacks = {running.thread: "".join(traceback.format_stack(limit=_FRAMES)[:-3]), other.thread: ""}
        self._warn("undeclared_method", (running.method,), message, stacks)

    def _warn(self, kind: str, about: tuple[str, ...], message: str, stacks: dict[str, str]) -> list[dict[str, Any]]:
        warning = {"kind": kind, "message": message, "stacks": stacks}
        if (kind, *about) not in self._known and len(self._warnings) < _MOST:
            self._known.add((kind, *about))
            self._warnings.append(warning)
            logger.warning("thread safety: %s", message)
        return [warning]

    # -- telling -------------------------------------------------------------------------------

    def get_report(self) -> dict[str, Any]:
        """What has been found, each thing once."""
        with self._lock:
            return {
                "enabled": self.enabled,
                "strict_mode": self.strict_mode,
                "methods_tracked": dict(self._calls),
                "threads_seen": len(self._threads),
                "concurrent_accesses": [one for one in self._warnings if one["kind"] == "concurrent_access"],
                "warnings": list(self._warnings),
            }


def _copy(value: Any) -> Any:
    if isinstance(value, _CONTAINERS):
        return type(value)(value) if len(value) <= _WATCHED else len(value)
    return None


def _changed(access: _Access) -> bool:
    if not isinstance(access.value, _CONTAINERS):
        return False
    if isinstance(access.before, int):
        return len(access.value) != access.before
    try:
        return bool(access.value != access.before)
    except Exception:  # noqa: BLE001 - whatever comparing somebody's values does
        return False
