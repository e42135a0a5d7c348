"""What one session is inside its interpreter, and the commands that run there.

The session's state is its *birth* (what ``start_session`` said) and its snapshot's parts on top of it
(:mod:`.state`). Its models and programs are on shelves that keep them as such parts, so that an
interpreter which has loaded them is the session.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import psutil

from dspy_bridge.protocol import arguments, commands, daemon_commands, session_commands, snapshot_parts
from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.envelope import Call
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import full_model
from dspy_bridge.protocol.secrets import split_secrets
from dspy_bridge.worker import isolation
from dspy_bridge.worker.adapter_shelf import AdapterShelf
from dspy_bridge.worker.configured import Configured
from dspy_bridge.worker.data import DataFolder
from dspy_bridge.worker.embedders import EmbedderShelf
from dspy_bridge.worker.execution import Executor, LatestAnswer
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.learning import Learning
from dspy_bridge.worker.leased_calls import LeasedCalls
from dspy_bridge.worker.model_shelf import ModelShelf
from dspy_bridge.worker.program_shelf import ProgramShelf, named_program
from dspy_bridge.worker.settings import Settings
from dspy_bridge.worker.spans import Spans
from dspy_bridge.worker.state import State

_REQUEST_SECRETS: ContextVar[list[dict[str, Any]]] = ContextVar("request_secrets", default=[])  # noqa: B039


class SessionRuntime:
    """See the module."""

    def __init__(self, birth: Mapping[str, Any], host: Host) -> None:
        self.id: str = birth["session_id"]
        self.host = host
        # A call waits for its lease before it counts as begun.
        self.callbacks: Sequence[Any] = [
            *([LeasedCalls(host)] if birth.get("lease_lm_calls") else ()),
            *([Spans(host)] if birth.get("trace") else ()),
        ]
        self.state = State()
        self.models = ModelShelf(self.state, host)
        self.settings = Settings(self.models.named, birth.get("shared_cache"))
        self.embedders = EmbedderShelf(self.state, host)
        self.data = DataFolder(birth.get("allow_data", ()), birth["scratch"])
        self.programs = ProgramShelf(self.state, self.models, self.embedders, self.data, host, birth)
        self._birth = birth
        self.adapter = AdapterShelf(birth, host, self.state)
        self._executor = Executor(self)
        self._learning = Learning(self, self._executor)
        self._started = time.monotonic()
        self._handlers: dict[str, Callable[[Any], Any]] = {
            "ping": self._ping,
            "configure_lm": self._configure_lm,
            "configure_embedder": self._configure_embedder,
            "configure": self._configure,
            "define_types": self.programs.define_types,
            "create_program": self.programs.create,
            "execute_program": self._execute_program,
            "create_gemini_program": self._create_gemini_program,
            "execute_gemini_program": self._execute_gemini_program,
            "execute_batch": self._execute_batch,
            "evaluate_program": self._evaluate_program,
            "compile_program": self._learning.compile,
            "save_program": self._learning.save,
            "load_program": self._learning.load,
            "preview_prompt": self._learning.preview,
            "inspect_history": self._learning.history,
            "get_usage": lambda _args: self.programs.usage(),
            "list_programs": self._list_programs,
            "get_program_info": lambda args: self.programs.info(named_program(args)),
            "delete_program": self._delete_program,
            "clear_program": self._clear_program,
            "reset_state": self._reset_state,
            "cleanup": self._cleanup,
            "list_tools": lambda _args: self.adapter.describe(),
            "call_tool": self._call_tool,
            "probe_isolation": self._probe_isolation,
        }
        self._be_as_born()

    # -- state ---------------------------------------------------------------------------------

    def _be_as_born(self) -> None:
        settings = self._birth.get("settings") or {}
        self.settings = Settings(self.models.named, self._birth.get("shared_cache"))
        self.settings.update(validate(arguments.SettingsArgs, settings, where="settings"), settings)
        missing = self._birth["missing"].get("lm", ()) if "missing" in self._birth else None
        self.models.be_as_born(self._birth.get("lm"), missing)
        self.settings.apply(self.models.lm)

    def _start_over(self) -> None:
        """Nothing of the parts holds any more: the session is its birth."""
        self.programs.forget_types()
        self.embedders.forget_made()
        self.settings.reset_dspy()
        self._be_as_born()

    def load(self, parts: Mapping[str, bytes | None]) -> None:
        """Take over news of the snapshot."""
        self.state.load(parts)
        news = set(parts)
        if snapshot_parts.RESET in news:
            self._start_over()
            news |= set(self.state)
        for name in news:
            if name.startswith(snapshot_parts.PROGRAM_PREFIX):
                self.programs.forget_built(name[len(snapshot_parts.PROGRAM_PREFIX) :])
        if snapshot_parts.TYPES in news:
            self.programs.forget_types()
        if snapshot_parts.SETTINGS in self.state and snapshot_parts.SETTINGS in news:
            self.settings.restore(self.state.get(snapshot_parts.SETTINGS))
            self.settings.apply(self.models.lm)
        self.embedders.load(news)
        if self.models.load(news):
            self.programs.forget_built()

    def secrets(self) -> list[str]:
        """Every literal secret this session holds, to be kept out of errors."""
        held: list[Any] = [*_REQUEST_SECRETS.get()]
        model: Configured[Any]
        for model in (*self.models.all(), *self.programs.models(), *self.embedders.all()):
            held += model.secrets.values()
        return [text for text in _texts(held) if len(text) >= 4]

    # -- serving -------------------------------------------------------------------------------

    def serve(self, call: Call) -> Any:
        """The JSON-able result of ``call``. Raises whatever its program raises, and :class:`BridgeError`."""
        named = (call.args, call.args.get("lm"), call.args.get("prompt_lm"))
        _REQUEST_SECRETS.set([split_secrets(one)[1] for one in named if isinstance(one, dict)])
        if call.command in self.adapter and call.command not in commands.COMMANDS:
            return self._run_tool(call.command, call.args)
        command = commands.find(call.command)
        args = validate(command.args, call.args)
        return self._handlers[command.name](args)

    def _ping(self, args: daemon_commands.PingArgs) -> dict[str, Any]:
        return daemon_commands.ping_result(time.monotonic() - self._started)

    def _configure_lm(self, args: session_commands.ConfigureLMArgs) -> dict[str, Any]:
        self.models.configure(args.model_dump(exclude={"session_id", "name"}, exclude_unset=True), args.name)
        said: dict[str, Any] = {"status": "configured", "model": args.model}
        said |= args.model_dump(include={"provider", "temperature"}, exclude_none=True)
        if args.name is not None:
            self.programs.forget_built()  # some may hold what had that name before
            said["name"] = args.name
        return said

    def _configure_embedder(self, args: session_commands.ConfigureEmbedderArgs) -> dict[str, Any]:
        self.embedders.configure(args.model_dump(exclude={"session_id", "name"}, exclude_unset=True), args.name)
        return {"status": "configured", "model": args.model, "name": args.name}

    def _configure(self, args: session_commands.ConfigureArgs) -> dict[str, Any]:
        version = self.state.get(snapshot_parts.SETTINGS_VERSION) or 0
        if args.if_version not in (None, version):
            message = f"the settings of session {self.id!r} are at version {version}, not {args.if_version}"
            raise BridgeError("version_conflict", message, details={"config_version": version})
        before = self.settings.values
        self.settings.update(args, args.model_dump(exclude={"session_id", "if_version"}, exclude_unset=True))
        if self.settings.values != before:
            version += 1
            self.settings.apply(self.models.lm)
            self.state.put(snapshot_parts.SETTINGS, self.settings.values)
            self.state.put(snapshot_parts.SETTINGS_VERSION, version)
        return {"status": "configured", "settings": self.settings.effective(), "config_version": version}

    # -- programs ------------------------------------------------------------------------------

    def _execute_program(self, args: session_commands.ExecuteProgramArgs) -> dict[str, Any]:
        return self._executor.execute(self.programs.program(named_program(args)), args)

    def _create_gemini_program(self, args: session_commands.CreateGeminiProgramArgs) -> dict[str, Any]:
        given = args.model_dump(exclude={"model"}, exclude_unset=True)
        name = full_model(args.model, None)
        own = name.startswith("gemini/")
        given["lm"] = {"model": name, **({"api_key_env": "GEMINI_API_KEY"} if own else {})}
        made = self.programs.create(session_commands.CreateProgramArgs.model_validate(given))
        return {**made, "type": "gemini", "model_name": args.model}

    def _execute_gemini_program(self, args: session_commands.ExecuteProgramArgs) -> dict[str, Any]:
        program, latest = self.programs.program(named_program(args)), LatestAnswer()
        return {**self._executor.execute(program, args, [latest]), "raw_response": latest.text}

    def _execute_batch(self, args: session_commands.ExecuteBatchArgs) -> dict[str, Any]:
        return self._executor.batch(self.programs.program(args.program_id), args)

    def _evaluate_program(self, args: session_commands.EvaluateProgramArgs) -> dict[str, Any]:
        program = self.programs.program(args.program_id)
        return self._executor.evaluate(program, args, self.programs.metric(args.metric))

    def _list_programs(self, args: arguments.NoArgs) -> dict[str, Any]:
        programs = self.programs.describe_all()
        return {"programs": programs, "total_count": len(programs)}

    def _delete_program(self, args: session_commands.ProgramArgs) -> dict[str, Any]:
        program_id = named_program(args)
        if not self.programs.remove(program_id):
            raise BridgeError("program_not_found", f"session {self.id!r} has no program {program_id!r}")
        return {"program_id": program_id, "status": "deleted"}

    def _clear_program(self, args: session_commands.ProgramArgs) -> dict[str, Any]:
        program_id = named_program(args)
        return {"program_id": program_id, "status": "cleared" if self.programs.remove(program_id) else "not_found"}

    # -- tools of the adapter ------------------------------------------------------------------

    def _call_tool(self, args: session_commands.CallToolArgs) -> dict[str, Any]:
        result, items = self.adapter.call(args.name, args.args, "args.args")
        return {"tool": args.name, "result": result, **({} if items is None else {"items": items})}

    def _run_tool(self, name: str, args: Mapping[str, Any]) -> Any:
        given = {key: value for key, value in args.items() if key != "session_id"}
        return self.adapter.call(name, given, "args")[0]

    def close(self) -> None:
        """The interpreter leaves, in order."""
        self.adapter.close()

    # -- the whole -----------------------------------------------------------------------------

    def _reset_state(self, args: arguments.NoArgs) -> dict[str, Any]:
        cleared = len(snapshot_parts.program_ids(self.state))
        version = self.state.get(snapshot_parts.SETTINGS_VERSION)
        for name in list(self.state):
            self.state.put(name, None)
        if version:  # what was read before is out of date now, whatever is set next
            self.state.put(snapshot_parts.SETTINGS_VERSION, version + 1)
        self.state.put(snapshot_parts.RESET, None)
        self._start_over()
        return {"status": "reset", "cleared_programs": cleared, "programs_cleared": cleared}

    def _probe_isolation(self, args: session_commands.ProbeArgs) -> dict[str, Any]:
        reads = isolation.read(skip=args.skip) if args.canary is None else isolation.plant(args.canary, skip=args.skip)
        return {"reads": reads}

    def _cleanup(self, args: arguments.NoArgs) -> dict[str, Any]:
        collected = gc.collect()
        memory = psutil.Process().memory_full_info().uss / 2**20
        return {"status": "cleaned", "collected": collected, "memory_mb": round(memory, 2), "programs_removed": 0}


def _texts(values: Any) -> Iterator[str]:
    """Every string inside ``values``, however nested."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _texts(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _texts(value)
