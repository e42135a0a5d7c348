"""The kinds of programs a host can make, one row each.

A row says how its DSPy module is made, which of the module's own options a host may set (checked
against the constructor, so that a wrong name is an error and not silently a model option), and what it
needs. Rows that are made of other programs name them by id.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import dspy
from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.embedder_config import DEFAULT_NAME
from dspy_bridge.protocol.lm_config import NAME_PATTERN
from dspy_bridge.protocol.session_commands import CreateProgramArgs
from dspy_bridge.worker import compositions, retrieval
from dspy_bridge.worker.examples import make_examples
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.mcp_tools import McpServers
from dspy_bridge.worker.metrics import Metric, as_dspy
from dspy_bridge.worker.signatures import BoundSignature
from dspy_bridge.worker.tools import build_tools
from dspy_bridge.worker.types import bad

if TYPE_CHECKING:
    from dspy_bridge.worker.programs import Program


class Workshop(Protocol):
    """What making a program may need of its session."""

    host: Host
    mcp: McpServers
    allow_imports: list[str]
    allow_local_interpreter: bool

    def program(self, program_id: str) -> Program:
        """Another program of the session. Raises ``program_not_found``."""

    def named_model(self, name: str) -> dspy.BaseLM:
        """A model the session has named. Raises ``lm_not_configured``."""

    def metric(self, spec: Any) -> Metric:
        """A metric or reward. Raises ``invalid_args``."""

    def embedder(self, name: str) -> dspy.Embedder:
        """One of the session's. Raises ``lm_not_configured``."""

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


class _VectorOptions(_Options):
    k: int = Field(5, ge=1, le=1000)
    embedder: str = Field(DEFAULT_NAME, pattern=NAME_PATTERN)


class _RetrieveOptions(_VectorOptions):
    corpus: list[str] | list[dict[str, Any]] = Field(min_length=1)
    text: str | list[str] = Field(default_factory=list, description="Which fields of an object are embedded.")
    normalize: bool = True


class _NearestOptions(_VectorOptions):
    program: str
    examples: list[dict[str, Any]] = Field(min_length=1)
    metric: Any = None
    metric_threshold: float | None = None
    max_bootstrapped_demos: int = Field(4, ge=0)
    max_labeled_demos: int = Field(16, ge=0)
    max_rounds: int = Field(1, ge=1)


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
        tools = [*build_tools(self.args.tools, self.workshop.host), *self.workshop.mcp.tools(self.args.mcp)]
        names = [tool.name for tool in tools]
        for name in names:
            if names.count(name) > 1:
                raise bad("args.tools", f"there are two tools {name!r}; an MCP server's can be given a prefix")
        return tools


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
    rows: str | None = None
    """Its option that holds rows, which may come from a file."""
    signs: Callable[[Any], Mapping[str, Any]] | None = None
    """The signature it has, from its options."""
    indexed: bool = False
    """What it has learned when it is made is an index."""


_DEMO_COUNTS: Final = {"max_bootstrapped_demos", "max_labeled_demos"}
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
        return kind(
            module=inner.module.deepcopy(),
            N=options.N,
            reward_fn=reward,
            threshold=options.threshold,
            fail_count=options.fail_count,
        )

    return ProgramType(name, make, options=_SearchOptions, inherits="program", of_others=True)


def _index(making: Making, texts: list[str]) -> retrieval.Index:
    name = making.options.embedder
    making.workshop.embedder(name)  # an error now rather than at the first use
    return retrieval.Index(texts, lambda: making.workshop.embedder(name))


def _make_retriever(making: Making) -> dspy.Module:
    options: _RetrieveOptions = making.options
    fields = [options.text] if isinstance(options.text, str) else options.text
    corpus: list[Any] = list(options.corpus)
    texts = [retrieval.text_of(item, fields, f"args.options.corpus[{at}]") for at, item in enumerate(corpus)]
    return retrieval.Retriever(corpus, _index(making, texts), options.k, options.normalize)


def _signature_of_retriever(options: _RetrieveOptions) -> Mapping[str, Any]:
    passages = "list[str]" if isinstance(options.corpus[0], str) else "list[dict[str, Any]]"
    return {
        "name": "Retrieve",
        "inputs": [{"name": "query", "type": "str"}, {"name": "k", "type": "int", "default": options.k}],
        "outputs": [
            {"name": "passages", "type": passages},
            {"name": "indices", "type": "list[int]"},
            {"name": "scores", "type": "list[float]"},
        ],
    }


def _make_nearest(making: Making) -> dspy.Module:
    options: _NearestOptions = making.options
    student = making.workshop.program(options.program)
    examples = make_examples(student.signature, options.examples, "args.options.examples")
    bootstrap = options.model_dump(include={"metric_threshold", "max_rounds"} | _DEMO_COUNTS)
    if options.metric is not None:
        bootstrap["metric"] = as_dspy(making.workshop.metric(options.metric), student.signature)
    texts = [retrieval.text_of_inputs(example) for example in examples]
    return retrieval.NearestFewShot(student.module.deepcopy(), examples, _index(making, texts), options.k, bootstrap)


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
        _coder("flex", dspy.Flex, takes_tools=True),
        ProgramType(
            "retrieve",
            _make_retriever,
            options=_RetrieveOptions,
            rows="corpus",
            signs=_signature_of_retriever,
            indexed=True,
        ),
        ProgramType(
            "knn_few_shot",
            _make_nearest,
            options=_NearestOptions,
            inherits="program",
            of_others=True,
            rows="examples",
            indexed=True,
        ),
        ProgramType("custom", _make_custom, options=_CustomOptions),
    )
}


def check_options(kind: ProgramType, given: dict[str, Any]) -> Any:
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
