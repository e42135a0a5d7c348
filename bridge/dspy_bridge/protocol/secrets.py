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


# Each pattern is bounded where it could look further and further: texts come from programs, and may be long.
_SHAPES: Final = (
    r"\bbearer\s{1,4}(?P<borne>[\w.~+/=-]{4,})"
    r"|(?P<bare>\b(?:sk-|pk-|gsk_|xai-|hf_|gh[opsu]_|github_pat_|glpat-|xox[abprs]-)[\w-]{6,}"
    r"|\b(?-i:AIza|AKIA|ASIA)[\w-]{12,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token
    r"|(?<=://)[^\s/:@]{0,256}:[^\s/@]{1,256}(?=@)"  # user and password in an address
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*)"
)
_AFTER_A_NAME: Final = (
    r"(?P<name>(?:key|token|secret|password|passwd|authorization|credential)\\?[\"']?\s{0,8}[=:]\s{0,8})"
    r"(?:(?:bearer|basic|token|digest)\s{1,4})?\\?[\"']?(?P<named>[^\s\"',;}{\\]{4,})"
    r"|(?P<cookie>\bcookie\\?[\"']?\s{0,8}[=:]\s{0,8})(?P<crumbs>[^\r\n\"'\\]+)"
)
_IN_ERROR: Final = re.compile(_SHAPES, re.IGNORECASE)
_IN_LOG: Final = re.compile(f"{_AFTER_A_NAME}|{_SHAPES}", re.IGNORECASE)


def redacted_text(text: str) -> str:
    """``text`` with what looks like a secret replaced: a value after a secret's name, cookies, and what
    :func:`without_keys` takes out. For logs, which must rather hide too much."""
    return _IN_LOG.sub(lambda found: _before(found) + REDACTED, text)


def _before(found: re.Match[str]) -> str:
    """The name in front of a secret, quotes and all; empty where the secret speaks for itself."""
    return found["name"] or found["cookie"] or ""


def without_keys(text: str) -> str:
    """``text`` without what has the shape of a credential, whatever it is called: bearers' tokens, keys of
    providers, web tokens, passwords in addresses, private keys. For errors, which must stay readable."""
    return _IN_ERROR.sub(REDACTED, text)


def replaced_in_text(text: str, replace: Callable[[str, str], str]) -> str:
    """``text`` with each secret in it, and no more than that, replaced by what ``replace(secret, name)`` makes of
    it; ``name`` is what stands before it, quotes and all, or empty where the secret speaks for itself."""

    def one(found: re.Match[str]) -> str:
        start, end = (at - found.start() for at in found.span(found.lastgroup or 0))
        return found[0][:start] + replace(found[0][start:end], _before(found)) + found[0][end:]

    return _IN_LOG.sub(one, text)


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` fit to be shown: whatever is secret reads ``***``."""
    return {name: REDACTED if value is not None and is_secret(name) else value for name, value in config.items()}
