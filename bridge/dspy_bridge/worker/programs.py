"""One program as a session holds it, and how it is made from what its host has asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import dspy

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.session_commands import CreateProgramArgs
from dspy_bridge.worker.adapters import make_adapter
from dspy_bridge.worker.models import Model
from dspy_bridge.worker.program_types import PROGRAM_TYPES, Making, Workshop, check_options
from dspy_bridge.worker.saving import dump_state, load_state
from dspy_bridge.worker.signatures import BoundSignature, build_signature
from dspy_bridge.worker.types import bad

REQUEST_CONFIG: Final = "bridge_request_config"
"""In DSPy's context, which is all that DSPy's own threads inherit: the ``settings`` and ``options`` (of models)
the request under way has changed."""


def with_options(lm: dspy.BaseLM, options: Mapping[str, Any]) -> dspy.BaseLM:
    """``lm`` as a request wants it. Raises ``invalid_args``."""
    if not options:
        return lm
    try:
        return lm.copy(**options)
    except (TypeError, ValueError) as exc:
        raise BridgeError("invalid_args", f"args.config: {exc}") from None


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
    """Its own where it has one, or that of the program it is made of."""
    adapter: dspy.Adapter | None = None
    """Likewise."""

    def state_at_birth(self) -> dict[str, Any] | None:
        """What it knows before it has been compiled, if that is worth keeping. May call an embedder."""
        if not PROGRAM_TYPES[self.program_type].indexed:
            return None
        self.module.index.vectors()
        return dump_state(self.module)

    def call(self, **inputs: Any) -> dspy.Prediction:
        """Run it as a part of something else, with a model and adapter of its own where it has them; what the
        request changes of either holds for them too."""
        own: dict[str, Any] = {}
        changed = dspy.settings.get(REQUEST_CONFIG) or {}
        if self.model is not None:
            own["lm"] = with_options(self.model.usable(), changed.get("options", {}))
        if self.adapter is not None and "adapter" not in changed.get("settings", {}):
            own["adapter"] = self.adapter
        with dspy.context(**own):
            return self.module(**inputs)


def build_program(
    program_id: str,
    spec: dict[str, Any],
    created_at: str,
    model: Model | None,
    workshop: Workshop,
    state: dict[str, Any] | None = None,
) -> Program:
    """The program ``spec`` describes, with what it has learned. Raises ``invalid_args``,
    ``program_not_found``, ``unsupported``."""
    args: CreateProgramArgs = validate(CreateProgramArgs, spec)
    signature, module = build_module(args, workshop)
    kind = PROGRAM_TYPES[args.program_type]
    of = args.options.get(kind.inherits) if kind.inherits is not None else None
    inner = workshop.program(of) if isinstance(of, str) else None
    if state is not None:
        load_state(module, state, where="state")
    adapter = make_adapter(args.adapter, workshop.named_model) if args.adapter is not None else None
    if inner is not None:
        model, adapter = model or inner.model, adapter or inner.adapter
    return Program(program_id, spec, args.program_type, signature, module, created_at, model, adapter)


def build_module(args: CreateProgramArgs, workshop: Workshop) -> tuple[BoundSignature, dspy.Module]:
    """The signature and module ``args`` ask for. Raises as :func:`build_program` does."""
    kind = PROGRAM_TYPES[args.program_type]
    if (args.tools or args.mcp) and not kind.takes_tools:
        raise bad("args.tools", f"a {kind.name} program uses no tools")
    if kind.interpreter and not workshop.allow_local_interpreter and shutil.which("deno") is None:
        message = (
            f"a {kind.name} program runs code, which needs Deno (https://deno.com) on the daemon's PATH, or "
            "--allow-local-interpreter, which runs it unprotected in the session's own account"
        )
        raise BridgeError("unsupported", message)
    options = check_options(kind, args.options)
    signature = None
    if kind.inherits is not None:
        if args.signature is not None:
            raise bad("args.signature", f"a {kind.name} program has that of the program it is made of")
        named = getattr(options, kind.inherits)
        signature = workshop.program(named if isinstance(named, str) else named[0]).signature
    elif kind.signs is not None:
        if args.signature is not None:
            raise bad("args.signature", f"a {kind.name} program has one of its own")
        signature = build_signature(kind.signs(options))
    elif args.signature is None:
        raise bad("args.signature", "is required")
    else:
        signature = build_signature(args.signature, named=workshop.named_types())
    try:
        module = kind.make(Making(args, workshop, signature, options))
    except (TypeError, ValueError) as exc:
        raise bad("args.options", str(exc)) from None
    if args.demos:
        demos = [dspy.Example(**demo) for demo in args.demos]
        for predictor in module.predictors():
            predictor.demos = list(demos)
    return signature, module
