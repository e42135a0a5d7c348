"""Requests in threads, their state and their interrupts, piece by piece."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dspy_bridge.adapter import ThreadSafeAdapter
from dspy_bridge.protocol.envelope import Call
from dspy_bridge.worker.state import State
from dspy_bridge.worker.threaded import Threads
from session_supervisor.channel import Channel
from session_supervisor.frames import FrameReader, Kind, pack
from session_supervisor.hygiene import Interrupted

BOUND = 10.0
TALLY = "+program:p"


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(BOUND)
    with ours, theirs:
        yield Channel(ours), theirs


def interrupt(thread: threading.Thread) -> None:
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))


def begun(work: Callable[[], object]) -> threading.Thread:
    """A thread that may be interrupted."""

    def run() -> None:
        with contextlib.suppress(Interrupted):
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(BOUND)
    return not thread.is_alive()


def after(thread: threading.Thread, work: Callable[[], object]) -> threading.Thread:
    """A thread that works when that one has ended. It exists already, and so cannot be taken for that one."""

    def run() -> None:
        assert ended(thread)
        work()

    return begun(run)


# -- state -----------------------------------------------------------------------------------------


def test_changes_leave_in_the_order_they_were_made_whoever_hands_them_over() -> None:
    state, sent = State(), queue.SimpleQueue[dict[str, Any]]()
    sending, go_on = threading.Event(), threading.Event()

    def slowly(changed: dict[str, bytes | None]) -> None:
        sending.set()
        assert go_on.wait(BOUND)
        sent.put(changed)

    state.put("a", 1)
    first = begun(lambda: state.hand_over(slowly))
    assert sending.wait(BOUND)
    state.put("a", 2)
    second = begun(lambda: state.hand_over(sent.put))
    second.join(0.1)
    assert sent.empty()
    go_on.set()
    assert ended(first)
    assert ended(second)
    assert [sent.get_nowait(), sent.get_nowait()] == [{"a": b"1"}, {"a": b"2"}]


def test_news_do_not_overwrite_what_has_not_been_handed_over() -> None:
    state, sent = State(), []
    state.load({"a": b"0", TALLY: b'[1,"2026",{}]'})
    state.put("a", 1)
    state.count(TALLY, [1, "2027", {}])
    state.load({"a": b"5", "b": b"6", TALLY: b'[4,"2026",{}]'})
    assert (state.get("a"), state.get("b"), state.get(TALLY)) == (1, 6, [5, "2027", {}])
    state.hand_over(sent.append)
    assert sent == [{"a": b"1", TALLY: b'[1,"2027",{}]'}]
    state.load({"a": b"7", TALLY: b'[9,"2027",{}]'})
    assert (state.get("a"), state.get(TALLY)) == (7, [9, "2027", {}])


# -- interrupts ------------------------------------------------------------------------------------


def put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the test is over, what ``Threads`` puts its own in the place of."""
    for name in ("stdout", "stderr", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))


def frames(end: socket.socket, count: int) -> list[tuple[Kind, int, bytes]]:
    reader, found = FrameReader(), []
    while len(found) < count:
        found += reader.feed(end.recv(1 << 16))
    return found


@pytest.mark.parametrize("when", ["before the answer", "after the answer"])
def test_every_request_gets_its_terminal_frame_whenever_it_is_interrupted(
    ends: tuple[Channel, socket.socket], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, other = ends

    def answer(number: int, call: Call) -> bytes:
        if number == 1 and when == "before the answer":
            raise Interrupted
        return pack(Kind.REPLY, number, b"done")

    first_time = iter([True])

    def interrupted(*_: object) -> None:
        if when == "after the answer" and next(first_time, False):
            raise Interrupted

    monkeypatch.setattr(Threads, "_look_at_load", interrupted)
    put_back(monkeypatch)
    threads = Threads(1, channel, answer, lambda _, ending: channel.send_many(ending))
    call = Call(1, "ping", {}, "s", False, None, False)
    threads.serve(1, call)
    threads.serve(2, call)
    first, second = frames(other, 2)
    assert first == (Kind.REPLY, 1, b"" if when == "before the answer" else b"done")
    assert second == (Kind.REPLY, 2, b"done")


def test_a_thread_that_imports_is_interrupted_only_when_that_is_done(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    channel, other = ends
    gate = ModuleType("gate_of_a_slow_import")
    gate.inside, gate.go_on = inside, go_on = threading.Event(), threading.Event()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, gate.__name__, gate)
    (tmp_path / "imported_slowly.py").write_text(
        f"from {gate.__name__} import go_on, inside\ninside.set()\n"
        "while not go_on.wait(0.001):\n    pass\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    imported = []

    def answer(number: int, _call: Call) -> bytes:
        imported.append(importlib.import_module("imported_slowly").whole)
        while number == 1:
            threading.Event().wait(0.001)
        return pack(Kind.REPLY, number, b"done")

    put_back(monkeypatch)
    threads = Threads(2, channel, answer, lambda _, ending: channel.send_many(ending))
    call = Call(1, "ping", {}, "s", False, None, False)
    threads.serve(1, call)
    assert inside.wait(BOUND)
    threads.cancel(1)
    threads.serve(2, call)
    for _ in range(100):  # the thread takes many steps, and at each an interrupt could reach it
        go_on.wait(0.001)
    go_on.set()
    ends_of_both = sorted(frames(other, 2), key=lambda one: one[1])
    assert ends_of_both == [(Kind.REPLY, 1, b""), (Kind.REPLY, 2, b"done")]
    assert imported == [True, True]


def test_an_interrupt_never_hits_a_thread_that_the_request_is_starting(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, other = ends
    at_it: queue.SimpleQueue[int] = queue.SimpleQueue()

    def answer(number: int, _call: Call) -> bytes:
        at_it.put(number)
        while True:
            child = threading.Thread(target=time.sleep, args=(0.0005,), daemon=True)
            child.start()
            child.join()

    put_back(monkeypatch)
    threads = Threads(1, channel, answer, lambda _, ending: channel.send_many(ending))
    for number in range(1, 31):
        threads.serve(number, Call(1, "ping", {}, "s", False, None, False))
        assert at_it.get(timeout=BOUND) == number
        threads.cancel(number)
        assert frames(other, 1) == [(Kind.REPLY, number, b"")]


def test_an_interrupt_that_hits_a_finalizer_comes_again(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, other = ends
    inside = threading.Event()

    class Finalized:
        def __del__(self) -> None:
            inside.set()
            while True:
                threading.Event().wait(0.001)

    def answer(_number: int, _call: Call) -> bytes:
        Finalized()
        while True:
            threading.Event().wait(0.001)

    put_back(monkeypatch)
    threads = Threads(1, channel, answer, lambda _, ending: channel.send_many(ending))
    threads.serve(1, Call(1, "ping", {}, "s", False, None, False))
    assert inside.wait(BOUND)
    threads.cancel(1)
    assert frames(other, 1) == [(Kind.REPLY, 1, b"")]


def test_an_interrupt_of_a_thread_that_waits_for_the_channel_leaves_it_to_others(
    ends: tuple[Channel, socket.socket],
) -> None:
    channel, _ = ends
    inside, go_on = threading.Event(), threading.Event()

    def under_way() -> int:
        inside.set()
        assert go_on.wait(BOUND)
        return 1

    def ask() -> None:
        with channel.call(b""):
            pass

    channel.under_way = under_way
    holder = begun(ask)
    assert inside.wait(BOUND)
    waiter = begun(ask)
    waiter.join(0.1)
    following = after(waiter, ask)
    interrupt(waiter)
    go_on.set()
    assert ended(holder)
    assert ended(following)


def test_an_interrupt_of_a_thread_that_waits_for_an_adapters_lock_leaves_it_to_others() -> None:
    adapter = ThreadSafeAdapter()

    def use() -> None:
        with adapter.acquire_lock():
            pass

    with adapter.acquire_lock():
        waiter = begun(use)
        waiter.join(0.1)
        following = after(waiter, use)
        interrupt(waiter)
    assert ended(following)
