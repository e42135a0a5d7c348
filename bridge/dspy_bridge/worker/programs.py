"""The kinds of programs a host can make, one row each, and one program as a session holds it.

A row says how its DSPy module is made, which of the module's own options a host may set (checked
against the constructor, so that a wrong name is an error and not silently a model option), and what it
needs. Rows that are made of other programs name them by id.
"""

from __future__ import annotations

import difflib
import inspect
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import dspy
from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.session_commands import CreateProgramArgs
from dspy_bridge.worker import compositions
from dspy_bridge.worker.adapters import make_adapter
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.metrics import Metric
from dspy_bridge.worker.models import Model
from dspy_bridge.worker.saving import load_state
from dspy_bridge.worker.signatures import BoundSignature, build_signature
from dspy_bridge.worker.tools import build_tools
from dspy_bridge.worker.types import bad


class Workshop(Protocol):
    """What making a program may need of its session."""

    host: Host
    allow_imports: list[str]
    allow_local_interpreter: bool

    def program(self, program_id: str) -> Program:
        """Another program of the session. Raises ``program_not_found``."""

    def named_model(self, name: str) -> dspy.BaseLM:
        """A model the session has named. Raises ``lm_not_configured``."""

    def metric(self, spec: Any) -> Metric:
        """A metric or reward. Raises ``invalid_args``."""

    def named_types(self) -> Mapping[str, Any]:
        """Types the session has given names."""


class _Options(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _SearchOptions(_Options):
    """``best_of_n`` and ``refine``."""

    program: str
    N: int = Field(ge=1, le=100)
    reward: Any
    threshold: float = 1.0
    fail_count: int | None = None


class _EnsembleOptions(_Options):
    programs: list[str] = Field(min_length=1)
    vote: str | None = Field(None, description="Output field whose most frequent value decides.")


class _PipelineOptions(_Options):
    steps: list[compositions.Step] = Field(min_length=1)


class _CustomOptions(_Options):
    module: str = Field(pattern=r"^[\w.]+:\w+$")
    args: dict[str, Any] = Field(default_factory=dict)


class _ComparisonOptions(_Options):
    M: int = Field(3, ge=2, le=50)
    temperature: float = 0.7


@dataclass(frozen=True, slots=True)
class Making:
    """One program being made."""

    args: CreateProgramArgs
    workshop: Workshop
    signature: BoundSignature | None
    options: Any

    @property
    def dspy_signature(self) -> type[dspy.Signature]:
        assert self.signature is not None
        return self.signature.signature

    def tools(self) -> list[dspy.Tool]:
        return build_tools(self.args.tools, self.workshop.host)


@dataclass(frozen=True, slots=True)
class ProgramType:
    """``make(making)`` makes the module. Options are those of ``constructor`` but for ``reserved``, or
    those of the model ``options``. ``inherits``: the option that names the program whose signature it has."""

    name: str
    make: Callable[[Making], dspy.Module]
    constructor: type[dspy.Module] | None = None
    options: type[_Options] | None = None
    reserved: frozenset[str] = frozenset()
    takes_tools: bool = False
    inherits: str | None = None
    interpreter: bool = False
    of_others: bool = False
    """It is made of other programs of the session."""


_RESERVED: Final = frozenset({"self", "signature", "callbacks", "lm", "demos", "tools", "config"})


def _plain(name: str, kind: type[dspy.Module], *reserved: str) -> ProgramType:
    def make(making: Making) -> dspy.Module:
        return kind(making.dspy_signature, **making.options)

    return ProgramType(name, make, kind, reserved=frozenset(reserved))


def _agent(name: str, kind: type[dspy.Module]) -> ProgramType:
    def make(making: Making) -> dspy.Module:
        return kind(making.dspy_signature, tools=making.tools(), **making.options)

    return ProgramType(name, make, kind, takes_tools=True)


def _coder(name: str, kind: type[dspy.Module], *, takes_tools: bool = False) -> ProgramType:
    def make(making: Making) -> dspy.Module:
        given = dict(making.options)
        if takes_tools:
            given["tools"] = making.tools()
        if making.workshop.allow_local_interpreter:
            from dspy.primitives.local_interpreter import LocalInterpreter

            given["interpreter_factory"] = LocalInterpreter
        return kind(making.dspy_signature, **given)

    reserved = frozenset({"interpreter_factory", "sub_lm"})
    return ProgramType(name, make, kind, reserved=reserved, takes_tools=takes_tools, interpreter=True)


def _search(name: str, kind: type[dspy.Module]) -> ProgramType:
    def make(making: Making) -> dspy.Module:
        options: _SearchOptions = making.options
        inner = making.workshop.program(options.program)
        reward = compositions.make_reward(making.workshop.metric(options.reward), inner.signature)
        module = inner.module.deepcopy()
        if inner.model is not None:
            module.set_lm(inner.model.usable())
        return kind(
            module=module,
            N=options.N,
            reward_fn=reward,
            threshold=options.threshold,
            fail_count=options.fail_count,
        )

    return ProgramType(name, make, options=_SearchOptions, inherits="program", of_others=True)


def _make_comparison(making: Making) -> dspy.Module:
    return compositions.Comparison(making.dspy_signature, making.options.M, making.options.temperature)


def _make_ensemble(making: Making) -> dspy.Module:
    members = [making.workshop.program(name) for name in making.options.programs]
    return compositions.Ensemble(members, making.options.vote)


def _make_pipeline(making: Making) -> dspy.Module:
    assert making.signature is not None
    return compositions.Pipeline(making.options.steps, making.workshop.program, making.signature)


def _make_custom(making: Making) -> dspy.Module:
    made = compositions.import_allowed(making.options.module, making.workshop.allow_imports)
    module = made(**making.options.args)
    if not isinstance(module, dspy.Module):
        raise bad("args.options.module", "is no dspy.Module")
    return module


PROGRAM_TYPES: Final[Mapping[str, ProgramType]] = {
    row.name: row
    for row in (
        _plain("predict", dspy.Predict),
        _plain("chain_of_thought", dspy.ChainOfThought, "rationale_field", "rationale_field_type"),
        _agent("react", dspy.ReAct),
        _agent("react_v2", dspy.ReActV2),
        ProgramType("multi_chain_comparison", _make_comparison, options=_ComparisonOptions),
        _search("best_of_n", dspy.BestOfN),
        _search("refine", dspy.Refine),
        ProgramType("ensemble", _make_ensemble, options=_EnsembleOptions, inherits="programs", of_others=True),
        ProgramType("pipeline", _make_pipeline, options=_PipelineOptions, of_others=True),
        _coder("program_of_thought", dspy.ProgramOfThought),
        _coder("code_act", dspy.CodeAct),
        _coder("rlm", dspy.RLM, takes_tools=True),
        ProgramType("custom", _make_custom, options=_CustomOptions),
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
    adapter: dspy.Adapter | None = None

    def call(self, **inputs: Any) -> dspy.Prediction:
        """Run it as a part of something else, with a model and adapter of its own where it has them."""
        own: dict[str, Any] = {}
        if self.model is not None:
            own["lm"] = self.model.usable()
        if self.adapter is not None:
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
    if state is not None:
        load_state(module, state, where="state")
    adapter = make_adapter(args.adapter, workshop.named_model) if args.adapter is not None else None
    return Program(program_id, spec, args.program_type, signature, module, created_at, model, adapter)


def build_module(args: CreateProgramArgs, workshop: Workshop) -> tuple[BoundSignature, dspy.Module]:
    """The signature and module ``args`` ask for. Raises as :func:`build_program` does."""
    kind = PROGRAM_TYPES[args.program_type]
    if args.tools and not kind.takes_tools:
        raise bad("args.tools", f"a {kind.name} program uses no tools")
    if kind.interpreter and not workshop.allow_local_interpreter and shutil.which("deno") is None:
        message = (
            f"a {kind.name} program runs code, which needs Deno (https://deno.com) on the daemon's PATH, or "
            "--allow-local-interpreter, which runs it unprotected in the session's own account"
        )
        raise BridgeError("unsupported", message)
    options = _check_options(kind, args.options)
    signature = None
    if kind.inherits is not None:
        if args.signature is not None:
            raise bad("args.signature", f"a {kind.name} program has that of the program it is made of")
        named = getattr(options, kind.inherits)
        signature = workshop.program(named if isinstance(named, str) else named[0]).signature
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


def _check_options(kind: ProgramType, given: dict[str, Any]) -> Any:
    if kind.options is not None:
        return validate(kind.options, given, where="args.options")
    if not given:  # by far the most common, and the constructor is slow to be asked
        return given
    assert kind.constructor is not None
    parameters = inspect.signature(kind.constructor.__init__).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    allowed = set(parameters) - _RESERVED - kind.reserved
    for name in given:
        if name in _RESERVED | kind.reserved:
            raise bad(f"args.options.{name}", "cannot be set here")
        if name not in allowed and not open_ended:
            near = difflib.get_close_matches(name[:100], allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise bad(f"args.options.{name}", f"a {kind.name} program has no such option{hint}")
    return given


def options_schema(kind: ProgramType) -> dict[str, Any]:
    """JSON Schema of a type's options, from its model or from DSPy's constructor."""
    if kind.options is not None:
        return kind.options.model_json_schema()
    assert kind.constructor is not None
    parameters = inspect.signature(kind.constructor.__init__).parameters.values()
    properties = {
        one.name: {} if one.default is inspect.Parameter.empty else {"default": one.default}
        for one in parameters
        if one.kind is not inspect.Parameter.VAR_KEYWORD and one.name not in _RESERVED | kind.reserved
    }
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    return {"type": "object", "properties": properties, "additionalProperties": open_ended}
