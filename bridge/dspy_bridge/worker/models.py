"""From a host's words to a language model, with its secrets kept apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import dspy
from dspy.utils.exceptions import LMError

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import LMConfig, full_model
from dspy_bridge.worker import keys
from dspy_bridge.worker.configured import Configured
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.host_lm import HostLM
from dspy_bridge.worker.local_model import build_local_lm
from dspy_bridge.worker.scripted import ScriptedLM
from dspy_bridge.worker.types import bad

Model: TypeAlias = Configured[dspy.BaseLM]

_REFUSED: Final = ("callbacks", "async_engine", "launch_kwargs", "train_kwargs", "prompt_cache")
"""Arguments of ``dspy.LM`` that take Python objects: there is no JSON for them."""
_SCRIPTED_ONLY: Final = ("answers", "delay_ms", "seed")
_CLIENT: Final = ("api_base", "timeout", "engine", "cache", "model_type", "headers", "extra_headers")


def build_lm(
    config: Mapping[str, Any], host: Host | None = None, environ: Mapping[str, str] = os.environ
) -> dspy.BaseLM:
    """The model ``config`` (of the shape of :class:`LMConfig`) names. Calls nothing yet.

    Raises ``invalid_args``; ``lm_not_configured`` when the variable ``api_key_env`` names is not set;
    ``unsupported`` for a variable that is not allowed, and for ``local`` without its extra.
    """
    validate(LMConfig, dict(config), where="lm")
    for name in _REFUSED:
        if config.get(name) is not None:
            raise bad(f"lm.{name}", "takes a Python object and cannot be set over the wire")
    given = key_of_environment(config, "lm", environ)
    model = full_model(given.pop("model"), given.pop("provider", None))
    scripted = {name: given.pop(name) for name in _SCRIPTED_ONLY if name in given}
    if scripted and model != "scripted":
        name = next(iter(scripted))
        raise bad(f"lm.{name}", "is for the scripted model alone")
    try:
        if model == "scripted":
            plain = {name: value for name, value in given.items() if name not in (*_CLIENT, "api_key")}
            return ScriptedLM(**scripted, **plain)
        if model == "host" or model.startswith("host/"):
            plain = {name: value for name, value in given.items() if name not in (*_CLIENT, "api_key")}
            assert host is not None
            kept = {"timeout": given.get("timeout"), "cache": given.get("cache", False)}  # its host may keep answers
            return HostLM(host, model.partition("/")[2] or "host", **kept, **plain)
        if model == "local":
            return build_local_lm(given, environ)
        return dspy.LM(model, **given)
    except (ValueError, TypeError, LMError) as exc:
        raise bad("lm", str(exc)) from None


def key_of_environment(config: Mapping[str, Any], what: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """``config`` without its nulls, the key that ``api_key_env`` names in its place. Raises ``invalid_args``,
    ``lm_not_configured``, ``unsupported``."""
    given = {name: value for name, value in config.items() if value is not None}
    variable = given.pop("api_key_env", None)
    if variable is not None:
        if "api_key" in given:
            raise bad(f"{what}.api_key_env", "give api_key or api_key_env, not both")
        keys.check(variable)
        if not environ.get(variable):
            message = f"the environment variable {variable!r}, which is to hold the key, is not set"
            raise BridgeError("lm_not_configured", message, details={"api_key_env": variable})
        given["api_key"] = environ[variable]
    return given
