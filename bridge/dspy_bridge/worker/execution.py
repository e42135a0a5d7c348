"""Running programs: one input, many at once, or many with a judgement on each.

Everything a request overrides (its model, its settings, its model options) holds inside one DSPy
context and is gone after it, also in the threads of a batch.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import dspy
from dspy.utils.callback import BaseCallback

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import LMConfig
from dspy_bridge.protocol.session_commands import EvaluateProgramArgs, ExecuteBatchArgs, ExecuteProgramArgs
from dspy_bridge.worker.data import DataFolder
from dspy_bridge.worker.examples import make_examples
from dspy_bridge.worker.exceptions import to_bridge_error
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.metrics import Metric, Score
from dspy_bridge.worker.model_shelf import ModelShelf
from dspy_bridge.worker.program_shelf import ProgramShelf
from dspy_bridge.worker.programs import REQUEST_CONFIG, Program, with_options
from dspy_bridge.worker.scripted import OBSERVER
from dspy_bridge.worker.settings import Settings
from dspy_bridge.worker.streaming import StatusEvents, stream
from dspy_bridge.worker.values import to_json

Run = Callable[[int, Mapping[str, Any]], dict[str, Any]]


class Surroundings(Protocol):
    """What running a program needs of its session."""

    id: str
    host: Host
    settings: Settings
    callbacks: Sequence[Any]
    """What listens to everything the session runs."""
    data: DataFolder
    models: ModelShelf
    programs: ProgramShelf

    def secrets(self) -> list[str]:
        """Literal secrets, to be kept out of errors."""


class LatestAnswer(BaseCallback):  # type: ignore[misc]
    """``text``: what a model has answered last to the request that has this among its callbacks."""

    text: str | None = None

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        if isinstance(outputs, list) and outputs:
            self.text = str(outputs[0])


class Executor:
    """Belongs to one session."""

    def __init__(self, session: Surroundings) -> None:
        self._session = session

    # -- one -----------------------------------------------------------------------------------

    def execute(
        self, program: Program, args: ExecuteProgramArgs, callbacks: Sequence[BaseCallback] = ()
    ) -> dict[str, Any]:
        """The result of ``execute_program``. ``callbacks`` hear of this request alone. Raises whatever the
        program raises, and :class:`BridgeError`."""
        inputs = program.signature.decode_inputs(args.inputs, strict=not args.lenient)
        wanted = None if isinstance(args.stream, bool) else args.stream
        if wanted is not None:
            self._check_fields(program, wanted)
        callbacks = [*callbacks, *([StatusEvents(self._session.host)] if args.stream else [])]
        with self.scope(program, args.lm, {**args.options, **args.config}, callbacks):
            return self._run(program, inputs, bool(args.stream), wanted)

    def _check_fields(self, program: Program, wanted: Collection[str]) -> None:
        known = {name for predictor in program.module.predictors() for name in predictor.signature.output_fields}
        known = {program.signature.wire_names.get(name, name) for name in known} | set(program.signature.outputs)
        for name in wanted:
            if name not in known:
                raise BridgeError("invalid_args", f"args.stream: program {program.id!r} has no field {name!r}")

    def _run(
        self, program: Program, inputs: Mapping[str, Any], streamed: bool = False, wanted: Collection[str] | None = None
    ) -> dict[str, Any]:
        started = time.perf_counter()
        usage: dict[str, Any] = {}
        try:
            if streamed:
                prediction = stream(program.module, inputs, program.signature, wanted, self._session.host)
            else:
                prediction = program.module(**inputs)
            usage = to_json(prediction.get_lm_usage() or {}, "usage")
        finally:
            self._session.programs.note_execution(program, usage)
        elapsed = (time.perf_counter() - started) * 1000
        return {
            "program_id": program.id,
            "outputs": program.signature.encode_outputs(prediction),
            "usage": usage,
            "execution_time_ms": round(elapsed, 3),
            "execution_time": round(elapsed / 1000, 6),
        }

    @contextlib.contextmanager
    def scope(
        self,
        program: Program | None,
        lm_config: LMConfig | None = None,
        config: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
    ) -> Iterator[dspy.BaseLM | None]:
        """Request over program over session; what was before is back afterwards."""
        session = self._session
        settings, options = session.settings.split_request(config or {})
        lm = self._model(program, lm_config)
        if lm is not None:
            lm = with_options(lm, options)
        changed = {"settings": dict(settings), "options": options}
        if program is not None and program.adapter is not None and "adapter" not in settings:
            settings["adapter"] = program.adapter
        # A scripted model may also be that of a judge, or of a part of a composition.
        settings["callbacks"] = [OBSERVER, *session.callbacks, *callbacks]
        # Each request has a trace of its own (optimizers and Refine read it), gone with the request.
        with dspy.context(lm=lm, trace=[], **{REQUEST_CONFIG: changed}, **settings):
            yield lm

    def _model(self, program: Program | None, lm_config: LMConfig | None) -> dspy.BaseLM | None:
        """None only for a program that calls no model. Raises ``lm_not_configured``."""
        if lm_config is not None:
            return self._session.models.find(lm_config.model_dump(exclude_unset=True)).usable()
        model = program.model if program is not None and program.model is not None else self._session.models.default
        if model is not None:
            return model.usable()
        if program is not None and not program.module.predictors():
            return None
        message = f"session {self._session.id!r} has no language model; send configure_lm first"
        raise BridgeError("lm_not_configured", message)

    # -- many ----------------------------------------------------------------------------------

    def batch(self, program: Program, args: ExecuteBatchArgs) -> dict[str, Any]:
        """The result of ``execute_batch``: one entry per input, in order, whatever came of it."""

        def run(index: int, given: Mapping[str, Any]) -> dict[str, Any]:
            path = f"inputs[{index}]"
            inputs = program.signature.decode_inputs(given, strict=not args.lenient, path=path)
            result = self._run(program, inputs)
            del result["program_id"], result["execution_time"]
            return result

        save = self._session.data.saver(args.save_as, "args.save_as")
        rows = self._session.data.rows(args.inputs, "args.inputs")
        with self.scope(program, args.lm, args.config):
            results = self._each(rows, run, args.max_concurrency, set(args.skip), args.stop_on_error)
        result = {"program_id": program.id, "results": results, **_count(results)}
        save(result)
        return result

    def evaluate(self, program: Program, args: EvaluateProgramArgs, metric: Metric) -> dict[str, Any]:
        """The result of ``evaluate_program``: a score for each example, and their mean in percent."""
        save = self._session.data.saver(args.save_as, "args.save_as")
        rows = self._session.data.rows(args.examples, "args.examples")
        examples = make_examples(program.signature, rows, "args.examples")

        def run(index: int, _row: Mapping[str, Any]) -> dict[str, Any]:
            example = examples[index]
            prediction = program.module(**example.inputs())
            self._session.programs.note_execution(program, to_json(prediction.get_lm_usage() or {}, "usage"))
            judged: Score = metric(example, prediction, program.signature)
            found = {"score": judged.score, "outputs": program.signature.encode_outputs(prediction)}
            return found | ({"feedback": judged.feedback} if judged.feedback is not None else {})

        scored: list[float] = []

        def progress(entry: dict[str, Any]) -> None:
            scored.append(entry.get("score", args.failure_score))
            done = {"done": len(scored), "total": len(examples)}
            self._session.host.tell("progress", {**done, "score": _percent(scored)})

        with self.scope(program, args.lm, args.config):
            results = self._each(rows, run, args.max_concurrency, set(), False, progress)
        scores = [entry.get("score", args.failure_score) for entry in results]
        result = {"program_id": program.id, "score": _percent(scores), "results": results, **_count(results)}
        save(result)
        return result

    def _each(
        self,
        rows: Sequence[Mapping[str, Any]],
        run: Run,
        concurrency: int,
        skip: Collection[int],
        stop_on_error: bool,
        then: Callable[[dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Run every row, so many at once; tell the host each as it ends; all of them in order."""
        results: list[dict[str, Any]] = [
            {"index": index, "success": False, "skipped": True} for index in range(len(rows))
        ]
        stop = threading.Event()
        ended: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()  # in the order they end

        def one(index: int, row: Mapping[str, Any]) -> None:
            entry: dict[str, Any] | None = None
            try:
                if not stop.is_set():
                    entry = {"index": index, "success": True, **run(index, row)}
            except BaseException as exc:  # noqa: BLE001 - one item's failure is its own result
                if stop_on_error:
                    stop.set()
                error = to_bridge_error(exc, secrets=self._session.secrets())
                entry = {"index": index, "success": False, "error": error.to_wire()}
            finally:
                ended.put(entry)

        pool = concurrent.futures.ThreadPoolExecutor(concurrency, "batch")
        try:
            indices = [index for index in range(len(rows)) if index not in skip]
            for index in indices:
                pool.submit(contextvars.copy_context().run, one, index, rows[index])
            for _ in indices:
                entry = ended.get()
                if entry is not None:
                    results[entry["index"]] = entry
                    self._session.host.tell("item", entry)
                    if then is not None:
                        then(entry)
        finally:
            # An interrupt must not wait for what runs: the interpreter goes, and the threads with it.
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return results


def _percent(scores: Sequence[float]) -> float:
    return round(100 * sum(scores) / len(scores), 2) if scores else 0.0


def _count(results: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    skipped = sum("skipped" in one for one in results)
    failed = sum(not one["success"] for one in results) - skipped
    return {"succeeded": len(results) - failed - skipped, "failed": failed, "skipped": skipped}
