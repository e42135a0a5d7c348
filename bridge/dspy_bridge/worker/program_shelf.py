"""The programs of one session: made, kept as data, and built again when they are first needed."""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping
from typing import Any, Final

import dspy

from dspy_bridge.protocol import session_commands
from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.envelope import timestamp
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import referred_name
from dspy_bridge.protocol.secrets import redacted
from dspy_bridge.protocol.session_commands import DataFile
from dspy_bridge.protocol.snapshot_parts import (
    PROGRAM_PREFIX,
    PROGRAM_SECRETS_PREFIX,
    PROGRAM_TALLY_PREFIX,
    TYPES,
    add_usage,
    program_ids,
)
from dspy_bridge.worker.data import DataFolder
from dspy_bridge.worker.embedders import EmbedderShelf
from dspy_bridge.worker.host import Host
from dspy_bridge.worker.mcp_tools import McpServers
from dspy_bridge.worker.metrics import Metric, build_metric
from dspy_bridge.worker.model_shelf import ModelShelf
from dspy_bridge.worker.models import Model
from dspy_bridge.worker.program_types import PROGRAM_TYPES
from dspy_bridge.worker.programs import Program, build_program
from dspy_bridge.worker.state import State
from dspy_bridge.worker.types import parse_type

_NOT_SPEC: Final = {"session_id", "id", "program_id", "on_exists", "modules", "use_dynamic_signature"}
_NEVER_RUN: Final[tuple[int, str | None, dict[str, Any]]] = (0, None, {})


class ProgramShelf:
    """See the module. It is the workshop programs are made in (:class:`.program_types.Workshop`)."""

    def __init__(
        self,
        state: State,
        models: ModelShelf,
        embedders: EmbedderShelf,
        data: DataFolder,
        host: Host,
        birth: Mapping[str, Any],
    ) -> None:
        self.host = host
        self.mcp = McpServers(birth.get("allow_mcp", False))
        self.allow_imports: list[str] = birth.get("allow_imports", [])
        self.allow_local_interpreter: bool = birth.get("allow_local_interpreter", False)
        self._session_id = birth["session_id"]
        self._state = state
        self._models = models
        self._embedders = embedders
        self._data = data
        self._built: dict[str, Program] = {}
        self._types: dict[str, Any] | None = None
        self._changing = threading.Lock()
        self._building = threading.Lock()
        self._outdated = 0  # how often something built has been; what was begun before that is not kept

    def __contains__(self, program_id: str) -> bool:
        return PROGRAM_PREFIX + program_id in self._state

    def program(self, program_id: str) -> Program:
        """The program of that id, built now if need be. Raises ``program_not_found``."""
        program = self._built.get(program_id)
        if program is not None:
            return program
        as_of = self._outdated
        part = self._state.get(PROGRAM_PREFIX + program_id)
        if part is None:
            message = f"session {self._session_id!r} has no program {program_id!r}"
            raise BridgeError("program_not_found", message)
        spec, model = part["spec"], None
        if spec.get("lm"):
            model = self._models.restore(program_id, spec["lm"], part["secret_fields"])
        program = build_program(program_id, spec, part["created_at"], model, self, part.get("state"))
        with self._building:
            if self._outdated == as_of:
                self._built[program_id] = program
        return program

    def named_model(self, name: str) -> dspy.BaseLM:
        """A model the session has named. Raises ``lm_not_configured``."""
        return self._models.named(name)

    def embedder(self, name: str) -> dspy.Embedder:
        """One of the session's. Raises ``lm_not_configured``."""
        return self._embedders.find(name)

    def metric(self, spec: Any) -> Metric:
        """A metric or reward a host describes. Raises ``invalid_args``."""
        return build_metric(spec, self.host, self.program, self.allow_imports)

    def define_types(self, args: session_commands.DefineTypesArgs) -> dict[str, Any]:
        """The result of ``define_types``. Raises ``invalid_args``, and then nothing has changed."""
        described = {**(self._state.get(TYPES) or {}), **args.types}
        described = {name: description for name, description in described.items() if description is not None}
        _build_types(described)
        self._state.put(TYPES, described)
        self.forget_types()
        return {"status": "defined", "types": list(described)}

    def named_types(self) -> Mapping[str, Any]:
        """Types the session has given names, built now if need be."""
        types = self._types
        if types is None:
            as_of = self._outdated
            types = _build_types(self._state.get(TYPES) or {})
            with self._building:
                if self._outdated == as_of:
                    self._types = types
        return types

    def forget_types(self) -> None:
        """What has been built of them is out of date."""
        self.forget_built()
        self._types = None

    def models(self) -> list[Model]:
        """Those that programs have of their own, as far as they are built."""
        return [program.model for program in list(self._built.values()) if program.model is not None]

    def forget_built(self, program_id: str | None = None) -> None:
        """What has been built of this one (or of all) is out of date; so is whatever is made of others."""
        with self._building:
            self._outdated += 1
            for built_id, program in list(self._built.items()):
                if program_id is None or built_id == program_id or PROGRAM_TYPES[program.program_type].of_others:
                    del self._built[built_id]

    # -- keeping -------------------------------------------------------------------------------

    def create(self, args: session_commands.CreateProgramArgs) -> dict[str, Any]:
        """The result of ``create_program``."""
        program_id = named_program(args, made_up=True)
        exists = program_id in self
        if exists and args.on_exists == "error":
            message = f"session {self._session_id!r} already has a program {program_id!r}"
            raise BridgeError("program_exists", message)
        if exists and args.on_exists == "keep":
            program = self.program(program_id)
            status = "kept"
        else:
            spec = args.model_dump(exclude=_NOT_SPEC, exclude_unset=True)
            self._read_rows(spec)
            model = None if args.lm is None else self._models.find(spec["lm"])
            secrets = self._own_secrets(spec, model)
            if model is not None and referred_name(spec["lm"]) is None:
                spec["lm"] = model.config
            program = build_program(program_id, spec, timestamp(), model, self)
            self._keep(program_id, program, secrets, program.state_at_birth())
            self._state.put(PROGRAM_TALLY_PREFIX + program_id, None)
            self._built[program_id] = program
            status = "replaced" if exists else "created"
        return {
            "program_id": program_id,
            "status": status,
            "program_type": program.program_type,
            "signature": program.signature.text,
        }

    def _read_rows(self, spec: dict[str, Any]) -> None:
        """Put the rows of a file in its place: the program outlives the file."""
        name = PROGRAM_TYPES[spec.get("program_type", "predict")].rows
        given = spec.get("options", {}).get(name)
        if isinstance(given, dict):
            where = f"args.options.{name}"
            file = validate(DataFile, given, where=where)
            spec["options"] = {**spec["options"], name: self._data.rows(file, where)}

    def put_state(self, program_id: str, like: Program, state: dict[str, Any]) -> None:
        """Keep a program: as ``like``, with ``state``. Called from any thread."""
        with self._changing:
            created_at = None if program_id == like.id else timestamp()
            self._keep(program_id, like, self._own_secrets(like.spec, like.model), state, created_at)

    @staticmethod
    def _own_secrets(spec: Mapping[str, Any], model: Model | None) -> dict[str, Any]:
        """Those of a model of its own; one that has a name in the session keeps its own."""
        own = model is not None and spec.get("lm") and referred_name(spec["lm"]) is None
        return model.secrets if model is not None and own else {}

    def _keep(
        self,
        program_id: str,
        program: Program,
        secrets: Mapping[str, Any],
        state: dict[str, Any] | None,
        created_at: str | None = None,
    ) -> None:
        part = {
            "spec": program.spec,
            "signature": program.signature.text,
            "created_at": created_at or program.created_at,
            "secret_fields": sorted(secrets),
        }
        self._state.put(PROGRAM_PREFIX + program_id, part if state is None else {**part, "state": state})
        self._state.put(PROGRAM_SECRETS_PREFIX + program_id, secrets or None)
        self.forget_built(program_id)

    def remove(self, program_id: str) -> bool:
        """Whether there was one."""
        self.forget_built(program_id)
        if program_id not in self:
            return False
        for prefix in (PROGRAM_PREFIX, PROGRAM_SECRETS_PREFIX, PROGRAM_TALLY_PREFIX):
            self._state.put(prefix + program_id, None)
        return True

    def note_execution(self, program: Program, usage: Mapping[str, Any]) -> None:
        """Count it, and keep how far a scripted model has come. Called from any thread."""
        with self._changing:
            self._state.count(PROGRAM_TALLY_PREFIX + program.id, [1, timestamp(), add_usage({}, usage)])
            self._models.note_cursor()

    def checkpoint(self) -> None:
        """Have what has changed so far kept whatever becomes of the request. Called from any thread."""
        with self._changing:
            self.host.keep(self._state)

    # -- telling -------------------------------------------------------------------------------

    def describe_all(self) -> list[dict[str, Any]]:
        """The rows of ``list_programs``; nothing is built for them."""
        return [self._describe(program_id) for program_id in program_ids(self._state)]

    def _describe(self, program_id: str) -> dict[str, Any]:
        part = self._state.get(PROGRAM_PREFIX + program_id)
        executions, last, _ = self._state.get(PROGRAM_TALLY_PREFIX + program_id) or _NEVER_RUN
        return {
            "id": program_id,
            "program_type": part["spec"].get("program_type", "predict"),
            "signature": part["signature"],
            "created_at": part["created_at"],
            "execution_count": executions,
            "last_executed": last,
        }

    def info(self, program_id: str) -> dict[str, Any]:
        """The result of ``get_program_info``."""
        program = self.program(program_id)
        lm = program.spec.get("lm")
        return {
            **self._describe(program_id),
            "program_id": program_id,
            "options": program.spec.get("options", {}),
            "lm": redacted(lm) if lm else None,
            "fields": program.signature.describe(),
        }

    def usage(self) -> dict[str, Any]:
        """The result of ``get_usage``."""
        programs: dict[str, Any] = {}
        total: dict[str, Any] = {}
        for program_id in program_ids(self._state):
            executions, _, usage = self._state.get(PROGRAM_TALLY_PREFIX + program_id) or _NEVER_RUN
            programs[program_id] = {"executions": executions, "usage": usage}
            total = add_usage(total, usage)
        return {"programs": programs, "total": total}


def _build_types(described: Mapping[str, Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, description in described.items():
        named[name] = parse_type(description, path=f"args.types.{name}", named=named)
    return named


def named_program(args: Any, *, made_up: bool = False) -> str:
    """The program a request names, by either of the two names the wire allows. Raises ``invalid_args``."""
    if args.id is not None and args.program_id is not None and args.id != args.program_id:
        raise BridgeError("invalid_args", "args.id and args.program_id name different programs")
    named = args.program_id if args.program_id is not None else args.id
    if named is not None:
        return str(named)
    if made_up:
        return f"program-{random.SystemRandom().getrandbits(48):012x}"
    errors = [{"path": "args.program_id", "reason": "is required"}]
    raise BridgeError("invalid_args", "args.program_id is required", details={"errors": errors})
