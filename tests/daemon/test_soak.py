"""Hours in small: mixed load for long, after which the daemon holds no more than it did at the start.

Some seconds of it run with the other tests, ten minutes with ``make soak`` (``SOAK_SECONDS``). Sessions come,
work and go, beside some that stay and hibernate; the load is paced, so that the loop's lag tells of the loop.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from dspy_bridge.client import Client

SECONDS = float(os.environ.get("SOAK_SECONDS", "8"))
LONG = SECONDS >= 60
RESIDENTS, SPARES, GUARDIAN_AND_TEMPLATE = 12, 2, 2
PAUSE_S = 0.05
MAX_GROWTH_MB = 2.5
MAX_LAG_MS = 10.0

ARGS: dict[str, Any] = {"lm": {"model": "scripted", "answers": [{"answer": "Paris"}]}}
EXPECTED = {
    "ask": {"success"},
    "change": {"success"},
    "stream": {"success"},
    "batch": {"success"},
    "slow": {"timeout"},
    "fatal": {"worker_crashed"},
    "wrong": {"program_not_found"},
    "cancelled": {"success", "cancelled"},
    "recycle": {"success"},
}
"""How a request of each kind may end."""
WEIGHTS = [40, 20, 10, 5, 1, 1, 10, 5, 1]


class Soak:
    """One daemon, its host, and an account of every request."""

    def __init__(self, folder: Path) -> None:
        self.rng = random.Random(7)
        flags = ["--preload", "tests.support.misbehaving", "--max-workers", "10", "--idle-timeout-s", "1"]
        flags += ["--state-dir", str(folder), "--worker-ttl-s", "10", "--template-max-forks", "60"]
        self.client = Client.spawn(flags)
        assert self.client.process
        self.daemon = psutil.Process(self.client.process.pid)
        self.residents = [f"r{n}" for n in range(RESIDENTS)]
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.visitors = self.asked = 0
        for number, name in enumerate(self.residents):
            self.start(name, durable=number % 3 == 0)

    def start(self, name: str, *, durable: bool = False) -> None:
        self.client.call("start_session", {**ARGS, "durable": durable}, session=name)
        self.client.call("create_program", {"id": "qa", "signature": "question -> answer"}, session=name)

    def work(self, seconds: float) -> None:
        """Mixed load; every reply has come when it returns."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.visitors += 1
            visitor = f"v{self.visitors}"
            self.start(visitor, durable=self.visitors % 5 == 0)
            kinds = self.rng.choices(list(EXPECTED), WEIGHTS, k=6)
            under_way = [
                (kind, self.ask(kind, name)) for kind in kinds for name in (visitor, self.rng.choice(self.residents))
            ]
            for kind, number in under_way:
                self.account(kind, self.client.reply(number))
            self.client.call("end_session", session=visitor)
            time.sleep(PAUSE_S)  # the pace, not a wait for something

    def ask(self, kind: str, session: str) -> Any:
        self.asked += 1
        if kind == "change":
            return self.client.start("update_state", {"key": "n", "op": "incr"}, session=session)
        if kind == "recycle":
            return self.client.start("recycle_session", session=session)
        args: dict[str, Any] = {"program_id": "qa", "inputs": {"question": "Capital of France?"}}
        if kind == "batch":
            args = {"program_id": "qa", "inputs": [args["inputs"]] * 4}
            return self.client.start("execute_batch", args, session=session)
        if kind == "wrong":
            args["program_id"] = "gone"
        elif kind in ("slow", "cancelled"):
            args["inputs"] = {"question": "py:import time; time.sleep(30)"}
        elif kind == "fatal":
            args["inputs"] = {"question": "py:import os; os._exit(3)"}
        elif kind == "stream":
            args["stream"] = True
        fields = {"timeout_ms": 200} if kind == "slow" else {}
        number = self.client.start("execute_program", args, session=session, **fields)
        if kind == "cancelled":
            self.client.call("cancel", {"request_id": number})
        return number

    def account(self, kind: str, reply: dict[str, Any]) -> None:
        outcome = "success" if reply["success"] else reply["error"]["code"]
        self.outcomes[kind, outcome] += 1
        assert outcome in EXPECTED[kind], (kind, reply)

    def at_rest(self) -> tuple[int, float]:
        """Descriptors and MiB the daemon holds once nothing is under way and every session hibernates."""
        deadline = time.monotonic() + 20
        while not self.quiet(stats := self.client.call("get_stats")):
            assert time.monotonic() < deadline, f"the daemon did not come to rest: {stats}"
            time.sleep(0.05)
        return self.daemon.num_fds(), stats["memory_mb"]["daemon"]

    @staticmethod
    def quiet(stats: dict[str, Any]) -> bool:
        workers, launcher = stats["workers"], stats["launcher"]
        busy = workers["live"] or workers["starting"] or stats["requests"]["waiting"] or launcher["next_template_pid"]
        settled = workers["spare"] == SPARES and stats["sessions"]["total"] == RESIDENTS
        return not busy and settled and stats["processes"] == SPARES + GUARDIAN_AND_TEMPLATE


@pytest.fixture
def soak(folder: Path) -> Iterator[Soak]:
    one = Soak(folder)
    try:
        yield one
    finally:
        code = one.client.close(30)
    assert code == 0


@pytest.mark.timeout(SECONDS * 2 + 120)
def test_a_daemon_under_mixed_load_for_long_holds_no_more_than_before(soak: Soak) -> None:
    soak.work(SECONDS / 4)
    descriptors, before = soak.at_rest()
    lags = []
    for _ in range(3):
        soak.work(SECONDS / 4)
        lags.append(soak.client.call("get_stats")["loop_lag_ms"]["p99"])
    after_descriptors, after = soak.at_rest()
    print(f"{soak.asked} requests, {soak.visitors} sessions came and went; {before} MiB, then {after} MiB;")
    print(f"{descriptors} descriptors, then {after_descriptors}; loop lag p99 {lags} ms; {dict(soak.outcomes)}")
    assert sum(soak.outcomes.values()) == soak.asked
    assert after_descriptors == descriptors
    assert after - before < MAX_GROWTH_MB
    assert not LONG or median(lags) < MAX_LAG_MS
