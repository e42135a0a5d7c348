"""DSPy's adapters, made from what a host says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import dspy

from dspy_bridge.protocol.adapter_config import AdapterConfig
from dspy_bridge.protocol.arguments import validate
from dspy_bridge.worker.types import bad

NamedModel = Callable[[str], dspy.BaseLM]
"""The session's model of that name. Raises ``lm_not_configured``."""

_TOOL_CALLING: Final = frozenset({"use_native_function_calling", "parallel_tool_calls"})
_FALLING_BACK: Final = _TOOL_CALLING | {"use_json_adapter_fallback"}


class TwoStepAdapter(dspy.TwoStepAdapter):  # type: ignore[misc]
    """DSPy's, but which model reads the answer is found when it is needed: the one of that name, or the
    one that gave the answer. So it can be chosen before that model is configured."""

    def __init__(self, find: NamedModel, name: str | None, **options: Any) -> None:
        dspy.Adapter.__init__(self, **options)
        self._find = find
        self._name = name

    @property
    def extraction_model(self) -> dspy.BaseLM:
        return dspy.settings.lm if self._name is None else self._find(self._name)


def _baml(**options: Any) -> dspy.Adapter:
    from dspy.adapters.baml_adapter import BAMLAdapter

    return BAMLAdapter(**options)


_ADAPTERS: Final[Mapping[str, tuple[Callable[..., dspy.Adapter], frozenset[str]]]] = {
    "chat": (dspy.ChatAdapter, _FALLING_BACK),
    "json": (dspy.JSONAdapter, _TOOL_CALLING),
    "xml": (dspy.XMLAdapter, _FALLING_BACK),
    "baml": (_baml, _TOOL_CALLING),
    "two_step": (TwoStepAdapter, _TOOL_CALLING),
}


def make_adapter(given: AdapterConfig | str | Mapping[str, Any], find: NamedModel) -> dspy.Adapter:
    """A new adapter. Raises ``invalid_args`` for an option it does not have."""
    if isinstance(given, str):
        given = {"name": given}
    config = given if isinstance(given, AdapterConfig) else validate(AdapterConfig, dict(given), where="adapter")
    make, known = _ADAPTERS[config.name]
    options = {name: value for name, value in config if name != "name" and value is not None}
    extraction_lm = options.pop("extraction_lm", None)
    for name in (*options.keys() - known, *(["extraction_lm"] if extraction_lm and config.name != "two_step" else [])):
        raise bad(f"args.adapter.{name}", f"the {config.name} adapter has no such option")
    return make(find, extraction_lm, **options) if config.name == "two_step" else make(**options)
