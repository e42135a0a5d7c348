"""Python functions as others see them: a name, a description, and a JSON Schema of the arguments."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model, validate_call
from pydantic.errors import PydanticUserError


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """JSON Schema of its arguments, from its annotations. Raises ``TypeError``."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        fields: dict[str, Any] = {
            one.name: (hints.get(one.name, Any), ... if one.default is one.empty else one.default)
            for one in parameters
            if one.kind in named
        }
        open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters)
        config = ConfigDict(extra="allow" if open_ended else "forbid", arbitrary_types_allowed=False)
        model: type[BaseModel] = create_model(name_of(function), __config__=config, **fields)
        schema = model.model_json_schema()
    except (PydanticUserError, NameError, TypeError, ValueError) as exc:
        raise TypeError(f"the arguments of {name_of(function)} have no JSON Schema: {exc}") from None
    return {name: value for name, value in schema.items() if name not in ("title", "description")}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called with arguments of the annotated types; ``pydantic.ValidationError`` otherwise."""
    return validate_call(function)


def binder(function: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """Given arguments, the call that is to be made with them; as :func:`checked`, but what the function itself
    raises cannot be taken for a refusal of its arguments."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **kwargs)

    return validate_call(bind)


def name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def description_of(function: Callable[..., Any]) -> str:
    """Its docstring."""
    return inspect.getdoc(function) or ""
