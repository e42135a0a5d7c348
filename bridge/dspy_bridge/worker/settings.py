"""A session's DSPy settings: what a host has set, and what DSPy is told.

Only names a host may set exist here; DSPy itself would accept any. A setting the host has not set is
at the bridge's default, which differs from DSPy's where a long-lived session would grow for ever.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import dspy

from dspy_bridge.protocol.arguments import SettingsArgs, validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.adapters import NamedModel, make_adapter
from dspy_bridge.worker.caching import use_cache
from dspy_bridge.worker.types import bad

DEFAULTS: Final[Mapping[str, Any]] = {
    "adapter": "chat",
    "track_usage": True,
    "max_history_size": 100,
    "cache": True,
}
_NOT_DSPYS: Final = frozenset({"adapter", "cache", "seed", "session_id"})
"""Set by other means than ``dspy.configure``'s own names."""


class Settings:
    """``values``: what the host has set, by name; JSON-able. ``shared_cache``: the folder of
    ``cache: "shared"``, if the operator gives one."""

    def __init__(self, find: NamedModel, shared_cache: str | None = None) -> None:
        self.values: dict[str, Any] = {}
        self._find = find
        self._shared_cache = shared_cache

    def update(self, checked: SettingsArgs, given: Mapping[str, Any]) -> None:
        """Take over what was given; null goes back to the default. ``checked`` proves it valid. Raises
        ``unsupported``, ``invalid_args`` or what the cache's folder does, and then nothing has changed."""
        if checked.adapter is not None:
            self.adapter(checked.adapter)
        if checked.cache == "shared" and self._shared_cache is None:
            message = 'cache "shared" needs a daemon started with --shared-cache and a folder'
            raise BridgeError("unsupported", message)
        self._take(given)

    def _take(self, given: Mapping[str, Any]) -> None:
        values = {name: value for name, value in {**self.values, **given}.items() if value is not None}
        if "cache" in given:  # first, because a folder may fail
            cache = values.get("cache", DEFAULTS["cache"])
            shared = cache == "shared" and self._shared_cache is not None
            use_cache(bool(cache), Path(self._shared_cache or "") if shared else None)
        self.values = values
        if given.get("seed") is not None:
            seed_everything(given["seed"])

    def restore(self, values: Mapping[str, Any]) -> None:
        """Be exactly ``values``, as another worker's :class:`Settings` was; perhaps under another daemon,
        which may have no shared cache."""
        gone = {"cache": None} if "cache" in self.values else {}
        self.values = {}
        self._take({**gone, **values})

    def adapter(self, given: Any) -> dspy.Adapter:
        """A new adapter of the session. Raises ``invalid_args``."""
        return make_adapter(given, self._find)

    def effective(self) -> dict[str, Any]:
        """Every setting by its present value."""
        return {**DEFAULTS, **self.values}

    def apply(self, lm: dspy.BaseLM | None) -> None:
        """Tell DSPy, from the main thread: it lets no other one configure it."""
        effective = self.effective()
        dspys = sys.modules["dspy.dsp.utils.settings"].DEFAULT_CONFIG
        known = {name: copy.deepcopy(dspys[name]) for name in SettingsArgs.model_fields.keys() & dspys.keys()}
        passed = {name: value for name, value in {**known, **effective}.items() if name not in _NOT_DSPYS}
        dspy.configure(lm=lm, adapter=self.adapter(effective["adapter"]), **passed)

    def split_request(self, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A request's ``config`` as DSPy settings and as options of the model; null is the default. Raises
        ``invalid_args``."""
        named = {name: value for name, value in config.items() if name in SettingsArgs.model_fields}
        options = {name: value for name, value in config.items() if name not in named}
        if "session_id" in named:
            raise bad("args.config.session_id", "is no setting")
        validate(SettingsArgs, named, where="args.config")
        if named.get("cache") == "shared":
            raise bad("args.config.cache", "can be true or false; configure says whether it is shared")
        # The interpreter's random streams are of all its requests: within one, a seed is the model's.
        options |= {name: named[name] for name in ("cache", "seed") if named.get(name) is not None}
        defaults = {**sys.modules["dspy.dsp.utils.settings"].DEFAULT_CONFIG, **DEFAULTS}
        settings = {name: defaults.get(name) if value is None else value for name, value in named.items()}
        settings = {name: value for name, value in settings.items() if name not in _NOT_DSPYS}
        if "adapter" in named:
            settings["adapter"] = self.adapter(named["adapter"] or DEFAULTS["adapter"])
        return settings, options

    def reset_dspy(self) -> None:
        """Put DSPy's settings, history and cache back as they were in a fresh interpreter. Threads that look
        up a setting meanwhile find one."""
        module = sys.modules["dspy.dsp.utils.settings"]
        config = module.main_thread_config
        config.update(copy.deepcopy(module.DEFAULT_CONFIG))
        for name in config.keys() - module.DEFAULT_CONFIG.keys():
            del config[name]
        sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY.clear()
        use_cache(True)


def seed_everything(seed: int) -> None:
    """Make the interpreter's random streams reproducible."""
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
