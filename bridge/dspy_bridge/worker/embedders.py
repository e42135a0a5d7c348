"""What makes vectors of texts: a provider's model, the host, or words counted for tests; by name."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import dspy

from dspy_bridge.protocol.arguments import validate
from dspy_bridge.protocol.embedder_config import EmbedderConfig
from dspy_bridge.protocol.errors import BridgeError
from dspy_bridge.protocol.snapshot_parts import EMBEDDER_PREFIX, EMBEDDER_SECRETS_PREFIX
from dspy_bridge.worker.configured import Configured
from dspy_bridge.worker.host import DEFAULT_TIMEOUT_S, Host
from dspy_bridge.worker.models import key_of_environment
from dspy_bridge.worker.state import State

Embed = Callable[[Sequence[str]], Any]
"""From texts to a float32 array of one row each."""

_WORD_DIMENSIONS: Final = 64


def build_embedder(config: Mapping[str, Any], host: Host, environ: Mapping[str, str] = os.environ) -> dspy.Embedder:
    """The embedder ``config`` (of the shape of :class:`EmbedderConfig`) names. Calls nothing yet.

    Raises ``invalid_args``, ``lm_not_configured``; ``unsupported`` without numpy.
    """
    validate(EmbedderConfig, dict(config), where="embedder")
    if importlib.util.find_spec("numpy") is None:
        message = "embedders need numpy: install it where the daemon runs (the extra dspy-bridge[retrieval] has it)"
        raise BridgeError("unsupported", message)
    given = key_of_environment(config, "embedder", environ)
    model = given.pop("model")
    batch_size = given.pop("batch_size", 200)
    if model == "scripted":
        return dspy.Embedder(_count_words, batch_size, caching=False)
    if model == "host" or model.startswith("host/"):
        name = model.partition("/")[2] or "embed"
        timeout = given.get("timeout", DEFAULT_TIMEOUT_S)
        return dspy.Embedder(lambda texts: _ask(host, name, texts, timeout), batch_size, caching=False)
    return dspy.Embedder(model, batch_size, given.pop("caching", True), **given)


def _count_words(texts: Sequence[str]) -> list[list[float]]:
    """Texts with words in common are near each other; the same texts get the same vectors, for ever."""
    vectors = []
    for text in texts:
        vector = [0.0] * _WORD_DIMENSIONS
        for word in re.findall(r"\w+", text.casefold()):
            digest = hashlib.blake2b(word.encode(), digest_size=2).digest()
            vector[digest[0] % _WORD_DIMENSIONS] += 1.0 if digest[1] % 2 else -1.0
        vectors.append(vector)
    return vectors


def _ask(host: Host, name: str, texts: Sequence[str], timeout: float) -> list[list[float]]:
    """Raises ``host_call_failed``, also for an answer that is no vectors."""
    answer = host.ask("tool", name, {"texts": list(texts)}, timeout=timeout)
    rows = answer if isinstance(answer, list) and all(isinstance(row, list) for row in answer) else []
    if len(rows) != len(texts) or not all(_is_vector(row, len(rows[0])) for row in rows):
        message = f"the host's embedder {name!r} must answer with one array of numbers per text, all of one length"
        raise BridgeError("host_call_failed", message, details={"call": "tool", "name": name, "why": "answer"})
    return rows


def _is_vector(row: list[Any], length: int) -> bool:
    return len(row) == length > 0 and all(isinstance(one, (int, float)) for one in row)


class EmbedderShelf:
    """The embedders of one session, by name."""

    def __init__(self, state: State, host: Host) -> None:
        self._state = state
        self._host = host
        self._made: dict[str, Configured[dspy.Embedder]] = {}

    def configure(self, config: Mapping[str, Any], name: str) -> None:
        """Raises as :func:`build_embedder` does."""
        made = self._made[name] = Configured.configure(config, self._build)
        self._state.put(EMBEDDER_PREFIX + name, made.part)
        self._state.put(EMBEDDER_SECRETS_PREFIX + name, made.secrets or None)

    def _build(self, config: Mapping[str, Any]) -> dspy.Embedder:
        return build_embedder(config, self._host)

    def load(self, names: Iterable[str]) -> bool:
        """Parts of these names are news; whether some embedder has changed."""
        changed = any(name.startswith((EMBEDDER_PREFIX, EMBEDDER_SECRETS_PREFIX)) for name in names)
        if changed:
            self.forget_made()
        return changed

    def forget_made(self) -> None:
        """What has been made of the parts is out of date."""
        self._made.clear()

    def find(self, name: str) -> dspy.Embedder:
        """Raises ``lm_not_configured``."""
        made = self._made.get(name)
        if made is None:
            part = self._state.get(EMBEDDER_PREFIX + name)
            if part is None:
                message = f"the session has no embedder {name!r}; send configure_embedder first"
                raise BridgeError("lm_not_configured", message)
            secrets = self._state.get(EMBEDDER_SECRETS_PREFIX + name) or {}
            made = Configured.restore(part["config"], secrets, part["secret_fields"], self._build, f"embedder:{name}")
            self._made[name] = made
        return made.usable()

    def all(self) -> list[Configured[dspy.Embedder]]:
        """Every one that has been made."""
        return list(self._made.values())
