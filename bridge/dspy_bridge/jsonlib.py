"""JSON for all of this package: orjson, or the standard library where orjson has no build for the interpreter."""

from __future__ import annotations

try:
    from orjson import OPT_INDENT_2, OPT_NON_STR_KEYS, Fragment, JSONDecodeError, dumps, loads
except ImportError:  # free-threaded interpreters, at the time of writing
    from dspy_bridge.plain_json import (  # type: ignore[assignment]
        OPT_INDENT_2,
        OPT_NON_STR_KEYS,
        Fragment,
        JSONDecodeError,
        dumps,
        loads,
    )

__all__ = ["OPT_INDENT_2", "OPT_NON_STR_KEYS", "Fragment", "JSONDecodeError", "dumps", "loads"]
