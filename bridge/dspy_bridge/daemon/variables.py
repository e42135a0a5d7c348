"""Session variables: small JSON values the daemon holds for a session's host and programs.

They are parts of the session's snapshot, so they outlive any interpreter; and they are read and
changed here, between two turns of the daemon's one loop, so every operation is atomic and is answered
while the session's interpreters are busy. An operation gives what it changes, and how to answer once
that has been committed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dspy_bridge import jsonlib
from dspy_bridge.protocol import compact
from dspy_bridge.protocol.daemon_commands import GetStateArgs, SetStateArgs, UpdateStateArgs
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import VARIABLE_PREFIX
from session_supervisor.snapshot import Parts, Snapshot

Answer = Callable[[int], dict[str, Any]]
"""From the session's version to the command's result."""
Operation = Callable[[Snapshot, Any], tuple[Parts, Answer]]


def get_state(snapshot: Snapshot, args: GetStateArgs) -> tuple[Parts, Answer]:
    """``{"key", "value", "found"}``."""
    found, value = _read(snapshot, args.key)
    return {}, lambda _version: {"key": args.key, "value": value, "found": found}


def set_state(_snapshot: Snapshot, args: SetStateArgs) -> tuple[Parts, Answer]:
    """``{"key", "version"}``; the version grows with every change of the session."""
    return _change(args.key, args.value), lambda version: {"key": args.key, "version": version}


def update_state(snapshot: Snapshot, args: UpdateStateArgs) -> tuple[Parts, Answer]:
    """``{"key", "value", "version", "changed"}``: the value afterwards. Raises ``invalid_args``."""
    key = args.key
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
    parts: Parts = {}
    if changed:
        parts = {VARIABLE_PREFIX + key: None} if args.op == "delete" else _change(key, value)
    return parts, lambda version: {"key": key, "value": value, "version": version, "changed": changed}


def _read(snapshot: Snapshot, key: str) -> tuple[bool, Any]:
    encoded = snapshot.get(VARIABLE_PREFIX + key)
    return (False, None) if encoded is None else (True, jsonlib.loads(encoded))


def _change(key: str, value: Any) -> Parts:
    try:
        return {VARIABLE_PREFIX + key: compact.dumps(value)}
    except TypeError:  # an integer that has grown beyond 64 bits
        raise _misfit("the value would be beyond 64 bits") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _misfit(reason: str) -> BridgeError:
    errors = [{"path": "args.value", "reason": reason}]
    return BridgeError("invalid_args", f"args.value: {reason}", details={"errors": errors})
