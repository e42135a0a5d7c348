"""Takes the secrets out of a conversation, and keeps it one that can be held again.

Each secret becomes a placeholder, the same wherever it stands: ``<secret 1>``. What is secret is told by
:mod:`.secrets`: text under a name that sounds like one, at any depth, and in free text what stands after such
a name, bearer tokens and providers' keys. A secret met once is known from then on, in whatever it turns up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dspy_bridge import jsonlib
from dspy_bridge.protocol.secrets import is_secret, replaced_in_text
from dspy_bridge.protocol.snapshot_parts import (
    ADAPTER_PREFIX,
    EMBEDDER_PREFIX,
    NAMED_LM_PREFIX,
    PROGRAM_PREFIX,
    PROGRAM_TALLY_PREFIX,
)

PLACEHOLDER: Final = re.compile(r"<secret (\d+)>")

_SOUGHT: Final = 4
"""Characters a secret has at least to be sought in other text."""
_DISTINCT: Final = 8
"""Shorter ones are sought as whole words only, and not where the protocol's own words stand."""
_PROTOCOLS_OWN: Final = frozenset(
    ("command", "method", "event", "call", "name", "model", "session_id", "id", "program_id", "status", "code", "type")
)
_NEVER_NUMBERS: Final = re.compile("secret|password|passwd|credential", re.IGNORECASE)
"""Names under which a number is one too; elsewhere tokens are counted and keys are numbered."""
_QUOTE: Final = re.compile("[\"']")
_LIKE_A_KEY: Final = re.compile(r"\d|.{16}")
_PARTS: Final = (ADAPTER_PREFIX, EMBEDDER_PREFIX, NAMED_LM_PREFIX, PROGRAM_PREFIX, PROGRAM_TALLY_PREFIX)
"""Parts of an exported session are called by what their host called them, and have no secrets any more."""
_STATE_COMMANDS: Final = frozenset(("get_state", "set_state", "update_state"))
_VARIABLES_OWN: Final = frozenset(("value", "expected"))
_SCHEMA_TYPES: Final = frozenset(("string", "integer", "number", "boolean", "object", "array", "null"))


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """What in an environment has a secret's name, and is long enough not to be a word."""
    return [value for name, value in environ.items() if is_secret(name) and len(value) >= _DISTINCT]


class Redactor:
    """See the module. ``known``: secrets to begin with, such as those of the environment."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._placeholders: dict[str, str] = {}
        self._sought: dict[str, str] = {}
        """What is looked for, and the secret it is a spelling of."""
        self._pattern: re.Pattern[str] | None = None
        for secret in known:
            self._seek(secret)

    def frame(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """A frame without its secrets."""
        command = frame.get("command") or frame.get("method")
        return {
            name: self._of_variable(value)
            if command in _STATE_COMMANDS and name in ("args", "params") and isinstance(value, dict)
            else self._field(name, value, frame)
            for name, value in frame.items()
        }

    def text(self, text: str, under: str = "") -> str:
        """Free text likewise."""
        if self._pattern is not None and not (under in _PROTOCOLS_OWN and len(text) < _DISTINCT):
            text = self._pattern.sub(lambda found: self._placeholder(self._sought[found[0]]), text)
        return replaced_in_text(text, self._found)

    # -- where secrets are -----------------------------------------------------------------------

    def _value(self, value: Any, under: str) -> Any:
        if isinstance(value, str):
            return self.text(value, under)
        if isinstance(value, list):
            return [self._value(one, under) for one in value]
        if isinstance(value, dict):
            return {self._key(name): self._field(name, one, value) for name, one in value.items()}
        return value

    def _field(self, name: str, value: Any, among: Mapping[str, Any]) -> Any:
        if self._is_secret(name, among):
            return self._secret(value, name)
        named = among.get("name", among.get("key"))
        if name == "value" and isinstance(named, str) and is_secret(named):  # {"key": "password", "value": ...}
            return self._secret(value, named)
        return self._value(value, name)

    @staticmethod
    def _is_secret(name: str, among: Mapping[str, Any]) -> bool:
        if not is_secret(name) or name.startswith(_PARTS):
            return False
        # The name of a session's variable: not what opens a door.
        return name != "key" or among.keys().isdisjoint(("value", "version", "op", "found"))

    def _secret(self, value: Any, name: str) -> Any:
        """What stands under a secret's name, all of it."""
        if isinstance(value, str):
            return self._named(value)
        if isinstance(value, list):
            return [self._secret(one, name) for one in value]
        if isinstance(value, dict):
            if value.get("type") in _SCHEMA_TYPES or value.keys() & {"$ref", "anyOf"}:
                return self._value(value, "")  # what such a field is like, not one
            return {key: self._secret(one, name) for key, one in value.items()}
        if type(value) in (int, float) and _NEVER_NUMBERS.search(name):
            return self._placeholder(str(value))
        return value

    def _of_variable(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments that name a session's variable, perhaps a secret one, under ``key``."""
        variable = args.get("key")
        secret = isinstance(variable, str) and is_secret(variable)
        redacted = {}
        for name, value in args.items():
            if secret and name in _VARIABLES_OWN:
                redacted[name] = self._secret(value, str(variable))
            else:
                redacted[name] = value if name == "key" else self._field(name, value, args)
        return redacted

    def _key(self, name: str) -> str:
        return self.text(name) if len(name) >= _DISTINCT and not name.isidentifier() else name

    def _found(self, secret: str, name: str) -> str:
        """In free text, where a name before it may be a word of prose."""
        never_prose = bool(_NEVER_NUMBERS.search(name))
        if secret.startswith("<secret") or (secret.isdigit() and not never_prose):
            return secret
        if not name or _QUOTE.search(name) or _LIKE_A_KEY.search(secret):
            return self._named(secret)
        return self._placeholder(secret) if never_prose else secret

    # -- what they become ------------------------------------------------------------------------

    def _named(self, secret: str) -> str:
        if not secret or PLACEHOLDER.fullmatch(secret):
            return secret
        self._seek(secret)
        return self._placeholder(secret)

    def _placeholder(self, secret: str) -> str:
        return self._placeholders.setdefault(secret, f"<secret {len(self._placeholders) + 1}>")

    def _seek(self, secret: str) -> None:
        if len(secret) < _SOUGHT or secret in self._sought or PLACEHOLDER.search(secret):
            return
        self._sought[secret] = secret
        self._sought.setdefault(jsonlib.dumps(secret).decode()[1:-1], secret)  # in JSON that is text
        words = (
            re.escape(one) if len(one) >= _DISTINCT else rf"(?<!\w){re.escape(one)}(?!\w)"
            for one in sorted(self._sought, key=len, reverse=True)
        )
        self._pattern = re.compile("|".join(words))
