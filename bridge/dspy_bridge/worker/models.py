"""From a host's words to a language model, with its secrets kept apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.utils.exceptions import LMError

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import LMConfig
from dspy_bridge.protocol.secrets import split_secrets
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.host_lm import HostLM
from dspy_bridge.worker.local_model import build_local_lm
from dspy_bridge.worker.scripted import ScriptedLM
from dspy_bridge.worker.types import bad

_REFUSED: Final = ("callbacks", "provider", "async_engine", "launch_kwargs", "train_kwargs", "prompt_cache")
"""Arguments of ``dspy.LM`` that take Python objects: there is no JSON for them."""
_SCRIPTED_ONLY: Final = ("answers", "delay_ms", "seed")
_CLIENT: Final = ("api_base", "timeout", "engine", "cache", "model_type", "headers", "extra_headers")


def build_lm(
    config: Mapping[str, Any], host: Host | None = None, environ: Mapping[str, str] = os.environ
) -> dspy.BaseLM:
    """The model ``config`` (of the shape of :class:`LMConfig`) names. Calls nothing yet.

    Raises ``invalid_args``; ``lm_not_configured`` when the variable ``api_key_env`` names is not set;
    ``unsupported`` for ``local`` without its extra.
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


@dataclass(slots=True)
class Model:
    """A model somebody has configured: the object, or why there is none. ``config`` is without literal
    secrets, those are in ``secrets``."""

    config: dict[str, Any]
    secrets: dict[str, Any]
    lm: dspy.BaseLM | None = None
    problem: BridgeError | None = None

    @classmethod
    def configure(cls, config: Mapping[str, Any], host: Host) -> Model:
        """The model a host asks for now. Raises as :func:`build_lm` does."""
        return cls(*split_secrets(config), lm=build_lm(config, host))

    @classmethod
    def restore(cls, config: Mapping[str, Any], secrets: Mapping[str, Any], fields: Iterable[str], host: Host) -> Model:
        """A model configured earlier, perhaps elsewhere, whose literal secrets were those ``fields``. What
        it lacks is an error only when it is used."""
        restored = cls(dict(config), dict(secrets))
        missing = [f"lm.{field}" for field in fields if field not in secrets]
        if missing:
            message = (
                f"{missing[0]} is known no more, because literal secrets are never stored nor exported; "
                "configure the model again, or name the key's environment variable in api_key_env"
            )
            restored.problem = BridgeError("lm_not_configured", message, details={"missing": missing})
            return restored
        try:
            restored.lm = build_lm({**config, **secrets}, host)
        except BridgeError as error:
            restored.problem = error
        return restored

    @property
    def part(self) -> dict[str, Any]:
        """Its share of a snapshot part; see :class:`dspy_bridge.protocol.snapshot_parts.LMPart`."""
        return {"config": self.config, "secret_fields": sorted(self.secrets)}

    def usable(self) -> dspy.BaseLM:
        """The model itself. Raises ``lm_not_configured`` (or what else kept it from being made)."""
        if self.problem is not None:
            raise self.problem
        assert self.lm is not None
        return self.lm
