"""Compiling programs: DSPy's optimizers, with progress, and with the best so far kept at any moment.

The best candidate is known whenever an optimizer has evaluated one on the whole validation set. It is put
into the session's snapshot then and there, so that a cancel, a timeout or a crash loses only what came
after it.
"""

from __future__ import annotations

import importlib.util
import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dspy
from dspy.utils.callback import BaseCallback

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.metrics import Metric
from dspy_bridge.worker.saving import dump_state
from dspy_bridge.worker.signatures import BoundSignature
from dspy_bridge.worker.types import bad

_TELL_EVERY_S: Final = 0.5
_OURS: Final = frozenset({"self", "metric", "student", "trainset", "valset", "teacher", "num_threads"})
_OBJECTS: Final = frozenset(
    {
        *("prompt_model", "task_model", "teacher_settings", "reflection_lm", "instruction_proposer", "code_proposer"),
        *("component_selector", "gepa_kwargs", "use_wandb", "wandb_api_key", "wandb_init_kwargs", "use_mlflow"),
        *("log_dir", "optimizers", "optimizer_compile_args", "eval_kwargs", "kwargs", "_kwargs"),
    }
)
"""Arguments that take Python objects, or reach out of the session."""


@dataclass(frozen=True, slots=True)
class Optimizer:
    """``needs``: modules it cannot do without. ``prompt_model``: its argument for the model that writes
    prompts. ``defaults``: what it is given unless told otherwise."""

    name: str
    attribute: str
    needs: tuple[str, ...] = ()
    metric: bool = True
    validates: bool = False
    prompt_model: str | None = None
    defaults: tuple[tuple[str, Any], ...] = ()
    compile_defaults: tuple[tuple[str, Any], ...] = ()

    @property
    def kind(self) -> Any:
        return getattr(dspy, self.attribute)


OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    row.name: row
    for row in (
        Optimizer("labeled_few_shot", "LabeledFewShot", metric=False),
        Optimizer("bootstrap_few_shot", "BootstrapFewShot"),
        Optimizer("random_search", "BootstrapFewShotWithRandomSearch", validates=True),
        Optimizer("copro", "COPRO", prompt_model="prompt_model"),
        Optimizer("mipro_v2", "MIPROv2", ("optuna", "numpy"), validates=True, prompt_model="prompt_model"),
        Optimizer("gepa", "GEPA", validates=True, prompt_model="reflection_lm", defaults=(("auto", "light"),)),
        Optimizer("simba", "SIMBA", ("numpy",), prompt_model="prompt_model"),
        Optimizer("infer_rules", "InferRules", validates=True),
    )
}


def find_optimizer(name: str) -> Optimizer:
    """Raises ``invalid_args``; ``unsupported`` where something it needs is not installed."""
    row = OPTIMIZERS.get(name)
    if row is None:
        raise bad("args.optimizer", f"there is no optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
    absent = [module for module in row.needs if importlib.util.find_spec(module) is None]
    if absent:
        remedy = f"install {' and '.join(absent)} where the daemon runs (the extra dspy-bridge[optimizers] has them)"
        raise BridgeError("unsupported", f"the optimizer {name!r} needs {' and '.join(absent)}: {remedy}")
    return row


class Progress(BaseCallback):  # type: ignore[misc]
    """Tells the host how a compilation is coming along, and hands each better candidate to ``better``.

    Called from any of the optimizer's threads.
    """

    def __init__(self, host: Host, full: int, better: Callable[[dict[str, Any], float], None]) -> None:
        self.best: float | None = None
        self.evaluations = 0
        self.lm_calls = 0
        self._host = host
        self._full = full
        self._better = better
        self._lock = threading.Lock()
        self._candidates: dict[str, Any] = {}
        self._began = time.monotonic()
        self._told = 0.0

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        with self._lock:
            self.lm_calls += 1
            if time.monotonic() - self._told >= _TELL_EVERY_S:
                self._tell(None)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        devset = inputs.get("devset") or instance.devset
        if len(devset) == self._full:
            self._candidates[call_id] = inputs.get("program")

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        candidate = self._candidates.pop(call_id, None)
        if candidate is None or outputs is None:
            return
        with self._lock:
            self.evaluations += 1
            score = float(outputs.score)
            if self.best is None or score > self.best:
                self.best = score
                self._better(dump_state(candidate), score)
            self._tell(score)

    def _tell(self, score: float | None) -> None:
        self._told = time.monotonic()
        self._host.tell(
            "progress",
            {
                "evaluations": self.evaluations,
                "lm_calls": self.lm_calls,
                "score": score,
                "best": self.best,
                "elapsed_s": round(self._told - self._began, 3),
            },
        )


def compile_module(
    row: Optimizer,
    module: dspy.Module,
    *,
    trainset: Sequence[dspy.Example],
    valset: Sequence[dspy.Example] | None,
    metric: Metric | None,
    signature: BoundSignature,
    prompt_lm: dspy.BaseLM,
    options: Mapping[str, Any],
    compile_options: Mapping[str, Any],
) -> dspy.Module:
    """A compiled copy of ``module``. Raises ``invalid_args``, and whatever the optimizer raises."""
    if row.metric and metric is None:
        raise bad("args.metric", f"the optimizer {row.name!r} needs a metric")
    given = {**dict(row.defaults), **_checked(options, row.kind.__init__, "args.options")}
    if any(name in options for name in ("max_full_evals", "max_metric_calls")):
        given.pop("auto", None)
    if row.metric and metric is not None:
        given["metric"] = _as_dspy(metric, signature, row)
    if row.prompt_model is not None:
        given[row.prompt_model] = prompt_lm
    passed = {**dict(row.compile_defaults), **_checked(compile_options, row.kind.compile, "args.compile_options")}
    if valset is not None:
        if not row.validates:
            raise bad("args.valset", f"the optimizer {row.name!r} uses no validation set")
        passed["valset"] = list(valset)
    if row.name == "copro":
        passed["eval_kwargs"] = {"num_threads": 4, "display_progress": False}
    try:
        optimizer = row.kind(**given)
    except (TypeError, ValueError, AssertionError) as exc:
        raise bad("args.options", str(exc)) from None
    return optimizer.compile(module.deepcopy(), trainset=list(trainset), **passed)


def _checked(options: Mapping[str, Any], function: Any, where: str) -> dict[str, Any]:
    allowed = set(inspect.signature(function).parameters) - _OURS - _OBJECTS
    for name in options:
        if name not in allowed:
            raise bad(f"{where}.{name}", f"cannot be set; what can: {', '.join(sorted(allowed)) or 'nothing'}")
    return dict(options)


def _as_dspy(metric: Metric, signature: BoundSignature, row: Optimizer) -> Callable[..., Any]:
    """The metric as DSPy's optimizers call it, with two to five arguments."""

    def judged(
        example: dspy.Example, pred: dspy.Prediction, trace: Any = None, pred_name: Any = None, pred_trace: Any = None
    ) -> Any:
        """As the session's host judges."""
        del trace, pred_name, pred_trace  # the host judges the outcome
        found = metric(example, pred, signature)
        if row.name == "gepa":
            return dspy.Prediction(score=found.score, feedback=found.feedback or f"This scored {found.score:g}.")
        return found.score

    return judged
