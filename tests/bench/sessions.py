"""What many sessions cost: hibernated ones, live ones, and ones that are being recycled."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import psutil

from dspy_bridge.client import Client

HIBERNATED = 10_000
LIVE = 1_000
WINDOW = 100


def _private_kib(client: Client) -> float:
    assert client.process
    return float(psutil.Process(client.process.pid).memory_full_info().uss) / 1024


def _fill(client: Client, first: int, end: int) -> None:
    """Sessions ``first`` to ``end``, each with a program and a variable of its own."""
    opened: list[int] = []
    for n in range(first, end):
        session = f"s{n}"
        lm = {"model": "scripted", "answers": [{"answer": f"of {n}"}]}
        opened.append(client.start("start_session", {"lm": lm}, session=session))
        program = {"id": "qa", "signature": f"question{n} -> answer"}
        opened.append(client.start("create_program", program, session=session))
        opened.append(client.start("set_state", {"key": "me", "value": n}, session=session))
        while len(opened) > 3 * WINDOW:
            client.finish(opened.pop(0))
    for one in opened:
        client.finish(one)


def hibernation() -> dict[str, Any]:
    """10,000 sessions under 50 interpreters: memory of each at rest, time to wake, and that each is itself."""
    client = Client.spawn(["--max-workers", "50", "--spares", "4", "--worker-ttl-s", "0", "--max-sessions", "20000"])
    warm = HIBERNATED // 10
    _fill(client, 0, warm)
    before = _private_kib(client)
    began = time.perf_counter()
    _fill(client, warm, HIBERNATED)
    each_ms = (time.perf_counter() - began) / (HIBERNATED - warm) * 1000
    time.sleep(2)
    figures: dict[str, Any] = {"kib_per_session": round((_private_kib(client) - before) / (HIBERNATED - warm), 2)}
    figures["start_use_hibernate_ms"] = round(each_ms, 2)
    wakes = []
    for n in random.Random(1).sample(range(HIBERNATED), 200):
        time.sleep(0.1)  # as long as the spare pool needs; hosts wake sessions one by one
        began = time.perf_counter()
        client.call("ping", {"deep": True}, session=f"s{n}")
        wakes.append((time.perf_counter() - began) * 1000)
    figures["wake_ms"] = round(statistics.median(wakes), 2)
    figures["wake_p99_ms"] = round(sorted(wakes)[-3], 2)
    opened: list[tuple[int, int, int]] = []
    wrong = 0
    for n in range(HIBERNATED):
        inputs = {"program_id": "qa", "inputs": {f"question{n}": "?"}}
        ran = client.start("execute_program", inputs, session=f"s{n}")
        opened.append((n, ran, client.start("get_state", {"key": "me"}, session=f"s{n}")))
        while len(opened) > WINDOW or (n == HIBERNATED - 1 and opened):
            one, ran, read = opened.pop(0)
            answer = client.finish(ran)["outputs"]["answer"]
            wrong += answer != f"of {one}" or client.finish(read)["value"] != one
    figures["answered_wrongly"] = wrong
    figures["hibernations"] = client.call("get_stats")["sessions"]["hibernations"]
    client.close(120)
    return figures


def live() -> dict[str, Any]:
    """1,000 sessions with a live interpreter each, idle."""
    client = Client.spawn(["--max-workers", str(LIVE + 10), "--spares", "4", "--worker-ttl-s", "0"])
    began = time.perf_counter()
    opened = [client.start("start_session", {}, session=f"s{n}") for n in range(LIVE)]
    for one in opened:
        client.finish(one, timeout=300)
    took = time.perf_counter() - began
    pings = []
    for n in random.Random(1).sample(range(LIVE), 200):
        began = time.perf_counter()
        client.call("ping", {"deep": True}, session=f"s{n}")
        pings.append((time.perf_counter() - began) * 1000)
    stats = client.call("get_stats")
    held = client.call("list_sessions", timeout=120)["sessions"]
    figures = {
        "live": stats["workers"]["live"],
        "start_ms_each": round(took / LIVE * 1000, 2),
        "ping_ms": round(statistics.median(pings), 3),
        "private_mib_in_all": round(sum(one["workers"][0]["memory_mb"] for one in held)),
    }
    client.close(120)
    return figures


def recycling(sessions: int = 20, ttl: float = 6.0) -> dict[str, Any]:
    """Equal sessions whose interpreters grow old together, all of them in use meanwhile."""
    flags = ["--worker-ttl-s", str(ttl), "--recycle-jitter", "0.5", "--spares", "4"]
    client = Client.spawn(flags)
    names = [f"s{n}" for n in range(sessions)]
    for name in names:
        client.call("start_session", {}, session=name)
    counts = dict.fromkeys(names, 0)
    when: list[float] = []
    usual: list[float] = []
    during: list[float] = []
    began = looked = time.perf_counter()
    while len(when) < sessions and time.perf_counter() - began < 4 * ttl:
        waits = []
        for name in names:
            asked = time.perf_counter()
            client.call("ping", {"deep": True}, session=name)
            waits.append((time.perf_counter() - asked) * 1000)
            time.sleep(0.002)
        now = time.perf_counter()
        infos = client.call("list_sessions")["sessions"]
        fresh = [one for one in infos if one["recycles"] > counts[one["session_id"]]]
        for one in fresh:
            counts[one["session_id"]] = one["recycles"]
            when.append((now + looked) / 2 - began)
        looked = time.perf_counter()
        (during if fresh else usual).extend(waits)
    assert all(one["recoveries"] == 0 for one in infos), "a worker was cut"
    client.close()
    return {
        "recycles": len(when),
        "spread_s": round(max(when) - min(when), 2),
        "usual_wait_ms": round(statistics.median(usual), 3),
        "most_extra_wait_ms": round(max(during) - statistics.median(usual), 2),
    }


def main() -> None:
    for measure in (recycling, live, hibernation):
        print(measure.__name__, measure(), flush=True)


if __name__ == "__main__":
    main()
