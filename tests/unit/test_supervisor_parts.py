"""The supervisor's small parts by themselves: frames, snapshots, states, reactor."""

from __future__ import annotations

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from session_supervisor.frames import CorruptStream, FrameReader, Kind, pack
from session_supervisor.reactor import Reactor
from session_supervisor.snapshot import Snapshot, decode_parts, encode_parts
from session_supervisor.states import SESSION_TRANSITIONS, WORKER_TRANSITIONS, IllegalTransition, Lifecycle
from session_supervisor.timers import Timers


def add(total: bytes, share: bytes) -> bytes:
    return total + share


names = st.text(min_size=1, max_size=10) | st.sampled_from(["+a", "+b"])
parts = st.dictionaries(names, st.none() | st.binary(max_size=30), max_size=5)


@given(
    st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**64 - 1), st.binary(max_size=40)), max_size=6), st.data()
)
def test_frames_survive_any_fragmentation(sent: list[tuple[Kind, int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(pack(*one) for one in sent)
    reader, got = FrameReader(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert got == sent


def test_a_corrupt_stream_is_recognised() -> None:
    with pytest.raises(CorruptStream):
        FrameReader().feed(b"hello, this is no frame")


@given(parts)
def test_parts_round_trip(given_parts: dict[str, bytes | None]) -> None:
    assert decode_parts(encode_parts(given_parts)) == given_parts


@given(st.binary(max_size=60))
def test_garbage_parts_are_a_value_error_or_parts(garbage: bytes) -> None:
    try:
        decode_parts(garbage)
    except ValueError:
        return


class SnapshotMachine(RuleBasedStateMachine):
    """Any number of workers, brought up to date at any moments, always agree with a plain dict."""

    @initialize()
    def begin(self) -> None:
        self.snapshot = Snapshot(add)
        self.truth: dict[str, bytes] = {}
        self.workers: list[tuple[int, dict[str, bytes]]] = [(0, {})]

    @rule(change=parts)
    def change(self, change: dict[str, bytes | None]) -> None:
        self.snapshot.apply(change)
        for name, value in change.items():
            if value is None:
                self.truth.pop(name, None)
            else:
                before = self.truth.get(name, b"") if name.startswith("+") else b""
                self.truth[name] = before + value

    @rule()
    def a_new_worker(self) -> None:
        self.workers.append((0, {}))

    @rule(index=st.integers(0, 5))
    def bring_up_to_date(self, index: int) -> None:
        version, state = self.workers[index % len(self.workers)]
        for name, value in self.snapshot.since(version).items():
            state.pop(name, None) if value is None else state.__setitem__(name, value)
        self.workers[index % len(self.workers)] = (self.snapshot.version, state)
        assert state == self.truth

    @invariant()
    def parts_are_the_truth(self) -> None:
        assert self.snapshot.live_parts() == self.truth


TestSnapshot = SnapshotMachine.TestCase


@given(st.sampled_from([WORKER_TRANSITIONS, SESSION_TRANSITIONS]), st.data())
def test_a_lifecycle_moves_only_along_its_table(table: dict[str, frozenset[str]], data: st.DataObject) -> None:
    life = Lifecycle(table, data.draw(st.sampled_from(sorted(table))))
    for wanted in data.draw(st.lists(st.sampled_from(sorted(table)), max_size=10)):
        before = life.state
        if wanted in table[before]:
            life.to(wanted)
        else:
            with pytest.raises(IllegalTransition):
                life.to(wanted)
            assert life.state == before


@pytest.mark.parametrize("table", [WORKER_TRANSITIONS, SESSION_TRANSITIONS])
def test_every_state_can_reach_an_end(table: dict[str, frozenset[str]]) -> None:
    ends = {state for state, after in table.items() if not after}
    reaching = set(ends)
    while grown := {state for state, after in table.items() if after & reaching} - reaching:
        reaching |= grown
    assert reaching == set(table)


def test_timers_fire_in_order_and_cancelled_ones_never() -> None:
    reactor, fired = Reactor(), []
    for name, delay in (("b", 0.02), ("a", 0.01)):
        reactor.call_later(delay, lambda name=name: fired.append(name))  # type: ignore[misc]
    reactor.call_later(0.015, lambda: fired.append("never")).cancel()
    deadline = time.monotonic() + 5
    while len(fired) < 2 and time.monotonic() < deadline:
        reactor.run_once(0.05)
    assert fired == ["a", "b"]
    reactor.close()


def test_what_was_cancelled_long_before_its_time_is_not_kept() -> None:
    timers = Timers()
    for number in range(10_000):
        timers.add(3600.0 + number, lambda: None).cancel()
        assert len(timers) < 200
    for number in range(1_000):
        timers.add(float(number), lambda: None)
    for timer in [timers.add(3600.0, lambda: None) for _ in range(5_000)]:
        timer.cancel()
        timer.cancel()
    assert len(timers) < 2_100


@given(st.lists(st.tuples(st.sampled_from(["add", "cancel", "pop"]), st.integers(0, 300)), max_size=500))
def test_timers_come_out_as_from_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    timers, made, model = Timers(), [], []  # type: ignore[var-annotated]
    for step, number in steps:
        if step == "add":
            made.append(timers.add(float(number), lambda: None))
            model.append((float(number), len(made) - 1))
        elif step == "cancel" and made:
            made[number % len(made)].cancel()
            model = [entry for entry in model if entry[1] != number % len(made)]
        elif step == "pop":
            due = min((entry for entry in model if entry[0] <= number), default=None)
            popped = timers.pop_due(float(number))
            assert (popped and made.index(popped)) == (due and due[1])
            if due is not None and popped is not None:
                model.remove(due)
                popped.fire()
        assert timers.next_due() == min((when for when, _ in model), default=None)


def test_a_failing_callback_is_reported_and_the_next_one_runs() -> None:
    errors: list[BaseException] = []
    reactor, ran = Reactor(errors.append), []
    reactor.call_soon(lambda: 1 / 0)
    reactor.call_soon(lambda: ran.append(1))
    reactor.run_once()
    assert ran == [1]
    assert isinstance(errors[0], ZeroDivisionError)
    reactor.close()


def test_a_forgotten_descriptor_is_not_called_though_it_was_ready() -> None:
    reactor, called = Reactor(), []
    pipes = [os.pipe() for _ in range(2)]
    for read, write in pipes:
        os.write(write, b"x")

        def first_come(read: int = read) -> None:
            called.append(read)
            for other, _ in pipes:
                reactor.forget(other)

        reactor.on_readable(read, first_come)
    reactor.run_once(1)
    reactor.run_once(0)
    assert len(called) == 1
    reactor.close()
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)
