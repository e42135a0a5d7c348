"""What authors of adapters build on, without a daemon; and the checker on what they build."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dspy_bridge.adapter import ThreadSafeAdapter, thread_safe_method, tool
from dspy_bridge.functions import schema_of
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.thread_safety import ThreadSafetyChecker


class Counter(ThreadSafeAdapter):
    __thread_safe__ = True

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.by_name: dict[str, int] = {}
        self.fixed = (1, 2, 3)

    @thread_safe_method
    @tool
    def add(self) -> None:
        with self.acquire_lock(), self.acquire_lock():  # it is re-entrant
            self.count += 1

    @thread_safe_method
    @tool
    def read_fixed(self) -> int:
        time.sleep(0.005)
        return self.fixed[0]

    @thread_safe_method
    @tool
    def race(self) -> None:
        before = self.count
        time.sleep(0.005)
        self.count = before + 1

    @thread_safe_method
    @tool
    def put(self, name: str) -> None:
        time.sleep(0.005)
        self.by_name[name] = 1
        time.sleep(0.005)


class Streaming(ThreadSafeAdapter):
    __thread_safe__ = True

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    @thread_safe_method(lock=True)
    @tool
    def locked(self) -> Iterator[bool]:
        """Whether the lock is held and the call counted, while it streams."""
        yield self._lock.held_by_me() and self.get_stats()["active_requests"] == 1
        return "done"

    @thread_safe_method
    @tool
    def race(self) -> Iterator[int]:
        before = self.count
        time.sleep(0.005)
        self.count = before + 1
        yield before

    @thread_safe_method
    @tool
    def of_others(self) -> int:
        """A tool that uses another."""
        self.count += 1
        self.bump()
        return sum(self.race())

    @thread_safe_method
    @tool
    def bump(self) -> None:
        self.count += 1


def together(times: int, work: Any, *args: Any) -> None:
    threads = [threading.Thread(target=work, args=args) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_hundred_threads_with_a_thousand_calls_each_lose_no_update() -> None:
    counter = Counter()

    def work() -> None:
        for _ in range(1000):
            counter.add()

    together(100, work)
    assert counter.count == 100_000
    stats = counter.get_stats()
    assert (stats["total_requests"], stats["active_requests"]) == (100_000, 0)
    assert len(stats["thread_utilization"]) == 100


def test_thread_locals_can_be_cleared_one_by_one_or_all() -> None:
    counter = Counter()
    counter.set_thread_local("a", 1)
    counter.set_thread_local("b", 2)
    seen: list[Any] = []
    together(1, lambda: seen.append(counter.get_thread_local("a", "nothing")))
    assert seen == ["nothing"]
    counter.clear_thread_local("a")
    counter.clear_thread_local("never set")
    assert (counter.get_thread_local("a"), counter.get_thread_local("b")) == (None, 2)
    counter.clear_thread_local()
    assert counter.get_thread_local("b") is None


def test_the_lock_knows_its_holder_and_how_long_it_was_held() -> None:
    counter = Counter()
    held: list[bool] = []
    with counter.acquire_lock():
        assert counter._lock.held_by_me()
        together(1, lambda: held.append(counter._lock.held_by_me()))
        time.sleep(0.01)
    assert held == [False]
    assert not counter._lock.held_by_me()
    assert counter._lock.longest_s >= 0.01


@pytest.mark.parametrize(
    ("method", "args", "found"),
    [("race", (), ["count"]), ("put", ("x",), ["by_name"]), ("read_fixed", (), []), ("add", (), [])],
)
def test_the_checker_tells_what_overlapped_from_what_merely_ran_in_threads(
    method: str, args: tuple[Any, ...], found: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    checker, counter = ThreadSafetyChecker(), Counter()
    checker.attach(counter)
    together(4, getattr(counter, method), *args)
    report = checker.get_report()
    assert [one["message"].split("'")[1] for one in report["concurrent_accesses"]] == found
    assert report["methods_tracked"] == {method: 4}
    assert len(caplog.records) == len(found)


def test_one_thread_after_the_other_is_no_race() -> None:
    checker, counter = ThreadSafetyChecker(strict_mode=True), Counter()
    checker.attach(counter)
    for _ in range(4):
        together(1, counter.race)
    assert checker.get_report()["warnings"] == []
    assert checker.get_report()["threads_seen"] == 4


def test_a_checker_that_is_not_enabled_leaves_the_adapter_as_it_is() -> None:
    checker, counter = ThreadSafetyChecker(enabled=False), Counter()
    checker.attach(counter)
    assert type(counter) is Counter


def test_a_schema_is_what_the_annotations_say() -> None:
    def plain(a: int, *, b: list[str] | None = None, **more: float) -> str:
        raise NotImplementedError

    schema = schema_of(plain)
    assert schema["required"] == ["a"]
    assert schema["properties"]["b"]["default"] is None
    assert schema["additionalProperties"] is True

    def odd(a: threading.Lock) -> None:  # type: ignore[valid-type]
        raise NotImplementedError

    with pytest.raises(TypeError, match="arguments of odd have no JSON Schema"):
        schema_of(odd)


def test_a_method_that_streams_is_locked_and_counted_until_its_last_item() -> None:
    adapter = Streaming()
    items = adapter.locked()
    assert adapter.get_stats()["total_requests"] == 0
    assert list(items) == [True]
    assert not adapter._lock.held_by_me()
    stats = adapter.get_stats()
    assert (stats["total_requests"], stats["active_requests"]) == (1, 0)
    opened = adapter.locked()
    assert next(opened)
    opened.close()
    assert not adapter._lock.held_by_me()


@pytest.mark.parametrize("strict", [False, True])
def test_the_checker_watches_a_method_until_its_last_item(strict: bool) -> None:
    adapter, checker = Streaming(), ThreadSafetyChecker(strict_mode=strict)
    checker.attach(adapter)
    begin, failed = threading.Barrier(4), []

    def stream() -> None:
        begin.wait(10)
        try:
            list(adapter.race())
        except BridgeError as error:
            failed.append(error.code)

    together(4, stream)
    found = checker.get_report()["concurrent_accesses"]
    assert [one["message"].split("'")[1] for one in found] == ["count"]
    assert set(failed) == ({"tool_error"} if strict else set())


def test_a_tool_that_uses_another_does_not_race_with_itself() -> None:
    adapter, checker = Streaming(), ThreadSafetyChecker(strict_mode=True)
    checker.attach(adapter)
    assert [adapter.of_others(), adapter.of_others()] == [2, 5]
    report = checker.get_report()
    assert report["warnings"] == []
    assert report["methods_tracked"] == {"of_others": 2, "bump": 2, "race": 2}
