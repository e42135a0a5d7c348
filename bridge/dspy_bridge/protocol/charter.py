"""What a session was started with: for its workers, for the disk, for an export.

A worker gets it whole, as its birth certificate. What is stored or exported is the *charter*: the same
without literal secrets (in ``lm``, and in ``env`` by the variable's name), which are named under
``missing`` so that whoever restores it knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from dspy_bridge import jsonlib
from dspy_bridge.protocol import compact
from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.daemon_commands import StartSessionArgs
from dspy_bridge.protocol.secrets import split_secrets
from session_supervisor.limits import Limits

_FOR_WORKERS: Final = ("env", "cwd", "lm", "settings", "threads", "adapter", "adapter_args", "thread_safety_check")
"""What a worker is told of the arguments of ``start_session``; the rest concerns the daemon."""


class _Missing(BaseModel):
    model_config = ConfigDict(strict=True)

    fields: dict[Literal["env", "lm"], list[str]]


def charter_of(args: StartSessionArgs) -> bytes:
    """The charter of a session started with ``args``."""
    given = args.model_dump(exclude={"session_id"}, exclude_unset=True)
    missing: dict[str, list[str]] = {}
    for name in ("env", "lm"):
        if given.get(name):
            given[name], secret = split_secrets(given[name])
            if secret:
                missing[name] = sorted(secret)
    return compact.dumps({**given, "missing": missing} if missing else given)


def read_charter(charter: bytes) -> tuple[StartSessionArgs, dict[str, list[str]]]:
    """The arguments a session is opened with again, and what they lack. Raises ``invalid_args``."""
    stored = jsonlib.loads(charter or b"{}")
    missing: _Missing = validate(_Missing, {"fields": stored.pop("missing", {})}, where="charter.missing")
    args: StartSessionArgs = validate(StartSessionArgs, stored, where="charter")
    return args, {str(name): fields for name, fields in missing.fields.items()}


def birth_certificate(
    session_id: str,
    scratch: Path,
    args: StartSessionArgs,
    limits: Limits,
    missing: Mapping[str, list[str]],
    of_daemon: Mapping[str, Any],
) -> bytes:
    """What every worker of the session is assigned with. ``of_daemon``: what holds for all of them."""
    given = args.model_dump(include=set(_FOR_WORKERS), exclude_unset=True)
    birth: dict[str, Any] = {**given, **of_daemon, "session_id": session_id, "scratch": str(scratch)}
    if limits != Limits():
        birth["limits"] = asdict(limits)
    if missing:
        birth["missing"] = missing
    return compact.dumps(birth)


def reborn(birth: bytes, session_id: str, scratch: Path) -> bytes:
    """The certificate of one session made into that of a branch of it."""
    return compact.dumps({**jsonlib.loads(birth), "session_id": session_id, "scratch": str(scratch)})


def revised(birth: bytes, args: StartSessionArgs, limits: Limits, of_daemon: Mapping[str, Any]) -> bytes:
    """The certificate of a session made anew from its charter's ``args``, under other options of its daemon."""
    before = jsonlib.loads(birth)
    scratch, missing = Path(before["scratch"]), before.get("missing", {})
    made = jsonlib.loads(birth_certificate(before["session_id"], scratch, args, limits, missing, of_daemon))
    # The charter is without the literal secrets that stand in these.
    return compact.dumps({**made, **{name: before[name] for name in ("env", "lm") if name in before}})
