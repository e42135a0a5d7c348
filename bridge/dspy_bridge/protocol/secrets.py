"""What is a secret, told by its name alone: kept out of errors, disks, exports and everything shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

_SECRET_NAME: Final = re.compile(r"key|token|secret|password|passwd|authorization|credential|cookie", re.IGNORECASE)
_NOT_SECRET: Final = frozenset({"api_key_env", "max_tokens", "max_completion_tokens", "answers"})
_WHOLE_SETS: Final = frozenset({"headers", "extra_headers"})
"""Which header of a set authorises is the provider's affair: the set is one secret."""

REDACTED: Final = "***"


def is_secret(name: str) -> bool:
    """Whether what is called so must not be shown."""
    return name in _WHOLE_SETS or (name not in _NOT_SECRET and bool(_SECRET_NAME.search(name)))


def split_secrets(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``config`` without its literal secrets, and those: together they are ``config`` again."""
    secret = {name: value for name, value in config.items() if value is not None and is_secret(name)}
    return {name: value for name, value in config.items() if name not in secret}, secret


_IN_TEXT: Final = re.compile(
    r"(?P<name>[\w-]*(?:key|token|secret|password|passwd|authorization|credential)[\"']?\s*[=:]\s*)"
    r"(?:bearer\s+)?[\"']?(?P<named>[^\s\"',;}{]{4,})|\bbearer\s+(?P<borne>[\w.~+/-]{4,})|\b(?P<bare>sk-[\w-]{6,})",
    re.IGNORECASE,
)


def redacted_text(text: str) -> str:
    """``text`` with what looks like a secret in it replaced: a value after a secret's name, a bearer's token,
    a provider's key."""
    return _IN_TEXT.sub(lambda found: f"{found['name'] or ''}{REDACTED}", text)


def replaced_in_text(text: str, replace: Callable[[str, str], str]) -> str:
    """``text`` with each secret in it, and no more than that, replaced by what ``replace(secret, name)`` makes of
    it; ``name`` is what stands before it, quotes and all, or empty where the secret speaks for itself."""

    def one(found: re.Match[str]) -> str:
        start, end = (at - found.start() for at in found.span(found.lastgroup or 0))
        return found[0][:start] + replace(found[0][start:end], found["name"] or "") + found[0][end:]

    return _IN_TEXT.sub(one, text)


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` fit to be shown: whatever is secret reads ``***``."""
    return {name: REDACTED if value is not None and is_secret(name) else value for name, value in config.items()}
