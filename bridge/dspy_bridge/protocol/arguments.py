"""What the arguments and results of all commands have in common, and how arguments are checked."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dspy_bridge.protocol.adapter_config import AdapterRef
from dspy_bridge.protocol.errors import BridgeError

Name = Annotated[str, Field(min_length=1, max_length=512)]


class Args(BaseModel):
    """Base of all arguments: strict types, no unknown names. ``session_id`` may stand among them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    session_id: str | None = Field(None, description="Same as at the top level of the request.")


class Result(BaseModel):
    """Base of all results; documents their shape, and is built only for who asks for that."""

    model_config = ConfigDict(extra="allow", defer_build=True)


class NoArgs(Args):
    pass


class SettingsArgs(Args):
    """DSPy settings a session can change; absent ones stay as they are, null restores DSPy's default."""

    adapter: AdapterRef | None = Field(None, description="How prompts are laid out.")
    track_usage: bool | None = Field(None, description="Report token usage with each execution (default true).")
    num_threads: int | None = Field(None, ge=1, le=256, description="Threads of DSPy's own parallel helpers.")
    max_errors: int | None = Field(None, ge=0, description="Errors after which DSPy's parallel helpers give up.")
    max_history_size: int | None = Field(None, ge=0, description="Model calls kept for inspection.")
    max_trace_size: int | None = Field(None, ge=0, description="Predictor calls kept in DSPy's trace.")
    disable_history: bool | None = Field(None, description="Keep no history of model calls.")
    provide_traceback: bool | None = Field(None, description="Have DSPy log tracebacks of failed items.")
    warn_on_type_mismatch: bool | None = Field(None, description="Have DSPy warn of inputs of another type.")
    allow_tool_async_sync_conversion: bool | None = Field(None, description="Let sync programs call async tools.")
    cache: bool | Literal["shared"] | None = Field(
        None, description="Keep answers of the model in the session's memory (default true), or shared on disk too."
    )
    seed: int | None = Field(None, description="Seed of the interpreter's random streams.")


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
        *place, name = error["loc"]
        reason = "there is no such argument" + did_you_mean(str(name), _names_at(model, place))
    return {"path": path, "reason": reason}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to a message that says there is no ``name``: the nearest there is, if one is near."""
    near = difflib.get_close_matches(name[:100], known, 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _names_at(model: type[BaseModel], place: Iterable[int | str]) -> set[str]:
    """The names of the arguments that can stand at a place within those of ``model``."""
    models = {model}
    for part in place:
        # An index, a key or the type of a union that was tried leads to no other models.
        fields = [one.model_fields[part] for one in models if isinstance(part, str) and part in one.model_fields]
        models = set().union(*(_models_in(field.annotation) for field in fields)) if fields else models
    return {name for one in models for name in one.model_fields}


def _models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(_models_in(part) for part in get_args(annotation)))
