"""What a client raises: one class per error code of the daemon, and what happens to the connection."""

from __future__ import annotations

from typing import Any, ClassVar


class BridgeException(Exception):
    """Base of everything this package's clients raise."""


class TransportError(BridgeException):
    """The daemon is not there, went away, or said nothing in time."""


class UsedAfterFork(TransportError):
    """A bridge is used in a fork of the process it was made in, which would mix up both."""


class CommandFailed(BridgeException):
    """The daemon answered with an error; ``error`` is its error object, ``code`` one of the closed list."""

    of_code: ClassVar[str] = ""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.error = error
        self.code: str = error["code"]
        self.message: str = error["message"]
        self.retryable: bool = error.get("retryable", False)
        self.details: dict[str, Any] = error.get("details", {})


class ParseFailed(CommandFailed):
    of_code = "parse_error"


class InvalidRequest(CommandFailed):
    of_code = "invalid_request"


class FrameTooLarge(CommandFailed):
    of_code = "frame_too_large"


class DuplicateId(CommandFailed):
    of_code = "duplicate_id"


class UnknownCommand(CommandFailed):
    of_code = "unknown_command"


class InvalidArgs(CommandFailed):
    of_code = "invalid_args"


class SessionNotFound(CommandFailed):
    of_code = "session_not_found"


class SessionExists(CommandFailed):
    of_code = "session_exists"


class SessionLimit(CommandFailed):
    of_code = "session_limit"


class ProgramNotFound(CommandFailed):
    of_code = "program_not_found"


class ProgramExists(CommandFailed):
    of_code = "program_exists"


class LMNotConfigured(CommandFailed):
    of_code = "lm_not_configured"


class LMFailed(CommandFailed):
    of_code = "lm_error"


class OutputParseFailed(CommandFailed):
    of_code = "output_parse_error"


class ExecutionFailed(CommandFailed):
    of_code = "execution_error"


class UnserializableResult(CommandFailed):
    of_code = "unserializable_result"


class ToolFailed(CommandFailed):
    of_code = "tool_error"


class HostCallFailed(CommandFailed):
    of_code = "host_call_failed"


class TimedOut(CommandFailed):
    of_code = "timeout"


class Cancelled(CommandFailed):
    of_code = "cancelled"


class WorkerCrashed(CommandFailed):
    of_code = "worker_crashed"


class WorkerStartFailed(CommandFailed):
    of_code = "worker_start_failed"


class MemoryLimit(CommandFailed):
    of_code = "memory_limit"


class ResourceLimit(CommandFailed):
    of_code = "resource_limit"


class Overloaded(CommandFailed):
    of_code = "overloaded"


class ShuttingDown(CommandFailed):
    of_code = "shutting_down"


class VersionConflict(CommandFailed):
    of_code = "version_conflict"


class Unsupported(CommandFailed):
    of_code = "unsupported"


class Internal(CommandFailed):
    of_code = "internal"


BY_CODE = {kind.of_code: kind for kind in CommandFailed.__subclasses__()}


def failure(error: dict[str, Any]) -> CommandFailed:
    """The exception for an error object; of the base class for a code this version does not know."""
    return BY_CODE.get(error["code"], CommandFailed)(error)
