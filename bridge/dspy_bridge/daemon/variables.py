"""Session variables: small JSON values the daemon holds for a session's host and programs.

They are parts of the session's snapshot, so they outlive any interpreter; and they are read and
changed here, between two turns of the daemon's one loop, so every operation is atomic and is answered
while the session's interpreters are busy.
"""

from __future__ import annotations

from typing import Any

import orjson

from dspy_bridge.protocol.commands import GetStateArgs, SetStateArgs, UpdateStateArgs
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import VARIABLE_PREFIX
from session_supervisor.session import Session
from session_supervisor.snapshot import Snapshot


def get_state(session: Session, args: GetStateArgs) -> dict[str, Any]:
    """``{"key", "value", "found"}``."""
    found, value = _read(session.snapshot, args.key)
    return {"key": args.key, "value": value, "found": found}


def set_state(session: Session, args: SetStateArgs) -> dict[str, Any]:
    """``{"key", "version"}``; the version grows with every change of the session."""
    return {"key": args.key, "version": _write(session.snapshot, args.key, args.value)}


def update_state(session: Session, args: UpdateStateArgs) -> dict[str, Any]:
    """``{"key", "value", "version", "changed"}``: the value afterwards. Raises ``invalid_args``."""
    snapshot, key = session.snapshot, args.key
    found, value = _read(snapshot, key)
    changed = True
    if args.op == "incr":
        step = 1 if args.value is None else args.value
        value = 0 if value is None else value
        if not _is_number(value) or not _is_number(step):
            raise _misfit("incr adds a number to a number")
        value += step
    elif args.op == "append":
        if value is not None and not isinstance(value, list):
            raise _misfit("append adds an item to an array")
        value = [*(value or []), args.value]
    elif args.op == "compare_and_set":
        changed = value == args.expected
        value = args.value if changed else value
    else:
        changed, value = found, None
        snapshot.apply({VARIABLE_PREFIX + key: None})
        return {"key": key, "value": None, "version": snapshot.version, "changed": changed}
    version = _write(snapshot, key, value) if changed else snapshot.version
    return {"key": key, "value": value, "version": version, "changed": changed}


def _read(snapshot: Snapshot, key: str) -> tuple[bool, Any]:
    encoded = snapshot.get(VARIABLE_PREFIX + key)
    return (False, None) if encoded is None else (True, orjson.loads(encoded))


def _write(snapshot: Snapshot, key: str, value: Any) -> int:
    try:
        encoded = orjson.dumps(value)
    except TypeError:  # an integer that has grown beyond 64 bits
        raise _misfit("the value would be beyond 64 bits") from None
    snapshot.apply({VARIABLE_PREFIX + key: encoded})
    return snapshot.version


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _misfit(reason: str) -> BridgeError:
    errors = [{"path": "args.value", "reason": reason}]
    return BridgeError("invalid_args", f"args.value: {reason}", details={"errors": errors})
