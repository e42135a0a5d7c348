"""Arguments and results of the commands that run in a session's interpreter."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dspy_bridge.protocol.adapter_config import AdapterRef
from dspy_bridge.protocol.arguments import Args, Name, Result, SettingsArgs
from dspy_bridge.protocol.embedder_config import DEFAULT_NAME, EmbedderConfig
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
    "flex",
    "retrieve",
    "knn_few_shot",
    "custom",
]


class ConfigureLMArgs(LMConfig):
    name: str | None = Field(
        None, pattern=NAME_PATTERN, description="Keep it under this name, for lm of programs and requests."
    )
    session_id: str | None = Field(None, description="Same as at the top level of the request.")


class ConfiguredLM(Result):
    status: Literal["configured"]
    model: str
    provider: str | None = Field(None, description="Where it was given one.")
    temperature: float | None = Field(None, description="Where it was given one.")
    name: str | None = Field(None, description="Where it was given one.")


class ConfigureEmbedderArgs(EmbedderConfig):
    name: str = Field(DEFAULT_NAME, pattern=NAME_PATTERN, description="How programs refer to it.")
    session_id: str | None = Field(None, description="Same as at the top level of the request.")


class ConfiguredEmbedder(Result):
    status: Literal["configured"]
    model: str
    name: str


class ConfigureArgs(SettingsArgs):
    if_version: int | None = Field(
        None, ge=0, description="Change something only if config_version is this (otherwise version_conflict)."
    )


class ConfiguredResult(Result):
    status: Literal["configured"]
    settings: dict[str, Any] = Field(description="Every setting by its present value.")
    config_version: int = Field(description="Grows whenever a setting changes; 0: as the session was started.")


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


class McpServer(BaseModel):
    """An MCP server whose tools a program may use: a command the session runs, or a URL."""

    model_config = ConfigDict(strict=True, extra="forbid")

    command: list[str] | None = Field(None, min_length=1, description="The program and its arguments.")
    env_from: list[str] = Field(
        default_factory=list, description="Variables of the session's environment the command gets too."
    )
    cwd: str | None = Field(None, description="The command's working directory, if not the session's.")
    url: str | None = Field(None, pattern="^https?://", description="Where it serves MCP over HTTP.")
    headers_from: dict[str, str] = Field(
        default_factory=dict, description="Headers by name, each from an environment variable of the session."
    )
    tools: list[str] | None = Field(None, description="Only these of its tools (default: all).")
    prefix: str = Field("", pattern="^[A-Za-z0-9_]{0,32}$", description="Before each tool's name.")
    timeout_ms: int = Field(120_000, ge=1, description="How long a tool may take to answer.")

    @model_validator(mode="after")
    def _is_one(self) -> McpServer:
        if (self.command is None) == (self.url is None):
            raise ValueError("give command or url, one of them")
        return self

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.url if self.command is None else self.command[0]  # type: ignore[return-value]


class CreateProgramArgs(Args):
    id: Name | None = Field(None, description="The program's id in its session.")
    program_id: Name | None = Field(None, description="Alias of id.")
    signature: str | dict[str, Any] | None = Field(
        None, description="A DSPy signature string, or name, instructions, inputs, outputs."
    )
    program_type: ProgramType = Field("predict", description="Which DSPy module.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the module; see docs/dspy.md.")
    tools: list[ToolSpec] = Field(default_factory=list, description="What an agent may call.")
    mcp: list[McpServer] = Field(default_factory=list, description="MCP servers whose tools it may call too.")
    lm: LMRef | None = Field(None, description="A model of the program's own.")
    adapter: AdapterRef | None = Field(None, description="How its prompts are laid out, if not as the session's.")
    demos: list[dict[str, Any]] = Field(default_factory=list, description="Worked examples for its prompts.")
    on_exists: Literal["error", "replace", "keep"] = Field("error", description="What to do if the id is taken.")
    modules: list[Any] | None = Field(None, description="Taken from hosts of the early DSPex bridge; not needed.")
    use_dynamic_signature: bool | None = Field(None, description="Likewise.")


class CreatedProgram(Result):
    program_id: str
    status: Literal["created", "replaced", "kept"]
    program_type: str
    signature: str


class CreateGeminiProgramArgs(CreateProgramArgs):
    model: str = Field("gemini-1.5-flash", description="Of Google, with the key of GEMINI_API_KEY; or any, in full.")


class CreatedGeminiProgram(CreatedProgram):
    type: Literal["gemini"]
    model_name: str


class ExecuteProgramArgs(Args):
    program_id: Name | None = Field(None, description="Which program.")
    id: Name | None = Field(None, description="Alias of program_id.")
    inputs: dict[str, Any] = Field(default_factory=dict, description="One value per input field of the signature.")
    config: dict[str, Any] = Field(
        default_factory=dict,
        description="Model options and DSPy settings for this execution alone, whatever the program is made of.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Alias of config.")
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
    execution_time: float = Field(description="The same in seconds.")


class GeminiExecution(Execution):
    raw_response: str | None = Field(description="What the model answered; null where it was not asked.")


class DataFile(BaseModel):
    """Rows of a file: .csv, .json (an array of objects), .jsonl or .parquet."""

    model_config = ConfigDict(strict=True, extra="forbid")

    file: str = Field(min_length=1, description="From the session's working directory, or a folder of --allow-data.")
    first: int = Field(0, ge=0, description="Leave out so many rows.")
    count: int | None = Field(None, ge=0, description="Take at most so many.")


Rows = list[dict[str, Any]] | DataFile


class ExecuteBatchArgs(Args):
    program_id: Name = Field(description="Which program.")
    inputs: Rows = Field(description="One object of inputs per execution, or a file of them.")
    save_as: str | None = Field(None, description="Write the results to this file too (.csv, .json, .jsonl, .parquet).")
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
    save_as: str | None = Field(None, description="Write the results to this file too (.csv, .json, .jsonl, .parquet).")
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
    programs_cleared: int = Field(description="The same.")


class CallToolArgs(Args):
    name: str = Field(min_length=1, description="Which tool of the session's adapter.")
    args: dict[str, Any] = Field(default_factory=dict, description="Its arguments, as list_tools describes them.")


class ToolResult(Result):
    tool: str
    result: Any = Field(description="What it returned.")
    items: int = Field(0, description="How many item events came first, if it streams.")


class ToolsResult(Result):
    tools: list[dict[str, Any]] = Field(
        description="Each with name, description, args (JSON Schema) and supports_streaming."
    )
    thread_safety: dict[str, Any] | None = Field(description="The checker's report, where it looks.")


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
    programs_removed: Literal[0] = Field(description="They are kept; reset_state removes them.")
