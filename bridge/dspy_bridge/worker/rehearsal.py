"""Running a program before anybody waits for one: once in the template, once in every newborn worker."""

from __future__ import annotations

import copy
import sys
from typing import Any, Final

import dspy

from dspy_bridge import jsonlib
from dspy_bridge.protocol import envelope
from dspy_bridge.protocol.session_commands import CreateProgramArgs
from dspy_bridge.worker.caching import use_cache
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.programs import build_module
from dspy_bridge.worker.scripted import OBSERVER, ScriptedLM
from dspy_bridge.worker.session import SessionRuntime

_REHEARSAL: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("configure_lm", {"model": "scripted"}),
    ("create_program", {"id": "p", "signature": "question -> answer"}),
    ("execute_program", {"program_id": "p", "inputs": {"question": "ready?"}}),
)


def exercise() -> None:
    """Run every program type under every adapter once, so that what DSPy and pydantic import and
    build lazily is there before the first fork."""
    spec = {
        "inputs": [{"name": "question", "type": "str"}],
        "outputs": [{"name": "answer", "type": "str"}, {"name": "score", "type": "float"}],
    }
    use_cache(True)
    workshop = _nobody().programs
    for kind in ("predict", "chain_of_thought"):
        for adapter in (dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()):
            bound, module = build_module(
                CreateProgramArgs.model_validate({"signature": spec, "program_type": kind}), workshop
            )
            settings = {"track_usage": True, "max_trace_size": 0, "callbacks": [OBSERVER]}
            with dspy.context(lm=ScriptedLM(), adapter=adapter, **settings):
                bound.encode_outputs(module(**bound.decode_inputs({"question": "warm?"})))


def _nobody() -> SessionRuntime:
    """A session without a host, for practice."""
    return SessionRuntime({"session_id": "rehearsal", "scratch": ""}, Host(None))


def forget_exercise() -> None:
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
    runtime = _nobody()
    for command, args in _REHEARSAL:
        body = jsonlib.dumps({"id": 0, "command": command, "args": args})
        call = envelope.parse(body)
        assert isinstance(call, envelope.Call)
        envelope.success(call.id, call.rpc, runtime.serve(call))
    forget_exercise()
