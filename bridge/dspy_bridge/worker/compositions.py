"""Programs made of other programs, and of the operator's own Python."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import dspy
from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.types import bad

if TYPE_CHECKING:
    from dspy_bridge.worker.metrics import Metric
    from dspy_bridge.worker.programs import Program
    from dspy_bridge.worker.signatures import BoundSignature


class Step(BaseModel):
    """One step of a pipeline. ``inputs``: where each input of its program comes from, as ``input.name`` or
    ``step.name``; what is left out is taken from the pipeline's input of that name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    program: str
    name: str | None = None
    inputs: dict[str, str] = Field(default_factory=dict)


Resolve: TypeAlias = "Callable[[str], Program]"


class Pipeline(dspy.Module):  # type: ignore[misc]
    """Steps in order. Its outputs are taken from the last step that has one of that name."""

    def __init__(self, steps: Sequence[Step], resolve: Resolve, signature: BoundSignature) -> None:
        super().__init__()
        programs = [resolve(step.program) for step in steps]
        self.modules = [program.module for program in programs]  # where DSPy looks for predictors
        self._steps = list(steps)
        self._programs = programs
        self._signature = signature
        self._check()

    def _check(self) -> None:
        known = {f"input.{name}" for name in self._signature.inputs}
        for index, (step, program) in enumerate(zip(self._steps, self._programs, strict=True)):
            where = f"args.options.steps[{index}]"
            for name in step.inputs:
                if name not in program.signature.inputs:
                    raise bad(f"{where}.inputs.{name}", f"program {program.id!r} has no such input")
            for name, field in program.signature.inputs.items():
                source = step.inputs.get(name, f"input.{name}")
                if source not in known and field.required:
                    raise bad(f"{where}.inputs.{name}", f"there is no {source!r} at this step")
            known |= {f"{self._name(index)}.{name}" for name in program.signature.outputs}
        last = {name for program in self._programs for name in program.signature.outputs}
        for name in self._signature.outputs:
            if name not in last:
                raise bad("args.signature", f"no step has the output {name!r}")

    def _name(self, index: int) -> str:
        return self._steps[index].name or self._steps[index].program

    def forward(self, **inputs: Any) -> dspy.Prediction:
        python_names = {one.python_name: one.name for one in self._signature.inputs.values()}
        known = {f"input.{python_names[name]}": value for name, value in inputs.items()}
        outputs: dict[str, Any] = {}
        for index, (step, program) in enumerate(zip(self._steps, self._programs, strict=True)):
            given = {}
            for name, field in program.signature.inputs.items():
                source = step.inputs.get(name, f"input.{name}")
                if source in known:
                    given[field.python_name] = known[source]
            prediction = program.call(**given)
            for name, field in program.signature.outputs.items():
                outputs[name] = known[f"{self._name(index)}.{name}"] = prediction.get(field.python_name)
        wanted = self._signature.outputs.values()
        return dspy.Prediction(**{field.python_name: outputs[field.name] for field in wanted})


class Comparison(dspy.Module):  # type: ignore[misc]
    """``dspy.MultiChainComparison`` with the chains it compares: so many attempts, then the verdict."""

    def __init__(self, signature: type[dspy.Signature], attempts: int, temperature: float) -> None:
        super().__init__()
        self.attempt = dspy.ChainOfThought(signature)
        self.compare = dspy.MultiChainComparison(signature, M=attempts)
        self._attempts = attempts
        self._temperature = temperature

    def forward(self, **inputs: Any) -> dspy.Prediction:
        settings = {"temperature": self._temperature}
        completions = [
            self.attempt(**inputs, config={**settings, "rollout_id": index}) for index in range(self._attempts)
        ]
        return self.compare(completions, **inputs)


class Ensemble(dspy.Module):  # type: ignore[misc]
    """Several programs of one signature; the value most of them give to ``vote`` decides."""

    def __init__(self, programs: Sequence[Program], vote: str | None) -> None:
        super().__init__()
        self.modules = [program.module for program in programs]  # where DSPy looks for predictors
        self._programs = list(programs)
        self._vote = vote

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return dspy.majority([program.call(**inputs) for program in self._programs], field=self._vote)


def make_reward(metric: Metric, signature: BoundSignature) -> Callable[[dict[str, Any], dspy.Prediction], float]:
    """A metric as BestOfN and Refine want it. A plain function: Refine reads its source."""

    def reward(args: dict[str, Any], pred: dspy.Prediction) -> float:
        """How good a prediction is, as the session's host judges."""
        return metric(dspy.Example(**args).with_inputs(*args), pred, signature).score

    return reward


def import_allowed(reference: str, allowed: Sequence[str], where: str = "args.options.module") -> Any:
    """The object ``pkg.mod:name`` names. Raises ``unsupported`` unless the operator allows its package,
    ``invalid_args`` where there is no such thing."""
    module, _, name = reference.partition(":")
    if not any(module == one or module.startswith(f"{one}.") for one in allowed):
        message = f"{module!r} may not be imported here; the daemon's operator allows packages by --allow-import"
        raise BridgeError("unsupported", message)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise bad(where, str(exc)) from None
