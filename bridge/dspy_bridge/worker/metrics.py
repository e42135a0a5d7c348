"""How good a prediction is: by a built-in rule, by the host, by a judging program, or by Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dspy
from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.compositions import import_allowed
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.types import bad
from dspy_bridge.worker.values import to_json

if TYPE_CHECKING:
    from dspy_bridge.worker.programs import Program
    from dspy_bridge.worker.signatures import BoundSignature


@dataclass(frozen=True, slots=True)
class Score:
    """``feedback``: in words, for optimisers that learn from them."""

    score: float
    feedback: str | None = None


Metric = Callable[[dspy.Example, dspy.Prediction, "BoundSignature"], Score]


class _Spec(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _BuiltIn(_Spec):
    name: str
    field: str | None = None


class _OfHost(_Spec):
    host: str
    timeout_ms: int = Field(120_000, ge=1)


class _OfProgram(_Spec):
    program: str
    field: str | None = None
    inputs: dict[str, str] = Field(default_factory=dict)


class _OfPython(_Spec):
    python: str = Field(pattern=r"^[\w.]+:\w+$")


def _exact(expected: str, found: str) -> float:
    return float(dspy.evaluate.EM(found, [expected]))


def _f1(expected: str, found: str) -> float:
    return float(dspy.evaluate.metrics.f1_score(found, expected))


def _contains(expected: str, found: str) -> float:
    return float(expected.casefold() in found.casefold())


BUILT_IN: Final[Mapping[str, Callable[[str, str], float]]] = {"exact_match": _exact, "f1": _f1, "contains": _contains}


def build_metric(
    spec: Any, host: Host, resolve: Callable[[str], Program], allowed: Sequence[str], where: str = "args.metric"
) -> Metric:
    """The metric a host names: ``"exact_match"`` (or ``{"name", "field"}``), ``{"host"}``, ``{"program"}``,
    ``{"python"}``. Raises ``invalid_args``."""
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, dict):
        raise bad(where, "a metric is a name or an object")
    if "host" in spec:
        return _host_metric(validate(_OfHost, spec, where=where), host)
    if "program" in spec:
        return _judge(validate(_OfProgram, spec, where=where), resolve, where)
    if "python" in spec:
        return _python_metric(import_allowed(validate(_OfPython, spec, where=where).python, allowed))
    return _built_in(validate(_BuiltIn, spec, where=where), where)


def _built_in(spec: _BuiltIn, where: str) -> Metric:
    rule = BUILT_IN.get(spec.name)
    if rule is None:
        raise bad(where, f"there is no metric {spec.name!r}; built in are {', '.join(BUILT_IN)}")

    def metric(example: dspy.Example, prediction: dspy.Prediction, signature: BoundSignature) -> Score:
        field = spec.field or next(iter(signature.outputs))
        name = signature.outputs[field].python_name if field in signature.outputs else field
        expected = example.get(name, example.get(field))
        if expected is None:
            raise BridgeError("invalid_args", f"an example has no {field!r} to compare with")
        return Score(rule(str(expected), str(prediction.get(name))))

    return metric


def _host_metric(spec: _OfHost, host: Host) -> Metric:
    def metric(example: dspy.Example, prediction: dspy.Prediction, signature: BoundSignature) -> Score:
        args = {"example": _plain(example, signature), "prediction": _plain(prediction, signature)}
        return read_score(host.ask("tool", spec.host, args, timeout=spec.timeout_ms / 1000), f"metric {spec.host!r}")

    return metric


def _judge(spec: _OfProgram, resolve: Callable[[str], Program], where: str) -> Metric:
    judge = resolve(spec.program)
    field = spec.field or next(iter(judge.signature.outputs))
    if field not in judge.signature.outputs:
        raise bad(f"{where}.field", f"program {spec.program!r} has no such output")

    def metric(example: dspy.Example, prediction: dspy.Prediction, signature: BoundSignature) -> Score:
        known = {f"example.{name}": value for name, value in _plain(example, signature).items()}
        known |= {f"prediction.{name}": value for name, value in _plain(prediction, signature).items()}
        given = {}
        for name in judge.signature.inputs:
            sources = [spec.inputs[name]] if name in spec.inputs else [f"prediction.{name}", f"example.{name}"]
            source = next((one for one in sources if one in known), None)
            if source is None:
                raise BridgeError("invalid_args", f"the judge's input {name!r} comes from nowhere")
            given[name] = known[source]
        verdict = judge.call(**judge.signature.decode_inputs(given, strict=False))
        return read_score(judge.signature.encode_outputs(verdict)[field], f"judge {spec.program!r}")

    return metric


def _python_metric(function: Callable[..., Any]) -> Metric:
    def metric(example: dspy.Example, prediction: dspy.Prediction, _signature: BoundSignature) -> Score:
        return read_score(function(example, prediction), f"metric {function!r}")

    return metric


def as_dspy(metric: Metric, signature: BoundSignature, *, feedback: bool = False) -> Callable[..., Any]:
    """The metric as DSPy's optimizers call it, with two to five arguments."""

    def judged(
        example: dspy.Example, pred: dspy.Prediction, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """As the session's host judges."""
        del trace, pred_name, pred_trace  # the host judges the outcome
        found = metric(example, pred, signature)
        if feedback:
            return dspy.Prediction(score=found.score, feedback=found.feedback or f"This scored {found.score:g}.")
        return found.score

    return judged


def read_score(value: Any, who: str) -> Score:
    """A number, a truth value, or ``{"score", "feedback"}``. Raises ``execution_error``."""
    feedback = None
    if isinstance(value, dspy.Prediction):
        value = value.toDict()
    if isinstance(value, dict) and "score" in value:
        feedback, value = value.get("feedback"), value["score"]
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if math.isnan(score):
        raise BridgeError("execution_error", f"{who} gave {value!r:.100}, which is no score")
    return Score(score, None if feedback is None else str(feedback))


def _plain(values: dspy.Example, signature: BoundSignature) -> dict[str, Any]:
    """An example or prediction as JSON, by the host's names."""
    names = signature.wire_names
    return {names.get(name, name): to_json(value, name) for name, value in values.items()}
