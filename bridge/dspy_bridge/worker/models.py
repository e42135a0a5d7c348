"""From a host's words to a language model, and its secrets kept apart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import dspy
from dspy.utils.exceptions import LMError

from dspy_bridge.protocol.commands import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import LMConfig
from dspy_bridge.worker.local_model import build_local_lm
from dspy_bridge.worker.scripted import ScriptedLM
from dspy_bridge.worker.types import bad

_SECRET_NAME: Final = re.compile(r"key|token|secret|password|passwd|authorization|credential|cookie", re.IGNORECASE)
_NOT_SECRET: Final = frozenset({"api_key_env", "max_tokens", "max_completion_tokens", "answers"})
_REFUSED: Final = ("callbacks", "provider", "async_engine", "launch_kwargs", "train_kwargs", "prompt_cache")
"""Arguments of ``dspy.LM`` that take Python objects: there is no JSON for them."""
_SCRIPTED_ONLY: Final = ("answers", "delay_ms", "seed")
_CLIENT: Final = ("api_base", "timeout", "engine", "cache", "model_type", "headers", "extra_headers")

REDACTED: Final = "***"


def build_lm(config: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> dspy.BaseLM:
    """The model ``config`` (of the shape of :class:`LMConfig`) names. Calls nothing yet.

    Raises ``invalid_args``; ``lm_not_configured`` when the variable ``api_key_env`` names is not set;
    ``unsupported`` for ``host``, and for ``local`` without its extra.
    """
    validate(LMConfig, dict(config), where="lm")
    given = {name: value for name, value in config.items() if value is not None}
    for name in _REFUSED:
        if name in given:
            raise bad(f"lm.{name}", "takes a Python object and cannot be set over the wire")
    model = given.pop("model")
    key_variable = given.pop("api_key_env", None)
    if key_variable is not None:
        if "api_key" in given:
            raise bad("lm.api_key_env", "give api_key or api_key_env, not both")
        if not environ.get(key_variable):
            message = f"the environment variable {key_variable!r}, which is to hold the key, is not set"
            raise BridgeError("lm_not_configured", message, details={"api_key_env": key_variable})
        given["api_key"] = environ[key_variable]
    if model == "host":
        raise BridgeError("unsupported", "this daemon does not call its host's model yet; name a model of a provider")
    scripted = {name: given.pop(name) for name in _SCRIPTED_ONLY if name in given}
    if scripted and model != "scripted":
        name = next(iter(scripted))
        raise bad(f"lm.{name}", "is for the scripted model alone")
    try:
        if model == "scripted":
            plain = {name: value for name, value in given.items() if name not in (*_CLIENT, "api_key")}
            return ScriptedLM(**scripted, **plain)
        if model == "local":
            return build_local_lm(given, environ)
        return dspy.LM(model, **given)
    except (ValueError, TypeError, LMError) as exc:
        raise bad("lm", str(exc)) from None


def split_secrets(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config`` without its literal secrets, and those: together they are ``config`` again."""
    secret = {name: value for name, value in config.items() if value is not None and _is_secret(name)}
    return {name: value for name, value in config.items() if name not in secret}, secret


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` fit to be shown: whatever is secret reads ``***``."""
    return {name: REDACTED if value is not None and _is_secret(name) else value for name, value in config.items()}


def _is_secret(name: str) -> bool:
    """Whole header sets count: which of them authorises is the provider's affair."""
    return name in ("headers", "extra_headers") or (name not in _NOT_SECRET and bool(_SECRET_NAME.search(name)))
