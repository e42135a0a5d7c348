"""From an exception of a program, of DSPy or of a provider to the error a host sees: the one place.

An error says what a stranger needs: the code, a message, and what is known (status, retry-after, the
raw answer that could not be read, the traceback). It never holds a pickle, a local variable or one of
the session's secrets, and its size is bounded whatever the exception says.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterable
from typing import Any, Final

from dspy.utils.exceptions import (
    AdapterParseError,
    LMError,
    LMNotConfiguredError,
    LMTimeoutError,
    is_retryable_lm_error,
)

from dspy_bridge.protocol.errors import BridgeError, limit_error
from dspy_bridge.protocol.secrets import REDACTED, without_keys
from dspy_bridge.worker.values import to_json
from session_supervisor.limits import CpuExhausted, LimitReached, Limits

MAX_MESSAGE: Final = 4_000
MAX_TEXT: Final = 16_000
_NO_LM: Final = "No LM is loaded"
_NO_LIMITS: Final = Limits()


def to_bridge_error(exc: BaseException, *, secrets: Iterable[str] = (), limits: Limits = _NO_LIMITS) -> BridgeError:
    """The error for ``exc``; every text of ``secrets`` in it is replaced. ``limits``: the session's."""
    error = _known(exc, limits) or _translate(exc)
    hidden = [secret for secret in secrets if secret]
    message = _clean(error.message, hidden, MAX_MESSAGE)
    details = clean(error.details, hidden)
    return BridgeError(error.code, message, details=details, retryable=error.retryable)


def _known(exc: BaseException, limits: Limits) -> BridgeError | None:
    """The error that says itself what it is, or that a limit of the session made, however deep DSPy has
    wrapped it; None for anything else."""
    at: BaseException | None = exc
    for _ in range(20):
        if isinstance(at, BridgeError):
            return at
        if isinstance(at, CpuExhausted):
            return limit_error("cpu", f"the request has used its {limits.cpu:g} s of processor time")
        if isinstance(at, LimitReached):
            return limit_error(at.limit, str(at))
        if isinstance(at, MemoryError) and limits.memory:
            return limit_error("memory", f"the session's {limits.memory >> 20} MiB of memory are used up")
        if isinstance(at, OSError) and at.errno == errno.EMFILE and limits.open_files:
            return limit_error("open_files", f"the session's {limits.open_files} descriptors are all open")
        if isinstance(at, OSError) and at.errno == errno.EFBIG and limits.scratch:
            return limit_error("scratch", f"a file would be larger than the session's {limits.scratch >> 20} MiB")
        at = at.__cause__ or at.__context__ if at is not None else None
    return None


def _translate(exc: BaseException) -> BridgeError:
    if isinstance(exc, AdapterParseError):
        return _unparsable(exc)
    if isinstance(exc, LMNotConfiguredError) or (isinstance(exc, ValueError) and _NO_LM in _say(exc)):
        return BridgeError("lm_not_configured", _say(exc), details=_provider_facts(exc))
    if isinstance(exc, LMError) or _is_provider_error(exc):
        return _model_failed(exc)
    if isinstance(exc, MemoryError):
        return BridgeError("memory_limit", "the program ran out of memory", details=program_facts(exc))
    if isinstance(exc, UnicodeError) and "surrogates" in _say(exc):
        return BridgeError("unserializable_result", _say(exc))
    return BridgeError("execution_error", f"{type(exc).__name__}: {_say(exc)}", details=program_facts(exc))


def _unparsable(exc: AdapterParseError) -> BridgeError:
    details: dict[str, Any] = {
        "adapter": exc.adapter_name,
        "lm_response": _clip(str(exc.lm_response), MAX_TEXT),
        "expected_fields": list(exc.signature.output_fields),
        "parsed": _jsonable(exc.parsed_result),
    }
    first = exc.__context__
    if isinstance(first, AdapterParseError):  # the adapter DSPy fell back from
        details["first_attempt"] = {
            "adapter": first.adapter_name,
            "lm_response": _clip(str(first.lm_response), MAX_TEXT),
        }
    fields = ", ".join(details["expected_fields"])
    message = f"the model's answer has not the fields {fields} in the form {exc.adapter_name} reads"
    return BridgeError("output_parse_error", message, details=details)


def _is_provider_error(exc: BaseException) -> bool:
    """Errors of litellm and openai that escaped DSPy's own translation."""
    return isinstance(getattr(exc, "status_code", None), int) and type(exc).__module__.startswith(("litellm", "openai"))


def _model_failed(exc: BaseException) -> BridgeError:
    facts = _provider_facts(exc)
    timed_out = isinstance(exc, LMTimeoutError) or facts["status"] == 408 or "timed out" in _say(exc).lower()
    facts["kind"] = "timeout" if timed_out else (facts["code"] or "provider")
    retryable = isinstance(exc, Exception) and (bool(is_retryable_lm_error(exc)) or facts["status"] in (408, 429))
    return BridgeError("lm_error", _say(exc) or type(exc).__name__, details=facts, retryable=retryable)


def _provider_facts(exc: BaseException) -> dict[str, Any]:
    status = getattr(exc, "status", None)
    return {
        "exception": type(exc).__name__,
        "provider": getattr(exc, "provider", None),
        "model": getattr(exc, "model", None),
        "status": status if status is not None else getattr(exc, "status_code", None),
        "code": getattr(exc, "code", None),
        "retry_after": getattr(exc, "retry_after", None),
        "request_id": getattr(exc, "request_id", None),
    }


def program_facts(exc: BaseException) -> dict[str, Any]:
    """``{"type", "message", "traceback"}``, of bounded size."""
    kind = type(exc)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = "".join(traceback.format_exception(kind, exc, exc.__traceback__))
    except Exception:  # noqa: BLE001 - an exception whose own text raises
        text = "".join(traceback.format_tb(exc.__traceback__))
    return {"type": name, "message": _clip(_say(exc), MAX_MESSAGE), "traceback": _clip(text, MAX_TEXT)}


def _say(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception:  # noqa: BLE001 - an exception whose own text raises
        return f"<the text of this {type(exc).__name__} could not be made>"


def _jsonable(value: Any) -> Any:
    try:
        return to_json(value)
    except BridgeError:
        return _clip(repr(value), MAX_MESSAGE)


def _clip(text: str, limit: int) -> str:
    """Both ends of a long text: the first lines say where, the last say what."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n... {len(text) - limit} characters left out ...\n{text[-limit // 2 :]}"


def _clean(text: str, hidden: list[str], limit: int) -> str:
    for secret in hidden:
        text = text.replace(secret, REDACTED)
    return without_keys(_clip(text, limit)).encode("utf-8", "backslashreplace").decode()


def clean(value: Any, hidden: list[str]) -> Any:
    """JSON-able data with every text of ``hidden`` replaced and no text too long to be shown."""
    if isinstance(value, str):
        return _clean(value, hidden, 2 * MAX_TEXT)
    if isinstance(value, dict):
        return {_clean(str(key), hidden, MAX_MESSAGE): clean(item, hidden) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item, hidden) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _clean(str(value), hidden, MAX_MESSAGE)
