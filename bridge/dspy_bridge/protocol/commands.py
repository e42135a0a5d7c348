"""The commands: name, where each is served, and the types of its arguments and result.

The models here validate what hosts send, and ``list_commands``, ``bridge-cli schema`` and the
documentation publish the JSON Schemas made from the very same models.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.lm_config import NAME_PATTERN, LMConfig, LMRef

ProgramType = Literal[
    "predict",
    "chain_of_thought",
    "react",
    "react_v2",
    "multi_chain_comparison",
    "best_of_n",
    "refine",
    "ensemble",
    "pipeline",
    "program_of_thought",
    "code_act",
    "rlm",
    "custom",
]
AdapterName = Literal["chat", "json", "xml", "baml"]
Name = Annotated[str, Field(min_length=1, max_length=512)]


class Args(BaseModel):
    """Base of all arguments: strict types, no unknown names. ``session_id`` may stand among them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    session_id: str | None = Field(None, description="Same as at the top level of the request.")


class Result(BaseModel):
    """Base of all results; documents their shape."""

    model_config = ConfigDict(extra="allow")


# -- served by the daemon ------------------------------------------------------------------------


class NoArgs(Args):
    pass


class HelloArgs(Args):
    protocol: list[int] | None = Field(None, description="Protocol versions the host speaks; absent: any.")
    host: str | None = Field(None, max_length=200, description="Name and version of the host, for the daemon's log.")
    capabilities: list[str] = Field(default_factory=list, description="What the host can do, such as host_calls.")


class ReadyResult(Result):
    protocol: int = Field(description="The protocol version in use.")
    protocols: list[int]
    server: str
    server_version: str
    dspy_version: str
    python_version: str
    capabilities: list[str]
    framing: str
    max_frame: int = Field(description="Bytes; a longer frame is refused with frame_too_large.")
    boot_id: str = Field(description="Differs each time a daemon starts.")
    pid: int


class PingArgs(Args):
    deep: bool = Field(False, description="Go through the session's interpreter instead of answering here.")


class PingResult(Result):
    status: Literal["ok"]
    uptime_s: float


class CommandsResult(Result):
    commands: list[dict[str, Any]]


class SettingsArgs(Args):
    """DSPy settings a session can change; absent ones stay as they are, null restores DSPy's default."""

    adapter: AdapterName | None = Field(None, description="How prompts are laid out.")
    track_usage: bool | None = Field(None, description="Report token usage with each execution (default true).")
    num_threads: int | None = Field(None, ge=1, le=256, description="Threads of DSPy's own parallel helpers.")
    max_errors: int | None = Field(None, ge=0, description="Errors after which DSPy's parallel helpers give up.")
    max_history_size: int | None = Field(None, ge=0, description="Model calls kept for inspection.")
    max_trace_size: int | None = Field(None, ge=0, description="Predictor calls kept in DSPy's trace.")
    disable_history: bool | None = Field(None, description="Keep no history of model calls.")
    provide_traceback: bool | None = Field(None, description="Have DSPy log tracebacks of failed items.")
    warn_on_type_mismatch: bool | None = Field(None, description="Have DSPy warn of inputs of another type.")
    allow_tool_async_sync_conversion: bool | None = Field(None, description="Let sync programs call async tools.")
    cache: bool | None = Field(None, description="Keep answers of the model in the session's memory (default true).")
    seed: int | None = Field(None, description="Seed of the interpreter's random streams.")


def _enough(value: int | None) -> int | None:
    if value is not None and 0 < value < 32:
        raise ValueError("an interpreter needs at least 32 descriptors (0: no limit)")
    return value


class StartSessionArgs(Args):
    """What is left out is as the daemon's options say; 0 means never or no limit."""

    env: dict[str, str] = Field(default_factory=dict, description="Environment variables, beside the daemon's own.")
    cwd: str | None = Field(None, description="Working directory (default: the daemon's).")
    lm: LMConfig | None = Field(None, description="As the arguments of configure_lm.")
    settings: SettingsArgs | None = Field(None, description="As the arguments of configure.")
    workers: int | None = Field(None, ge=1, le=64, description="Interpreters its requests are spread over (default 1).")
    durable: bool | None = Field(None, description="Kept in the daemon's --state-dir (default: if there is one).")
    ttl_s: float | None = Field(None, ge=0, description="Fresh interpreter after so many seconds.")
    max_requests: int | None = Field(None, ge=0, description="Fresh interpreter after so many requests.")
    max_growth_mb: int | None = Field(
        None, ge=0, description="Fresh interpreter once its private memory has grown by so many MiB."
    )
    idle_timeout_s: float | None = Field(None, ge=0, description="Hibernate after so long without a request.")
    session_ttl_s: float | None = Field(None, ge=0, description="End the session after so long without a request.")
    max_memory_mb: int | None = Field(None, ge=0, description="Most private memory of an interpreter, in MiB.")
    max_lm_calls: int | None = Field(None, ge=0, description="Most calls to language models at once.")
    max_cpu_s: float | None = Field(None, ge=0, description="Most processor time of one request.")
    max_open_files: Annotated[int | None, AfterValidator(_enough)] = Field(
        None, ge=0, description="Most descriptors an interpreter may have open."
    )
    max_processes: int | None = Field(None, ge=0, description="Most processes, the interpreter itself included.")
    max_scratch_mb: int | None = Field(None, ge=0, description="Most in the session's scratch folder, in MiB.")
    max_queue: int | None = Field(None, ge=1, description="Most requests waiting in the session.")


class StartSessionResult(Result):
    session_id: str
    status: Literal["started"]
    worker_pid: int


class EndSessionResult(Result):
    session_id: str
    status: Literal["ended", "not_found"]


class SessionInfo(Result):
    session_id: str
    state: Literal["cold", "waking", "live", "ending"] = Field(description="cold: hibernating, or not used yet.")
    workers: list[dict[str, Any]] = Field(description="Each with pid, requests, age_s and memory_mb (private memory).")
    capacity: int = Field(description="How many interpreters it may have at once.")
    requests: int
    queued: int
    in_flight: int
    recycles: int
    recoveries: int
    hibernations: int
    programs: list[str]
    durable: bool
    version: int = Field(description="Grows with every change of the session.")
    missing: list[str] = Field(description="Literal secrets it was restored without, such as lm.api_key.")
    created_at: str


class SessionsResult(Result):
    sessions: list[SessionInfo]


class RecycleResult(Result):
    session_id: str
    status: Literal["recycled"]
    worker_pid: int | None


class SessionDocument(BaseModel):
    """A session as JSON. It holds no literal secret: such fields are named where they were."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: Literal["dspy-bridge/session"]
    format_version: Literal[1]
    session_id: str = Field(min_length=1, max_length=512)
    created_at: str
    exported_at: str
    charter: dict[str, Any] = Field(description="What start_session was told.")
    parts: dict[str, Any] = Field(description="Its state: model, settings, programs, variables.")


class ExportResult(Result):
    document: dict[str, Any] = Field(description="For import_session, here or elsewhere; JSON to be kept as it is.")


class ImportSessionArgs(Args):
    document: SessionDocument = Field(description="What export_session gave.")
    on_exists: Literal["error", "replace"] = Field("error", description="What to do if the session exists.")


class ImportResult(Result):
    session_id: str
    status: Literal["imported"]
    programs: list[str]
    missing: list[str] = Field(description="Literal secrets it had and has no more, such as lm.api_key.")


class BranchSessionArgs(Args):
    branch_id: Name | None = Field(None, description="The new session's id (made up if absent).")


class BranchResult(Result):
    session_id: str
    status: Literal["branched"]
    branched_from: str
    programs: list[str]


class CancelArgs(Args):
    request_id: int | str = Field(description="The id of an open request of this connection.")


class CancelResult(Result):
    request_id: int | str
    status: Literal["cancelling", "not_found"]


class GetStateArgs(Args):
    key: Name = Field(description="The variable's name.")


class GotState(Result):
    key: str
    value: Any
    found: bool


class SetStateArgs(Args):
    key: Name = Field(description="The variable's name.")
    value: Any = Field(description="Any JSON value.")


class SetState(Result):
    key: str
    version: int = Field(description="Grows with every change of the session.")


class UpdateStateArgs(Args):
    key: Name = Field(description="The variable's name.")
    op: Literal["incr", "append", "compare_and_set", "delete"] = Field(description="What to do, atomically.")
    value: Any = Field(None, description="What to add (incr: default 1), append or set.")
    expected: Any = Field(None, description="compare_and_set only: sets if the variable reads this (null: not set).")


class UpdatedState(Result):
    key: str
    value: Any = Field(description="The variable afterwards.")
    version: int
    changed: bool = Field(description="False where compare_and_set found another value, or delete nothing.")


class ShutdownResult(Result):
    status: Literal["shutting_down"]


# -- served in the session's interpreter ---------------------------------------------------------


class ConfigureLMArgs(LMConfig):
    name: str | None = Field(
        None, pattern=NAME_PATTERN, description="Keep it under this name, for lm of programs and requests."
    )
    session_id: str | None = Field(None, description="Same as at the top level of the request.")


class ConfiguredLM(Result):
    status: Literal["configured"]
    model: str
    name: str | None = Field(None, description="Where it was given one.")


class ConfiguredResult(Result):
    status: Literal["configured"]
    settings: dict[str, Any]


TypeName = Annotated[str, Field(pattern="^[A-Z][A-Za-z0-9_]{0,63}$")]


class DefineTypesArgs(Args):
    types: dict[TypeName, str | dict[str, Any] | None] = Field(
        description="By name: a type in words or as JSON Schema, null to forget it. Later ones may use earlier ones."
    )


class DefinedTypes(Result):
    status: Literal["defined"]
    types: list[str] = Field(description="Every name the session knows now.")


class ToolSpec(BaseModel):
    """A tool in the host, called with a ``tool`` call."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(pattern="^[A-Za-z_][A-Za-z0-9_]{0,63}$", description="As the model is to call it.")
    description: str = Field("", description="What it does, for the model.")
    args: dict[str, Any] = Field(default_factory=dict, description="JSON Schema of its arguments (an object's).")
    host: Literal[True] = Field(True, description="It lives in the host.")
    timeout_ms: int = Field(120_000, ge=1, description="How long the host may take to answer.")


class CreateProgramArgs(Args):
    id: Name | None = Field(None, description="The program's id in its session.")
    program_id: Name | None = Field(None, description="Alias of id.")
    signature: str | dict[str, Any] | None = Field(
        None, description="A DSPy signature string, or name, instructions, inputs, outputs."
    )
    program_type: ProgramType = Field("predict", description="Which DSPy module.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the module; see docs/dspy.md.")
    tools: list[ToolSpec] = Field(default_factory=list, description="What an agent may call.")
    lm: LMRef | None = Field(None, description="A model of the program's own.")
    adapter: AdapterName | None = Field(None, description="How its prompts are laid out, if not as the session's.")
    demos: list[dict[str, Any]] = Field(default_factory=list, description="Worked examples for its prompts.")
    on_exists: Literal["error", "replace", "keep"] = Field("error", description="What to do if the id is taken.")


class CreatedProgram(Result):
    program_id: str
    status: Literal["created", "replaced", "kept"]
    program_type: str
    signature: str


class ExecuteProgramArgs(Args):
    program_id: Name | None = Field(None, description="Which program.")
    id: Name | None = Field(None, description="Alias of program_id.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="One value per input field of the signature.")
    config: dict[str, Any] = Field(
        default_factory=dict, description="Model options and DSPy settings for this execution alone."
    )
    lm: LMRef | None = Field(None, description="A model for this execution alone.")
    stream: bool | list[str] = Field(
        False, description="Send token and status events first: of every output field, or of those named."
    )
    lenient: bool = Field(False, description="Coerce and ignore as DSPy does, instead of refusing odd inputs.")


class Execution(Result):
    program_id: str
    outputs: dict[str, Any]
    usage: dict[str, Any] = Field(description="Per model; empty where the answer came from the cache.")
    execution_time_ms: float


class DataFile(BaseModel):
    """Rows of a file: .csv, .json (an array of objects) or .jsonl."""

    model_config = ConfigDict(strict=True, extra="forbid")

    file: str = Field(min_length=1, description="From the session's working directory, or a folder of --allow-data.")
    first: int = Field(0, ge=0, description="Leave out so many rows.")
    count: int | None = Field(None, ge=0, description="Take at most so many.")


Rows = list[dict[str, Any]] | DataFile


class ExecuteBatchArgs(Args):
    program_id: Name = Field(description="Which program.")
    inputs: Rows = Field(description="One object of inputs per execution, or a file of them.")
    save_as: str | None = Field(None, description="Write the results to this file too (.csv, .json, .jsonl).")
    max_concurrency: int = Field(8, ge=1, le=256, description="How many run at once.")
    stop_on_error: bool = Field(False, description="Begin no further one once one has failed.")
    skip: list[int] = Field(default_factory=list, description="Indices to leave out, such as those done before.")
    config: dict[str, Any] = Field(default_factory=dict, description="As for execute_program.")
    lm: LMRef | None = Field(None, description="As for execute_program.")
    lenient: bool = Field(False, description="As for execute_program.")


class BatchResult(Result):
    program_id: str
    results: list[dict[str, Any]] = Field(
        description="In order, each with index and success, and outputs or error (or skipped)."
    )
    succeeded: int
    failed: int
    skipped: int


class EvaluateProgramArgs(Args):
    program_id: Name = Field(description="Which program.")
    examples: Rows = Field(description="Inputs and what is expected, one object each, or a file of them.")
    save_as: str | None = Field(None, description="Write the results to this file too (.csv, .json, .jsonl).")
    metric: Any = Field(description="exact_match, f1, contains, or an object: name, host, program or python.")
    max_concurrency: int = Field(8, ge=1, le=256, description="How many run at once.")
    failure_score: float = Field(0.0, description="What an example counts whose execution failed.")
    config: dict[str, Any] = Field(default_factory=dict, description="As for execute_program.")
    lm: LMRef | None = Field(None, description="As for execute_program.")


class EvaluationResult(Result):
    program_id: str
    score: float = Field(description="Mean of the scores, in percent.")
    results: list[dict[str, Any]] = Field(description="In order, each with index, success, score, outputs or error.")
    succeeded: int
    failed: int
    skipped: int


class CompileProgramArgs(Args):
    program_id: Name = Field(description="Which program; it stays as it is.")
    compiled_id: Name | None = Field(None, description="The compiled program's id (default: its id and -compiled).")
    optimizer: str = Field(description="labeled_few_shot, bootstrap_few_shot, random_search, copro, mipro_v2, gepa ...")
    trainset: Rows = Field(description="Examples to learn from, or a file of them.")
    valset: Rows | None = Field(None, description="Examples to choose by (default: the trainset).")
    metric: Any = Field(None, description="As for evaluate_program.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the optimizer.")
    compile_options: dict[str, Any] = Field(default_factory=dict, description="Options of its compile method.")
    prompt_lm: LMRef | None = Field(None, description="The model that writes prompts (default: the program's).")
    config: dict[str, Any] = Field(default_factory=dict, description="As for execute_program.")
    lm: LMRef | None = Field(None, description="As for execute_program.")
    on_exists: Literal["error", "replace"] = Field("error", description="What to do if the id is taken.")


class CompiledProgram(Result):
    program_id: str = Field(description="The compiled program.")
    status: Literal["compiled"]
    compiled_from: str
    optimizer: str
    score: float | None = Field(description="The best score seen on the whole validation set, in percent.")
    evaluations: int
    lm_calls: int
    elapsed_s: float


class SaveProgramArgs(Args):
    program_id: Name = Field(description="Which program.")
    path: str | None = Field(None, description="Write it to this file too, from the session's working directory.")


class SavedProgram(Result):
    program_id: str
    status: Literal["saved"]
    state: dict[str, Any] = Field(description="As dspy.Module.save writes it.")
    path: str | None


class LoadProgramArgs(Args):
    program_id: Name = Field(description="Which program; it must have the shape of the saved one.")
    state: dict[str, Any] | None = Field(None, description="What save_program gave, or a file of dspy.Module.save.")
    path: str | None = Field(None, description="Or a file of that, from the session's working directory.")


class LoadedProgram(Result):
    program_id: str
    status: Literal["loaded"]


class PreviewPromptArgs(Args):
    program_id: Name = Field(description="Which program.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="As for execute_program.")
    predictor: str | None = Field(None, description="Which of its predictors (default: the first).")


class PromptPreview(Result):
    program_id: str
    predictor: str
    adapter: str
    messages: list[dict[str, Any]]


class InspectHistoryArgs(Args):
    n: int = Field(10, ge=1, le=1000, description="How many of the latest calls.")


class HistoryResult(Result):
    calls: list[dict[str, Any]] = Field(description="Oldest first; of this interpreter, which may be younger.")


class UsageResult(Result):
    programs: dict[str, dict[str, Any]] = Field(description="By program: executions and usage by model.")
    total: dict[str, Any] = Field(description="Usage by model.")


class ProgramArgs(Args):
    program_id: Name | None = Field(None, description="Which program.")
    id: Name | None = Field(None, description="Alias of program_id.")


class ProgramInfo(Result):
    id: str
    program_type: str
    signature: str
    created_at: str
    execution_count: int
    last_executed: str | None


class ProgramsResult(Result):
    programs: list[ProgramInfo]
    total_count: int


class DeletedProgram(Result):
    program_id: str
    status: Literal["deleted"]


class ClearedProgram(Result):
    program_id: str
    status: Literal["cleared", "not_found"]


class ResetResult(Result):
    status: Literal["reset"]
    cleared_programs: int


class ProbeArgs(Args):
    canary: str | None = Field(
        None, pattern="^[0-9a-f]{8,64}$", description="Plant this everywhere; absent: only read."
    )
    skip: list[str] = Field(default_factory=list, description="Modules whose probes are left out, such as litellm.")


class ProbeResult(Result):
    reads: dict[str, str] = Field(description="What each piece of global state reads, by its name.")


class CleanupResult(Result):
    status: Literal["cleaned"]
    collected: int
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Command:
    """``where``: ``daemon`` answers at once, even while every worker is busy; ``session`` is served by
    the session's interpreter, in order. ``mutating``: it may change the session's snapshot."""

    name: str
    where: Literal["daemon", "session"]
    args: type[BaseModel]
    result: type[BaseModel]
    summary: str
    mutating: bool = False
    alias_of: str | None = None


_ROWS: Final = (
    Command("hello", "daemon", HelloArgs, ReadyResult, "Negotiate the protocol version; what the ready frame says."),
    Command("ping", "daemon", PingArgs, PingResult, "Whether the daemon, or with deep a session, answers."),
    Command("list_commands", "daemon", NoArgs, CommandsResult, "Every command with its JSON Schemas."),
    Command("start_session", "daemon", StartSessionArgs, StartSessionResult, "Start a session with its own settings."),
    Command("end_session", "daemon", NoArgs, EndSessionResult, "End a session and everything of it."),
    Command("cleanup_session", "daemon", NoArgs, EndSessionResult, "Alias of end_session.", alias_of="end_session"),
    Command("list_sessions", "daemon", NoArgs, SessionsResult, "Every session."),
    Command("session_info", "daemon", NoArgs, SessionInfo, "One session."),
    Command("recycle_session", "daemon", NoArgs, RecycleResult, "A fresh interpreter, at the same state, now."),
    Command("export_session", "daemon", NoArgs, ExportResult, "The session as one JSON document."),
    Command("import_session", "daemon", ImportSessionArgs, ImportResult, "A session from such a document."),
    Command("branch_session", "daemon", BranchSessionArgs, BranchResult, "A second session, at the state of this."),
    Command("get_state", "daemon", GetStateArgs, GotState, "Read a session variable."),
    Command("set_state", "daemon", SetStateArgs, SetState, "Set a session variable."),
    Command("update_state", "daemon", UpdateStateArgs, UpdatedState, "Change a session variable atomically."),
    Command("cancel", "daemon", CancelArgs, CancelResult, "End an open request with cancelled."),
    Command("get_stats", "daemon", NoArgs, Result, "Counts, the pool, the template, memory."),
    Command("shutdown", "daemon", NoArgs, ShutdownResult, "Drain within a bound and exit."),
    Command("configure_lm", "session", ConfigureLMArgs, ConfiguredLM, "Set the session's language model.", True),
    Command("configure", "session", SettingsArgs, ConfiguredResult, "Change the session's DSPy settings.", True),
    Command("define_types", "session", DefineTypesArgs, DefinedTypes, "Name types for signatures to use.", True),
    Command("create_program", "session", CreateProgramArgs, CreatedProgram, "Make a program.", True),
    Command("execute_program", "session", ExecuteProgramArgs, Execution, "Run a program."),
    Command("execute_batch", "session", ExecuteBatchArgs, BatchResult, "Run a program on many inputs."),
    Command("evaluate_program", "session", EvaluateProgramArgs, EvaluationResult, "Score a program on examples."),
    Command("compile_program", "session", CompileProgramArgs, CompiledProgram, "Optimize a program; keeps the best."),
    Command("save_program", "session", SaveProgramArgs, SavedProgram, "A program's state in DSPy's own JSON."),
    Command("load_program", "session", LoadProgramArgs, LoadedProgram, "Give a program a saved state.", True),
    Command("preview_prompt", "session", PreviewPromptArgs, PromptPreview, "What the model would be sent."),
    Command("inspect_history", "session", InspectHistoryArgs, HistoryResult, "The session's latest model calls."),
    Command("get_usage", "session", NoArgs, UsageResult, "Tokens used, by program and model."),
    Command("list_programs", "session", NoArgs, ProgramsResult, "Every program of the session."),
    Command("get_program_info", "session", ProgramArgs, ProgramInfo, "One program, with its fields."),
    Command("delete_program", "session", ProgramArgs, DeletedProgram, "Remove a program; it must exist.", True),
    Command("clear_program", "session", ProgramArgs, ClearedProgram, "Remove a program if it exists.", True),
    Command("reset_state", "session", NoArgs, ResetResult, "The session as new, settings included.", True),
    Command(
        "probe_isolation",
        "session",
        ProbeArgs,
        ProbeResult,
        "For verify-isolation: plant a canary in everything global, or read it. Spoils the session.",
    ),
    Command("cleanup", "session", NoArgs, CleanupResult, "Collect garbage and report memory."),
)

COMMANDS: Final = {row.name: row for row in _ROWS}


def find(name: str) -> Command:
    """The command of that name. Raises ``unknown_command`` with the nearest one."""
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name[:100], COMMANDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; list_commands names them all"
        raise BridgeError("unknown_command", f"there is no command {name[:100]!r}{hint}")
    return command


def validate(model: type[BaseModel], args: dict[str, Any], *, where: str = "args") -> Any:
    """``args`` as an instance of ``model``. Raises ``invalid_args`` with the path and reason per field."""
    try:
        return model.model_validate(args)
    except ValidationError as exc:
        errors = [_describe(model, where, error) for error in exc.errors(include_url=False, include_context=False)]
        first = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        message = f"{first['path']}: {first['reason']}{more}"
        raise BridgeError("invalid_args", message, details={"errors": errors[:50]}) from None


_UNION_MEMBERS: Final = frozenset({"bool", "str", "DataFile"})


def _describe(model: type[BaseModel], where: str, error: Any) -> dict[str, str]:
    path = where
    for part in error["loc"]:
        if isinstance(part, str) and ("[" in part or part in _UNION_MEMBERS):
            continue  # which of several types was tried
        path += f"[{part}]" if isinstance(part, int) else f".{str(part)[:100]}"
    reason = str(error["msg"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1])[:100], model.model_fields, 1)
        reason = "there is no such argument" + (f"; did you mean {near[0]!r}?" if near else "")
    return {"path": path, "reason": reason}


@cache
def schemas(name: str) -> dict[str, Any]:
    """What ``list_commands`` says of one command."""
    command = COMMANDS[name]
    return {
        "name": name,
        "summary": command.summary,
        "served_by": command.where,
        "alias_of": command.alias_of,
        "args": command.args.model_json_schema(),
        "result": command.result.model_json_schema(mode="serialization"),
    }
