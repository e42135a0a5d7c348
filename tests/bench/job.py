"""The job every peer does: in a fresh interpreter, configure a model of one's own, run one program."""

from __future__ import annotations

import os
import sys


def answer(question: str = "hi") -> str:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import dspy

    from dspy_bridge.worker.scripted import OBSERVER, ScriptedLM

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)
    dspy.configure(lm=ScriptedLM(), callbacks=[OBSERVER], track_usage=True)
    return str(dspy.Predict("question -> answer")(question=question).answer)


def serve_pipe(connection: object) -> None:
    """For multiprocessing peers: answer once, then echo whatever comes."""
    connection.send(answer())  # type: ignore[attr-defined]
    while (message := connection.recv()) is not None:  # type: ignore[attr-defined]
        connection.send(message)  # type: ignore[attr-defined]


def main() -> None:
    """For the cold subprocess: JSON lines in, JSON lines out."""
    import json

    for line in sys.stdin:
        request = json.loads(line)
        result = answer(request["question"]) if "question" in request else "pong"
        sys.stdout.write(json.dumps({"id": request["id"], "result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
