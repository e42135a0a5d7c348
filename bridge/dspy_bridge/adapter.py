"""For authors of adapters: Python of your own that runs in a session, called by name from any host.

    from dspy_bridge.adapter import ThreadSafeAdapter, thread_safe_method, tool

    class Search(ThreadSafeAdapter):
        __thread_safe__ = True

        def setup(self):
            self.index = load_index()          # read-only from here on: needs no lock
            self.served = 0

        @thread_safe_method
        @tool(description="Finds passages.")
        def search(self, query: str, k: int = 5) -> list[str]:
            with self.acquire_lock():
                self.served += 1
            return self.index.find(query, k)

A host starts a session with ``{"adapter": "package.module:Search", "threads": 4}``; the daemon's operator
allows the package by ``--allow-import``. One instance lives as long as its interpreter.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

TOOL_MARK = "__bridge_tool__"
THREAD_SAFE_MARK = "__bridge_thread_safe_method__"


@dataclass(frozen=True, slots=True)
class ToolMark:
    """What ``@tool`` says of a method. ``description``: default its docstring."""

    description: str | None = None
    name: str | None = None
    supports_streaming: bool = False


@overload
def tool(function: F) -> F: ...
@overload
def tool(
    function: None = None, *, description: str | None = None, name: str | None = None, supports_streaming: bool = False
) -> Callable[[F], F]: ...
def tool(
    function: Any = None, *, description: str | None = None, name: str | None = None, supports_streaming: bool = False
) -> Any:
    """Mark a method as a tool. Its annotations become the schema of its arguments. A generator streams: each
    item is an ``item`` event, and what it returns is the result."""

    def mark(marked: F) -> F:
        setattr(marked, TOOL_MARK, ToolMark(description, name, supports_streaming))
        return marked

    return mark if function is None else mark(function)


@overload
def thread_safe_method(function: F) -> F: ...
@overload
def thread_safe_method(function: None = None, *, lock: bool = False) -> Callable[[F], F]: ...
def thread_safe_method(function: Any = None, *, lock: bool = False) -> Any:
    """Declare that several threads may run a method at once; its calls are counted in ``get_stats``. It takes
    no lock by itself: with ``lock=True`` the adapter's own lock is held for the whole call, which runs calls
    one after another. The call of a method that streams lasts until its last item."""

    def declare(method: F) -> F:
        @functools.wraps(method)
        def counted(self: ThreadSafeAdapter, *args: Any, **kwargs: Any) -> Any:
            with self._counted(), self.acquire_lock() if lock else contextlib.nullcontext():
                return method(self, *args, **kwargs)

        @functools.wraps(method)
        def counted_to_its_last_item(self: ThreadSafeAdapter, *args: Any, **kwargs: Any) -> Any:
            with self._counted(), self.acquire_lock() if lock else contextlib.nullcontext():
                return (yield from method(self, *args, **kwargs))

        declared: Any = counted_to_its_last_item if inspect.isgeneratorfunction(method) else counted
        setattr(declared, THREAD_SAFE_MARK, True)
        return declared  # type: ignore[no-any-return]

    return declare if function is None else declare(function)


class SessionView(Protocol):
    """What an adapter may know of and do to its session, as ``self.session``."""

    id: str
    threads: int

    def get(self, name: str, default: Any = None) -> Any:
        """What was kept under that name, perhaps by an interpreter long gone."""

    def put(self, name: str, value: Any) -> None:
        """Keep a value (JSON) in the session's snapshot; it takes effect with the tool's reply."""


class Adapter:
    """Base of adapters. Any class with ``@tool`` methods will do; this one knows its session."""

    session: SessionView

    def setup(self) -> None:
        """Called once, when the interpreter has become the session, before any tool."""

    def teardown(self) -> None:
        """Called when the interpreter leaves in order: recycled, hibernating, ended. Not after a crash."""


class TrackedLock:
    """A re-entrant lock that knows who holds it, and for how long it was held at most."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._holder: int | None = None
        self.longest_s = 0.0

    def held_by_me(self) -> bool:
        return self._holder == threading.get_ident()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Hold it. Whenever the thread is interrupted, it is given back."""
        with self._lock:
            outer, since = self._holder, time.monotonic()
            try:
                self._holder = threading.get_ident()
                yield
            finally:
                self._holder = outer
                if outer is None:
                    self.longest_s = max(self.longest_s, time.monotonic() - since)


class ThreadSafeAdapter(Adapter):
    """Base of adapters several threads run in. A subclass declares ``__thread_safe__ = True`` in its own body:
    whoever changes a class must say anew that it is safe."""

    __thread_safe__ = True

    def __init__(self) -> None:
        self._lock = TrackedLock()
        self._local = threading.local()
        self._counts = threading.Lock()
        self._total = 0
        self._active = 0
        self._by_thread: dict[str, int] = {}

    def acquire_lock(self) -> contextlib.AbstractContextManager[None]:
        """Hold the adapter's lock (re-entrant). Hold it to read and write shared state, not to compute."""
        return self._lock.hold()

    def get_thread_local(self, key: str, default: Any = None) -> Any:
        """A value this thread has kept; other threads have their own."""
        return getattr(self._local, key, default)

    def set_thread_local(self, key: str, value: Any) -> None:
        setattr(self._local, key, value)

    def clear_thread_local(self, key: str | None = None) -> None:
        """Forget one of this thread's values, or all."""
        for name in [key] if key is not None else list(vars(self._local)):
            with contextlib.suppress(AttributeError):
                delattr(self._local, name)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        thread = threading.current_thread().name
        with self._counts:
            self._total += 1
            self._active += 1
            self._by_thread[thread] = self._by_thread.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._counts:
                self._active -= 1

    def get_stats(self) -> dict[str, Any]:
        """Calls of methods declared with ``@thread_safe_method``, all taken at one moment: ``total_requests``,
        ``active_requests``, ``max_workers`` (threads) and ``thread_utilization`` (calls by thread)."""
        with self._counts:
            return {
                "total_requests": self._total,
                "active_requests": self._active,
                "max_workers": getattr(getattr(self, "session", None), "threads", 1),
                "thread_utilization": dict(self._by_thread),
            }
