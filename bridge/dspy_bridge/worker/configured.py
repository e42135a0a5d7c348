"""What a host has configured and may have given literal secrets for: the object, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.secrets import split_secrets

T = TypeVar("T")


@dataclass(slots=True)
class Configured(Generic[T]):
    """``config`` is without literal secrets, those are in ``secrets``."""

    config: dict[str, Any]
    secrets: dict[str, Any]
    made: T | None = None
    problem: BridgeError | None = None

    @classmethod
    def configure(cls, config: Mapping[str, Any], build: Callable[[Mapping[str, Any]], T]) -> Configured[T]:
        """What a host asks for now. Raises as ``build`` does."""
        return cls(*split_secrets(config), made=build(config))

    @classmethod
    def restore(
        cls,
        config: Mapping[str, Any],
        secrets: Mapping[str, Any],
        fields: Iterable[str],
        build: Callable[[Mapping[str, Any]], T],
        what: str = "lm",
    ) -> Configured[T]:
        """What was configured earlier, perhaps elsewhere, and whose literal secrets were those ``fields``.
        What it lacks is an error only when it is used."""
        restored = cls(dict(config), dict(secrets))
        missing = [f"{what}.{field}" for field in fields if field not in secrets]
        if missing:
            message = (
                f"{missing[0]} is known no more, because literal secrets are never stored nor exported; "
                "configure the model again, or name the key's environment variable in api_key_env"
            )
            restored.problem = BridgeError("lm_not_configured", message, details={"missing": missing})
            return restored
        try:
            restored.made = build({**config, **secrets})
        except BridgeError as error:
            restored.problem = error
        return restored

    @property
    def part(self) -> dict[str, Any]:
        """Its share of a snapshot part; see :class:`dspy_bridge.protocol.snapshot_parts.LMPart`."""
        return {"config": self.config, "secret_fields": sorted(self.secrets)}

    def usable(self) -> T:
        """The object itself. Raises ``lm_not_configured`` (or what else kept it from being made)."""
        if self.problem is not None:
            raise self.problem
        assert self.made is not None
        return self.made
