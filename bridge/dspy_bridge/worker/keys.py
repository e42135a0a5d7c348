"""Which variables of the environment a model's key may be read from.

A host names the variable and, with ``api_base``, who is sent what it holds: so not every variable of the
daemon will do. What a session was given as its own ``env`` its host knows anyway.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from dspy_bridge.protocol.errors import BridgeError

_allowed: list[str] = ["*"]


def allow(patterns: Iterable[str], own: Iterable[str] = ()) -> None:
    """From now on, in this interpreter: variables that fit ``patterns``, and the session's ``own``."""
    _allowed[:] = [*patterns, *own]


def check(variable: str) -> None:
    """Raises ``unsupported``."""
    if not any(fnmatch.fnmatchcase(variable, pattern) for pattern in _allowed):
        message = f"keys may not be read from the variable {variable!r}; the daemon's operator allows it by "
        raise BridgeError("unsupported", f"{message}--allow-key-env", details={"api_key_env": variable})
