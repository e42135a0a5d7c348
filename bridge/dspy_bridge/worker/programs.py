"""The kinds of programs a host can make, one row each, and one program as a session holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy

from dspy_bridge.protocol.commands import CreateProgramArgs
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.models import Model
from dspy_bridge.worker.signatures import BoundSignature, build_signature

Build = Callable[[type[dspy.Signature], Mapping[str, Any]], dspy.Module]


@dataclass(frozen=True, slots=True)
class ProgramType:
    """``build(signature, options)`` makes the module; ``reserved``: options a host may not set."""

    name: str
    build: Build
    reserved: frozenset[str] = frozenset({"signature", "callbacks", "lm", "demos"})


PROGRAM_TYPES: Final[Mapping[str, ProgramType]] = {
    row.name: row
    for row in (
        ProgramType("predict", lambda signature, options: dspy.Predict(signature, **options)),
        ProgramType(
            "chain_of_thought",
            lambda signature, options: dspy.ChainOfThought(signature, **options),
            frozenset({"signature", "callbacks", "lm", "demos", "rationale_field", "rationale_field_type"}),
        ),
    )
}


@dataclass(slots=True)
class Program:
    """``spec`` is what the host asked for, enough to build it again; times are RFC 3339."""

    id: str
    spec: dict[str, Any]
    program_type: str
    signature: BoundSignature
    module: dspy.Module
    created_at: str
    model: Model | None = None
    """One of its own, where it has one."""

    def describe(self, executions: int, last: str | None) -> dict[str, Any]:
        """A row of ``list_programs``."""
        return {
            "id": self.id,
            "program_type": self.program_type,
            "signature": self.signature.text,
            "created_at": self.created_at,
            "execution_count": executions,
            "last_executed": last,
        }


def build_module(args: CreateProgramArgs) -> tuple[BoundSignature, dspy.Module]:
    """The signature and module ``args`` ask for. Raises ``invalid_args``."""
    kind = PROGRAM_TYPES[args.program_type]
    refused = sorted(kind.reserved & args.options.keys())
    if refused:
        errors = [{"path": f"args.options.{name}", "reason": "cannot be set here"} for name in refused]
        raise BridgeError("invalid_args", f"args.options.{refused[0]} cannot be set here", details={"errors": errors})
    bound = build_signature(args.signature)
    try:
        return bound, kind.build(bound.signature, args.options)
    except (TypeError, ValueError) as exc:
        errors = [{"path": "args.options", "reason": str(exc)}]
        raise BridgeError("invalid_args", f"args.options: {exc}", details={"errors": errors}) from None
