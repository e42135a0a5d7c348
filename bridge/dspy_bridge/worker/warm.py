"""The template's share: import and warm what every session needs, and prove that it stayed virgin.

The template never configures DSPy, never builds a model that talks to an endpoint, and never runs a
session's code. Warming runs a program once against a scripted model inside ``dspy.context``, then
takes back the traces DSPy keeps of it, so that :func:`verify` finds nothing.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import orjson

# Before anything imports DSPy or litellm: without it both look up prices over the network.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

PRELOAD_VARIABLE: Final = "DSPY_BRIDGE_PRELOAD"

_REHEARSAL: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("configure_lm", {"model": "scripted"}),
    ("create_program", {"id": "p", "signature": "question -> answer"}),
    ("execute_program", {"program_id": "p", "inputs": {"question": "ready?"}}),
)


class NotVirginError(Exception):
    """A preloaded module left DSPy in a state every session would inherit. Raised by :func:`preload`."""


def preload() -> None:
    """Import DSPy, the worker's own code and the operator's modules, and exercise them."""
    _use_no_disk_cache(os.environ)
    from dspy.clients import model_metadata

    from dspy_bridge.worker import app  # noqa: F401 - imported for its children

    for name in filter(None, os.environ.get(PRELOAD_VARIABLE, "").split(",")):
        importlib.import_module(name.strip())
    model_metadata._load()
    stains = verify()
    if stains:  # before the exercise, whose traces are taken back and would take these with them
        raise NotVirginError("; ".join(stains))
    _exercise()
    _forget_exercise()


def _use_no_disk_cache(environ: MutableMapping[str, str]) -> None:
    """DSPy's default cache lives on disk and crosses sessions: its key ignores endpoint and key."""
    environ["DSPY_CACHEDIR"] = "/dev/null/dspy-bridge-keeps-no-disk-cache"


def _exercise() -> None:
    """Run every program type under every adapter once, so that what DSPy and pydantic import and
    build lazily is there before the first fork."""
    import dspy

    from dspy_bridge.protocol.commands import CreateProgramArgs
    from dspy_bridge.worker.programs import PROGRAM_TYPES, build_module
    from dspy_bridge.worker.scripted import OBSERVER, ScriptedLM
    from dspy_bridge.worker.settings import use_cache

    spec = {
        "inputs": [{"name": "question", "type": "str"}],
        "outputs": [{"name": "answer", "type": "str"}, {"name": "score", "type": "float"}],
    }
    use_cache(True)
    for kind in PROGRAM_TYPES:
        for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
            bound, module = build_module(CreateProgramArgs.model_validate({"signature": spec, "program_type": kind}))
            settings = {"track_usage": True, "max_trace_size": 0, "callbacks": [OBSERVER]}
            with dspy.context(lm=ScriptedLM(), adapter=adapter, **settings):
                bound.encode_outputs(module(**bound.decode_inputs({"question": "warm?"})))


def _forget_exercise() -> None:
    """Take back every trace of it in DSPy's globals."""
    settings_module: Any = sys.modules["dspy.dsp.utils.settings"]
    settings_module.main_thread_config.clear()
    settings_module.main_thread_config.update(copy.deepcopy(settings_module.DEFAULT_CONFIG))
    settings_module.config_owner_thread_id = None
    vars(sys.modules["dspy"]).pop("cache", None)
    sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY.clear()


def rehearse() -> None:
    """In a newborn worker, before anybody waits for it: do once what a session's first requests do.

    A forked process copies each page it first writes to; this has the copies of a program's whole way
    made while the worker is still a spare. It leaves no trace (:func:`verify` finds none).
    """
    from dspy_bridge.protocol import envelope
    from dspy_bridge.worker.session import SessionRuntime

    runtime = SessionRuntime({"session_id": "rehearsal", "scratch": ""})
    for command, args in _REHEARSAL:
        body = orjson.dumps({"id": 0, "command": command, "args": args})
        call = envelope.parse(body)
        assert isinstance(call, envelope.Call)
        envelope.success(call.id, call.rpc, runtime.serve(call))
    _forget_exercise()


def verify() -> list[str]:
    """What a fork of this process would hand to every session, in words; empty when virgin."""
    stains = []
    dspy = sys.modules["dspy"]
    settings_module = sys.modules["dspy.dsp.utils.settings"]
    config = settings_module.main_thread_config
    if settings_module.config_owner_thread_id is not None or settings_module.config_owner_async_task is not None:
        stains.append("dspy.configure has been called")
    stains += [
        f"dspy.settings.{name} is {value!r:.80}"
        for name, value in config.items()
        if value != settings_module.DEFAULT_CONFIG.get(name)
    ]
    if settings_module.thread_local_overrides.get():
        stains.append("a dspy.context is open")
    history = sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY
    if history:
        stains.append(f"a model has been used: {len(history)} call(s) in DSPy's history")
    if "cache" in vars(dspy):
        stains.append("dspy.cache has been opened")
    litellm = sys.modules.get("litellm")
    if litellm is not None:
        stains += [
            f"litellm.{name} is not empty"
            for name in ("callbacks", "success_callback", "failure_callback", "cache", "api_key")
            if getattr(litellm, name, None)
        ]
    return stains
