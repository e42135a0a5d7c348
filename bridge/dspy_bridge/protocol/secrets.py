"""What is a secret, told by its name alone: kept out of errors, disks, exports and everything shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
    r"\bbearer\s{1,4}[\w.~+/=-]{4,}"
    r"|\b(?:sk-|pk-|gsk_|xai-|hf_|gh[opsu]_|github_pat_|glpat-|xox[abprs]-)[\w-]{6,}"
    r"|\b(?-i:AIza|AKIA|ASIA)[\w-]{12,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?"  # a JSON web token
    r"|(?<=://)[^\s/:@]{0,256}:[^\s/@]{1,256}(?=@)"  # user and password in an address
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[^-]*"
)
_AFTER_A_NAME: Final = (
    r"(?P<name>(?:key|token|secret|password|passwd|authorization|credential)\\?[\"']?\s{0,8}[=:]\s{0,8})"
    r"(?:(?:bearer|basic|token|digest)\s{1,4})?\\?[\"']?[^\s\"',;}{\\]{4,}"
    r"|(?P<cookie>\bcookie\\?[\"']?\s{0,8}[=:]\s{0,8})[^\r\n\"'\\]+"
)
_IN_ERROR: Final = re.compile(_SHAPES, re.IGNORECASE)
_IN_LOG: Final = re.compile(f"{_AFTER_A_NAME}|{_SHAPES}", re.IGNORECASE)


def redacted_text(text: str) -> str:
    """``text`` with what looks like a secret replaced: a value after a secret's name, cookies, and what
    :func:`without_keys` takes out. For logs, which must rather hide too much."""
    return _IN_LOG.sub(lambda found: f"{found['name'] or found['cookie'] or ''}{REDACTED}", text)


def without_keys(text: str) -> str:
    """``text`` without what has the shape of a credential, whatever it is called: bearers' tokens, keys of
    providers, web tokens, passwords in addresses, private keys. For errors, which must stay readable."""
    return _IN_ERROR.sub(REDACTED, text)


def redacted(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` fit to be shown: whatever is secret reads ``***``."""
    return {name: REDACTED if value is not None and is_secret(name) else value for name, value in config.items()}
