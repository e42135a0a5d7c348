"""``scripted``: a language model that needs no network, key or luck.

It answers from a list, by a substring of the prompt, or, with neither, makes up values that fit the
output fields: the same for the same prompt, on every machine. For demonstrations and for tests of
hosts and programs.

It learns which signature and adapter are at work from DSPy's own callback
(:data:`OBSERVER`, to be among ``dspy.settings.callbacks`` while it is used), and writes its answer
with that adapter, so that whatever parses the answer finds what it expects.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import decimal
import enum
import hashlib
import time
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Union

import dspy
from dspy.lm15 import Message, Response, TextPart, Usage, response_to_events
from dspy.utils.callback import BaseCallback
from pydantic import BaseModel

Answer = Mapping[str, Any]
"""An output object; or ``{"error": {"status", "message"}}``; or ``{"text": "raw completion"}``."""

_active: contextvars.ContextVar[tuple[Any, Any] | None] = contextvars.ContextVar("active_adapter", default=None)


class _Observer(BaseCallback):  # type: ignore[misc]
    """Notes the adapter and signature of the prompt that is being written."""

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        # DSPy wraps an inherited ``format`` twice; the outer call does not name its arguments.
        if "signature" in inputs:
            _active.set((instance, inputs["signature"]))


OBSERVER: Final = _Observer()


class ScriptedLM(dspy.LM):  # type: ignore[misc]
    """See the module. Never cached: an equal prompt takes the next answer of a list."""

    def __init__(
        self,
        *,
        answers: Sequence[Answer] | Mapping[str, Answer] | None = None,
        delay_ms: float = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        self._scripted = _Engine(answers, delay_ms / 1000, seed)
        kwargs["cache"] = False
        kwargs.setdefault("num_retries", 0)  # a scripted failure is meant, and would use up answers
        super().__init__("scripted", engine=self._scripted, async_engine=_AsyncEngine(self._scripted), **kwargs)

    def get_state(self) -> dict[str, int]:
        """How far the list of answers has been served."""
        return {"cursor": self._scripted.cursor}

    def set_state(self, state: Mapping[str, int]) -> None:
        """Go on where another interpreter's copy was."""
        self._scripted.cursor = state["cursor"]


class _Engine:
    """DSPy's engine interface: a canonical request in, a canonical response out."""

    def __init__(self, answers: Any, delay: float, seed: int) -> None:
        self._answers = answers
        self.delay = delay
        self._seed = seed
        self.cursor = 0

    def complete(self, request: Any) -> Any:
        if self.delay:
            time.sleep(self.delay)
        return self.respond(request)

    def respond(self, request: Any) -> Any:
        """The response, at once."""
        text = self._answer(request)
        prompt_tokens = sum(len(message.text or "") for message in request.messages) // 4 + 1
        completion_tokens = len(text) // 4 + 1
        return Response(
            id=None,
            model="scripted",
            message=Message.assistant([TextPart(text or " ")]),
            finish_reason="stop",
            usage=Usage(
                input_tokens=prompt_tokens,
                output_tokens=completion_tokens,
                total_tokens=prompt_tokens + completion_tokens,
            ),
        )

    def stream(self, request: Any) -> Any:
        return response_to_events(self.complete(request))

    def close(self) -> None:
        """Nothing is held open."""

    def _answer(self, request: Any) -> str:
        messages = [message.text or "" for message in request.messages]
        system = request.system
        prompt = "\n".join([system if isinstance(system, str) else "", *messages])
        active = _active.get()
        answer = self._choose(messages[-1], prompt)
        signature = None if active is None else active[1]
        outputs = {} if signature is None else signature.output_fields
        if answer is not None and answer.keys() == {"error"} and "error" not in outputs:
            raise provider_error(answer["error"])
        if answer is not None and answer.keys() == {"text"} and "text" not in outputs:
            return str(answer["text"])
        if active is None:  # called as a bare model, not through a signature
            return str(next(iter(answer.values()))) if answer else f"scripted answer {self._hash(prompt, '')[:6]}"
        return self._write(active[0], signature, answer or {}, prompt)

    def _choose(self, last: str, prompt: str) -> Answer | None:
        answers = self._answers
        if not answers:
            return None
        if isinstance(answers, Mapping):
            for text in (last, prompt):
                found = [key for key in answers if key in text]
                if found:
                    return typing.cast("Answer", answers[max(found, key=len)])
            return None
        index = min(self.cursor, len(answers) - 1)
        self.cursor += 1
        return typing.cast("Answer", answers[index])

    def _write(self, adapter: Any, signature: Any, answer: Answer, prompt: str) -> str:
        names = {_said_name(info) or name: name for name, info in signature.output_fields.items()}
        given = {names.get(name, name): value for name, value in answer.items()}
        values = {
            name: given[name] if name in given else self._make_up(info.annotation, prompt, name)
            for name, info in signature.output_fields.items()
        }
        try:
            return str(adapter.format_assistant_message_content(signature, values))
        except NotImplementedError:  # an adapter that wants prose, such as TwoStep
            return "\n".join(f"{name}: {value}" for name, value in values.items())

    # -- values out of thin air ----------------------------------------------------------------

    def _hash(self, prompt: str, name: str) -> str:
        return hashlib.blake2b(f"{self._seed}\0{name}\0{prompt}".encode(errors="replace")).hexdigest()

    def _make_up(self, kind: Any, prompt: str, name: str) -> Any:
        """A value of type ``kind``, fixed by the prompt and the field's name."""
        digest = self._hash(prompt, name)
        number = int(digest[:8], 16)
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is Annotated:
            return self._make_up(arguments[0], prompt, name)
        if origin in (Union, types.UnionType):
            wanted = [one for one in arguments if one is not type(None)]
            return self._make_up(wanted[0], prompt, name)
        if origin is Literal:
            return arguments[number % len(arguments)]
        if origin in (list, set, frozenset, tuple):
            inner = [one for one in arguments if one is not ...] or [str]
            items = inner if origin is tuple and ... not in arguments else inner[:1] * 2
            return [self._make_up(one, prompt, f"{name}[{index}]") for index, one in enumerate(items)]
        if origin is dict or kind is dict:
            return {"key": self._make_up(arguments[1] if len(arguments) == 2 else str, prompt, f"{name}.key")}
        return _plain_value(self, kind, prompt, name, number, digest)


def _plain_value(engine: _Engine, kind: Any, prompt: str, name: str, number: int, digest: str) -> Any:
    made: Mapping[Any, Any] = {
        bool: number % 2 == 0,
        int: number % 100,
        float: round(number % 10_000 / 100, 2),
        datetime.date: f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}",
        datetime.datetime: f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}T12:00:00",
        datetime.time: f"{number % 24:02d}:00:00",
        decimal.Decimal: str(number % 1000),
        bytes: digest[:8],
        type(None): None,
        list: [f"scripted {name} {digest[:4]}"],
    }
    if kind in made:
        return made[kind]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return list(kind)[number % len(kind)].value
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = kind.model_fields.items()
        return {inner: engine._make_up(info.annotation, prompt, f"{name}.{inner}") for inner, info in fields}
    return f"scripted {name} {digest[:6]}"


def _said_name(info: Any) -> str | None:
    """The host's name of a field whose Python name had to differ (see ``signatures``)."""
    description = (info.json_schema_extra or {}).get("desc") or ""
    if description.startswith("(called '"):
        return str(description[len("(called '") :].split("')", 1)[0])
    return None


class _AsyncEngine:
    """The same, awaited."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    async def complete(self, request: Any) -> Any:
        await asyncio.sleep(self._engine.delay)
        return self._engine.respond(request)

    async def stream(self, request: Any) -> Any:
        for event in response_to_events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Nothing is held open."""


def provider_error(said: Mapping[str, Any]) -> Exception:
    """What a provider's answer of that HTTP status becomes in DSPy's client."""
    from dspy import lm15

    status = int(said.get("status", 500))
    message = str(said.get("message", f"scripted error {status}"))
    kinds: dict[int, Any] = {
        400: lm15.InvalidRequestError,
        401: lm15.AuthError,
        402: lm15.BillingError,
        403: lm15.AuthError,
        404: lm15.UnsupportedModelError,
        408: lm15.TimeoutError,
        429: lm15.RateLimitError,
    }
    kind = kinds.get(status, lm15.ServerError if status >= 500 else lm15.ProviderError)
    error: Exception = kind(message, provider="scripted", status=status, retry_after=said.get("retry_after"))
    return error
