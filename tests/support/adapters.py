"""Adapters as an operator might write them: right, wrong, and slow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from dspy_bridge.adapter import Adapter, ThreadSafeAdapter, thread_safe_method, tool


class Point(BaseModel):
    x: int
    y: int = 0


class Plain(Adapter):
    """For one thread."""

    def __init__(self, greeting: str = "hello") -> None:
        self.greeting = greeting
        self.calls = 0

    def setup(self) -> None:
        self.ready_in = os.getpid()

    def teardown(self) -> None:
        print("taken down", flush=True)

    @tool(description="Greets somebody.")
    def greet(self, name: str, loud: bool = False) -> str:
        self.calls += 1
        said = f"{self.greeting}, {name}"
        return said.upper() if loud else said

    @tool
    def move(self, point: Point, by: int) -> Point:
        """Moves a point."""
        return Point(x=point.x + by, y=point.y)

    @tool(supports_streaming=True)
    def count(self, to: int) -> Iterator[int]:
        """Counts."""
        yield from range(to)
        return f"counted to {to}"

    @tool
    def fail(self) -> None:
        raise RuntimeError("it broke")

    @tool
    def misjudge(self) -> None:
        """Fails on data of its own, not on its arguments."""
        Point.model_validate({"x": "no number"})

    @tool
    def misjudge_later(self) -> Iterator[int]:
        yield 1
        Point.model_validate({"x": "no number"})

    @tool
    def nothing(self) -> None:
        pass

    @tool
    def shelf(self) -> dict[str, list[int]]:
        return {"outputs": [1]}

    @tool
    def remember(self, value: Any) -> dict[str, Any]:
        before = self.session.get("kept")
        self.session.put("kept", value)
        return {"before": before, "calls": self.calls, "pid": os.getpid(), "set up": self.ready_in == os.getpid()}

    @tool
    def blas_threads(self) -> str:
        return os.environ["OMP_NUM_THREADS"]

    def hidden(self) -> str:
        return "no tool"


class Threaded(ThreadSafeAdapter):
    __thread_safe__ = True

    def setup(self) -> None:
        self.count = 0
        self.seen: list[int] = []
        self.read_only = {"a": 1}
        self.released = False

    @thread_safe_method
    @tool
    def sleep(self, seconds: float, say: str = "") -> str:
        if say:
            print(say)
        time.sleep(seconds)
        return threading.current_thread().name

    @thread_safe_method
    @tool(supports_streaming=True)
    def flood(self, items: int) -> Iterator[str]:
        for _ in range(items):
            yield "x" * 10_000

    @thread_safe_method
    @tool
    def add(self) -> int:
        """Adds one, under the lock."""
        with self.acquire_lock():
            value = self.count
            time.sleep(0)
            self.count = value + 1
            self.seen.append(value)
            return self.count

    @thread_safe_method(lock=True)
    @tool
    def add_locked(self) -> int:
        self.count += 1
        return self.count

    @thread_safe_method
    @tool
    def look(self) -> int:
        time.sleep(0.02)
        return self.read_only["a"]

    @thread_safe_method
    @tool
    def total(self) -> int:
        with self.acquire_lock():
            return self.count

    @thread_safe_method
    @tool
    def mine(self, value: int) -> int:
        """What this thread has been told so far, added up."""
        self.set_thread_local("sum", self.get_thread_local("sum", 0) + value)
        time.sleep(0.01)
        total: int = self.get_thread_local("sum")
        if value == 0:
            self.clear_thread_local()
        return total

    @tool
    def stats(self) -> dict[str, Any]:
        return self.get_stats()

    @thread_safe_method
    @tool
    def keep(self, key: str, value: int) -> None:
        """Keeps a value, says so, and goes on until it is released."""
        self.session.put(key, value)
        print(key, flush=True)
        while not self.released:
            time.sleep(0.005)

    @thread_safe_method
    @tool
    def release(self) -> None:
        self.released = True

    @thread_safe_method
    @tool
    def kept(self, key: str) -> Any:
        return self.session.get(key)


class Racy(ThreadSafeAdapter):
    """Declares what it does not keep."""

    __thread_safe__ = True

    def setup(self) -> None:
        self.count = 0
        self.seen: list[int] = []

    @thread_safe_method
    @tool
    def add(self) -> int:
        value = self.count
        time.sleep(0.02)
        self.count = value + 1
        return self.count

    @thread_safe_method
    @tool
    def note(self, value: int) -> None:
        time.sleep(0.01)
        self.seen.append(value)
        time.sleep(0.01)

    @tool
    def forgotten(self) -> None:
        time.sleep(0.02)


class Undeclared(Threaded):
    """Inherits the declaration, which does not count."""


class Careless(ThreadSafeAdapter):
    __thread_safe__ = True

    def __init__(self) -> None:
        self.mine = 1  # and nothing of the base


class Awaited(Adapter):
    @tool
    async def wait(self) -> int:
        return 1


class Broken(Adapter):
    def setup(self) -> None:
        raise RuntimeError("no index here")


class Slow(Adapter):
    def setup(self) -> None:
        time.sleep(0.3)
