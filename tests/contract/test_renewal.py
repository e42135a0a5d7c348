"""A supervisor given a fresh launcher and other options while it serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from session_supervisor.launchers.base import Application, Launcher
from session_supervisor.launchers.fork import ForkLauncher
from session_supervisor.launchers.spawn import SpawnLauncher
from session_supervisor.options import SupervisorOptions
from session_supervisor.reactor import Reactor
from session_supervisor.reaper import Reaper
from tests.support.harness import Harness, application, fork, spawn

Factory = Callable[[Reactor, Reaper], Launcher]
Starter = Callable[..., Harness]


@pytest.fixture(params=["fork", "spawn"])
def start(request: pytest.FixtureRequest) -> Iterator[Starter]:
    made: list[Harness] = []

    def begin(**options: Any) -> Harness:
        kind = fork if request.param == "fork" else spawn
        made.append(Harness(kind, SupervisorOptions(**options)).start())
        return made[-1]

    yield begin
    for one in made:
        one.close()


def factory(h: Harness, app: Application | None = None) -> Factory:
    """Of a launcher of the same kind as the one that serves."""
    if h.supervisor.launcher.describe()["kind"] == "spawn":
        return lambda _reactor, _reaper: SpawnLauncher(app or application())
    return lambda reactor, reaper: ForkLauncher(reactor, reaper, app or application())


def renew(h: Harness, app: Application | None = None) -> str | None:
    """Why it could not be, if it could not."""
    said: list[str | None] = []
    h.supervisor.renew(factory(h, app), said.append)
    h.until(lambda: said, bound=30)
    return said[0]


def test_every_worker_is_succeeded_a_few_at_a_time_and_keeps_its_state(start: Starter) -> None:
    h = start(spares=1, concurrent_recycles=2)
    sessions = [h.open(f"s{n}") for n in range(6)]
    for session in sessions:
        assert h.ask(session, "incr", bound=20) == "1"
    before = {session.id: session.workers[0].pid for session in sessions}
    relieved = h.supervisor.launcher
    assert renew(h) is None
    assert h.supervisor.launcher is not relieved
    assert h.supervisor.outdated == 6
    h.supervisor.roll_over()
    most = 0

    def succeeded() -> bool:
        nonlocal most
        most = max(most, h.supervisor._recycling)
        return h.supervisor.outdated == 0

    h.until(succeeded, bound=40)
    assert most == 2
    for session in sessions:
        assert session.workers[0].pid != before[session.id]
        assert h.ask(session, "incr") == "2"
    assert h.died == []


def test_a_launcher_that_cannot_start_leaves_the_one_there_is() -> None:
    h = Harness(options=SupervisorOptions(spares=1)).start()
    relieved = h.supervisor.launcher
    reason = renew(h, application(preload="broken_preload"))
    assert reason is not None
    assert "surely_missing" in reason
    assert h.supervisor.launcher is relieved
    session = h.open()
    assert h.ask(session, "incr") == "1"
    assert h.supervisor.outdated == 0
    assert renew(h) is None
    h.close()


def test_renewed_again_before_the_first_roll_over_is_done(start: Starter) -> None:
    h = start(spares=0, concurrent_recycles=2)
    sessions = [h.open(f"s{n}") for n in range(4)]
    for session in sessions:
        h.ask(session, "incr", bound=20)
    for _ in range(3):
        assert renew(h) is None
        h.supervisor.roll_over()
        h.turn(0.01)  # some have successors of this launcher on their way
    h.until(lambda: h.supervisor.outdated == 0, bound=60)
    assert [h.ask(session, "incr") for session in sessions] == ["2"] * 4


def test_whoever_waits_for_a_worker_when_it_is_renewed_gets_one(start: Starter) -> None:
    h = start(spares=0)
    sinks = []

    def wake_some() -> None:
        for _ in range(5):
            session = h.open(f"s{len(sinks)}")
            sinks.append(h.send(session, "incr")[1])

    wake_some()
    said: list[str | None] = []
    h.supervisor.renew(factory(h), lambda reason: (said.append(reason), wake_some())[0])
    wake_some()
    h.until(lambda: said and all(sink.terminal for sink in sinks), bound=60)
    assert [sink.answer for sink in sinks] == ["1"] * 15
    h.supervisor.roll_over()
    h.until(lambda: h.supervisor.outdated == 0, bound=60)


def test_a_worker_with_a_request_under_way_is_succeeded_after_it(start: Starter) -> None:
    h = start()
    session = h.open()
    h.ask(session, "incr", bound=20)
    _, slow = h.send(session, "sleep 1.5")
    assert renew(h) is None
    h.supervisor.roll_over()
    _, queued = h.send(session, "incr")
    h.until(lambda: queued.terminal, bound=40)
    assert (slow.answer, queued.answer) == ("slept", "2")
    h.until(lambda: h.supervisor.outdated == 0, bound=20)


def test_draining_while_it_is_renewed_leaves_nothing() -> None:
    h = Harness(options=SupervisorOptions(spares=1)).start()
    said: list[str | None] = []
    h.supervisor.renew(factory(h), said.append)
    h.close()
    assert said == []


def test_fewer_places_are_given_back_as_sessions_rest() -> None:
    h = Harness(options=SupervisorOptions(spares=0, max_workers=6)).start()
    sessions = [h.open(f"s{n}") for n in range(5)]
    for session in sessions:
        h.ask(session, "incr")
    _, slow = h.send(sessions[0], "sleep 0.5")
    options = h.supervisor.options
    h.supervisor.reconfigure(dataclasses.replace(options, max_workers=1))
    h.until(lambda: h.supervisor.residency.used == 1)
    assert sessions[0].state == "live"  # the one at work
    _, other = h.send(sessions[1], "incr")
    h.until(lambda: other.terminal)
    assert (slow.answer, other.answer, h.supervisor.residency.used) == ("slept", "2", 1)
    h.supervisor.reconfigure(options)
    for session in sessions:
        assert h.ask(session, "part counter") in ("1", "2")
    assert h.supervisor.residency.used == 5
    h.close()


def test_a_session_follows_its_new_times() -> None:
    h = Harness(options=SupervisorOptions(spares=0)).start()
    idle, ending, kept = (h.open(name, idle_timeout=60, ttl=60) for name in ("idle", "ending", "kept"))
    for session in (idle, ending, kept):
        h.ask(session, "incr")
    idle.reconfigure(b"other", dataclasses.replace(idle.options, idle_timeout=0.1, ttl=0))
    ending.reconfigure(b"other", dataclasses.replace(ending.options, ttl=0.1))
    kept.reconfigure(b"other", dataclasses.replace(kept.options, idle_timeout=0, ttl=0))
    h.until(lambda: idle.state == "cold" and ending.id not in h.supervisor.sessions)
    assert h.ask(idle, "birth") == "other"
    assert h.ask(kept, "birth") == "birth"  # of the interpreter it has
    assert kept.expiry is None
    h.close()
