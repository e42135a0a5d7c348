"""What the bridge adds to one Predict: the same call to the same endpoint, in this process and through it."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from dspy_bridge.client import Client

_PLAIN = """
import json, statistics, sys, time
import dspy
url, count = sys.argv[1], int(sys.argv[2])
dspy.configure(lm=dspy.LM("openai/m", api_key="k", api_base=url, cache=False), track_usage=True)
program = dspy.Predict("question -> answer")
taken = []
for n in range(count):
    began = time.perf_counter()
    program(question=f"question {n}")
    taken.append((time.perf_counter() - began) * 1000)
print(json.dumps(statistics.median(taken)))
"""


def _median(run: Callable[[int], object], count: int) -> float:
    taken = []
    for n in range(count):
        began = time.perf_counter()
        run(n)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def overhead(count: int = 300) -> dict[str, float]:
    """Medians in milliseconds, interleaved so that the machine's mood falls on both."""
    command = [sys.executable, "-m", "fixtures.openai_endpoint"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as endpoint:
        assert endpoint.stdin
        assert endpoint.stdout
        url = json.loads(endpoint.stdout.readline())["url"]
        client = Client.spawn(["--worker-ttl-s", "0"])
        lm = {"model": "openai/m", "api_key": "k", "api_base": url, "cache": False}
        client.call("configure_lm", lm)
        client.call("create_program", {"id": "qa", "signature": "question -> answer"})
        plain, bridged = [], []

        def ask(n: int) -> object:
            return client.call("execute_program", {"program_id": "qa", "inputs": {"question": f"question {n}"}})

        for _ in range(3):
            run = [sys.executable, "-c", _PLAIN, url, str(count)]
            done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
            plain.append(json.loads(done.stdout))
            bridged.append(_median(ask, count))
        client.close()
        endpoint.stdin.close()
    figures = {"plain_ms": statistics.median(plain), "bridge_ms": statistics.median(bridged)}
    figures["added_ms"] = figures["bridge_ms"] - figures["plain_ms"]
    return {name: round(value, 3) for name, value in figures.items()}


if __name__ == "__main__":
    print(overhead())
