"""More sessions than interpreters: who gives way, who wakes, and that nobody can tell."""

from __future__ import annotations

import os
import signal
import time

import pytest

from session_supervisor.failures import RequestTimedOut, SessionEnded
from session_supervisor.options import SessionOptions, SupervisorOptions
from session_supervisor.session import Session
from tests.support.harness import Harness, RecordingSink


def make(**options: object) -> Harness:
    return Harness(options=SupervisorOptions(**options)).start()  # type: ignore[arg-type]


def test_the_session_that_rested_longest_gives_way_and_wakes_with_its_state() -> None:
    h = make(spares=1, max_workers=2)
    a, b, c = h.open("a"), h.open("b"), h.open("c")
    for session in (a, b, a, c):
        h.ask(session, "incr")
    assert (a.state, b.state, c.state) == ("live", "cold", "live")
    assert h.ask(b, "incr") == "2"
    assert (a.state, b.state, c.state) == ("cold", "live", "live")
    assert h.ask(a, "incr") == "3"
    assert a.hibernations == 1
    h.close()


def test_a_hundred_sessions_share_five_interpreters() -> None:
    h = make(spares=2, max_workers=5)
    sessions = [h.open(f"s{n}") for n in range(100)]
    for round_ in (1, 2):
        sinks = [h.send(session, "incr")[1] for session in sessions]
        h.until(lambda sinks=sinks: all(sink.terminal for sink in sinks), bound=40)  # type: ignore[misc]
        assert {sink.answer for sink in sinks} == {str(round_)}
        assert h.supervisor.residency.used <= 5
    assert sum(len(session.workers) for session in sessions) <= 5
    h.close()


def test_a_session_at_work_is_never_told_to_give_way() -> None:
    h = make(spares=1, max_workers=1)
    a, b = h.open("a"), h.open("b")
    pid = h.ask(a, "pid")
    _, working = h.send(a, "sleep 0.5")
    _, waiting = h.send(b, "echo b")
    h.until(lambda: waiting.terminal)
    assert working.answer == "slept"
    assert h.ask(a, "pid") != pid
    h.close()


def test_a_session_that_never_rests_still_lets_others_have_a_turn() -> None:
    h = make(spares=1, max_workers=1)
    busy, patient = h.open("busy"), h.open("patient")
    sinks = [h.send(busy, "sleep 0.05")[1] for _ in range(40)]
    h.until(lambda: sinks[0].terminal)
    _, waiting = h.send(patient, "echo my turn")
    h.until(lambda: waiting.terminal, bound=4)
    assert waiting.answer == "my turn"
    assert not sinks[-1].terminal
    h.until(lambda: all(sink.terminal for sink in sinks), bound=20)
    h.close()


def test_a_session_that_loses_its_turn_before_it_could_be_recycled_is_as_good_as_recycled() -> None:
    h = Harness(options=SupervisorOptions(spares=0, max_workers=2, concurrent_recycles=1)).start()
    a, b, c = h.open("a"), h.open("b"), h.open("c")
    for session in (a, c):
        h.ask(session, "incr")
    # Both are at work, so neither can be replaced yet; c's successor takes the one place for a recycle.
    working = [h.send(session, "sleep 1.2")[1] for session in (c, a)]
    answered: list[str] = []
    c.recycle(lambda failure: answered.append("c"))
    a.recycle(lambda failure: answered.append("a"))
    _, patient = h.send(b, "echo my turn")
    more = [h.send(a, "sleep 0.2")[1]]
    h.until(lambda: sorted(answered) == ["a", "c"], bound=20)
    h.until(lambda: patient.terminal and all(sink.terminal for sink in (*working, *more)), bound=20)
    assert h.ask(a, "incr") == "2"
    h.close()


def test_a_session_hibernates_when_idle_and_not_before() -> None:
    h = make(spares=1)
    session = h.open(idle_timeout=0.3)
    h.ask(session, "incr")
    assert h.ask(session, "sleep 0.5") == "slept"
    pid = session.workers[0].pid
    h.until(lambda: session.state == "cold")
    assert session.crew is None
    assert h.ask(session, "incr") == "2"
    assert session.workers[0].pid != pid
    h.close()


def test_a_session_nobody_uses_ends() -> None:
    h = make(spares=1)
    h.ask(h.open("used", ttl=0.4), "pid")
    h.open("unused", ttl=0.4)
    h.open("for ever")
    h.until(lambda: set(h.supervisor.sessions) == {"for ever"})
    assert h.supervisor.counters.expired == 2
    h.close()


@pytest.mark.alone
def test_a_wait_for_a_place_ends_with_the_request_that_needed_it() -> None:
    h = make(spares=1, max_workers=1)
    _, working = h.send(h.open("a"), "sleep 1")
    _, waiting = h.send(h.open("b"), "echo b", timeout=0.2)
    h.until(lambda: waiting.terminal, bound=0.9)
    assert not working.terminal
    assert isinstance(waiting.answer, RequestTimedOut)
    assert h.supervisor.residency.waiting == 0
    h.until(lambda: working.terminal)
    h.close()


def test_a_session_that_waits_for_a_place_can_be_ended() -> None:
    h = make(spares=1, max_workers=1)
    _, working = h.send(h.open("a"), "sleep 0.7")
    b = h.open("b")
    _, waiting = h.send(b, "echo b")
    ended: list[bool] = []
    b.end(lambda: ended.append(True))
    assert ended
    assert isinstance(waiting.answer, SessionEnded)
    h.until(lambda: working.terminal)
    h.close()


def test_a_place_is_given_back_however_its_worker_ends() -> None:
    h = make(spares=1, max_workers=2)
    session, failing = h.open("a"), h.open("b", birth=b"die")
    for _ in range(5):
        h.ask(session, "exit 3")
        h.ask(failing, "pid")
        h.ask(session, "pid")
        os.kill(session.workers[0].pid, signal.SIGKILL)
        h.until(lambda: not session.workers)
    assert h.supervisor.residency.used == 0
    assert h.ask(session, "echo fine") == "fine"
    h.close()


def test_recycling_needs_no_place_of_its_own() -> None:
    h = make(spares=1, max_workers=1)
    session = h.open()
    pid = h.ask(session, "pid")
    done: list[object] = []
    session.recycle(done.append)
    h.until(lambda: done)
    assert done == [None]
    assert h.ask(session, "pid") != pid
    assert h.supervisor.residency.used == 1
    h.close()


# -- one session, several interpreters -------------------------------------------------------------


@pytest.fixture
def h() -> Harness:
    return make(spares=2)


def together(h: Harness, sinks: list[RecordingSink], bound: float = 20) -> list[str]:
    h.until(lambda: all(sink.terminal for sink in sinks), bound)
    return [sink.answer for sink in sinks]


def whole_pool(h: Harness, workers: int) -> Session:
    """A session all of whose interpreters serve."""
    session = h.open(workers=workers)
    together(h, [h.send(session, "sleep 0.1", mutating=False)[1] for _ in range(workers)])
    h.until(lambda: len(session.workers) == workers)
    return session


@pytest.mark.alone
def test_a_session_of_four_workers_serves_four_requests_at_once(h: Harness) -> None:
    session = whole_pool(h, 4)
    began = time.monotonic()
    together(h, [h.send(session, "sleep 0.5", mutating=False)[1] for _ in range(4)])
    assert time.monotonic() - began < 1.9  # one after another they would take 2
    h.close()


def test_a_small_load_starts_no_more_workers_than_it_needs(h: Harness) -> None:
    session = h.open(workers=8)
    for _ in range(20):
        h.ask(session, "pid")
    assert len(session.workers) == 1
    h.close()


def test_what_came_after_a_change_sees_it_whichever_worker_it_runs_on(h: Harness) -> None:
    session = whole_pool(h, 4)
    for n in range(50):
        h.send(session, f"put x={n}")
        reads = [h.send(session, "part x", mutating=False)[1] for _ in range(6)]
        assert together(h, reads) == [str(n)] * 6
    assert len({worker.pid for worker in session.workers}) == 4
    h.close()


def test_tallies_of_many_workers_lose_no_count(h: Harness) -> None:
    session = whole_pool(h, 4)
    sinks = [h.send(session, "tally 1", mutating=False)[1] for _ in range(400)]
    together(h, sinks)
    assert len(session.workers) == 4
    assert min(worker.served for worker in session.workers) > 1
    assert session.snapshot.get("+tally") == b"400"
    assert {h.ask(session, "part +tally") for _ in range(4)} == {"400"}
    h.close()


def test_one_dead_worker_of_several_fails_one_request(h: Harness) -> None:
    session = whole_pool(h, 3)
    sinks = [h.send(session, "begin 0.4", mutating=False)[1] for _ in range(3)]
    h.until(lambda: all(sink.heard for sink in sinks))  # one that has not read its request fails none
    os.kill(session.workers[1].pid, signal.SIGKILL)
    h.until(lambda: all(sink.terminal for sink in sinks))
    assert sorted(isinstance(sink.answer, str) for sink in sinks) == [False, True, True]
    assert session.state == "live"
    h.close()


def test_a_whole_pool_hibernates_and_wakes(h: Harness) -> None:
    session = h.open(workers=3, idle_timeout=0.3)
    together(h, [h.send(session, "sleep 0.1", mutating=False)[1] for _ in range(3)])
    h.until(lambda: session.state == "cold")
    assert not session.workers
    together(h, [h.send(session, "tally 1", mutating=False)[1] for _ in range(3)])
    assert session.snapshot.get("+tally") == b"3"
    h.close()


def test_options_of_the_daemon_are_the_sessions_defaults() -> None:
    h = make(spares=1, session=SessionOptions(workers=2))
    session = h.open()
    together(h, [h.send(session, "sleep 0.2", mutating=False)[1] for _ in range(2)])
    assert len(session.workers) == 2
    h.close()
