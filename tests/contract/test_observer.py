"""What a supervisor tells of sessions and workers: in order, and of every one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from session_supervisor.options import SupervisorOptions
from tests.support.harness import Harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness(options=SupervisorOptions(spares=0)).start()
    yield made
    made.close()


def told_of(harness: Harness, pid: int) -> list[str]:
    return [told[0] for told in harness.lives if pid in told[1:]]


def test_a_workers_life_is_told_from_its_launch_to_its_end(harness: Harness) -> None:
    session = harness.open()
    pid = int(harness.ask(session, "pid"))
    ended: list[bool] = []
    session.end(lambda: ended.append(True))
    harness.until(lambda: ended and ("worker_ended", pid) in harness.lives)
    assert told_of(harness, pid) == ["worker_launched", "worker_ready", "worker_assigned", "worker_ended"]
    assert ("worker_assigned", pid, "s") in harness.lives
    assert [told for told in harness.lives if told[0].startswith("session")] == [
        ("session_opened", "s", False),
        ("session_ended", "s"),
    ]


def test_a_crash_a_replacement_and_hibernation_are_told_with_who_it_was(harness: Harness) -> None:
    session = harness.open()
    first = int(harness.ask(session, "pid"))
    os.kill(first, signal.SIGKILL)
    harness.until(lambda: ("worker_died", "s", first) in harness.lives)
    second = int(harness.ask(session, "pid"))
    done: list[Any] = []
    session.recycle(done.append)
    harness.until(lambda: done)
    assert ("worker_replaced", second, "s") in harness.lives
    third = session.workers[0].pid
    assert session.crew is not None
    harness.supervisor.residency.stir(session.crew)
    session.crew.give_way()
    assert harness.lives[-1] == ("session_hibernated", "s", third)
    harness.until(lambda: {("worker_ended", pid) for pid in (first, second, third)} <= set(harness.lives))


def test_requests_that_run_at_once_in_one_worker_have_lanes_of_their_own(harness: Harness) -> None:
    session = harness.open(threads=2)
    one, first = harness.send(session, "sleep 0.3", mutating=False)
    two, second = harness.send(session, "sleep 0.3", mutating=False)
    harness.until(lambda: one.worker and two.worker)
    assert (one.worker, one.lane, two.lane) == (two.worker, 1, 2)
    harness.until(lambda: first.terminal and second.terminal)
    third, sink = harness.send(session, "sleep 0", mutating=False)
    harness.until(lambda: sink.terminal)
    assert third.lane == 1
    assert third.started_at <= third.decided_at


def test_a_request_that_has_to_wait_again_has_not_started(harness: Harness) -> None:
    session = harness.open()
    request, sink = harness.send(session, "kill-self", mutating=False, retries=1)
    harness.until(lambda: sink.terminal)
    assert [what for what, _ in sink.heard] == ["retried", "fail"]
    waiting, refused = harness.send(session, "sleep 5", mutating=False)
    harness.until(lambda: waiting.worker)
    waiting.rewind()
    assert (waiting.worker, waiting.lane, waiting.started_at) == (0, 0, 0.0)
    session.end(lambda: None)
    harness.until(lambda: refused.terminal)
    assert request.worker != 0
