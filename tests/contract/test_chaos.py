"""Kills at random moments, seeded: every request ends exactly once, nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from session_supervisor.failures import RequestTimedOut, WorkerCrashed
from session_supervisor.options import RecyclePolicy, SupervisorOptions
from session_supervisor.session import Session
from tests.support.harness import Harness, RecordingSink

KILLS = 500
SESSIONS = 20


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_lose_nothing_that_was_acknowledged(seed: int) -> None:
    rng = random.Random(seed)
    h = Harness(options=SupervisorOptions(spares=3), max_forks=100).start()
    recycle = RecyclePolicy(ttl=0.5, max_requests=15, jitter=0.5)
    sessions = [h.open(f"s{n}", recycle=recycle) for n in range(SESSIONS)]
    asked: dict[str, list[tuple[str, RecordingSink]]] = {session.id: [] for session in sessions}
    recycled: list[object] = []
    recycles = 0

    def ask(session: Session, text: str, timeout: float | None = None) -> None:
        asked[session.id].append((text, h.send(session, text, timeout=timeout)[1]))

    kills = 0
    deadline = time.monotonic() + 40
    while kills < KILLS and time.monotonic() < deadline:
        for _ in range(6):
            session = rng.choice(sessions)
            if session.queued < 20:
                ask(session, rng.choice(["incr", "incr", "incr", "echo x", "events 5", "sleep 0.01"]))
        if rng.random() < 0.1:
            ask(rng.choice(sessions), "sleep 5", timeout=0.05)
        if rng.random() < 0.1:
            recycles += 1
            rng.choice(sessions).recycle(recycled.append)
        victims = [worker for session in sessions for worker in session.workers if worker.alive]
        if victims and rng.random() < 0.7:
            os.kill(rng.choice(victims).pid, rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV]))
            kills += 1
            template = h.supervisor.launcher.describe()["template_pid"]
            if kills % 70 == 0 and isinstance(template, int):
                os.kill(template, signal.SIGKILL)
        h.reactor.run_once(0.01)
    h.until(lambda: all(sink.terminal for sinks in asked.values() for _, sink in sinks), bound=30)
    h.until(lambda: len(recycled) == recycles, bound=30)
    for session in sessions:
        seen = 0
        for text, sink in asked[session.id]:
            assert len(sink.terminal) == 1
            if isinstance(sink.answer, str):
                if text == "incr":
                    assert int(sink.answer) > seen, "an acknowledged change was lost"
                    seen = int(sink.answer)
            else:
                assert isinstance(sink.answer, (WorkerCrashed, RequestTimedOut)), sink.answer
        assert int(h.ask(session, "incr")) > seen
    assert len(h.died) > KILLS // 4
    h.close()
