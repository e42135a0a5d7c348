"""A session's DSPy settings: what a host has set, and what DSPy is told.

Only names a host may set exist here; DSPy itself would accept any. A setting the host has not set is
at the bridge's default, which differs from DSPy's where a long-lived session would grow for ever.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

import dspy

from dspy_bridge.protocol.arguments import SettingsArgs, validate

_ADAPTERS: Final[Mapping[str, Callable[[], dspy.Adapter]]] = {
    "chat": dspy.ChatAdapter,
    "json": dspy.JSONAdapter,
    "xml": dspy.XMLAdapter,
    "baml": lambda: _baml(),
}


def _baml() -> dspy.Adapter:
    from dspy.adapters.baml_adapter import BAMLAdapter

    return BAMLAdapter()


def make_adapter(name: str) -> dspy.Adapter:
    """The adapter of that name, new."""
    return _ADAPTERS[name]()


DEFAULTS: Final[Mapping[str, Any]] = {
    "adapter": "chat",
    "track_usage": True,
    "max_history_size": 100,
    "cache": True,
}
_NOT_DSPYS: Final = frozenset({"adapter", "cache", "seed", "session_id"})
"""Set by other means than ``dspy.configure``'s own names."""

CACHE_ENTRIES: Final = 10_000


class Settings:
    """``values``: what the host has set, by name; JSON-able."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def update(self, checked: SettingsArgs, given: Mapping[str, Any]) -> None:
        """Take over what was given; null goes back to the default. ``checked`` proves it valid."""
        del checked
        for name, value in given.items():
            if value is None:
                self.values.pop(name, None)
            else:
                self.values[name] = value
        if given.get("seed") is not None:
            seed_everything(given["seed"])
        if "cache" in given:
            use_cache(self.effective()["cache"])

    def restore(self, values: Mapping[str, Any]) -> None:
        """Be exactly ``values``, as another worker's :class:`Settings` was."""
        self.values = {}
        self.update(validate(SettingsArgs, dict(values)), values)

    def effective(self) -> dict[str, Any]:
        """Every setting by its present value."""
        return {**DEFAULTS, **self.values}

    def apply(self, lm: dspy.BaseLM | None) -> None:
        """Tell DSPy, from the main thread: it lets no other one configure it."""
        effective = self.effective()
        passed = {name: value for name, value in effective.items() if name not in _NOT_DSPYS}
        dspy.configure(lm=lm, adapter=make_adapter(effective["adapter"]), **passed)

    def split_request(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request's ``config`` as DSPy settings and as options of the model. Raises ``invalid_args``."""
        named = {name: value for name, value in config.items() if name in SettingsArgs.model_fields}
        options = {name: value for name, value in config.items() if name not in named}
        validate(SettingsArgs, named, where="args.config")
        settings = {name: value for name, value in named.items() if name not in _NOT_DSPYS}
        if named.get("adapter") is not None:
            settings["adapter"] = make_adapter(named["adapter"])
        if named.get("cache") is not None:
            options["cache"] = named["cache"]
        return settings, options

    def reset_dspy(self) -> None:
        """Put DSPy's settings, history and cache back as they were in a fresh interpreter."""
        module = sys.modules["dspy.dsp.utils.settings"]
        module.main_thread_config.clear()
        module.main_thread_config.update(copy.deepcopy(module.DEFAULT_CONFIG))
        sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY.clear()
        use_cache(True)


def use_cache(enabled: bool) -> None:
    """A new cache of this interpreter's own, in memory only: DSPy's disk cache crosses sessions."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=enabled, memory_max_entries=CACHE_ENTRIES)


def seed_everything(seed: int) -> None:
    """Make the interpreter's random streams reproducible."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
