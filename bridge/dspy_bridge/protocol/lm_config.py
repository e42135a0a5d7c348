"""How a host names a language model: the arguments of ``configure_lm``, in one model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

NAME_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}$"
_REFERENCE: Final = "@"


def referred_name(config: Mapping[str, Any]) -> str | None:
    """The name of the session's model that ``config`` stands for, if it stands for one."""
    model = config.get("model")
    return model[len(_REFERENCE) :] if isinstance(model, str) and model.startswith(_REFERENCE) else None


_PROVIDERS: Final = {"google": "gemini"}
"""Names of providers hosts use that DSPy knows by another."""


def full_model(model: str, provider: str | None) -> str:
    """``provider/name`` as DSPy wants it, from a bare name and its provider."""
    if "/" in model or not (provider or model.startswith("gemini-")):
        return model
    provider = provider or "google"
    return f"{_PROVIDERS.get(provider, provider)}/{model}"


def _by_name(value: Any) -> Any:
    return {"model": _REFERENCE + value} if isinstance(value, str) else value


class LMConfig(BaseModel):
    """Every argument of ``dspy.LM``; those not named here are passed on as they are."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(
        min_length=1,
        max_length=512,
        description="provider/name as dspy.LM takes it; or scripted, local (a small real one), host or host/name.",
    )
    provider: str | None = Field(None, description="The provider of a model that is named without one.")
    api_key: str | None = Field(None, description="The provider's key. Never logged, echoed or stored on disk.")
    api_key_env: str | None = Field(None, description="Name of the environment variable that holds the key.")
    api_base: str | None = Field(None, description="URL of the endpoint, where it is not the provider's own.")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate per answer.")
    model_type: Literal["chat", "text", "responses"] | None = Field(None, description="Which API of the provider.")
    cache: bool | None = Field(None, description="Answer equal prompts from the session's memory.")
    num_retries: int | None = Field(None, ge=0, description="Repetitions after a passing failure.")
    timeout: float | None = Field(None, gt=0, description="Seconds the endpoint may take to answer.")
    engine: Literal["auto", "lm15", "litellm"] | None = Field(None, description="Which client DSPy uses.")
    answers: list[dict[str, Any]] | dict[str, dict[str, Any]] | None = Field(
        None, description="scripted only: outputs in order (the last repeats), or by a substring of the prompt."
    )
    delay_ms: float | None = Field(None, ge=0, le=600_000, description="scripted only: how long each answer takes.")


LMRef = Annotated[LMConfig, BeforeValidator(_by_name, json_schema_input_type=LMConfig | str)]
"""A model's configuration, or the name a session's ``configure_lm`` gave one."""
