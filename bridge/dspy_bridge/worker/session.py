"""What one session is inside its interpreter, and the commands that run there.

The session's state is its *birth* (what ``start_session`` said) and its snapshot parts on top of it.
Commands change the state through :meth:`SessionRuntime._put`, which also notes the changed part, so
that what the supervisor keeps and what this interpreter knows cannot drift apart. Programs that came
with a snapshot are built when they are first used.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import dspy
import orjson
import psutil

from dspy_bridge.protocol import commands, snapshot_parts
from dspy_bridge.protocol.commands import validate
from dspy_bridge.protocol.envelope import Call, timestamp
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import referred_name
from dspy_bridge.protocol.secrets import redacted, split_secrets
from dspy_bridge.worker import isolation
from dspy_bridge.worker.execution import Executor
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.learning import Learning
from dspy_bridge.worker.leased_calls import LeasedCalls
from dspy_bridge.worker.metrics import Metric, build_metric
from dspy_bridge.worker.models import Model
from dspy_bridge.worker.programs import Program, build_program
from dspy_bridge.worker.scripted import ScriptedLM
from dspy_bridge.worker.settings import Settings
from dspy_bridge.worker.types import bad


class SessionRuntime:
    """See the module. ``changed`` collects the parts the request under way has changed."""

    def __init__(self, birth: Mapping[str, Any], host: Host) -> None:
        self.id: str = birth["session_id"]
        self.host = host
        self.allow_imports: list[str] = birth.get("allow_imports", [])
        self.allow_local_interpreter: bool = birth.get("allow_local_interpreter", False)
        self.changed: dict[str, bytes | None] = {}
        self._birth = birth
        self._parts: dict[str, bytes] = {}
        self._built: dict[str, Program] = {}
        self.model: Model | None = None
        self._request_secrets: dict[str, Any] = {}
        self.settings = Settings()
        self._executor = Executor(self)
        self._learning = Learning(self, self._executor)
        self._counting = threading.Lock()
        self._models: dict[str, Model] = {}
        self.callbacks = [LeasedCalls(host)] if birth.get("lease_lm_calls") else []
        self._started = time.monotonic()
        self._handlers: dict[str, Callable[[Any], Any]] = {
            "ping": self._ping,
            "configure_lm": self._configure_lm,
            "configure": self._configure,
            "create_program": self._create_program,
            "execute_program": self._execute_program,
            "execute_batch": self._execute_batch,
            "evaluate_program": self._evaluate_program,
            "compile_program": self._learning.compile,
            "save_program": self._learning.save,
            "load_program": self._learning.load,
            "preview_prompt": self._learning.preview,
            "inspect_history": self._learning.history,
            "get_usage": self._get_usage,
            "list_programs": self._list_programs,
            "get_program_info": self._get_program_info,
            "delete_program": self._delete_program,
            "clear_program": self._clear_program,
            "reset_state": self._reset_state,
            "cleanup": self._cleanup,
            "probe_isolation": self._probe_isolation,
        }
        self._be_as_born()

    # -- state ---------------------------------------------------------------------------------

    def _be_as_born(self) -> None:
        settings = self._birth.get("settings") or {}
        self.settings = Settings()
        self.settings.update(validate(commands.SettingsArgs, settings, where="settings"), settings)
        lm, missing = self._birth.get("lm"), self._birth.get("missing", {}).get("lm", ())
        if lm is None:
            self.model = None
        elif "missing" in self._birth:
            self.model = Model.restore(*split_secrets(lm), missing, self.host)
        else:
            self.model = Model.configure(lm, self.host)
        self.settings.apply(self._lm)

    @property
    def _lm(self) -> dspy.BaseLM | None:
        return self.model.lm if self.model is not None else None

    def _put(self, name: str, value: Any) -> None:
        """Set one part of the state (None: remove it) and note the change."""
        encoded = None if value is None else orjson.dumps(value)
        if encoded is None:
            self._parts.pop(name, None)
        else:
            self._parts[name] = encoded
        self.changed[name] = encoded

    def _count(self, name: str, reported: list[Any]) -> None:
        """Add to a tally: here, and in what the supervisor is told."""
        share = orjson.dumps(reported)
        for held in (self._parts, self.changed):
            before = held.get(name)
            held[name] = share if before is None else snapshot_parts.add_tally(before, share)

    def load(self, parts: Mapping[str, bytes | None]) -> None:
        """Take over news of the snapshot."""
        for name, value in parts.items():
            if value is None:
                self._parts.pop(name, None)
            else:
                self._parts[name] = value
            if name.startswith(snapshot_parts.PROGRAM_PREFIX):
                self._built.pop(name[len(snapshot_parts.PROGRAM_PREFIX) :], None)
        if snapshot_parts.SETTINGS in parts:
            self.settings.restore(self._get(snapshot_parts.SETTINGS) or {})
            self.settings.apply(self._lm)
        if snapshot_parts.LM in parts or snapshot_parts.LM_SECRETS in parts:
            part = self._get(snapshot_parts.LM)
            if part is not None:
                secrets = self._get(snapshot_parts.LM_SECRETS) or {}
                self.model = Model.restore(part["config"], secrets, part["secret_fields"], self.host)
                dspy.configure(lm=self._lm)
        if any(
            name.startswith((snapshot_parts.NAMED_LM_PREFIX, snapshot_parts.NAMED_LM_SECRETS_PREFIX)) for name in parts
        ):
            self._models.clear()
            self._built.clear()  # some may hold one of them
        if snapshot_parts.LM_CURSOR in parts:
            cursor = self._get(snapshot_parts.LM_CURSOR)
            if cursor is not None and isinstance(self._lm, ScriptedLM):
                self._lm.set_state(cursor)

    def _get(self, name: str) -> Any:
        value = self._parts.get(name)
        return None if value is None else orjson.loads(value)

    def secrets(self) -> list[str]:
        """Every literal secret this session holds, to be kept out of errors."""
        held = [*self._request_secrets.values()]
        for model in (self.model, *self._models.values(), *(program.model for program in self._built.values())):
            if model is not None:
                held += model.secrets.values()
        return [text for text in _texts(held) if len(text) >= 4]

    # -- serving -------------------------------------------------------------------------------

    def serve(self, call: Call) -> Any:
        """The JSON-able result of ``call``. Raises whatever its program raises, and :class:`BridgeError`."""
        self.changed = {}
        self._request_secrets = split_secrets(call.args["lm"])[1] if isinstance(call.args.get("lm"), dict) else {}
        command = commands.find(call.command)
        args = validate(command.args, call.args)
        return self._handlers[command.name](args)

    def _ping(self, args: commands.PingArgs) -> dict[str, Any]:
        return {"status": "ok", "uptime_s": round(time.monotonic() - self._started, 3)}

    def _configure_lm(self, args: commands.ConfigureLMArgs) -> dict[str, Any]:
        config = args.model_dump(exclude={"session_id", "name"}, exclude_unset=True)
        if args.name is not None:
            model = self._models[args.name] = Model.configure(config, self.host)
            self._built.clear()  # some may hold what had that name before
            self._put(snapshot_parts.NAMED_LM_PREFIX + args.name, model.part)
            self._put(snapshot_parts.NAMED_LM_SECRETS_PREFIX + args.name, model.secrets or None)
            return {"status": "configured", "model": args.model, "name": args.name}
        self.model = Model.configure(config, self.host)
        dspy.configure(lm=self._lm)
        self._put(snapshot_parts.LM, self.model.part)
        self._put(snapshot_parts.LM_SECRETS, self.model.secrets or None)
        self._put(snapshot_parts.LM_CURSOR, None)
        return {"status": "configured", "model": args.model}

    def _configure(self, args: commands.SettingsArgs) -> dict[str, Any]:
        self.settings.update(args, args.model_dump(exclude={"session_id"}, exclude_unset=True))
        self.settings.apply(self._lm)
        self._put(snapshot_parts.SETTINGS, self.settings.values)
        return {"status": "configured", "settings": self.settings.effective()}

    # -- programs ------------------------------------------------------------------------------

    def _create_program(self, args: commands.CreateProgramArgs) -> dict[str, Any]:
        program_id = _program_id(args, made_up=True)
        exists = snapshot_parts.PROGRAM_PREFIX + program_id in self._parts
        if exists and args.on_exists == "error":
            raise BridgeError("program_exists", f"session {self.id!r} already has a program {program_id!r}")
        if exists and args.on_exists == "keep":
            program = self.program(program_id)
            status = "kept"
        else:
            spec = args.model_dump(exclude={"session_id", "id", "program_id", "on_exists"}, exclude_unset=True)
            model = None if args.lm is None else self.model_for(spec["lm"])
            secrets: dict[str, Any] = {}
            if model is not None and referred_name(spec["lm"]) is None:
                spec["lm"], secrets = model.config, model.secrets
            program = build_program(program_id, spec, timestamp(), model, self)
            self._built[program_id] = program
            part = {"spec": spec, "created_at": program.created_at, "secret_fields": sorted(secrets)}
            self._put(snapshot_parts.PROGRAM_PREFIX + program_id, part)
            self._put(snapshot_parts.PROGRAM_SECRETS_PREFIX + program_id, secrets or None)
            self._put(snapshot_parts.PROGRAM_TALLY_PREFIX + program_id, None)
            status = "replaced" if exists else "created"
        return {
            "program_id": program_id,
            "status": status,
            "program_type": program.program_type,
            "signature": program.signature.text,
        }

    def program(self, program_id: str) -> Program:
        """The program of that id, built now if it came with a snapshot. Raises ``program_not_found``."""
        program = self._built.get(program_id)
        if program is not None:
            return program
        part = self._get(snapshot_parts.PROGRAM_PREFIX + program_id)
        if part is None:
            raise BridgeError("program_not_found", f"session {self.id!r} has no program {program_id!r}")
        spec, model = part["spec"], None
        if spec.get("lm"):
            model = self._restored_model(program_id, spec["lm"], part["secret_fields"])
        program = self._built[program_id] = build_program(
            program_id, spec, part["created_at"], model, self, part.get("state")
        )
        return program

    def _restored_model(self, program_id: str, config: dict[str, Any], secret_fields: list[str]) -> Model:
        name = referred_name(config)
        if name is None:
            secrets = self._get(snapshot_parts.PROGRAM_SECRETS_PREFIX + program_id) or {}
            return Model.restore(config, secrets, secret_fields, self.host)
        try:
            return self._named_model(name)
        except BridgeError as error:
            return Model(config, {}, problem=error)

    def model_for(self, config: Mapping[str, Any]) -> Model:
        """The model a program or a request asks for, by its configuration or by its name in the session."""
        name = referred_name(config)
        if name is None:
            return Model.configure(config, self.host)
        if len(config) > 1:
            raise bad("args.lm", "a named model takes no further arguments; config of a request changes its options")
        return self._named_model(name)

    def _named_model(self, name: str) -> Model:
        """Raises ``lm_not_configured``."""
        model = self._models.get(name)
        if model is None:
            part = self._get(snapshot_parts.NAMED_LM_PREFIX + name)
            if part is None:
                known = [one[3:] for one in self._parts if one.startswith(snapshot_parts.NAMED_LM_PREFIX)]
                message = f"session {self.id!r} has no model named {name!r}; it has {', '.join(known) or 'none'}"
                raise BridgeError("lm_not_configured", message)
            secrets = self._get(snapshot_parts.NAMED_LM_SECRETS_PREFIX + name) or {}
            model = Model.restore(part["config"], secrets, part["secret_fields"], self.host)
            self._models[name] = model
        return model

    def _described(self, program: Program) -> dict[str, Any]:
        executions, last, _ = self._get(snapshot_parts.PROGRAM_TALLY_PREFIX + program.id) or (0, None, {})
        return program.describe(executions, last)

    def metric(self, spec: Any) -> Metric:
        """A metric or reward a host describes. Raises ``invalid_args``."""
        return build_metric(spec, self.host, self.program, self.allow_imports)

    def _execute_program(self, args: commands.ExecuteProgramArgs) -> dict[str, Any]:
        return self._executor.execute(self.program(_program_id(args)), args)

    def _execute_batch(self, args: commands.ExecuteBatchArgs) -> dict[str, Any]:
        return self._executor.batch(self.program(args.program_id), args)

    def _evaluate_program(self, args: commands.EvaluateProgramArgs) -> dict[str, Any]:
        return self._executor.evaluate(self.program(args.program_id), args, self.metric(args.metric))

    def note_execution(self, program: Program, usage: Mapping[str, Any]) -> None:
        """Count it, and keep how far a scripted model has come."""
        with self._counting:
            counts = snapshot_parts.add_usage({}, usage)
            self._count(snapshot_parts.PROGRAM_TALLY_PREFIX + program.id, [1, timestamp(), counts])
            if isinstance(self._lm, ScriptedLM):
                self._put(snapshot_parts.LM_CURSOR, self._lm.get_state())

    # -- what programs learn -------------------------------------------------------------------

    def has_program(self, program_id: str) -> bool:
        """Whether there is one of that id."""
        return snapshot_parts.PROGRAM_PREFIX + program_id in self._parts

    def put_state(self, program_id: str, like: Program, state: dict[str, Any]) -> None:
        """Keep a program: as ``like``, with ``state``. Called from any thread."""
        with self._counting:
            own = like.model is not None and referred_name(like.spec["lm"]) is None
            secrets = like.model.secrets if own and like.model is not None else {}
            part = {
                "spec": like.spec,
                "created_at": like.created_at if program_id == like.id else timestamp(),
                "state": state,
                "secret_fields": sorted(secrets),
            }
            self._put(snapshot_parts.PROGRAM_PREFIX + program_id, part)
            self._put(snapshot_parts.PROGRAM_SECRETS_PREFIX + program_id, secrets or None)
            self._built.pop(program_id, None)

    def checkpoint(self) -> None:
        """Have what has changed so far kept whatever becomes of the request. Called from any thread."""
        with self._counting:
            changed, self.changed = self.changed, {}
            self.host.keep(changed)

    def _get_usage(self, args: commands.NoArgs) -> dict[str, Any]:
        programs: dict[str, Any] = {}
        total: dict[str, Any] = {}
        for program_id in snapshot_parts.program_ids(self._parts):
            executions, _, usage = self._get(snapshot_parts.PROGRAM_TALLY_PREFIX + program_id) or (0, None, {})
            programs[program_id] = {"executions": executions, "usage": usage}
            total = snapshot_parts.add_usage(total, usage)
        return {"programs": programs, "total": total}

    def _list_programs(self, args: commands.NoArgs) -> dict[str, Any]:
        ids = snapshot_parts.program_ids(self._parts)
        return {"programs": [self._described(self.program(one)) for one in ids], "total_count": len(ids)}

    def _get_program_info(self, args: commands.ProgramArgs) -> dict[str, Any]:
        program = self.program(_program_id(args))
        lm = program.spec.get("lm")
        own_lm = redacted(lm) if lm else None
        options = program.spec.get("options", {})
        return {**self._described(program), "program_id": program.id, "options": options, "lm": own_lm} | {
            "fields": program.signature.describe()
        }

    def _remove(self, program_id: str) -> bool:
        self._built.pop(program_id, None)
        if snapshot_parts.PROGRAM_PREFIX + program_id not in self._parts:
            return False
        for prefix in (
            snapshot_parts.PROGRAM_PREFIX,
            snapshot_parts.PROGRAM_SECRETS_PREFIX,
            snapshot_parts.PROGRAM_TALLY_PREFIX,
        ):
            self._put(prefix + program_id, None)
        return True

    def _delete_program(self, args: commands.ProgramArgs) -> dict[str, Any]:
        program_id = _program_id(args)
        if not self._remove(program_id):
            raise BridgeError("program_not_found", f"session {self.id!r} has no program {program_id!r}")
        return {"program_id": program_id, "status": "deleted"}

    def _clear_program(self, args: commands.ProgramArgs) -> dict[str, Any]:
        program_id = _program_id(args)
        return {"program_id": program_id, "status": "cleared" if self._remove(program_id) else "not_found"}

    # -- the whole -----------------------------------------------------------------------------

    def _reset_state(self, args: commands.NoArgs) -> dict[str, Any]:
        cleared = len(snapshot_parts.program_ids(self._parts))
        for name in list(self._parts):
            self._put(name, None)
        self._built.clear()
        self._models.clear()
        self.settings.reset_dspy()
        self._be_as_born()
        return {"status": "reset", "cleared_programs": cleared}

    def _probe_isolation(self, args: commands.ProbeArgs) -> dict[str, Any]:
        reads = isolation.read(skip=args.skip) if args.canary is None else isolation.plant(args.canary, skip=args.skip)
        return {"reads": reads}

    def _cleanup(self, args: commands.NoArgs) -> dict[str, Any]:
        collected = gc.collect()
        memory = psutil.Process().memory_full_info().uss / 2**20
        return {"status": "cleaned", "collected": collected, "memory_mb": round(memory, 2)}


def _program_id(args: Any, *, made_up: bool = False) -> str:
    """The program a request names, by either of the two names the wire allows."""
    if args.id is not None and args.program_id is not None and args.id != args.program_id:
        raise BridgeError("invalid_args", "args.id and args.program_id name different programs")
    named = args.program_id if args.program_id is not None else args.id
    if named is not None:
        return str(named)
    if made_up:
        return f"program-{random.SystemRandom().getrandbits(48):012x}"
    errors = [{"path": "args.program_id", "reason": "is required"}]
    raise BridgeError("invalid_args", "args.program_id is required", details={"errors": errors})


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
