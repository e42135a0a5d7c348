"""The template's share: import and warm what every session needs, and prove that it stayed virgin.

The template never configures DSPy, never builds a model that talks to an endpoint, and never runs a
session's code. Warming runs a program once against a scripted model inside ``dspy.context``, then
takes back the traces DSPy keeps of it, so that :func:`verify` finds nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import Final

PRELOAD_VARIABLE: Final = "DSPY_BRIDGE_PRELOAD"


class PreloadFailed(Exception):
    """A module the operator names cannot be imported. Raised by :func:`preload`."""


class NotVirginError(Exception):
    """A preloaded module left DSPy in a state every session would inherit. Raised by :func:`preload`."""


def preload() -> None:
    """Import DSPy, the worker's own code and the operator's modules, and exercise them."""
    from dspy.clients import model_metadata

    from dspy_bridge.worker import app  # noqa: F401 - imported for its children
    from dspy_bridge.worker.rehearsal import exercise, forget_exercise

    for name in filter(None, os.environ.get(PRELOAD_VARIABLE, "").split(",")):
        try:
            importlib.import_module(name.strip())
        except Exception as exc:
            raise PreloadFailed(f"--preload {name.strip()}: {type(exc).__name__}: {exc}") from exc
    model_metadata._load()
    _import_what_comes_late()
    stains = verify()
    if stains:  # before the exercise, whose traces are taken back and would take these with them
        raise NotVirginError("; ".join(stains))
    exercise()
    forget_exercise()


def _import_what_comes_late() -> None:
    """Modules that DSPy imports with its first stream: every session would, and in a threaded one a request that
    is stopped just then holds up the others."""
    for name in ("anyio._backends._asyncio",):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


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
