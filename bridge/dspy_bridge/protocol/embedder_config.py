"""How a host names an embedder: the arguments of ``configure_embedder``, in one model."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

DEFAULT_NAME: Final = "default"


class EmbedderConfig(BaseModel):
    """Every argument of ``dspy.Embedder`` with a provider's model; those not named here are passed on."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str = Field(
        min_length=1,
        max_length=512,
        description="provider/name as dspy.Embedder takes it; or scripted, or host or host/name (a tool of the host).",
    )
    api_key: str | None = Field(None, description="The provider's key. Never logged, echoed or stored on disk.")
    api_key_env: str | None = Field(None, description="Name of the environment variable that holds the key.")
    api_base: str | None = Field(None, description="URL of the endpoint, where it is not the provider's own.")
    batch_size: int | None = Field(None, ge=1, description="Most texts of one call (default 200).")
    caching: bool | None = Field(None, description="Keep vectors in the session's memory (default true).")
    num_retries: int | None = Field(None, ge=0, description="Repetitions after a passing failure.")
    timeout: float | None = Field(None, gt=0, description="Seconds the endpoint may take to answer.")
