"""The contract of launchers, handles, sessions and the supervisor, run against every launcher."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from session_supervisor.failures import (
    Overloaded,
    RequestCancelled,
    RequestTimedOut,
    SessionEnded,
    SessionLimit,
    ShuttingDown,
    WorkerCrashed,
    WorkerStartFailed,
)
from session_supervisor.frames import Kind
from session_supervisor.hardening import MEASURES, Hardening
from session_supervisor.options import RecyclePolicy, SessionOptions, SupervisorOptions
from session_supervisor.process import Grace
from tests.support import hardened
from tests.support.harness import Harness, fork, spawn

LAUNCHERS = {"fork": fork, "spawn": spawn}
HARDENED = {"fork, every measure": fork}
Make = Callable[..., Harness]


@pytest.fixture(params=[*LAUNCHERS, *HARDENED])
def make(request: pytest.FixtureRequest, folder: Path) -> Iterator[Make]:
    made: list[Harness] = []
    launcher = (LAUNCHERS | HARDENED)[request.param]
    given: dict[str, str] = {}
    hardening = Hardening()
    if request.param in HARDENED:
        hardened.need()
        given["python"] = hardened.interpreter(folder)
        folder.chmod(0o777)
        # The tests have workers write to their folder, which stands for a data folder here.
        hardening = Hardening(frozenset(MEASURES), hardened.own_ids(200), (str(folder),))

    def build(**kwargs: object) -> Harness:
        options = SupervisorOptions(hardening=hardening, **kwargs)  # type: ignore[arg-type]
        made.append(Harness(launcher, options, **given).start())
        return made[-1]

    yield build
    for harness in made:
        harness.close()


@pytest.fixture
def h(make: Make) -> Harness:
    return make(spares=1)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_requests_of_a_session_are_answered_in_the_order_they_came(h: Harness) -> None:
    session = h.open()
    sinks = [h.send(session, f"echo {n}")[1] for n in range(100)]
    h.until(lambda: all(sink.terminal for sink in sinks))
    assert [sink.answer for sink in sinks] == [str(n) for n in range(100)]


def test_every_session_has_an_interpreter_of_its_own_whose_parent_we_are(h: Harness) -> None:
    a, b = h.open("a"), h.open("b")
    assert h.ask(a, "pid") != h.ask(b, "pid")
    assert h.ask(a, "ppid") == h.ask(b, "ppid") == str(os.getpid())


def test_a_worker_is_told_which_session_it_is(h: Harness) -> None:
    assert h.ask(h.open(birth=b"its certificate"), "birth") == "its certificate"


def test_events_come_before_the_reply_in_order(h: Harness) -> None:
    _, sink = h.send(h.open(), "events 50")
    h.until(lambda: sink.terminal)
    assert [text for kind, text in sink.heard if kind == "event"] == [str(n) for n in range(50)]
    assert sink.heard[-1] == ("reply", "done")


def test_a_full_sink_holds_events_back_until_it_has_room(h: Harness) -> None:
    session = h.open()
    h.ask(session, "pid")
    _, sink = h.send(session, "events 20000")
    sink.full = True
    h.until(lambda: sink.waiting)
    seen = len(sink.heard)
    h.turn(0.1)
    assert len(sink.heard) <= seen
    sink.full = False
    while not sink.terminal:
        for callback in sink.waiting:
            callback()
        sink.waiting.clear()
        h.reactor.run_once(0.05)
    assert len([1 for kind, _ in sink.heard if kind == "event"]) == 20_000


def test_what_a_request_prints_reaches_its_sink_before_its_reply(h: Harness) -> None:
    _, sink = h.send(h.open(), "write1 straight to the descriptor")
    h.until(lambda: sink.terminal)
    assert sink.heard == [("output", b"straight to the descriptor"), ("reply", "written")]


def test_eight_megabytes_of_output_block_nothing(h: Harness) -> None:
    _, sink = h.send(h.open(), f"print {8 << 20}")
    h.until(lambda: sink.terminal)
    assert sink.answer == "printed"
    assert len(sink.output_bytes) == (8 << 20) + 1


def test_a_crash_fails_only_its_request_and_the_state_is_there_again(h: Harness) -> None:
    session, other = h.open("a"), h.open("b")
    assert [h.ask(session, "incr") for _ in range(3)] == ["1", "2", "3"]
    bystander = h.ask(other, "pid")
    failure = h.ask(session, "exit 7")
    assert isinstance(failure, WorkerCrashed)
    assert failure.certificate.exit_code == 7
    assert h.ask(session, "incr") == "4"
    assert h.ask(other, "pid") == bystander
    assert session.recoveries == 1


def test_a_segfault_leaves_its_stack_in_the_death_certificate(h: Harness) -> None:
    failure = h.ask(h.open(), "segfault")
    assert failure.certificate.signal == signal.SIGSEGV
    assert "toy_app.py" in failure.certificate.last_output


def test_requests_queued_behind_a_crash_are_served_by_the_next_interpreter(h: Harness) -> None:
    session = h.open()
    sinks = [h.send(session, text)[1] for text in ("exit 1", "echo a", "echo b")]
    h.until(lambda: all(sink.terminal for sink in sinks))
    assert [sink.answer for sink in sinks[1:]] == ["a", "b"]


def test_kill_9_of_an_idle_worker_goes_unnoticed_by_the_next_request(h: Harness) -> None:
    session = h.open()
    h.ask(session, "incr")
    os.kill(int(h.ask(session, "pid")), signal.SIGKILL)
    h.until(lambda: session.state == "cold")
    assert h.ask(session, "incr") == "2"


def test_a_request_its_worker_never_read_is_served_by_the_next_interpreter(h: Harness) -> None:
    session = h.open()
    h.ask(session, "incr")
    pid = int(h.ask(session, "pid"))
    os.kill(pid, signal.SIGSTOP)
    h.until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    _, sink = h.send(session, "incr")
    os.kill(pid, signal.SIGKILL)
    h.until(lambda: sink.terminal)
    assert sink.answer == "2"


def test_a_request_that_had_begun_is_not_served_twice_whatever_else_its_worker_did_not_read(h: Harness) -> None:
    session = h.open()
    _, sink = h.send(session, "begin 60")
    h.until(lambda: sink.heard)
    worker = session.workers[0]
    worker.send(Kind.ANSWER, 1, b"to a question of the program, perhaps")
    os.kill(worker.pid, signal.SIGKILL)
    h.until(lambda: sink.terminal)
    assert isinstance(sink.answer, WorkerCrashed)
    assert [what for what, _ in sink.heard] == ["event", "fail"]


def test_a_timed_out_request_stops_and_its_session_goes_on(h: Harness) -> None:
    session = h.open()
    h.ask(session, "incr")
    began = time.monotonic()
    assert isinstance(h.ask(session, "sleep 30", timeout=0.2), RequestTimedOut)
    assert time.monotonic() - began < 5
    assert h.ask(session, "incr") == "2"


def test_queue_time_counts_towards_the_timeout_and_queued_work_never_starts(h: Harness) -> None:
    session = h.open()
    h.ask(session, "pid")
    _, first = h.send(session, "sleep 0.6")
    assert isinstance(h.ask(session, "incr", timeout=0.1), RequestTimedOut)
    assert first.terminal == []
    assert h.ask(session, "incr") == "1"


def test_what_ignores_interrupt_and_sigterm_is_killed(make: Make) -> None:
    h = make(spares=1, grace=Grace(interrupt=0.1, terminate=0.1, dump=0.2))
    session = h.open()
    pid = int(h.ask(session, "pid"))
    assert isinstance(h.ask(session, "stubborn 60", timeout=0.2), RequestTimedOut)
    assert gone(pid)


def test_a_timed_out_program_has_no_further_effect(h: Harness, folder: Path) -> None:
    target = folder / "written"
    session = h.open()
    h.ask(session, "pid")
    assert isinstance(h.ask(session, f"sleep-then-touch 1.0 {target}", timeout=0.3), RequestTimedOut)
    h.turn(1.5)
    assert not target.exists()


def test_cancel_ends_a_running_request(h: Harness) -> None:
    session = h.open()
    request, sink = h.send(session, "sleep 60")
    h.until(lambda: request.started_at)
    session.stop(request, RequestCancelled("enough"))
    h.until(lambda: sink.terminal)
    assert str(sink.answer) == "enough"


def test_children_a_program_started_die_with_its_worker(h: Harness) -> None:
    session = h.open()
    child = int(h.ask(session, "child"))
    ended: list[bool] = []
    session.end(lambda: ended.append(True))
    h.until(lambda: ended)
    h.until(lambda: gone(child))


def test_recycling_keeps_the_state_and_changes_the_interpreter(h: Harness) -> None:
    session = h.open()
    h.ask(session, "incr")
    before = h.ask(session, "pid")
    done: list[object] = []
    session.recycle(done.append)
    h.until(lambda: done)
    assert done == [None]
    assert h.ask(session, "pid") != before
    assert h.ask(session, "incr") == "2"
    assert session.recycles == 1
    assert session.recoveries == 0


def test_a_recycle_that_waits_its_turn_is_answered_even_if_the_worker_dies_meanwhile(make: Make) -> None:
    h = make(spares=1, concurrent_recycles=1)
    first, second = h.open("a"), h.open("b")
    h.ask(first, "pid")
    pid = int(h.ask(second, "pid"))
    done: list[object] = []
    first.recycle(done.append)
    second.recycle(done.append)  # has to wait for the first one's
    os.kill(pid, signal.SIGKILL)
    h.until(lambda: len(done) == 2)


def test_a_worker_is_replaced_after_its_share_of_requests_without_losing_one(h: Harness) -> None:
    session = h.open(recycle=RecyclePolicy(ttl=0, max_requests=5, jitter=0))
    sinks = [h.send(session, "incr")[1] for _ in range(60)]
    h.until(lambda: all(sink.terminal for sink in sinks), bound=20)
    assert [sink.answer for sink in sinks] == [str(n + 1) for n in range(60)]
    h.until(lambda: session.recycles >= 1)


def test_a_worker_is_replaced_after_its_time_even_when_idle(h: Harness) -> None:
    session = h.open(recycle=RecyclePolicy(ttl=0.2, max_requests=0, jitter=0.5))
    first = h.ask(session, "pid")
    h.until(lambda: session.recycles >= 1)
    assert h.ask(session, "pid") != first


def test_a_busy_worker_is_not_cut_by_its_ttl(h: Harness) -> None:
    session = h.open(recycle=RecyclePolicy(ttl=0.1, max_requests=0, jitter=0))
    assert h.ask(session, "sleep 0.5") == "slept"
    h.until(lambda: session.recycles >= 1)


def test_a_session_whose_worker_refuses_to_become_it_says_why(h: Harness) -> None:
    failure = h.ask(h.open(birth=b"refuse me"), "echo x")
    assert isinstance(failure, WorkerStartFailed)
    assert "told to refuse" in str(failure)


def test_a_worker_that_dies_while_it_is_assigned_fails_the_waiting_requests_once(h: Harness) -> None:
    session = h.open(birth=b"die")
    assert isinstance(h.ask(session, "echo x"), WorkerStartFailed)
    assert session.state == "cold"


def test_ending_a_session_ends_what_waits_and_what_runs(h: Harness) -> None:
    session = h.open()
    request, running = h.send(session, "sleep 60")
    _, queued = h.send(session, "echo x")
    h.until(lambda: request.started_at)
    ended: list[bool] = []
    session.end(lambda: ended.append(True))
    h.until(lambda: ended)
    assert isinstance(running.answer, SessionEnded)
    assert isinstance(queued.answer, SessionEnded)
    assert "s" not in h.supervisor.sessions


def test_a_session_ended_while_it_wakes_leaves_its_name_free_for_the_next(make: Make) -> None:
    h = make(spares=0)
    ended: list[bool] = []
    _, waiting = h.send(h.open("same"), "echo never")
    h.supervisor.sessions["same"].end(lambda: ended.append(True))
    h.until(lambda: ended)
    assert isinstance(waiting.answer, SessionEnded)
    assert h.ask(h.open("same"), "echo second") == "second"
    h.turn(0.2)  # the first one's late worker comes and goes
    assert "same" in h.supervisor.sessions


def test_a_full_queue_refuses_at_once(make: Make) -> None:
    h = make(spares=1, session=SessionOptions(queue=3))
    session = h.open()
    sinks = [h.send(session, "echo x")[1] for _ in range(10)]
    refused = [sink for sink in sinks if sink.terminal]
    assert len(refused) == 7
    assert all(isinstance(sink.answer, Overloaded) for sink in refused)


def test_there_are_no_more_sessions_than_allowed(make: Make) -> None:
    h = make(spares=0, max_sessions=2)
    h.open("a"), h.open("b")
    with pytest.raises(SessionLimit):
        h.open("c")


def test_draining_lets_running_work_finish_and_refuses_new_work(h: Harness) -> None:
    session = h.open()
    request, running = h.send(session, "sleep 0.3")
    h.until(lambda: request.started_at)
    drained: list[bool] = []
    h.supervisor.drain(lambda: drained.append(True))
    _, late = h.send(session, "echo late")
    h.until(lambda: drained)
    assert running.answer == "slept"
    assert isinstance(late.answer, ShuttingDown)


def test_draining_is_bounded(make: Make) -> None:
    h = make(spares=1, drain_timeout=0.3)
    request, running = h.send(h.open(), "sleep 60")
    h.until(lambda: request.started_at)
    drained: list[bool] = []
    h.supervisor.drain(lambda: drained.append(True))
    h.until(lambda: drained, bound=5)
    assert isinstance(running.answer, ShuttingDown)


def test_a_killed_spare_is_replaced(make: Make) -> None:
    h = make(spares=2)
    h.until(lambda: h.supervisor.pool.spare_count == 2)
    os.kill(h.supervisor.pool._spares[0].pid, signal.SIGKILL)
    h.until(lambda: h.supervisor.pool.spare_count < 2)
    h.until(lambda: h.supervisor.pool.spare_count == 2)


def test_a_killed_guardian_is_replaced(h: Harness) -> None:
    before = h.supervisor._guardian.pid
    os.kill(before, signal.SIGKILL)
    h.until(lambda: h.supervisor._guardian.pid != before)
    assert h.ask(h.open(), "echo still") == "still"


def test_a_worker_inherits_no_descriptor_of_another(make: Make) -> None:
    h = make(spares=0)
    counts = [len(h.ask(h.open(f"s{n}"), "fds").split()) for n in range(5)]
    assert len(set(counts)) == 1, counts


def test_a_hundred_sessions_at_once_are_all_served(make: Make) -> None:
    h = make(spares=2)
    sessions = 100 if h.supervisor.launcher.describe()["kind"] == "fork" else 8
    sinks = [h.send(h.open(f"s{n}"), f"echo {n}")[1] for n in range(sessions)]
    h.until(lambda: all(sink.terminal for sink in sinks), bound=30)
    assert [sink.answer for sink in sinks] == [str(n) for n in range(sessions)]


def test_the_pool_is_full_again_after_more_were_wanted_than_waited(make: Make) -> None:
    h = make(spares=2)
    h.until(lambda: h.supervisor.pool.spare_count == 2)
    sinks = [h.send(h.open(f"s{n}"), "echo x")[1] for n in range(5)]
    h.until(lambda: all(sink.terminal for sink in sinks))
    h.until(lambda: h.supervisor.pool.spare_count == 2)
