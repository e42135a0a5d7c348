"""What a program has learned: compiling it, saving it, loading it, and looking at what it says."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import dspy

from dspy_bridge import jsonlib
from dspy_bridge.protocol import session_commands
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.worker.data import DataFolder
from dspy_bridge.worker.examples import make_examples
from dspy_bridge.worker.exceptions import clean
from dspy_bridge.worker.execution import Executor
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.model_shelf import ModelShelf
from dspy_bridge.worker.optimizers import Optimizer, Progress, Task, compile_module, find_optimizer
from dspy_bridge.worker.program_shelf import ProgramShelf
from dspy_bridge.worker.programs import Program
from dspy_bridge.worker.saving import dump_state, load_state, with_metadata
from dspy_bridge.worker.scripted import OBSERVER
from dspy_bridge.worker.types import bad
from dspy_bridge.worker.values import to_json


class Surroundings(Protocol):
    """What learning needs of its session."""

    host: Host
    data: DataFolder
    models: ModelShelf
    programs: ProgramShelf

    def secrets(self) -> list[str]:
        """Literal secrets, not to be shown."""


class Learning:
    """Belongs to one session."""

    def __init__(self, session: Surroundings, executor: Executor) -> None:
        self._session = session
        self._executor = executor

    def compile(self, args: session_commands.CompileProgramArgs) -> dict[str, Any]:
        """The result of ``compile_program``."""
        began = time.monotonic()
        row = find_optimizer(args.optimizer)
        program = self._session.programs.program(args.program_id)
        compiled_id = args.compiled_id or f"{args.program_id}-compiled"
        if args.on_exists == "error" and compiled_id in self._session.programs:
            raise BridgeError("program_exists", f"there is a program {compiled_id!r} already")
        if row.makes is not None:
            return self._make(row, row.makes, compiled_id, args)
        trainset = self._examples(program, args.trainset, "args.trainset")
        valset = None if args.valset is None else self._examples(program, args.valset, "args.valset")
        metric = None if args.metric is None else self._session.programs.metric(args.metric)

        def better(state: dict[str, Any], _score: float) -> None:
            self._session.programs.put_state(compiled_id, program, state)
            self._session.programs.checkpoint()

        progress = Progress(self._session.host, len(valset if valset is not None else trainset), better)
        with self._executor.scope(program, args.lm, args.config, [progress]) as lm:
            if lm is None:
                raise bad("args.program_id", f"program {program.id!r} calls no model: there is nothing to compile")
            prompt_lm = lm
            if args.prompt_lm is not None:
                prompt_lm = self._session.models.find(args.prompt_lm.model_dump(exclude_unset=True)).usable()
            task = Task(program.module, program.signature, trainset, valset, metric, lm, prompt_lm, progress)
            compiled = compile_module(row, task, args.options, args.compile_options)
        self._session.programs.put_state(compiled_id, program, dump_state(compiled))
        return {
            "program_id": compiled_id,
            "status": "compiled",
            "compiled_from": program.id,
            "optimizer": row.name,
            "score": progress.best,
            "evaluations": progress.evaluations,
            "lm_calls": progress.lm_calls,
            "elapsed_s": round(time.monotonic() - began, 3),
        }

    def _make(
        self, row: Optimizer, kind: str, compiled_id: str, args: session_commands.CompileProgramArgs
    ) -> dict[str, Any]:
        """A program that learns whenever it runs: there is nothing to compile but its index."""
        began = time.monotonic()
        for name in ("valset", "prompt_lm", "lm"):
            if getattr(args, name) is not None:
                raise bad(f"args.{name}", f"the optimizer {row.name!r} does not use it")
        options = {**args.compile_options, **args.options, "program": args.program_id}
        options["examples"] = self._session.data.rows(args.trainset, "args.trainset")
        if args.metric is not None:
            options["metric"] = args.metric
        spec = {"id": compiled_id, "program_type": kind, "options": options, "on_exists": args.on_exists}
        self._session.programs.create(session_commands.CreateProgramArgs.model_validate(spec))
        return {
            "program_id": compiled_id,
            "status": "compiled",
            "compiled_from": args.program_id,
            "optimizer": row.name,
            "score": None,
            "evaluations": 0,
            "lm_calls": 0,
            "elapsed_s": round(time.monotonic() - began, 3),
        }

    def _examples(self, program: Program, given: session_commands.Rows, where: str) -> list[dspy.Example]:
        return make_examples(program.signature, self._session.data.rows(given, where), where)

    # -- saving --------------------------------------------------------------------------------

    def save(self, args: session_commands.SaveProgramArgs) -> dict[str, Any]:
        """The result of ``save_program``."""
        state = with_metadata(dump_state(self._session.programs.program(args.program_id).module))
        if args.path is not None:
            _on_file(args.path, lambda file: file.write_bytes(jsonlib.dumps(state, option=jsonlib.OPT_INDENT_2)))
        return {"program_id": args.program_id, "status": "saved", "state": state, "path": args.path}

    def load(self, args: session_commands.LoadProgramArgs) -> dict[str, Any]:
        """The result of ``load_program``. Raises ``invalid_args`` for a state of another program."""
        if (args.state is None) == (args.path is None):
            raise bad("args", "give state or path, one of them")
        state = args.state
        if args.path is not None:
            try:
                state = jsonlib.loads(_on_file(args.path, lambda file: file.read_bytes()))
            except jsonlib.JSONDecodeError as exc:
                raise bad("args.path", f"{args.path} is no JSON: {exc}") from None
            if not isinstance(state, dict):
                raise bad("args.path", f"{args.path} holds no object")
        assert state is not None
        program = self._session.programs.program(args.program_id)
        module = program.module.deepcopy()
        load_state(module, state)
        self._session.programs.put_state(args.program_id, program, dump_state(module))
        return {"program_id": args.program_id, "status": "loaded"}

    # -- looking -------------------------------------------------------------------------------

    def preview(self, args: session_commands.PreviewPromptArgs) -> dict[str, Any]:
        """The result of ``preview_prompt``: no model is called."""
        program = self._session.programs.program(args.program_id)
        predictors = dict(program.module.named_predictors())
        if not predictors:
            raise bad("args.program_id", f"program {program.id!r} calls no model by itself")
        name = args.predictor if args.predictor is not None else next(iter(predictors))
        predictor = predictors.get(name)
        if predictor is None:
            raise bad("args.predictor", f"there is none of that name; there are {', '.join(predictors)}")
        inputs = program.signature.decode_inputs(args.inputs, strict=False)
        adapter = program.adapter or dspy.settings.adapter or dspy.ChatAdapter()
        with dspy.context(callbacks=[OBSERVER]):
            messages = adapter.format(predictor.signature, predictor.demos, inputs)
        shown = to_json([dict(message) for message in messages], "messages")
        return {
            "program_id": program.id,
            "predictor": name,
            "adapter": type(adapter).__name__,
            "messages": shown,
        }

    def history(self, args: session_commands.InspectHistoryArgs) -> dict[str, Any]:
        """The result of ``inspect_history``."""
        entries = _calls()[-args.n :]
        kept = ("model", "messages", "prompt", "outputs", "usage", "cost", "timestamp", "model_type")
        hidden = self._session.secrets()
        calls = [{name: _shown(entry.get(name), hidden) for name in kept} for entry in entries]
        return {"calls": calls}


def _calls() -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = sys.modules["dspy.clients.base_lm"].GLOBAL_HISTORY
    return calls


def _shown(value: Any, hidden: list[str]) -> Any:
    try:
        value = to_json(value)
    except BridgeError:
        value = repr(value)
    return clean(value, hidden)


def _on_file(path: str, do: Callable[[Path], Any]) -> Any:
    try:
        return do(Path(path))
    except OSError as exc:
        raise bad("args.path", f"{path}: {exc.strerror}") from None
