"""The adapter of a session: the operator's own Python, its tools called by name."""

from __future__ import annotations

import difflib
import inspect
import logging
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from dspy_bridge.adapter import TOOL_MARK, ThreadSafeAdapter, ToolMark
from dspy_bridge.functions import binder, description_of, schema_of
from dspy_bridge.libraries import used_by
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import ADAPTER_PREFIX
from dspy_bridge.worker.compositions import import_allowed
from dspy_bridge.worker.exceptions import program_facts
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.state import State
from dspy_bridge.worker.thread_safety import ThreadSafetyChecker
from dspy_bridge.worker.values import to_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Tool:
    name: str
    description: str
    schema: dict[str, Any]
    streams: bool
    bind: Callable[..., Callable[[], Any]]


class _Session:
    """See :class:`dspy_bridge.adapter.SessionView`."""

    def __init__(self, session_id: str, threads: int, state: State) -> None:
        self.id = session_id
        self.threads = threads
        self._state = state

    def get(self, name: str, default: Any = None) -> Any:
        part = ADAPTER_PREFIX + name
        return self._state.get(part) if part in self._state else default

    def put(self, name: str, value: Any) -> None:
        self._state.put(ADAPTER_PREFIX + name, to_json(value, f"the session's {name!r}"))


class AdapterShelf:
    """Holds the one adapter a session may have. Raises ``unsupported``, ``invalid_args``, ``tool_error`` where
    it cannot be made."""

    def __init__(self, birth: Mapping[str, Any], host: Host, state: State) -> None:
        self.checker: ThreadSafetyChecker | None = None
        self._host = host
        self._instance: Any = None
        self._tools: dict[str, _Tool] = {}
        self._warnings: list[dict[str, Any]] = []
        reference = birth.get("adapter")
        if reference is not None:
            threads = birth.get("threads") or 1
            kind = import_allowed(reference, birth.get("allow_imports", ()), "args.adapter")
            _check_declared(kind, reference, threads)
            session = _Session(birth["session_id"], threads, state)
            if threads > 1:
                self._look_at_libraries(sys.modules[kind.__module__])
            check = birth.get("thread_safety_check")
            if check and threads > 1:
                self.checker = ThreadSafetyChecker(enabled=True, strict_mode=check == "strict")
            self._make(kind, reference, birth.get("adapter_args") or {}, session)

    def _look_at_libraries(self, module: ModuleType) -> None:
        for library in used_by(module):
            if library.verdict != "safe":
                message = f"{library.name} is {library.verdict} in threads: {library.why}. Safe: {library.pattern}"
                self._warnings.append({"kind": f"{library.verdict}_library", "message": message, "stacks": {}})
                if library.verdict == "unsafe":
                    logger.warning("thread safety: %s", message)

    def _make(self, kind: type, reference: str, args: Mapping[str, Any], session: _Session) -> None:
        try:
            instance = kind(**args)
            if isinstance(instance, ThreadSafeAdapter) and not hasattr(instance, "_counts"):
                raise TypeError("its __init__ does not call super().__init__()")
            instance.session = session
            if self.checker is not None:
                self.checker.attach(instance)
            for name, method in inspect.getmembers(instance, callable):
                mark = getattr(method, TOOL_MARK, None)
                if isinstance(mark, ToolMark):
                    made = self._describe(name, method, mark)
                    self._tools[made.name] = made
            if callable(getattr(instance, "setup", None)):
                instance.setup()
        except BridgeError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever somebody's Python raises
            message = f"the adapter {reference} cannot be made: {type(exc).__name__}: {exc}"
            raise BridgeError("tool_error", message, details=program_facts(exc)) from None
        self._instance = instance

    def _describe(self, name: str, method: Callable[..., Any], mark: ToolMark) -> _Tool:
        plain = inspect.unwrap(method)
        if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
            raise TypeError(f"the tool {name} is async: a tool is a plain method, or a generator if it streams")
        streams = mark.supports_streaming or inspect.isgeneratorfunction(plain)
        description = mark.description or description_of(method)
        return _Tool(mark.name or name, description, schema_of(method), streams, binder(method))

    def __contains__(self, name: str) -> bool:
        return name in self._tools

    def close(self) -> None:
        """The interpreter leaves."""
        if self._instance is not None and callable(getattr(self._instance, "teardown", None)):
            self._instance.teardown()

    def describe(self) -> dict[str, Any]:
        """The result of ``list_tools``."""
        tools = [
            {"name": one.name, "description": one.description, "args": one.schema, "supports_streaming": one.streams}
            for one in self._tools.values()
        ]
        report = self.checker.get_report() if self.checker is not None else None
        if report is not None:
            report["warnings"] += self._warnings
        elif self._warnings:
            report = {"enabled": False, "warnings": self._warnings}
        return {"tools": tools, "thread_safety": report}

    def call(self, name: str, args: Mapping[str, Any], path: str) -> tuple[Any, int | None]:
        """What a tool gives, and how many items it has streamed (None: it is none that streams)."""
        found = self._tools.get(name)
        if found is None:
            near = difflib.get_close_matches(name[:100], self._tools, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(self._tools) or 'none'}"
            raise BridgeError("invalid_args", f"the session's adapter has no tool {name[:100]!r}{hint}")
        try:
            call = found.bind(**args)
        except ValidationError as exc:
            raise _refusal(exc, path) from None
        try:
            given = call()
            if isinstance(given, Iterator):
                return self._stream(given)
            return to_json(given), None
        except BridgeError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever somebody's Python raises
            message = f"the tool {name!r} failed: {type(exc).__name__}: {exc}"
            raise BridgeError("tool_error", message, details=program_facts(exc)) from None

    def _stream(self, items: Iterator[Any]) -> tuple[Any, int]:
        count = 0
        try:
            while True:
                try:
                    item = next(items)
                except StopIteration as end:
                    return to_json(end.value), count
                self._host.tell("item", {"index": count, "value": to_json(item, f"item {count}")})
                count += 1
        finally:
            if isinstance(items, Generator):
                items.close()  # what it holds is given back now, also if an item cannot be sent


def _check_declared(kind: Any, reference: str, threads: int) -> None:
    if not isinstance(kind, type):
        raise BridgeError("invalid_args", f"args.adapter: {reference} is no class")
    if threads > 1 and kind.__dict__.get("__thread_safe__") is not True:
        message = (
            f"{reference} does not declare that it is thread-safe: write __thread_safe__ = True in the body of "
            f"{kind.__name__} itself once its methods lock what they share, or start the session with threads: 1"
        )
        raise BridgeError("unsupported", message)


def _refusal(exc: ValidationError, path: str) -> BridgeError:
    errors = [
        {"path": path + "".join(f".{part}" for part in error["loc"]), "reason": str(error["msg"])}
        for error in exc.errors(include_url=False, include_context=False)
    ]
    message = f"{errors[0]['path']}: {errors[0]['reason']}"
    return BridgeError("invalid_args", message, details={"errors": errors[:50]})
