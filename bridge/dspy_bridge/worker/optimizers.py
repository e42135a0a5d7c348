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
from pydantic import BaseModel, ConfigDict, Field

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.budgets import BUDGETS
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.metrics import Metric, Score, as_dspy
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
    prompts. ``defaults``: what it is given unless told otherwise. ``feedback``: it learns from words too.
    ``nests``: it is made of others. ``makes``: it makes a program of that type, which learns when it runs."""

    name: str
    attribute: str
    needs: tuple[str, ...] = ()
    metric: bool = True
    validates: bool = False
    prompt_model: str | None = None
    defaults: tuple[tuple[str, Any], ...] = ()
    compile_defaults: tuple[tuple[str, Any], ...] = ()
    feedback: bool = False
    nests: bool = False
    makes: str | None = None

    @property
    def kind(self) -> Any:
        return getattr(dspy, self.attribute)


OPTIMIZERS: Final[Mapping[str, Optimizer]] = {
    row.name: row
    for row in (
        Optimizer("labeled_few_shot", "LabeledFewShot", metric=False),
        Optimizer("bootstrap_few_shot", "BootstrapFewShot"),
        Optimizer("random_search", "BootstrapFewShotWithRandomSearch", validates=True),
        Optimizer(
            "bootstrap_few_shot_optuna",
            "BootstrapFewShotWithOptuna",
            ("optuna",),
            validates=True,
            compile_defaults=(("max_demos", 4),),
        ),
        Optimizer("knn_few_shot", "KNNFewShot", ("numpy",), metric=False, makes="knn_few_shot"),
        Optimizer(
            "copro",
            "COPRO",
            prompt_model="prompt_model",
            compile_defaults=(("eval_kwargs", {"num_threads": 4, "display_progress": False}),),
        ),
        Optimizer("mipro_v2", "MIPROv2", ("optuna", "numpy"), validates=True, prompt_model="prompt_model"),
        Optimizer(
            "gepa", "GEPA", validates=True, prompt_model="reflection_lm", defaults=(("auto", "light"),), feedback=True
        ),
        Optimizer("simba", "SIMBA", ("numpy",), prompt_model="prompt_model"),
        Optimizer("infer_rules", "InferRules", validates=True),
        Optimizer("better_together", "BetterTogether", validates=True, nests=True),
    )
}


_FINE_TUNING: Final = (
    "fine-tuning happens at a provider, with files and jobs that outlive any session; do it there, and name the "
    "tuned model with configure_lm"
)


def find_optimizer(name: str, where: str = "args.optimizer") -> Optimizer:
    """Raises ``invalid_args``; ``unsupported`` where something it needs is not installed."""
    if name == "bootstrap_finetune":
        raise BridgeError("unsupported", _FINE_TUNING)
    row = OPTIMIZERS.get(name)
    if row is None:
        raise bad(where, f"there is no optimizer {name!r}; there are {', '.join(OPTIMIZERS)}")
    absent = [module for module in row.needs if importlib.util.find_spec(module) is None]
    if absent:
        remedy = f"install {' and '.join(absent)} where the daemon runs (the extra dspy-bridge[optimizers] has them)"
        raise BridgeError("unsupported", f"the optimizer {name!r} needs {' and '.join(absent)}: {remedy}")
    return row


class Progress(BaseCallback):  # type: ignore[misc]
    """Tells the host how a compilation is coming along, and hands each better candidate to ``better``.

    Called from any of the optimizer's threads. ``budget``: how many predictions will be judged, roughly.
    """

    def __init__(self, host: Host, full: int, better: Callable[[dict[str, Any], float], None]) -> None:
        self.budget: int | None = None
        self.judged = 0
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

    def counted(self, metric: Metric) -> Metric:
        """``metric``, with each use of it counted."""

        def counting(example: dspy.Example, prediction: dspy.Prediction, signature: BoundSignature) -> Score:
            with self._lock:
                self.judged += 1
            return metric(example, prediction, signature)

        return counting

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

    def _rest(self, elapsed: float) -> float | None:
        """Seconds still to go at this pace; None if that cannot be told."""
        if not self.budget or not self.judged:
            return None
        return round(elapsed * max(0, self.budget - self.judged) / self.judged, 1)

    def _tell(self, score: float | None) -> None:
        self._told = time.monotonic()
        elapsed = self._told - self._began
        self._host.tell(
            "progress",
            {
                "evaluations": self.evaluations,
                "lm_calls": self.lm_calls,
                "score": score,
                "best": self.best,
                "elapsed_s": round(elapsed, 3),
                "metric_calls": self.judged,
                "estimated_rest_s": self._rest(elapsed),
            },
        )


@dataclass(frozen=True, slots=True)
class Task:
    """What an optimizer is to do, and with what."""

    module: dspy.Module
    signature: BoundSignature
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example] | None
    metric: Metric | None
    lm: dspy.BaseLM
    prompt_lm: dspy.BaseLM
    progress: Progress


def compile_module(
    row: Optimizer, task: Task, options: Mapping[str, Any], compile_options: Mapping[str, Any]
) -> dspy.Module:
    """A compiled copy of the task's module. Raises ``invalid_args``, and whatever the optimizer raises."""
    student = task.module.deepcopy()
    passed: dict[str, Any] = {}
    if row.nests:
        optimizer, passed = _nesting(row, task, options)
        student.set_lm(task.lm)  # it wants to know
    else:
        optimizer = _make(row, task, options, "args.options")
    passed |= _passed(row, compile_options, "args.compile_options")
    if task.valset is not None:
        if not row.validates:
            raise bad("args.valset", f"the optimizer {row.name!r} uses no validation set")
        passed["valset"] = list(task.valset)
    budget = BUDGETS.get(row.name)
    if budget is not None:
        sizes = len(task.trainset), len(task.trainset if task.valset is None else task.valset)
        task.progress.budget = budget(optimizer, passed, *sizes, len(student.predictors()))
    return optimizer.compile(student, trainset=list(task.trainset), **passed)


def _make(row: Optimizer, task: Task, options: Mapping[str, Any], where: str) -> Any:
    given = {**dict(row.defaults), **_checked(options, row.kind.__init__, where)}
    if any(name in options for name in ("max_full_evals", "max_metric_calls")):
        given.pop("auto", None)
    if row.metric:
        given["metric"] = _metric(row, task)
    if row.prompt_model is not None:
        given[row.prompt_model] = task.prompt_lm
    try:
        return row.kind(**given)
    except (TypeError, ValueError, AssertionError) as exc:
        raise bad(where, str(exc)) from None


def _metric(row: Optimizer, task: Task) -> Callable[..., Any]:
    if task.metric is None:
        raise bad("args.metric", f"the optimizer {row.name!r} needs a metric")
    return as_dspy(task.progress.counted(task.metric), task.signature, feedback=row.feedback)


def _passed(row: Optimizer, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {**dict(row.compile_defaults), **_checked(options, row.kind.compile, where)}


class _Part(BaseModel):
    """One of the optimizers another is made of."""

    model_config = ConfigDict(strict=True, extra="forbid")

    optimizer: str
    options: dict[str, Any] = Field(default_factory=dict)
    compile_options: dict[str, Any] = Field(default_factory=dict)


class _Nesting(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    optimizers: dict[str, _Part] = Field(min_length=1)


def _nesting(row: Optimizer, task: Task, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An optimizer made of others, and what those are given when they compile."""
    made: dict[str, Any] = {}
    passed: dict[str, Any] = {}
    nesting: _Nesting = validate(_Nesting, dict(options), where="args.options")
    for name, part in nesting.optimizers.items():
        where = f"args.options.optimizers.{name}"
        inner = find_optimizer(part.optimizer, f"{where}.optimizer")
        if inner.nests or inner.makes:
            raise bad(f"{where}.optimizer", f"{inner.name!r} cannot be a part of another")
        if not name.isidentifier() or name in _OURS:
            raise bad(where, "must be an identifier and none of the optimizer's own arguments")
        made[name] = _make(inner, task, part.options, f"{where}.options")
        passed[name] = _passed(inner, part.compile_options, f"{where}.compile_options")
    return row.kind(metric=_metric(row, task), **made), {"optimizer_compile_args": passed}


def _checked(options: Mapping[str, Any], function: Any, where: str) -> dict[str, Any]:
    allowed = set(inspect.signature(function).parameters) - _OURS - _OBJECTS
    for name in options:
        if name not in allowed:
            raise bad(f"{where}.{name}", f"cannot be set; what can: {', '.join(sorted(allowed)) or 'nothing'}")
    return dict(options)
