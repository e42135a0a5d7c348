"""The peers, each a function that returns its figures; a peer that is not installed returns None."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import orjson
import psutil

from tests.bench import job

PINGS = 3_000


def median_ms(run: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        taken.append((time.perf_counter() - began) * 1000)
    return round(statistics.median(taken), 2)


def median_us(run: Callable[[], Any], times: int = PINGS) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter_ns()
        run()
        taken.append(time.perf_counter_ns() - began)
    return round(statistics.median(taken) / 1000, 1)


def uss_mb(pid: int) -> float:
    return round(psutil.Process(pid).memory_full_info().uss / 2**20, 2)


def bare_pipes() -> float:
    """Microseconds for a JSON line to a process that decodes it and answers, and nothing between."""
    program = (
        "import os, orjson\n"
        "while data := os.read(0, 65536):\n"
        "    request = orjson.loads(data)\n"
        "    os.write(1, orjson.dumps({'id': request['id'], 'success': True, 'result': {'status': 'ok'}}) + b'\\n')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert process.stdin
    assert process.stdout
    sender, receiver = process.stdin.fileno(), process.stdout.fileno()
    message = orjson.dumps({"id": 7, "command": "ping", "session_id": "a", "args": {"deep": True}}) + b"\n"

    def ping() -> None:
        os.write(sender, message)
        os.read(receiver, 65536)

    ping()
    figure = median_us(ping)
    process.stdin.close()
    process.stdout.close()
    process.wait()
    return figure


def cold_subprocess() -> dict[str, float]:
    figures: dict[str, float] = {}

    def run() -> None:
        command = [sys.executable, "-m", "tests.bench.job"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write('{"id": 1, "question": "hi"}\n')
            process.stdin.flush()
            json.loads(process.stdout.readline())
            run.answered = time.perf_counter()  # type: ignore[attr-defined]
            figures["memory_mb"] = uss_mb(process.pid)
            process.stdin.close()

    taken = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        taken.append((run.answered - began) * 1000)  # type: ignore[attr-defined]
    return {"first_answer_ms": round(statistics.median(taken), 1), **figures}


def multiprocessing_peer(method: str, times: int) -> dict[str, float]:
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["dspy", "dspy_bridge.worker.scripted", "tests.bench.job"])
    taken, figures = [], {}
    for index in range(times + 1):
        ours, theirs = context.Pipe()
        process = context.Process(target=job.serve_pipe, args=(theirs,))
        began = time.perf_counter()
        process.start()
        ours.recv()
        if index:  # the first one starts the fork server
            taken.append((time.perf_counter() - began) * 1000)
        if index == times:

            def ping(ours: Any = ours) -> None:
                ours.send({"id": 7})
                ours.recv()

            figures = {"ping_us": median_us(ping), "memory_mb": uss_mb(process.pid or 0)}
        ours.send(None)
        process.join()
        time.sleep(0.1)
    return {"first_answer_ms": round(statistics.median(taken), 2), **figures}


def loky_peer() -> dict[str, float] | None:
    if importlib.util.find_spec("loky") is None:
        return None
    import loky

    def run() -> None:
        executor = loky.ProcessPoolExecutor(max_workers=1)
        executor.submit(job.answer).result()
        executor.shutdown(kill_workers=True)

    return {"first_answer_ms": median_ms(run, 3)}


def pebble_peer() -> dict[str, float] | None:
    if importlib.util.find_spec("pebble") is None:
        return None
    import pebble

    def run() -> None:
        with pebble.ProcessPool(max_workers=1, context=multiprocessing.get_context("spawn")) as pool:
            pool.schedule(job.answer).result()

    return {"first_answer_ms": median_ms(run, 3)}


def jupyter_peer() -> dict[str, float] | None:
    if importlib.util.find_spec("jupyter_client") is None or importlib.util.find_spec("ipykernel") is None:
        return None
    from jupyter_client.manager import start_new_kernel

    def run() -> None:
        manager, client = start_new_kernel()
        client.execute_interactive("from tests.bench.job import answer; answer()", output_hook=lambda message: None)
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    return {"first_answer_ms": median_ms(run, 3)}


def ray_peer() -> dict[str, float] | None:
    if importlib.util.find_spec("ray") is None:
        return None
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)

    @ray.remote
    class Actor:
        def answer(self) -> str:
            return job.answer()

        def ping(self) -> str:
            return "pong"

    def run() -> None:
        actor = Actor.remote()
        ray.get(actor.answer.remote())
        ray.kill(actor)

    figure = median_ms(run, 3)
    actor = Actor.remote()
    ray.get(actor.ping.remote())
    ping = median_us(lambda: ray.get(actor.ping.remote()), 500)
    ray.shutdown()
    return {"first_answer_ms": figure, "ping_us": ping}
