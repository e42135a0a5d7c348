"""What only a template can do, or suffer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from session_supervisor.failures import WorkerStartFailed
from session_supervisor.options import SupervisorOptions
from tests.support.harness import Harness, application, fork


@pytest.fixture
def h() -> Iterator[Harness]:
    harness = Harness(options=SupervisorOptions(spares=1)).start()
    yield harness
    harness.close()


def template_pid(h: Harness) -> int:
    pid = h.supervisor.launcher.describe()["template_pid"]
    assert isinstance(pid, int)
    return pid


def test_kill_9_of_the_template_leaves_live_sessions_alone_and_new_ones_start(h: Harness) -> None:
    session = h.open("a")
    worker = h.ask(session, "pid")
    before = template_pid(h)
    os.kill(before, signal.SIGKILL)
    h.until(lambda: h.supervisor.launcher.describe()["template_pid"] not in (None, before))
    assert h.ask(session, "pid") == worker
    sinks = [h.send(h.open(f"new{n}"), "echo x")[1] for n in range(5)]
    h.until(lambda: all(sink.terminal for sink in sinks))
    assert {sink.answer for sink in sinks} == {"x"}


def test_a_worker_that_ends_before_anybody_knows_it_is_missed_by_nobody() -> None:
    h = Harness(options=SupervisorOptions(spares=0)).start()
    session = h.open("a")
    before = {one.pid for one in psutil.Process().children()}
    _, sink = h.send(session, "echo x")
    # The supervisor does not run meanwhile: the template has made the worker, and it is gone, before it is told.
    deadline = time.monotonic() + 10
    while not (newborn := {one.pid for one in psutil.Process().children()} - before):
        assert time.monotonic() < deadline
    (pid,) = newborn
    os.kill(pid, signal.SIGKILL)
    while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    h.supervisor._reaper.collect()
    h.until(lambda: sink.terminal)
    assert sink.answer == "x"
    h.close()
    assert not h.errors


def test_sessions_asked_for_while_the_template_is_dead_wait_for_the_next_one(h: Harness) -> None:
    os.kill(template_pid(h), signal.SIGKILL)
    sinks = [h.send(h.open(f"s{n}"), "echo x")[1] for n in range(5)]
    h.until(lambda: all(sink.terminal for sink in sinks))
    assert {sink.answer for sink in sinks} == {"x"}


def test_a_template_that_has_forked_often_is_relieved() -> None:
    h = Harness(options=SupervisorOptions(spares=0), max_forks=3).start()
    first = template_pid(h)
    for n in range(4):
        h.ask(h.open(f"s{n}"), "pid")
    h.until(lambda: template_pid(h) != first)
    assert h.ask(h.open("after"), "echo x") == "x"
    h.close()


def test_a_broken_preload_is_reported_once_with_its_traceback() -> None:
    h = Harness(fork, app=application(preload="broken_preload")).start()
    assert h.failed is not None
    assert "surely_missing" in h.failed
    h.close()


@pytest.mark.parametrize(
    ("preload", "culprit"),
    [("threaded_preload", "left-behind"), ("connected_preload", "socket")],
)
def test_a_template_left_unfit_by_its_preload_refuses_and_names_the_culprit(preload: str, culprit: str) -> None:
    h = Harness(fork, app=application(preload=preload)).start()
    assert h.failed is not None
    assert culprit in h.failed
    h.close()


def test_a_template_that_becomes_unfit_refuses_to_fork_and_names_the_culprit() -> None:
    h = Harness(fork, SupervisorOptions(spares=0), application(verify="verify_once")).start()
    failure = h.ask(h.open("a"), "echo x", bound=30)
    assert isinstance(failure, WorkerStartFailed)
    assert "a model has been used" in str(failure)
    h.close()


def test_an_interpreter_forked_from_the_template_runs_one_thread(h: Harness) -> None:
    assert h.ask(h.open(), "threads") == "1"


def test_a_template_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("session_supervisor.launchers.fork._FORK_BOUND_S", 0.3)
    h = Harness(options=SupervisorOptions(spares=0)).start()
    before = h.supervisor.launcher.describe()["template_pid"]
    assert isinstance(before, int)
    os.kill(before, signal.SIGSTOP)
    assert h.ask(h.open(), "echo still") == "still"
    assert h.supervisor.launcher.describe()["template_pid"] != before
    h.close()


def test_a_request_sent_to_a_worker_that_is_just_dying_is_served_by_the_next() -> None:
    h = Harness(options=SupervisorOptions(spares=2)).start()
    session = h.open()
    for n in range(40):
        process = psutil.Process(int(h.ask(session, "pid")))
        # Asleep at its channel. One that is on its way there may read the request with the signal pending.
        h.until(lambda process=process: process.status() == psutil.STATUS_SLEEPING)  # type: ignore[misc]
        process.kill()
        assert h.ask(session, f"echo {n}") == str(n)
    assert session.recoveries == 40
    h.close()
