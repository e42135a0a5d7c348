"""How a host names an adapter: by its name alone, or with its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from dspy_bridge.protocol.lm_config import NAME_PATTERN

AdapterName = Literal["chat", "json", "xml", "baml", "two_step"]


class AdapterConfig(BaseModel):
    """One of DSPy's adapters. Where only the name is given, the name alone stands for it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: AdapterName = Field(description="How prompts are laid out.")
    use_native_function_calling: bool | None = Field(None, description="Have the model call tools by its own means.")
    parallel_tool_calls: bool | None = Field(None, description="Whether it may call several at once.")
    use_json_adapter_fallback: bool | None = Field(
        None, description="chat and xml: ask again in JSON if the answer cannot be read (default true)."
    )
    extraction_lm: str | None = Field(
        None, pattern=NAME_PATTERN, description="two_step: the named model that reads the answer (default: the same)."
    )

    @model_serializer(mode="wrap")
    def _short(self, handler: SerializerFunctionWrapHandler) -> Any:
        given: Mapping[str, Any] = handler(self)
        return self.name if all(value is None for name, value in given.items() if name != "name") else given


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


AdapterRef = Annotated[AdapterConfig, BeforeValidator(_by_name, json_schema_input_type=AdapterConfig | AdapterName)]
