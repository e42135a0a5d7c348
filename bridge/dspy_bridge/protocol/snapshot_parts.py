"""The snapshot parts a session consists of: their names, and the shape of each.

The worker writes and reads them; the daemon looks at names, adds up tallies, and checks a document
somebody wants to import. What the first character of a name means: :mod:`session_supervisor.snapshot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge import jsonlib
from dspy_bridge.protocol import compact
from dspy_bridge.protocol.arguments import SettingsArgs, validate
from dspy_bridge.protocol.embedder_config import EmbedderConfig
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import LMConfig
from dspy_bridge.protocol.session_commands import CreateProgramArgs, DefineTypesArgs

LM: Final = "lm"
"""The session's model."""
LM_SECRETS: Final = "!lm"
"""The literal secrets of its configuration, by field."""
NAMED_LM_PREFIX: Final = "lm:"
"""A model kept under a name, and its literal secrets."""
NAMED_LM_SECRETS_PREFIX: Final = "!lm:"
EMBEDDER_PREFIX: Final = "embedder:"
"""An embedder by its name, and its literal secrets."""
EMBEDDER_SECRETS_PREFIX: Final = "!embedder:"
LM_CURSOR: Final = "lm.cursor"
"""How far a scripted model's answers have been served."""
SETTINGS: Final = "settings"
RESET: Final = "reset"
"""Never there: that it is gone is how other interpreters of the session hear of a reset."""
SETTINGS_VERSION: Final = "settings.version"
"""How often ``configure`` has changed something."""
TYPES: Final = "types"
"""Types the session has named: each a description in words or as JSON Schema."""
VARIABLE_PREFIX: Final = "variable:"
"""What ``set_state`` keeps; written by the daemon, never by a worker but to reset."""
ADAPTER_PREFIX: Final = "adapter:"
"""What tools of the session's adapter keep."""
PROGRAM_PREFIX: Final = "program:"
PROGRAM_SECRETS_PREFIX: Final = "!program.secrets:"
PROGRAM_TALLY_PREFIX: Final = "+program:"
"""``[executions, when the last one ended, {model: {kind of token: how many}}]``."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class LMPart(_Part):
    """A model's configuration without its literal secrets. ``secret_fields`` names those, so that who
    restores it without them can say what is missing."""

    config: LMConfig
    secret_fields: list[str] = Field(default_factory=list)


class EmbedderPart(_Part):
    """Likewise."""

    config: EmbedderConfig
    secret_fields: list[str] = Field(default_factory=list)


class ProgramPart(_Part):
    """``spec``: the arguments of ``create_program``, those of its model without literal secrets.
    ``signature``: in one line, for listings. ``state``:
    what it has learned or was loaded with, as DSPy dumps it."""

    spec: CreateProgramArgs
    signature: str
    created_at: str
    state: dict[str, Any] | None = None
    secret_fields: list[str] = Field(default_factory=list)


class _CursorPart(_Part):
    cursor: int = Field(ge=0)


def program_ids(names: Iterable[str]) -> list[str]:
    """Which programs these parts hold, in the order they were made."""
    return [name[len(PROGRAM_PREFIX) :] for name in names if name.startswith(PROGRAM_PREFIX)]


def add_tally(total: bytes, share: bytes) -> bytes:
    """How two reports of executions become one."""
    executions, last, usage = jsonlib.loads(total)
    more, later, used = jsonlib.loads(share)
    return compact.dumps([executions + more, max(last, later), add_usage(usage, used)])


def add_usage(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Token counts by model, added up; details that are no numbers are left out."""
    total = {model: dict(counts) for model, counts in one.items()}
    for model, counts in other.items():
        sums = total.setdefault(model, {})
        for kind, count in counts.items():
            if isinstance(count, (int, float)):
                sums[kind] = sums.get(kind, 0) + count
    return total


def missing_secrets(parts: Mapping[str, bytes]) -> list[str]:
    """What a session of these parts needs before its models can be called, as ``lm.api_key``."""
    missing = []
    for name, value in parts.items():
        if name == LM:
            held = jsonlib.loads(parts.get(LM_SECRETS, b"{}"))
            missing += [f"lm.{field}" for field in jsonlib.loads(value).get("secret_fields", ()) if field not in held]
        elif name.startswith((NAMED_LM_PREFIX, EMBEDDER_PREFIX)):
            held = jsonlib.loads(parts.get(f"!{name}", b"{}"))
            missing += [
                f"{name}.{field}" for field in jsonlib.loads(value).get("secret_fields", ()) if field not in held
            ]
        elif name.startswith(PROGRAM_PREFIX):
            program = name[len(PROGRAM_PREFIX) :]
            held = jsonlib.loads(parts.get(PROGRAM_SECRETS_PREFIX + program, b"{}"))
            fields = jsonlib.loads(value).get("secret_fields", ())
            missing += [f"programs.{program}.lm.{field}" for field in fields if field not in held]
    return missing


def _tally(value: Any, where: str) -> None:
    shape = (int, str, dict)
    if not (isinstance(value, list) and tuple(map(type, value)) == shape and _are_counts(value[2])):
        raise BridgeError("invalid_args", f"{where}: a tally is an integer, a time and token counts by model")


def _are_counts(usage: dict[str, Any]) -> bool:
    return all(
        isinstance(counts, dict) and all(isinstance(count, (int, float)) for count in counts.values())
        for counts in usage.values()
    )


def _version(value: Any, where: str) -> None:
    if type(value) is not int or value < 0:
        raise BridgeError("invalid_args", f"{where}: must be an integer of at least 0")


def _types(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise BridgeError("invalid_args", f"{where}: must be an object")
    validate(DefineTypesArgs, {"types": value}, where=where)


def _model(shape: type[BaseModel]) -> Callable[[Any, str], None]:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BridgeError("invalid_args", f"{where}: must be an object")
        validate(shape, value, where=where)

    return check


_EXACT: Final = {
    LM: _model(LMPart),
    LM_CURSOR: _model(_CursorPart),
    SETTINGS: _model(SettingsArgs),
    SETTINGS_VERSION: _version,
    TYPES: _types,
}
_PREFIXED: Final = {
    PROGRAM_PREFIX: _model(ProgramPart),
    NAMED_LM_PREFIX: _model(LMPart),
    EMBEDDER_PREFIX: _model(EmbedderPart),
    PROGRAM_TALLY_PREFIX: _tally,
    VARIABLE_PREFIX: lambda _value, _where: None,
    ADAPTER_PREFIX: lambda _value, _where: None,
}


def check_part(name: str, value: Any) -> None:
    """Whether ``value`` can be the part of that name. Raises ``invalid_args``."""
    where = f"args.document.parts.{name[:200]}"
    check = _EXACT.get(name)
    if check is None:
        check = next((one for prefix, one in _PREFIXED.items() if name.startswith(prefix) and name != prefix), None)
    if check is None:
        raise BridgeError("invalid_args", f"{where}: no session has such a part")
    check(value, where)
