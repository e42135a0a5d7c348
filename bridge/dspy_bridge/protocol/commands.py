"""The commands: name, where each is served, and the types of its arguments and result.

The models named here validate what hosts send, and ``list_commands``, ``bridge-cli schema`` and the
documentation publish the JSON Schemas made from the very same models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from pydantic import BaseModel

from dspy_bridge.protocol import daemon_commands as daemon
from dspy_bridge.protocol import session_commands as session
from dspy_bridge.protocol.arguments import NoArgs, Result, did_you_mean
from dspy_bridge.protocol.errors import BridgeError


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
    Command(
        "hello",
        "daemon",
        daemon.HelloArgs,
        daemon.ReadyResult,
        "Negotiate the protocol version; what the ready frame says.",
    ),
    Command(
        "ping", "daemon", daemon.PingArgs, daemon.PingResult, "Whether the daemon, or with deep a session, answers."
    ),
    Command("list_commands", "daemon", NoArgs, daemon.CommandsResult, "Every command with its JSON Schemas."),
    Command(
        "start_session",
        "daemon",
        daemon.StartSessionArgs,
        daemon.StartSessionResult,
        "Start a session with its own settings.",
    ),
    Command("end_session", "daemon", NoArgs, daemon.EndSessionResult, "End a session and everything of it."),
    Command(
        "cleanup_session", "daemon", NoArgs, daemon.EndSessionResult, "Alias of end_session.", alias_of="end_session"
    ),
    Command("list_sessions", "daemon", NoArgs, daemon.SessionsResult, "Every session."),
    Command("session_info", "daemon", NoArgs, daemon.SessionInfo, "One session."),
    Command("recycle_session", "daemon", NoArgs, daemon.RecycleResult, "A fresh interpreter, at the same state, now."),
    Command("export_session", "daemon", NoArgs, daemon.ExportResult, "The session as one JSON document."),
    Command(
        "import_session", "daemon", daemon.ImportSessionArgs, daemon.ImportResult, "A session from such a document."
    ),
    Command(
        "branch_session",
        "daemon",
        daemon.BranchSessionArgs,
        daemon.BranchResult,
        "A second session, at the state of this.",
    ),
    Command("get_state", "daemon", daemon.GetStateArgs, daemon.GotState, "Read a session variable."),
    Command("set_state", "daemon", daemon.SetStateArgs, daemon.SetState, "Set a session variable."),
    Command(
        "update_state", "daemon", daemon.UpdateStateArgs, daemon.UpdatedState, "Change a session variable atomically."
    ),
    Command("cancel", "daemon", daemon.CancelArgs, daemon.CancelResult, "End an open request with cancelled."),
    Command("get_stats", "daemon", NoArgs, Result, "Counts, the pool, the template, memory."),
    Command(
        "get_trace",
        "daemon",
        daemon.GetTraceArgs,
        daemon.TraceResult,
        "What happened lately, as Perfetto and chrome://tracing read it.",
    ),
    Command("health", "daemon", NoArgs, daemon.HealthResult, "Whether the daemon can do its work, check by check."),
    Command(
        "describe_options",
        "daemon",
        NoArgs,
        daemon.OptionsResult,
        "Every option of the daemon, its value and where it is from; and those of a session.",
    ),
    Command("shutdown", "daemon", NoArgs, daemon.ShutdownResult, "Drain within a bound and exit."),
    Command(
        "configure_lm",
        "session",
        session.ConfigureLMArgs,
        session.ConfiguredLM,
        "Set the session's language model.",
        True,
    ),
    Command(
        "configure_embedder",
        "session",
        session.ConfigureEmbedderArgs,
        session.ConfiguredEmbedder,
        "Set an embedder of the session, for programs that retrieve.",
        True,
    ),
    Command(
        "configure",
        "session",
        session.ConfigureArgs,
        session.ConfiguredResult,
        "Change the session's DSPy settings: all that are given, or none.",
        True,
    ),
    Command(
        "define_types",
        "session",
        session.DefineTypesArgs,
        session.DefinedTypes,
        "Name types for signatures to use.",
        True,
    ),
    Command("create_program", "session", session.CreateProgramArgs, session.CreatedProgram, "Make a program.", True),
    Command("execute_program", "session", session.ExecuteProgramArgs, session.Execution, "Run a program."),
    Command(
        "create_gemini_program",
        "session",
        session.CreateGeminiProgramArgs,
        session.CreatedGeminiProgram,
        "create_program, on a model of Google.",
        True,
    ),
    Command(
        "execute_gemini_program",
        "session",
        session.ExecuteProgramArgs,
        session.GeminiExecution,
        "execute_program, with the model's own words.",
    ),
    Command("execute_batch", "session", session.ExecuteBatchArgs, session.BatchResult, "Run a program on many inputs."),
    Command(
        "evaluate_program",
        "session",
        session.EvaluateProgramArgs,
        session.EvaluationResult,
        "Score a program on examples.",
    ),
    Command(
        "compile_program",
        "session",
        session.CompileProgramArgs,
        session.CompiledProgram,
        "Optimize a program; keeps the best.",
    ),
    Command(
        "save_program",
        "session",
        session.SaveProgramArgs,
        session.SavedProgram,
        "A program's state in DSPy's own JSON.",
    ),
    Command(
        "load_program", "session", session.LoadProgramArgs, session.LoadedProgram, "Give a program a saved state.", True
    ),
    Command(
        "preview_prompt", "session", session.PreviewPromptArgs, session.PromptPreview, "What the model would be sent."
    ),
    Command(
        "inspect_history",
        "session",
        session.InspectHistoryArgs,
        session.HistoryResult,
        "The session's latest model calls.",
    ),
    Command("get_usage", "session", NoArgs, session.UsageResult, "Tokens used, by program and model."),
    Command("list_tools", "session", NoArgs, session.ToolsResult, "The tools of the session's adapter."),
    Command("call_tool", "session", session.CallToolArgs, session.ToolResult, "Run a tool of the session's adapter."),
    Command("list_programs", "session", NoArgs, session.ProgramsResult, "Every program of the session."),
    Command("get_program_info", "session", session.ProgramArgs, session.ProgramInfo, "One program, with its fields."),
    Command(
        "delete_program",
        "session",
        session.ProgramArgs,
        session.DeletedProgram,
        "Remove a program; it must exist.",
        True,
    ),
    Command(
        "clear_program", "session", session.ProgramArgs, session.ClearedProgram, "Remove a program if it exists.", True
    ),
    Command("reset_state", "session", NoArgs, session.ResetResult, "The session as new, settings included.", True),
    Command(
        "probe_isolation",
        "session",
        session.ProbeArgs,
        session.ProbeResult,
        "For verify-isolation: plant a canary in everything global, or read it. Spoils the session.",
    ),
    Command("cleanup", "session", NoArgs, session.CleanupResult, "Collect garbage and report memory."),
)

COMMANDS: Final = {row.name: row for row in _ROWS}


def find(name: str) -> Command:
    """The command of that name. Raises ``unknown_command`` with the nearest one."""
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, COMMANDS) or "; list_commands names them all"
        raise BridgeError("unknown_command", f"there is no command {name[:100]!r}{hint}")
    return command


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
